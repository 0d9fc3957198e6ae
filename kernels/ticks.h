/* The processor's time-stamp counter, and what its ticks are in ns.
 *
 * x86-64: rdtsc (Intel, "Software Developer's Manual", volume 3, 18.17); it is not ordered with the instructions around
 * it, which costs a few ns of certainty and saves as many of waiting. aarch64: cntvct_el0 (Arm ARM, D12). Elsewhere, and
 * where the counter cannot be trusted, clock_gettime, of which a tick is 1 ns.
 */
#ifndef SWARM_TICKS_H
#define SWARM_TICKS_H

#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#define TICKS_COUNTER "tsc"
#elif defined(__aarch64__)
#define TICKS_COUNTER "cntvct"
#else
#define TICKS_COUNTER ""
#endif

#define TICKS_SHIFT 40

/* What a tick is: ns(t) = base_ns + (t - base) * mult / 2^shift. */
struct ticks_clock {
    uint64_t base;    /* ticks */
    uint64_t base_ns; /* of CLOCK_MONOTONIC_RAW, then */
    uint64_t mult;
    uint64_t back_mult; /* ticks per ns, likewise */
    uint32_t shift;
    uint32_t counter; /* 0: ticks are those of clock_gettime */
};

static inline uint64_t ticks_system(void)
{
    struct timespec now;
#if defined(CLOCK_MONOTONIC_RAW)
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t ticks_read(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t value;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#else
    return ticks_system();
#endif
}

/* The ticks that this clock counts. */
static inline uint64_t ticks_now(const struct ticks_clock *clock)
{
    return clock->counter ? ticks_read() : ticks_system();
}

/* a * mult / 2^shift, to the nearest (a tick is often less than a ns), in 64 bits; for compilers without integers of 128 bits. 0 < shift < 64. */
static inline uint64_t ticks_scaled_by_halves(uint64_t a, uint64_t mult, uint32_t shift)
{
    uint64_t al = a & 0xFFFFFFFFu, ah = a >> 32, ml = mult & 0xFFFFFFFFu, mh = mult >> 32;
    uint64_t low = al * ml, middle = ah * ml + (low >> 32), cross = al * mh + (middle & 0xFFFFFFFFu);
    uint64_t high = ah * mh + (middle >> 32) + (cross >> 32);
    low = cross << 32 | (low & 0xFFFFFFFFu);
    uint64_t half = (uint64_t)1 << (shift - 1);
    low += half;
    high += low < half;
    return high << (64 - shift) | low >> shift;
}

static inline uint64_t ticks_scaled(uint64_t a, uint64_t mult, uint32_t shift)
{
#if defined(__SIZEOF_INT128__)
    return (uint64_t)(((unsigned __int128)a * mult + ((uint64_t)1 << (shift - 1))) >> shift);
#else
    return ticks_scaled_by_halves(a, mult, shift);
#endif
}

/* How long so many ticks take, ns. */
static inline uint64_t ticks_duration_ns(const struct ticks_clock *clock, uint64_t ticks)
{
    return ticks_scaled(ticks, clock->mult, clock->shift);
}

/* How many ticks so many ns take. */
static inline uint64_t ticks_of_ns(const struct ticks_clock *clock, uint64_t ns)
{
    return ticks_scaled(ns, clock->back_mult, clock->shift);
}

/* The instant of a reading, ns of CLOCK_MONOTONIC_RAW. The reading may be of before the base, too. */
static inline uint64_t ticks_to_ns(const struct ticks_clock *clock, uint64_t ticks)
{
    uint64_t since = ticks - clock->base;
    if (since >> 63)
        return clock->base_ns - ticks_scaled(0 - since, clock->mult, clock->shift);
    return clock->base_ns + ticks_scaled(since, clock->mult, clock->shift);
}

#endif
