/* Weights that halve in 50 idle cycles, over whole columns, at each level of dispatch.h. */
#ifndef SWARM_DECAY_H
#define SWARM_DECAY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "dispatch.h"
#include "soon.h"

#define DECAY_HALF_LIFE 50u
#define DECAY_GONE (127u * DECAY_HALF_LIFE) /* cycles after which nothing is left */

/* 2 ** (-(t + 24.5) / 50) at t = 0: the polynomial through its values at the seven Chebyshev nodes of |t| <= 24.5, each coefficient the
 * double nearest to it. Within 2.2e-9 of the value, a tenth of what rounding to single precision takes. A table of fifty values would
 * have to be gathered, which takes several times as long; what a C library makes of exp2 differs from machine to machine. */
#define DECAY_0 0x1.6c8e8db9f3aaep-1
#define DECAY_1 -0x1.4371f8852616ap-7
#define DECAY_2 0x1.1ef841ea022eap-14
#define DECAY_3 -0x1.5378e4348b1f5p-22
#define DECAY_4 0x1.2d3105e86ddb4p-30
#define DECAY_5 -0x1.ad9f8bac7d2f5p-39
#define DECAY_6 0x1.fb9f463d9eac8p-48

/* strength * 2 ** (-(cycle - used) / 50): what is between halvings is the polynomial above, the halvings are exact, and what has halved
 * 127 times is 0. What was used in a later cycle than this has not decayed. No branches: a loop with one is not vectorized. */
static inline float decay_one(float strength, uint32_t used, uint32_t cycle)
{
    uint32_t idle = (cycle > used ? cycle : used) - used;
    idle = idle < DECAY_GONE ? idle : DECAY_GONE;
    uint32_t halvings = idle * 5243u >> 18; /* idle / 50, exactly so far */
    double t = (double)(int32_t)(idle - halvings * DECAY_HALF_LIFE) - 24.5;
    double factor = DECAY_6;
    factor = factor * t + DECAY_5;
    factor = factor * t + DECAY_4;
    factor = factor * t + DECAY_3;
    factor = factor * t + DECAY_2;
    factor = factor * t + DECAY_1;
    factor = factor * t + DECAY_0;
    uint32_t bits = (127u - halvings) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return (float)((double)strength * factor) * scale;
}

typedef void (*decay_weigh)(const float *, const uint32_t *, float *, size_t, uint32_t);

enum {
    DECAY_ROWS = 64, /* whole lines of the cache in each column */
    DECAY_AHEAD = 1024 /* bytes */
};

/* A row takes some forty instructions, so that a processor sees few rows ahead, and neither do its prefetchers: asked for a kilobyte
 * before, what is read and what is written is there when it is needed, and memory costs nothing beside the computing. */
#define WEIGH(name, FUNCTION, LOOP)                                                                                    \
    FUNCTION static void name(const float *restrict strength, const uint32_t *restrict used, float *restrict out,      \
                              size_t n, uint32_t cycle)                                                                \
    {                                                                                                                  \
        size_t start = 0;                                                                                              \
        for (; n - start >= DECAY_ROWS; start += DECAY_ROWS) {                                                         \
            for (size_t at = 4 * start; at < 4 * (start + DECAY_ROWS); at += 64) {                                     \
                soon((const void *)((uintptr_t)strength + at + DECAY_AHEAD));                                          \
                soon((const void *)((uintptr_t)used + at + DECAY_AHEAD));                                              \
                soon_mine((const void *)((uintptr_t)out + at + DECAY_AHEAD));                                          \
            }                                                                                                          \
            LOOP for (size_t i = start; i < start + DECAY_ROWS; i++) out[i] = decay_one(strength[i], used[i], cycle);  \
        }                                                                                                              \
        LOOP for (size_t i = start; i < n; i++) out[i] = decay_one(strength[i], used[i], cycle);                       \
    }

WEIGH(weigh_scalar, SCALAR_FUNCTION, SCALAR_LOOP)
WEIGH(weigh_base, , )
#ifdef CPU_HAS_LEVELS
WEIGH(weigh_avx2, AVX2_FUNCTION, )
WEIGH(weigh_avx512, AVX512_FUNCTION, )
#else
#define weigh_avx2 weigh_base
#define weigh_avx512 weigh_base
#endif

/* The loop of a level, which must not be above cpu_level_found(). */
static inline decay_weigh weigh_at(int level)
{
    static const decay_weigh table[CPU_LEVELS] = {weigh_scalar, weigh_base, weigh_avx2, weigh_avx512};
    return table[level];
}

#endif
