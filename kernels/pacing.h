/* Waiting for an instant of CLOCK_MONOTONIC: asleep until shortly before, then by reading the clock. */
#ifndef SWARM_PACING_H
#define SWARM_PACING_H

#include <errno.h>
#include <stdint.h>
#include <time.h>

#include "clock.h"

/* The last part is spun, `spin_ns` of it. Returns 0 at the instant, 1 when a signal came before. */
static inline int wait_until(int64_t at_ns, int64_t spin_ns)
{
    int64_t left = at_ns - clock_monotonic_ns() - spin_ns;
    if (left > 0) {
        struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        if (nanosleep(&pause, NULL) != 0 && errno == EINTR)
            return 1;
    }
    while (clock_monotonic_ns() < at_ns)
        ;
    return 0;
}

#endif
