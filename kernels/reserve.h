/* Address space for what may grow: reserved whole at once, given memory by the system as it is touched, so that growing
 * never moves anything. See mmap(2), MAP_NORESERVE. */
#ifndef SWARM_RESERVE_H
#define SWARM_RESERVE_H

#include <stddef.h>
#include <sys/mman.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* Zeroed bytes, or NULL. */
static inline void *reserve(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

static inline void release(void *start, size_t bytes)
{
    if (start != NULL)
        (void)munmap(start, bytes);
}

#endif
