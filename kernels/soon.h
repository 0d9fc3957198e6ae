/* A hint that memory will be read soon, where it is known long before: rows that are due lie far apart. */
#ifndef SWARM_SOON_H
#define SWARM_SOON_H

#define SOON_AHEAD 16
#define SOON_FAR 32 /* where little is done with each */

static inline void soon(const void *at) { __builtin_prefetch(at, 1, 3); }

#endif
