/* Bounded lock-free rings of 64-byte lines, over memory that cores or processes share.
 *
 * SPSC: Lamport's queue ("Specifying Concurrent Program Modules", TOPLAS 1983) with the counterpart's counter remembered
 * (Lee, Bu and Chandranmenon, "A lock-free, cache-efficient shared ring buffer", ANCS 2009): a line of the cache is fetched
 * from the other core once a ring or a batch, not once a message. Its producer alone moves the tail and its consumer alone
 * the head, so that the death of either leaves a ring that a successor opens and goes on with: lines are published by one
 * store, after they were written.
 *
 * MPMC: Vyukov's bounded queue (1024cores.net, 2010): each slot has a sequence that says whose turn it is. A batch claims
 * the slots that it finds ready by one compare-and-swap. For threads of one process: one that dies between claim and
 * publication would stall those behind it.
 *
 * Counters are 64 bits, never wrap in practice and are right if they do; an index is a counter masked, so that no
 * damaged counter leads out of the ring.
 */
#ifndef SWARM_LANES_H
#define SWARM_LANES_H

#include <stddef.h>
#include <string.h>

#include "atomics.h"
#include "nano.h"
#include "soon.h"

enum {
    LANE_LINE = 64,
    /* Two lines of the cache: processors fetch them in pairs. */
    LANE_APART = 128,
    LANE_CAPACITY_AT = 8,
    LANE_TAIL_AT = LANE_APART,
    LANE_HEAD_AT = 2 * LANE_APART,
    LANE_DATA_AT = 3 * LANE_APART,
    LANE_AHEAD = 8, /* lines that a producer asks for before it comes to them: see soon_mine() */
    LANE_DAMAGED = -1
};

/* Marks of a ring, set when it is made: "SWSPSC01", "SWMPMC01". */
#define LANE_SPSC_MARK UINT64_C(0x3130435350535753)
#define LANE_MPMC_MARK UINT64_C(0x3130434D504D5753)
#define LANE_CAPACITY_MAX (UINT64_C(1) << 32)

/* The largest power of two of lines, each with `beside` bytes more, for which there are so many bytes; 0 for none. */
static inline uint64_t lane_capacity_of(uint64_t bytes, uint64_t beside)
{
    uint64_t capacity = LANE_CAPACITY_MAX;
    while (capacity && (bytes < LANE_DATA_AT || (bytes - LANE_DATA_AT) / (LANE_LINE + beside) < capacity))
        capacity >>= 1;
    return capacity;
}

/* ---- one producer, one consumer ------------------------------------------------------------------------------------ */

/* One end, or both, of a ring: what a thread remembers of it. The ring itself lies at base. */
typedef struct lane_spsc {
    uint8_t *base;
    nano_line *lines;
    uint64_t capacity;
    uint8_t apart_producer[LANE_APART];
    uint64_t head_seen; /* by the producer */
    uint8_t apart_consumer[LANE_APART];
    uint64_t tail_seen; /* by the consumer */
    uint8_t apart_end[LANE_APART];
} lane_spsc;

/* Open the ring that lies at base, aligned to 64, in so many bytes. 0, or LANE_DAMAGED when there is none of this size,
 * or its counters are not those of a ring. */
static inline int lane_spsc_open(lane_spsc *lane, void *base, uint64_t bytes)
{
    uint64_t capacity = lane_capacity_of(bytes, 0), stored, tail, head;
    if (capacity == 0 || shared_load(base) != LANE_SPSC_MARK)
        return LANE_DAMAGED;
    memcpy(&stored, (uint8_t *)base + LANE_CAPACITY_AT, sizeof stored);
    if (stored != capacity)
        return LANE_DAMAGED;
    /* Both move while they are read. The counter of the end that is opened stands still, so that one of the two reads of
     * the other is right for it. */
    head = shared_load((uint8_t *)base + LANE_HEAD_AT);
    tail = shared_load((uint8_t *)base + LANE_TAIL_AT);
    if (tail - head > capacity && tail - shared_load((uint8_t *)base + LANE_HEAD_AT) > capacity)
        return LANE_DAMAGED;
    lane->base = (uint8_t *)base;
    lane->lines = (nano_line *)((uint8_t *)base + LANE_DATA_AT);
    lane->capacity = capacity;
    lane->head_seen = head;
    lane->tail_seen = head; /* nothing is taken for granted */
    return 0;
}

