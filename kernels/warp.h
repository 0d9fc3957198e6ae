/* Whether the time-stamp counter can be trusted on this machine: does it tick evenly, and alike on all cores?
 *
 * The second as Linux asks it (arch/x86/kernel/tsc_sync.c): threads on different cores read it in turn under one lock;
 * whoever reads less than what was read before has found a counter that lags.
 */
#ifndef SWARM_WARP_H
#define SWARM_WARP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "ticks.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { WARP_CORES = 16, WARP_ROUNDS = 2000 };
#define WARP_LONGEST_NS 20000000u /* a machine with other things to do is not asked for long */

/* Whether it runs at one rate whatever the core does: CPUID 80000007H, EDX bit 8; on aarch64 always (Arm ARM, D12.1). */
static inline int ticks_invariant(void)
{
#if defined(__x86_64__)
    unsigned int a, b, c, d;
    return __get_cpuid(0x80000007u, &a, &b, &c, &d) && (d >> 8 & 1u);
#elif defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}

struct warp {
    atomic_flag lock;
    uint64_t last, worst, ends_ns;
};

struct warp_thread {
    struct warp *shared;
    pthread_t id;
    int core;
};

static inline uint64_t ticks_ordered(void)
{
#if defined(__x86_64__)
    _mm_lfence();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
    return ticks_read();
}

static inline void *warp_run(void *of)
{
    struct warp_thread *self = (struct warp_thread *)of;
    struct warp *shared = self->shared;
#if defined(__linux__)
    if (self->core >= 0) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(self->core, &one);
        sched_setaffinity(0, sizeof one, &one);
    }
#endif
    for (int round = 0; round < WARP_ROUNDS; round++) {
        int spins = 0;
        while (atomic_flag_test_and_set_explicit(&shared->lock, memory_order_acquire))
            if (++spins > 100)
                sched_yield();
        uint64_t before = shared->last, now = ticks_ordered();
        shared->last = now;
        if (now < before && before - now > shared->worst)
            shared->worst = before - now;
        atomic_flag_clear_explicit(&shared->lock, memory_order_release);
        if (ticks_system() > shared->ends_ns)
            break;
    }
    return NULL;
}

/* By how many ticks the counter of one core lags behind another's, at least; -1 where no threads can be had. Looks at
 * 16 of the cores that this process may use, evenly chosen. */
static inline int64_t ticks_warp(void)
{
    struct warp_thread threads[WARP_CORES];
    struct warp shared;
    int n = 0, started = 0;
    memset(&shared, 0, sizeof shared);
    atomic_flag_clear(&shared.lock);
    shared.ends_ns = ticks_system() + WARP_LONGEST_NS;
#if defined(__linux__)
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        int cores = CPU_COUNT(&allowed), seen = 0;
        int wanted = cores < WARP_CORES ? cores : WARP_CORES;
        for (int core = 0; core < CPU_SETSIZE && n < wanted; core++)
            if (CPU_ISSET(core, &allowed) && seen++ == n * cores / wanted)
                threads[n++].core = core;
    }
#endif
    while (n < 2)
        threads[n++].core = -1;
    for (; started < n; started++) {
        threads[started].shared = &shared;
        if (pthread_create(&threads[started].id, NULL, warp_run, &threads[started]) != 0)
            break;
    }
    for (int i = 0; i < started; i++)
        pthread_join(threads[i].id, NULL);
    return started < n ? -1 : (int64_t)shared.worst;
}

#endif
