/* Loops that gain by instructions which not every processor has: compiled once for each level, chosen by a table when the
 * program starts. Not by ifunc, which musl and others lack, and never by -march=native, which would tie a wheel to the machine
 * that made it. Every level gives the same bits: the order of operations is that of the source, and nothing is contracted. */
#ifndef SWARM_DISPATCH_H
#define SWARM_DISPATCH_H

#include <stdlib.h>
#include <string.h>

/* NANO_CPU in the environment asks for a lower level than the processor has; for a higher one it asks in vain. */
enum cpu_level { CPU_SCALAR, CPU_BASE, CPU_AVX2, CPU_AVX512, CPU_LEVELS };

static const char *const cpu_level_names[CPU_LEVELS] = {"scalar", "base", "avx2", "avx512"};

#if defined(__clang__)
#define SCALAR_LOOP _Pragma("clang loop vectorize(disable) interleave(disable)")
#define SCALAR_FUNCTION
#elif defined(__GNUC__)
#define SCALAR_LOOP
#define SCALAR_FUNCTION __attribute__((optimize("no-tree-vectorize", "no-tree-slp-vectorize")))
#else
#define SCALAR_LOOP
#define SCALAR_FUNCTION
#endif

#if defined(__GNUC__) && defined(__x86_64__)
#define CPU_HAS_LEVELS 1
#define AVX2_FUNCTION __attribute__((target("avx2")))
#define AVX512_FUNCTION __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))
#endif

/* What the processor and the system can do; see Intel's manual, volume 1, 14.3: the compiler's runtime asks both. */
static inline int cpu_level_found(void)
{
#ifdef CPU_HAS_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl"))
        return CPU_AVX512;
    if (__builtin_cpu_supports("avx2"))
        return CPU_AVX2;
#endif
    return CPU_BASE;
}

/* The level to use: what was found, unless NANO_CPU names a lower one. */
static inline int cpu_level(void)
{
    const char *wanted = getenv("NANO_CPU");
    int found = cpu_level_found();
    if (wanted != NULL)
        for (int level = 0; level < found; level++)
            if (strcmp(wanted, cpu_level_names[level]) == 0)
                return level;
    return found;
}

#endif
