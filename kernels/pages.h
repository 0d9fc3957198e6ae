/* Huge pages for fresh memory, where the platform has them: advice, never an error. See madvise(2). */
#ifndef SWARM_PAGES_H
#define SWARM_PAGES_H

#include <stddef.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

static inline void advise_huge_pages(void *start, size_t size)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t huge = (uintptr_t)2 << 20;
    uintptr_t from = ((uintptr_t)start + huge - 1) & ~(huge - 1);
    uintptr_t to = ((uintptr_t)start + size) & ~(huge - 1);
    if (from < to)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)start;
    (void)size;
#endif
}

#endif
