/* Ready-made batch ticks over columns, at each level of dispatch.h: for examples, tests and measurements, and as a pattern for
 * ticks of one's own. */
#ifndef SWARM_MOTIONS_H
#define SWARM_MOTIONS_H

#include "dispatch.h"
#include "nano.h"

#define MOTION_STEP 1e-3 /* seconds a tick */

/* One step of what moves freely: columns x and v. */
#define MOVE(i) x[i] += v[i] * MOTION_STEP

/* One step of a damped oscillator (semi-implicit Euler): columns x and v; stiffness 1, damping 1/8. */
#define OSCILLATE(i)                                                                                                   \
    do {                                                                                                               \
        double next_v = v[i] - (x[i] + v[i] * 0.125) * MOTION_STEP;                                                    \
        v[i] = next_v;                                                                                                 \
        x[i] += next_v * MOTION_STEP;                                                                                  \
    } while (0)

enum { MOTION_BLOCK = 1024 }; /* rows */

/* Loops that the compiler makes vectors of are unrolled besides: with few rows its counting is a tenth of what they cost. */
#if defined(__GNUC__) && !defined(__clang__)
#define VECTOR_LOOP _Pragma("GCC unroll 4")
#else
#define VECTOR_LOOP
#endif

/* Where there are more rows than a cache holds, those that a pass ended with are there when the next one begins: every other pass goes
 * through its blocks of rows from the last one to the first. Rows do not look at each other, so nothing else comes out. */
#define MOTION(name, FUNCTION, LOOP, STEP)                                                                             \
    FUNCTION static int name(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)               \
    {                                                                                                                  \
        (void)now_ns;                                                                                                  \
        double *restrict x = (double *)cols[0];                                                                        \
        double *restrict v = (double *)cols[1];                                                                        \
        if (idx == NULL) {                                                                                             \
            const int back = ctx != NULL && ctx->pass & 1;                                                             \
            const size_t last = n > 2 * MOTION_BLOCK ? (n - 1) / MOTION_BLOCK : 0, block = last ? MOTION_BLOCK : n;    \
            for (size_t b = 0; b <= last; b++) {                                                                       \
                const size_t first = (back ? last - b : b) * block, end = n - first < block ? n : first + block;       \
                LOOP for (size_t i = first; i < end; i++) STEP(i);                                                     \
            }                                                                                                          \
        } else {                                                                                                       \
            for (size_t i = 0; i < n; i++)                                                                             \
                STEP(idx[i]);                                                                                          \
        }                                                                                                              \
        return NANO_WORKED;                                                                                            \
    }

MOTION(move_scalar, SCALAR_FUNCTION, SCALAR_LOOP, MOVE)
MOTION(move_base, , VECTOR_LOOP, MOVE)
MOTION(oscillate_scalar, SCALAR_FUNCTION, SCALAR_LOOP, OSCILLATE)
MOTION(oscillate_base, , VECTOR_LOOP, OSCILLATE)
#ifdef CPU_HAS_LEVELS
MOTION(move_avx2, AVX2_FUNCTION, VECTOR_LOOP, MOVE)
MOTION(move_avx512, AVX512_FUNCTION, VECTOR_LOOP, MOVE)
MOTION(oscillate_avx2, AVX2_FUNCTION, VECTOR_LOOP, OSCILLATE)
MOTION(oscillate_avx512, AVX512_FUNCTION, VECTOR_LOOP, OSCILLATE)
#else
#define move_avx2 move_base
#define move_avx512 move_base
#define oscillate_avx2 oscillate_base
#define oscillate_avx512 oscillate_base
#endif

enum motion { MOTION_MOVE, MOTION_OSCILLATE, MOTIONS };

/* The tick of a motion at a level, which must not be above cpu_level_found(). */
static inline nano_tick_many motion_at(int motion, int level)
{
    static const nano_tick_many table[MOTIONS][CPU_LEVELS] = {
        {move_scalar, move_base, move_avx2, move_avx512},
        {oscillate_scalar, oscillate_base, oscillate_avx2, oscillate_avx512},
    };
    return table[motion][level];
}

#endif