/* Make an empty ring. 0, or LANE_DAMAGED when there is no room for one line. */
static inline int lane_spsc_create(void *base, uint64_t bytes)
{
    uint64_t capacity = lane_capacity_of(bytes, 0);
    if (capacity == 0)
        return LANE_DAMAGED;
    memset(base, 0, LANE_DATA_AT);
    memcpy((uint8_t *)base + LANE_CAPACITY_AT, &capacity, sizeof capacity);
    shared_store(base, LANE_SPSC_MARK);
    return 0;
}

/* Of the producer: up to n free lines that lie side by side, to be written and then published. How many, or
 * LANE_DAMAGED. Fewer than n, too, where the ring's end is reached. */
static inline int64_t lane_spsc_claim(lane_spsc *lane, size_t n, nano_line **at)
{
    uint64_t tail = relaxed_load(lane->base + LANE_TAIL_AT), used = tail - lane->head_seen;
    uint64_t from = tail & (lane->capacity - 1), room;
    if (used >= lane->capacity || lane->capacity - used < n) {
        lane->head_seen = shared_load(lane->base + LANE_HEAD_AT);
        used = tail - lane->head_seen;
        if (used > lane->capacity)
            return LANE_DAMAGED;
    }
    room = lane->capacity - used;
    if (room > lane->capacity - from)
        room = lane->capacity - from;
    *at = lane->lines + from;
    return (int64_t)(room < n ? room : n);
}

/* Of the producer: n claimed lines are written. */
static inline void lane_spsc_publish(lane_spsc *lane, size_t n)
{
    shared_store(lane->base + LANE_TAIL_AT, relaxed_load(lane->base + LANE_TAIL_AT) + n);
}

/* Of the consumer: up to n published lines that lie side by side, to be read and then released. */
static inline int64_t lane_spsc_peek(lane_spsc *lane, size_t n, const nano_line **at)
{
    uint64_t head = relaxed_load(lane->base + LANE_HEAD_AT), ready = lane->tail_seen - head;
    uint64_t from = head & (lane->capacity - 1);
    if (ready > lane->capacity || ready < n) {
        lane->tail_seen = shared_load(lane->base + LANE_TAIL_AT);
        ready = lane->tail_seen - head;
        if (ready > lane->capacity)
            return LANE_DAMAGED;
    }
    if (ready > lane->capacity - from)
        ready = lane->capacity - from;
    *at = lane->lines + from;
    return (int64_t)(ready < n ? ready : n);
}

/* Of the consumer: n peeked lines are no longer needed. */
static inline void lane_spsc_release(lane_spsc *lane, size_t n)
{
    shared_store(lane->base + LANE_HEAD_AT, relaxed_load(lane->base + LANE_HEAD_AT) + n);
}

/* 1, 0 when the ring is full, or LANE_DAMAGED. */
static inline int lane_spsc_put(lane_spsc *lane, const void *line)
{
    uint64_t tail = relaxed_load(lane->base + LANE_TAIL_AT);
    if (tail - lane->head_seen >= lane->capacity) {
        lane->head_seen = shared_load(lane->base + LANE_HEAD_AT);
        if (tail - lane->head_seen >= lane->capacity)
            return tail - lane->head_seen == lane->capacity ? 0 : LANE_DAMAGED;
    }
    memcpy(lane->lines + (tail & (lane->capacity - 1)), line, LANE_LINE);
    shared_store(lane->base + LANE_TAIL_AT, tail + 1);
    return 1;
}

/* 1, 0 when the ring is empty, or LANE_DAMAGED. */
static inline int lane_spsc_get(lane_spsc *lane, void *line)
{
    uint64_t head = relaxed_load(lane->base + LANE_HEAD_AT);
    if (lane->tail_seen - head - 1 >= lane->capacity) {
        lane->tail_seen = shared_load(lane->base + LANE_TAIL_AT);
        if (lane->tail_seen - head - 1 >= lane->capacity)
            return lane->tail_seen == head ? 0 : LANE_DAMAGED;
    }
    memcpy(line, lane->lines + (head & (lane->capacity - 1)), LANE_LINE);
    shared_store(lane->base + LANE_HEAD_AT, head + 1);
    return 1;
}

