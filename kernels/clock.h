/* Two clocks in nanoseconds. CLOCK_BOOTTIME also runs while the machine sleeps; where it is missing, monotonic. */
#ifndef SWARM_CLOCK_H
#define SWARM_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(clockid_t which)
{
    struct timespec now;
    if (clock_gettime(which, &now) != 0)
        return -1;
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t clock_monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static inline int64_t clock_boottime_ns(void)
{
#ifdef CLOCK_BOOTTIME
    int64_t now = clock_ns(CLOCK_BOOTTIME);
    if (now >= 0)
        return now;
#endif
    return clock_ns(CLOCK_MONOTONIC);
}

#endif
