/* C11 atomics over memory that two processes, or two cores, share. */
#ifndef SWARM_ATOMICS_H
#define SWARM_ATOMICS_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

/* Lock-free is a must: a lock inside the C library would not be shared between processes. */
#if ATOMIC_LLONG_LOCK_FREE != 2
#error "nanoswarm needs 64-bit atomics without locks"
#endif

typedef _Atomic uint64_t shared_u64;

static inline uint64_t shared_load(void *at)
{
    return atomic_load_explicit((shared_u64 *)at, memory_order_acquire);
}

static inline void shared_store(void *at, uint64_t value)
{
    atomic_store_explicit((shared_u64 *)at, value, memory_order_release);
}

static inline uint64_t relaxed_load(void *at)
{
    return atomic_load_explicit((shared_u64 *)at, memory_order_relaxed);
}

static inline void relaxed_store(void *at, uint64_t value)
{
    atomic_store_explicit((shared_u64 *)at, value, memory_order_relaxed);
}

/* ---- a slice of work: cursor in the low half, end in the high half of one word --------------------------------- */

/* The next index, or -1 when there is none. */
static inline int64_t slice_claim(void *at)
{
    uint64_t was = shared_load(at);
    for (;;) {
        uint32_t cursor = (uint32_t)was, end = (uint32_t)(was >> 32);
        if (cursor >= end)
            return -1;
        if (atomic_compare_exchange_weak_explicit((shared_u64 *)at, &was, was + 1, memory_order_acq_rel,
                                                  memory_order_acquire))
            return cursor;
    }
}

/* Lower the end to cursor + keep; returns the word before, and the new end through `end_now`. */
static inline uint64_t slice_recall(void *at, uint32_t keep, uint32_t *end_now)
{
    uint64_t was = shared_load(at);
    for (;;) {
        uint32_t cursor = (uint32_t)was, end = (uint32_t)(was >> 32);
        uint64_t wanted = (uint64_t)cursor + keep;
        *end_now = wanted < end ? (uint32_t)wanted : end;
        if (atomic_compare_exchange_weak_explicit((shared_u64 *)at, &was, (uint64_t)*end_now << 32 | cursor,
                                                  memory_order_acq_rel, memory_order_acquire))
            return was;
    }
}

/* ---- a record under a sequence lock: word 0 counts, odd while its one writer is inside --------------------------
 * After Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", MSPC 2012, figure 6. */

enum { SEQLOCK_SPINS = 64, SEQLOCK_YIELDS = 64 };

static inline void seqlock_write(uint64_t *record, const uint64_t *values, int n)
{
    uint64_t sequence = relaxed_load(record) & ~(uint64_t)1;
    relaxed_store(record, sequence + 1);
    atomic_thread_fence(memory_order_release);
    for (int i = 0; i < n; i++)
        relaxed_store(record + 1 + i, values[i]);
    shared_store(record, sequence + 2);
}

/* 1, or 0 when no consistent state was seen in a bounded time: its writer died inside, or stands still there. */
static inline int seqlock_read(uint64_t *record, uint64_t *values, int n)
{
    for (int turn = 0; turn < SEQLOCK_SPINS + SEQLOCK_YIELDS; turn++) {
        uint64_t before = shared_load(record);
        if (!(before & 1)) {
            for (int i = 0; i < n; i++)
                values[i] = relaxed_load(record + 1 + i);
            atomic_thread_fence(memory_order_acquire);
            if (relaxed_load(record) == before)
                return 1;
        }
        if (turn >= SEQLOCK_SPINS)
            sched_yield();
    }
    return 0;
}

#endif
