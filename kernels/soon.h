/* Hints that memory will be needed soon, where it is known long before. */
#ifndef SWARM_SOON_H
#define SWARM_SOON_H

#define SOON_AHEAD 16
#define SOON_FAR 32 /* where little is done with each */

/* It will be read, and perhaps written: rows that are due lie far apart. */
static inline void soon(const void *at) { __builtin_prefetch(at, 1, 3); }

/* It will be written, and another core has it now: its line is fetched and taken from that one at once, not when the store
 * comes. PREFETCHW (Intel, "Software Developer's Manual", volume 2) does nothing where a processor does not have it; compilers emit it only for
 * processors that all do. */
static inline void soon_mine(const void *at)
{
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)at));
#else
    __builtin_prefetch(at, 1, 3);
#endif
}

#endif
