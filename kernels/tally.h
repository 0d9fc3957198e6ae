/* Counts of small durations in log-linear buckets, the layout of kernels/histogram.pyx, written without the GIL. */
#ifndef SWARM_TALLY_H
#define SWARM_TALLY_H

#include <stddef.h>
#include <stdint.h>

enum { TALLY_BITS = 6, TALLY_HALF = 1 << TALLY_BITS, TALLY_BUCKETS = (64 - TALLY_BITS + 1) * TALLY_HALF };

static inline size_t tally_bucket(uint64_t value)
{
    if (value < TALLY_HALF)
        return (size_t)value;
    int shift = 63 - __builtin_clzll(value) - TALLY_BITS;
    return (size_t)shift * TALLY_HALF + (size_t)(value >> shift);
}

static inline uint64_t tally_lowest(size_t bucket)
{
    if (bucket < 2 * TALLY_HALF)
        return bucket;
    size_t shift = bucket / TALLY_HALF - 1;
    return (uint64_t)(bucket - shift * TALLY_HALF) << shift;
}

static inline uint64_t tally_middle(size_t bucket)
{
    if (bucket < 2 * TALLY_HALF)
        return bucket;
    return tally_lowest(bucket) + (((uint64_t)1 << (bucket / TALLY_HALF - 1)) >> 1);
}

static inline void tally_note(uint64_t *counts, uint64_t value, uint64_t times)
{
    counts[tally_bucket(value)] += times;
}

#endif
