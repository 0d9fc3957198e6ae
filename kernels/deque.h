/* A work-stealing deque of 64-bit items: one owner pushes and takes at the bottom, anybody steals at the top.
 *
 * D. Chase and Y. Lev, "Dynamic circular work-stealing deque", SPAA 2005, with the C11 memory orders of N. M. Le, A. Pop,
 * A. Cohen and F. Zappa Nardelli, "Correct and efficient work-stealing for weak memory models", PPoPP 2013, figure 1. Two things
 * differ. Stores to the bottom release (theirs are relaxed, after a fence that is kept): that costs nothing on x86-64, little
 * on aarch64, and is what ThreadSanitizer, which knows no fences, can follow. And indices are signed, since their unsigned
 * bottom is decremented below 0 when an empty deque is taken from for the first time. A ring that was outgrown is kept until
 * the deque is freed: a thief may still look into it.
 */
#ifndef SWARM_DEQUE_H
#define SWARM_DEQUE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { DEQUE_LINE = 64, DEQUE_FIRST = 64 };

enum deque_found { DEQUE_EMPTY = 0, DEQUE_GOT = 1, DEQUE_LOST = 2 /* somebody else was faster: try again */ };

typedef struct deque_ring {
    struct deque_ring *smaller; /* the one before */
    int64_t mask;
    _Atomic uint64_t items[];
} deque_ring;

typedef struct deque {
    alignas(DEQUE_LINE) _Atomic int64_t top; /* thieves' */
    alignas(DEQUE_LINE) _Atomic int64_t bottom; /* the owner's */
    _Atomic(deque_ring *) ring;
} deque;

static inline deque_ring *deque_ring_new(int64_t room, deque_ring *smaller)
{
    deque_ring *ring = malloc(sizeof(deque_ring) + (size_t)room * sizeof(uint64_t));
    if (ring != NULL) {
        ring->smaller = smaller;
        ring->mask = room - 1;
        for (int64_t i = 0; i < room; i++)
            atomic_init(&ring->items[i], 0);
    }
    return ring;
}

/* 0, or -1 without memory. */
static inline int deque_init(deque *d)
{
    deque_ring *ring = deque_ring_new(DEQUE_FIRST, NULL);
    atomic_init(&d->top, 0);
    atomic_init(&d->bottom, 0);
    atomic_init(&d->ring, ring);
    return ring == NULL ? -1 : 0;
}

/* Nobody uses it any more. */
static inline void deque_free(deque *d)
{
    deque_ring *ring = atomic_load_explicit(&d->ring, memory_order_relaxed);
    while (ring != NULL) {
        deque_ring *smaller = ring->smaller;
        free(ring);
        ring = smaller;
    }
    atomic_store_explicit(&d->ring, NULL, memory_order_relaxed);
}

/* Owner. 0, or -1 without memory for a larger ring (then nothing has changed). */
static inline int deque_push(deque *d, uint64_t item)
{
    int64_t b = atomic_load_explicit(&d->bottom, memory_order_relaxed);
    int64_t t = atomic_load_explicit(&d->top, memory_order_acquire);
    deque_ring *ring = atomic_load_explicit(&d->ring, memory_order_relaxed);
    if (b - t > ring->mask) {
        deque_ring *larger = deque_ring_new(2 * (ring->mask + 1), ring);
        if (larger == NULL)
            return -1;
        for (int64_t i = t; i < b; i++)
            atomic_store_explicit(&larger->items[i & larger->mask],
                                  atomic_load_explicit(&ring->items[i & ring->mask], memory_order_relaxed),
                                  memory_order_relaxed);
        atomic_store_explicit(&d->ring, larger, memory_order_release);
        ring = larger;
    }
    atomic_store_explicit(&ring->items[b & ring->mask], item, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&d->bottom, b + 1, memory_order_release);
    return 0;
}

/* Owner: the item pushed last. */
static inline enum deque_found deque_take(deque *d, uint64_t *item)
{
    int64_t b = atomic_load_explicit(&d->bottom, memory_order_relaxed) - 1;
    deque_ring *ring = atomic_load_explicit(&d->ring, memory_order_relaxed);
    atomic_store_explicit(&d->bottom, b, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    int64_t t = atomic_load_explicit(&d->top, memory_order_relaxed);
    if (t > b) {
        atomic_store_explicit(&d->bottom, b + 1, memory_order_release);
        return DEQUE_EMPTY;
    }
    *item = atomic_load_explicit(&ring->items[b & ring->mask], memory_order_relaxed);
    if (t < b)
        return DEQUE_GOT;
    /* the last one: a thief may be at it */
    int won = atomic_compare_exchange_strong_explicit(&d->top, &t, t + 1, memory_order_seq_cst, memory_order_relaxed);
    atomic_store_explicit(&d->bottom, b + 1, memory_order_release);
    return won ? DEQUE_GOT : DEQUE_EMPTY;
}

/* Anybody: the item that was pushed first of those that are left. */
static inline enum deque_found deque_steal(deque *d, uint64_t *item)
{
    int64_t t = atomic_load_explicit(&d->top, memory_order_acquire);
    atomic_thread_fence(memory_order_seq_cst);
    int64_t b = atomic_load_explicit(&d->bottom, memory_order_acquire);
    if (t >= b)
        return DEQUE_EMPTY;
    deque_ring *ring = atomic_load_explicit(&d->ring, memory_order_acquire);
    *item = atomic_load_explicit(&ring->items[t & ring->mask], memory_order_relaxed);
    if (!atomic_compare_exchange_strong_explicit(&d->top, &t, t + 1, memory_order_seq_cst, memory_order_relaxed))
        return DEQUE_LOST;
    return DEQUE_GOT;
}

/* How many there were at some moment of the call. */
static inline int64_t deque_size(deque *d)
{
    int64_t t = atomic_load_explicit(&d->top, memory_order_acquire);
    int64_t b = atomic_load_explicit(&d->bottom, memory_order_acquire);
    return b > t ? b - t : 0;
}

#endif
