/* Guards: how long agents' ticks take, and which took more than their budget. Plain C, for loops without the GIL.
 *
 * chained: one reading of the counter an agent, the end of one being the beginning of the next.
 *     guard_begin(g); for each agent { tick(); if (guard_chain(g)) it took too long; }
 * sampled: one agent in `every` on average is measured, the others cost a decrement. The distance is drawn anew each time,
 *     so that a population of a regular order is not always measured at the same places.
 *     int look = guard_look(g); tick(); if (guard_seen(g, look)) it took too long;
 * span: one measurement for n agents at once, for batches.
 *     guard_begin(g); tick_many(); if (guard_span(g, n)) they took more than n budgets;
 *
 * A guard only counts. What was below GUARD_NEAR ticks is counted exactly in a table; the rest goes to a small buffer that
 * whoever owns the guard empties (`full`). A guard belongs to one thread.
 */
#ifndef SWARM_GUARD_H
#define SWARM_GUARD_H

#include <stdint.h>

#include "ticks.h"

#define GUARD_NEAR 1024
#define GUARD_FAR 128

struct guard {
    const struct ticks_clock *clock;
    uint64_t budget; /* ticks; UINT64_MAX for none */
    uint64_t last;   /* reading at which the present agent began */
    uint64_t measured, violations, worst;
    uint64_t backwards; /* readings below the one before: a core's counter that lags; they count as 0 ticks */
    uint64_t every, left, draw; /* of sampling: mean distance, agents until the next, state of the generator */
    void (*full)(struct guard *);
    void *owner;
    uint32_t far_count;
    struct guard_far {
        uint64_t ticks, agents;
    } far[GUARD_FAR];
    uint64_t near[GUARD_NEAR]; /* how many took so many ticks */
};

static inline void guard_count(struct guard *g, uint64_t ticks, uint64_t agents)
{
    if (__builtin_expect(ticks < GUARD_NEAR, 1)) {
        g->near[ticks] += agents;
        return;
    }
    g->far[g->far_count].ticks = ticks;
    g->far[g->far_count].agents = agents;
    if (++g->far_count == GUARD_FAR)
        g->full(g); /* sets far_count back */
}

/* Count that an agent took so many ticks: 1 when that is over its budget. */
static inline int guard_take(struct guard *g, uint64_t ticks)
{
    if (__builtin_expect(ticks >> 63, 0)) {
        g->backwards++;
        ticks = 0;
    }
    guard_count(g, ticks, 1);
    g->measured++;
    if (__builtin_expect(ticks > g->worst, 0))
        g->worst = ticks;
    if (__builtin_expect(ticks > g->budget, 0)) {
        g->violations++;
        return 1;
    }
    return 0;
}

static inline void guard_begin(struct guard *g) { g->last = ticks_now(g->clock); }

static inline int guard_chain(struct guard *g)
{
    uint64_t now = ticks_now(g->clock), took = now - g->last;
    g->last = now;
    return guard_take(g, took);
}

/* How many agents until the next that is measured, one in `every` on average: 1 to 2 * every - 1, each as likely (xorshift64*:
 * Vigna, 2016). `draw` is the state of the generator, not 0. */
static inline uint64_t guard_drawn(uint64_t *draw, uint64_t every)
{
    uint64_t x = *draw;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *draw = x;
    return 1 + ((x * 0x2545F4914F6CDD1Du) >> 32) * (2 * every - 1) / ((uint64_t)1 << 32);
}

static inline uint64_t guard_distance(struct guard *g) { return guard_drawn(&g->draw, g->every); }

/* What a reading of the counter is after another; 0 for one below it: a core's counter that lags. */
static inline uint64_t guard_since(uint64_t now, uint64_t last)
{
    uint64_t took = now - last;
    return __builtin_expect(took >> 63, 0) ? 0 : took;
}

static inline int guard_look(struct guard *g)
{
    if (__builtin_expect(--g->left, 1))
        return 0;
    g->left = guard_distance(g);
    g->last = ticks_now(g->clock);
    return 1;
}

static inline int guard_seen(struct guard *g, int looked)
{
    return looked ? guard_take(g, ticks_now(g->clock) - g->last) : 0;
}

/* Count that n agents took so many ticks together: as if they had shared them evenly, and 1 when that is over n budgets,
 * for which all n count as violations. The sum stays exact: some count a tick more than the others. */
static inline int guard_take_many(struct guard *g, uint64_t ticks, uint64_t n)
{
    if (n == 0)
        return 0;
    if (ticks >> 63) {
        g->backwards++;
        ticks = 0;
    }
    uint64_t each = ticks / n, more = ticks % n;
    g->measured += n;
    guard_count(g, each, n - more);
    if (more)
        guard_count(g, each + 1, more);
    if (each + (more > 0) > g->worst)
        g->worst = each + (more > 0);
    if (each > g->budget || (each == g->budget && more)) {
        g->violations += n;
        return 1;
    }
    return 0;
}

static inline int guard_span(struct guard *g, uint64_t n)
{
    uint64_t now = ticks_now(g->clock), took = now - g->last;
    g->last = now;
    return guard_take_many(g, took, n);
}

#endif