/* Append up to n lines, published together. How many there was room for, or LANE_DAMAGED. */
static inline int64_t lane_spsc_put_many(lane_spsc *lane, const void *lines, size_t n)
{
    uint64_t tail = relaxed_load(lane->base + LANE_TAIL_AT), used = tail - lane->head_seen;
    uint64_t from = tail & (lane->capacity - 1), until_end = lane->capacity - from, room;
    if (used >= lane->capacity || lane->capacity - used < n) {
        lane->head_seen = shared_load(lane->base + LANE_HEAD_AT);
        used = tail - lane->head_seen;
        if (used > lane->capacity)
            return LANE_DAMAGED;
    }
    room = lane->capacity - used;
    if (n > room)
        n = (size_t)room;
    if (n == 0)
        return 0;
    if (n <= until_end) {
        memcpy(lane->lines + from, lines, n * LANE_LINE);
    } else {
        memcpy(lane->lines + from, lines, until_end * LANE_LINE);
        memcpy(lane->lines, (const uint8_t *)lines + until_end * LANE_LINE, (n - until_end) * LANE_LINE);
    }
    shared_store(lane->base + LANE_TAIL_AT, tail + n);
    return (int64_t)n;
}

/* Take up to n lines. How many there were, or LANE_DAMAGED. */
static inline int64_t lane_spsc_get_many(lane_spsc *lane, void *lines, size_t n)
{
    uint64_t head = relaxed_load(lane->base + LANE_HEAD_AT), ready = lane->tail_seen - head;
    uint64_t from = head & (lane->capacity - 1), until_end = lane->capacity - from;
    if (ready > lane->capacity || ready < n) {
        lane->tail_seen = shared_load(lane->base + LANE_TAIL_AT);
        ready = lane->tail_seen - head;
        if (ready > lane->capacity)
            return LANE_DAMAGED;
    }
    if (n > ready)
        n = (size_t)ready;
    if (n == 0)
        return 0;
    if (n <= until_end) {
        memcpy(lines, lane->lines + from, n * LANE_LINE);
    } else {
        memcpy(lines, lane->lines + from, until_end * LANE_LINE);
        memcpy((uint8_t *)lines + until_end * LANE_LINE, lane->lines, (n - until_end) * LANE_LINE);
    }
    shared_store(lane->base + LANE_HEAD_AT, head + n);
    return (int64_t)n;
}

/* Lines that wait, as seen from outside while both ends move. */
static inline uint64_t lane_waiting(const uint8_t *base, uint64_t capacity)
{
    uint64_t head = shared_load((void *)(base + LANE_HEAD_AT));
    uint64_t waiting = shared_load((void *)(base + LANE_TAIL_AT)) - head;
    return waiting < capacity ? waiting : capacity;
}

/* ---- many producers, many consumers -------------------------------------------------------------------------------- */

/* The sequence beside its line, so that one line of the cache carries both. With the sequences in an array of their own, as
 * measured between two cores, single lines took 2 to 3 times as long, and batches of 64 two thirds to as long. */
typedef struct lane_slot {
    shared_u64 sequence; /* the number of the line that it waits for while it is free, one more while it holds that line */
    nano_line line;
} lane_slot;

typedef struct lane_mpmc {
    uint8_t *base;
    lane_slot *slots;
    uint64_t capacity;
} lane_mpmc;

/* As lane_spsc_open(). */
static inline int lane_mpmc_open(lane_mpmc *lane, void *base, uint64_t bytes)
{
    uint64_t capacity = lane_capacity_of(bytes, sizeof(uint64_t)), stored;
    if (capacity < 8 || shared_load(base) != LANE_MPMC_MARK)
        return LANE_DAMAGED;
    memcpy(&stored, (uint8_t *)base + LANE_CAPACITY_AT, sizeof stored);
    if (stored != capacity)
        return LANE_DAMAGED;
    lane->base = (uint8_t *)base;
    lane->capacity = capacity;
    lane->slots = (lane_slot *)((uint8_t *)base + LANE_DATA_AT);
    return 0;
}

/* Make an empty ring of 8 lines or more. 0, or LANE_DAMAGED when there is no room for them. */
static inline int lane_mpmc_create(void *base, uint64_t bytes)
{
    uint64_t capacity = lane_capacity_of(bytes, sizeof(uint64_t));
    lane_slot *slots = (lane_slot *)((uint8_t *)base + LANE_DATA_AT);
    if (capacity < 8)
        return LANE_DAMAGED;
    memset(base, 0, LANE_DATA_AT);
    for (uint64_t i = 0; i < capacity; i++)
        atomic_store_explicit(&slots[i].sequence, i, memory_order_relaxed);
    memcpy((uint8_t *)base + LANE_CAPACITY_AT, &capacity, sizeof capacity);
    shared_store(base, LANE_MPMC_MARK);
    return 0;
}

