/* Address space for what may grow: reserved whole at once, given memory by the system as it is touched, so that growing
 * never moves anything. See mmap(2), MAP_NORESERVE. */
#ifndef SWARM_RESERVE_H
#define SWARM_RESERVE_H

#include <stddef.h>
#include <stdint.h>
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

/* The same, in a file of memory that other processes map as well. */
static inline void *reserve_in(int fd, size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return start == MAP_FAILED ? NULL : start;
}

/* Bytes of reserved space that are about to be written: large pages for those that they fill whole, so that a million agents
 * cost tens of page faults instead of thousands, and no memory more. See madvise(2). */
static inline void expect(void *start, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t large = (uintptr_t)1 << 21;
    uintptr_t first = ((uintptr_t)start + large - 1) & ~(large - 1), last = ((uintptr_t)start + bytes) & ~(large - 1);
    if (last > first)
        (void)madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}

static inline void release(void *start, size_t bytes)
{
    if (start != NULL)
        (void)munmap(start, bytes);
}

#endif