/* Claim up to n slots that are ready, from the counter at `at`: those whose sequence is their number + turn. How many,
 * 0 for none, or LANE_DAMAGED; `first` is the number of the first of them. */
static inline int64_t lane_mpmc_claim(lane_mpmc *lane, size_t at, uint64_t turn, size_t n, uint64_t *first)
{
    shared_u64 *counter = (shared_u64 *)(lane->base + at);
    uint64_t mask = lane->capacity - 1, number = atomic_load_explicit(counter, memory_order_relaxed);
    if (n > lane->capacity)
        n = (size_t)lane->capacity;
    while (n) {
        uint64_t ready = 0, seen = number + turn;
        while (ready < n) {
            seen = atomic_load_explicit(&lane->slots[(number + ready) & mask].sequence, memory_order_acquire);
            if (seen != number + ready + turn)
                break;
            ready++;
        }
        if (ready) {
            /* Nobody claimed them in between if the counter still stands there: it only ever goes up. */
            if (atomic_compare_exchange_weak_explicit(counter, &number, number + ready, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                *first = number;
                return (int64_t)ready;
            }
        } else {
            uint64_t was = number;
            if ((int64_t)(seen - (number + turn)) < 0)
                return 0;
            /* Somebody used the slot already, so that the counter has gone on. */
            number = atomic_load_explicit(counter, memory_order_relaxed);
            if (number == was)
                return LANE_DAMAGED;
        }
    }
    return 0;
}

/* Hand over n claimed slots: the sequence of each becomes its number + turn. The first of them comes last, so that who
 * waits for it finds all of them. */
static inline void lane_mpmc_hand_over(lane_mpmc *lane, uint64_t first, size_t n, uint64_t turn)
{
    for (uint64_t number = first + n; number-- != first;)
        atomic_store_explicit(&lane->slots[number & (lane->capacity - 1)].sequence, number + turn, memory_order_release);
}

/* Append up to n lines, side by side in the ring. How many there was room for, or LANE_DAMAGED. */
static inline int64_t lane_mpmc_put_many(lane_mpmc *lane, const void *lines, size_t n)
{
    uint64_t first = 0;
    int64_t taken = lane_mpmc_claim(lane, LANE_TAIL_AT, 0, n, &first);
    const uint8_t *from = (const uint8_t *)lines;
    if (taken <= 0)
        return taken;
    /* Each of its stores would wait for a line that the consumer has, and each compare-and-swap waits for all stores before it. */
    soon_mine(&lane->slots[(first + (uint64_t)taken + LANE_AHEAD) & (lane->capacity - 1)]);
    for (uint64_t i = 0; i < (uint64_t)taken; i++)
        memcpy(&lane->slots[(first + i) & (lane->capacity - 1)].line, from + i * LANE_LINE, LANE_LINE);
    lane_mpmc_hand_over(lane, first, (size_t)taken, 1);
    return taken;
}

/* Take up to n lines. How many there were, or LANE_DAMAGED. */
static inline int64_t lane_mpmc_get_many(lane_mpmc *lane, void *lines, size_t n)
{
    uint64_t first = 0;
    int64_t taken = lane_mpmc_claim(lane, LANE_HEAD_AT, 1, n, &first);
    uint8_t *to = (uint8_t *)lines;
    if (taken <= 0)
        return taken;
    for (uint64_t i = 0; i < (uint64_t)taken; i++)
        memcpy(to + i * LANE_LINE, &lane->slots[(first + i) & (lane->capacity - 1)].line, LANE_LINE);
    lane_mpmc_hand_over(lane, first, (size_t)taken, lane->capacity);
    return taken;
}

/* 1, 0 when the ring is full, or LANE_DAMAGED. */
static inline int lane_mpmc_put(lane_mpmc *lane, const void *line)
{
    return (int)lane_mpmc_put_many(lane, line, 1);
}

/* 1, 0 when the ring is empty, or LANE_DAMAGED. */
static inline int lane_mpmc_get(lane_mpmc *lane, void *line)
{
    return (int)lane_mpmc_get_many(lane, line, 1);
}

#endif
