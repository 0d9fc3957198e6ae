/* The inner loops of a pass: agents called one by one, and what is noted of each. C, since they are where the time goes. */
#ifndef SWARM_PASSES_H
#define SWARM_PASSES_H

#include "guard.h"
#include "motions.h"
#include "nano.h"
#include "tally.h"
#include "ticks.h"

/* What came of a call: how many agents of each outcome, and how many were over their budget. */
typedef struct ones_result {
    uint64_t outcomes[NANO_EACH];
    uint64_t strange; /* outcomes that are none: taken as failures */
    uint64_t over;
    size_t leavers; /* agents that do not just go on; their places and outcomes stand in the two arrays */
    uint64_t began, spent; /* by the clock */
    int outcome; /* of all, or NANO_EACH */
} ones_result;

/* What stands of each agent of a call, by its place in it. */
typedef struct call_room {
    uint32_t *places; /* of those that leave, */
    uint8_t *left_by; /* how */
    uint64_t *wakes; /* and until when */
    uint32_t *over_places; /* of those that were over their budget */
    uint8_t *outcomes; /* nano_ctx's */
    uint64_t *wake_ns;
    uint64_t *spends; /* what each took, where that is wanted; else NULL */
} call_room;

/* How the agents of a cohort are ticked. */
typedef struct call_tick {
    void *tick; /* a nano_tick, or a nano_tick_many */
    const struct ticks_clock *clock;
    uint64_t budget; /* of the clock's ticks, an agent; 0 without one */
    uint32_t sampling; /* 0 no guard, 1 each agent, n one of n */
    uint32_t one; /* they are called one by one */
} call_tick;

enum ones_guard { ONES_FREE, ONES_CHAINED, ONES_SAMPLED, ONES_TRACED };

/* The loop of ones_run(), for each way of looking at the counter and of naming rows: what is constant costs nothing inside. */
static inline __attribute__((always_inline)) void
ones_loop(nano_tick tick, void **cols, const uint32_t *idx, uint32_t first, size_t n, uint64_t now_ns, nano_ctx *ctx,
          uint32_t sampling, uint64_t budget, const struct ticks_clock *clock, uint64_t *counts, uint32_t *places,
          uint64_t *wakes, uint8_t *left_by, uint32_t *over_places, uint64_t *spends, ones_result *result, const enum ones_guard guard)
{
    const int chained = guard == ONES_CHAINED || guard == ONES_TRACED;
    const struct ticks_clock own = *clock; /* a tick may write anywhere, so that the other would be looked at each time */
    uint64_t worked = 0, over = 0, last = chained ? ticks_now(&own) : 0;
    uint64_t draw = 0, until_sample = 0;
    size_t leavers = 0;
    if (guard == ONES_SAMPLED) {
        /* drawn anew for each call, so that a population of a regular order is not always measured at the same places */
        draw = nano_random_at(ctx->seed, ctx->kind, first + (uint32_t)n, ctx->pass, 0xFFFF) | 1;
        /* the lesser of two: how far it is to the next one for who begins to look anywhere between two */
        uint64_t one = guard_drawn(&draw, sampling), other = guard_drawn(&draw, sampling);
        until_sample = one < other ? one : other;
    }
    for (size_t i = 0; i < n; i++) {
        int sampled = chained;
        if (guard == ONES_SAMPLED && __builtin_expect(--until_sample == 0, 0)) {
            sampled = 1;
            until_sample = guard_drawn(&draw, sampling);
            last = ticks_now(&own);
        }
        unsigned outcome = (unsigned)tick(cols, idx ? idx[i] : first + (uint32_t)i, now_ns, ctx);
        if (sampled) {
            uint64_t end = ticks_now(&own), spent = end - last;
            last = end;
            if (__builtin_expect(spent > budget, 0)) {
                if (spent >> 63)
                    spent = 0; /* a counter that went backwards: a core's that lags */
                else
                    over_places[over++] = (uint32_t)i;
            }
            tally_note(counts, spent, 1);
            if (guard == ONES_TRACED) {
                spends[i] = spent;
                ctx->outcomes[i] = (uint8_t)(outcome <= NANO_DONE ? outcome : NANO_FAILED);
            }
        }
        if (__builtin_expect(outcome <= NANO_WORKED, 1)) {
            worked += outcome;
            continue;
        }
        if (outcome != NANO_SLEEP && outcome != NANO_FAILED && outcome != NANO_DONE) {
            result->strange++;
            outcome = NANO_FAILED;
        }
        result->outcomes[outcome]++;
        left_by[leavers] = (uint8_t)outcome;
        wakes[leavers] = ctx->wake_ns[0];
        places[leavers++] = (uint32_t)i;
    }
    result->outcomes[NANO_WORKED] += worked;
    result->outcomes[NANO_IDLE] += n - worked - leavers;
    result->over += over;
    result->leavers = leavers;
}

/* Every agent measured by one reading of the counter: the end of one is the beginning of the next. `sampling` of 0 measures
 * none, 1 each, n one of n on average. `places` has room for n. With `spends`, what each took goes there, and its outcome to
 * ctx->outcomes: for traces. */
static inline void ones_run(nano_tick tick, void **cols, const uint32_t *idx, uint32_t first, size_t n, uint64_t now_ns,
                            nano_ctx *ctx, uint32_t sampling, uint64_t budget, const struct ticks_clock *clock,
                            uint64_t *counts, uint32_t *places, uint64_t *wakes, uint8_t *left_by,
                            uint32_t *over_places, uint64_t *spends, ones_result *result)
{
#define ONES_LOOP(idx, guard)                                                                                          \
    ones_loop(tick, cols, idx, first, n, now_ns, ctx, sampling, budget, clock, counts, places, wakes, left_by,         \
              over_places, spends, result, guard)
    if (spends != NULL)
        ONES_LOOP(idx, ONES_TRACED);
    else if (sampling == 1 && idx == NULL)
        ONES_LOOP(NULL, ONES_CHAINED);
    else if (sampling == 1)
        ONES_LOOP(idx, ONES_CHAINED);
    else if (sampling > 1)
        ONES_LOOP(idx, ONES_SAMPLED);
    else if (idx == NULL)
        ONES_LOOP(NULL, ONES_FREE);
    else
        ONES_LOOP(idx, ONES_FREE);
#undef ONES_LOOP
}

/* Who leaves after a batch that said NANO_EACH. */
static inline void each_outcome(const uint8_t *outcomes, const uint64_t *wake_ns, size_t n, uint32_t *places,
                                uint64_t *wakes, uint8_t *left_by, ones_result *result)
{
    size_t leavers = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t outcome = outcomes[i];
        if (outcome <= NANO_WORKED) {
            result->outcomes[outcome]++;
            continue;
        }
        if (outcome > NANO_DONE) {
            result->strange++;
            outcome = NANO_FAILED;
        }
        result->outcomes[outcome]++;
        left_by[leavers] = outcome;
        wakes[leavers] = wake_ns[i];
        places[leavers++] = (uint32_t)i;
    }
    result->leavers = leavers;
}

/* What a batch said of all its agents together. */
static inline void same_outcome(int outcome, size_t n, const call_room *room, ones_result *result)
{
    if (outcome == NANO_WORKED || outcome == NANO_IDLE) {
        result->outcomes[outcome] = n;
        return;
    }
    if (outcome != NANO_SLEEP && outcome != NANO_FAILED && outcome != NANO_DONE) {
        result->strange = n;
        outcome = NANO_FAILED;
    }
    for (size_t i = 0; i < n; i++) {
        room->places[i] = (uint32_t)i;
        room->left_by[i] = (uint8_t)outcome;
        room->wakes[i] = room->wake_ns[i];
    }
    result->outcomes[outcome] = n;
    result->leavers = n;
    result->outcome = outcome;
}

/* Tick n agents: what came of them goes to `result` and `room`, and what each took, where they are called one by one and
 * measured, to `counts`. The columns of a batch begin with its first agent where idx is NULL. */
static inline void call_run(const call_tick *how, void **cols, const uint32_t *idx, uint32_t first, size_t n,
                            uint64_t now_ns, nano_ctx *ctx, uint64_t *counts, const call_room *room, ones_result *result)
{
    /* Not by memset: its size would make `rep stos` of it, which takes 30 cycles to begin. */
    for (int i = 0; i < NANO_EACH; i++)
        result->outcomes[i] = 0;
    result->strange = result->over = result->leavers = 0;
    result->began = ticks_now(how->clock);
    if (how->one) {
        ones_run((nano_tick)how->tick, cols, idx, first, n, now_ns, ctx, how->sampling,
                 how->budget ? how->budget : INT64_MAX, how->clock, counts, room->places, room->wakes, room->left_by,
                 room->over_places, room->spends, result);
        result->spent = guard_since(ticks_now(how->clock), result->began);
        result->outcome = NANO_EACH;
        return;
    }
    int outcome = ((nano_tick_many)how->tick)(cols, idx, n, now_ns, ctx);
    result->spent = guard_since(ticks_now(how->clock), result->began);
    result->outcome = outcome;
    if (how->budget && result->spent > how->budget * n)
        result->over = n;
    if (outcome == NANO_EACH)
        each_outcome(room->outcomes, room->wake_ns, n, room->places, room->wakes, room->left_by, result);
    else
        same_outcome(outcome, n, room, result);
}

enum { LONE_CHAINED = 256 };

/* A batch that is called pass after pass, at *next and each `period` after it while that is before `limit`, up to so many times,
 * and until it says more than NANO_IDLE or NANO_WORKED of all its n agents: so often it was called. Each of the calls is
 * noted in `counts`, in so many `parts` of a tick of the clock; what came of the last one is in `last`, of those before
 * it in `sum`. From LONE_CHAINED agents on the counter is read once a pass, the end of one being the beginning of the next: what is
 * done between two of them is shared by so many agents that none of them shows it. */
static inline uint64_t lone_run(const call_tick *how, void **bases, const size_t *steps, uint32_t fields, void **shifted,
                                const uint32_t *idx, size_t n, nano_ctx *ctx, uint64_t *counts, const call_room *room,
                                uint64_t *next, uint64_t period, uint64_t limit, uint64_t passes, uint64_t parts,
                                ones_result *sum, ones_result *last)
{
    const nano_tick_many tick = (nano_tick_many)how->tick;
    const struct ticks_clock own = *how->clock; /* a tick may write anywhere, so that the other would be looked at each time */
    const uint64_t budget = how->budget ? how->budget * n : UINT64_MAX, pass = ctx->pass;
    uint64_t at = *next, made = 0, worked = 0, all = 0, over = 0, end = 0, spent = 0;
    int outcome = NANO_IDLE;
    while (made < passes && at < limit) {
        void **cols = bases;
        if (idx == NULL) {
            cols = shifted;
            for (uint32_t f = 0; f < fields; f++)
                cols[f] = (char *)bases[f] + (size_t)ctx->first * steps[f];
        }
        ctx->pass = pass + made;
        ctx->now_ns = at;
        all += spent;
        over += spent > budget;
        worked += (unsigned)outcome;
        uint64_t began = made && n >= LONE_CHAINED ? end : ticks_now(&own);
        outcome = tick(cols, idx, n, at, ctx);
        end = ticks_now(&own);
        spent = guard_since(end, began);
        tally_note(counts, spent * parts / n, n);
        last->began = began;
        at += period;
        made++;
        if (__builtin_expect((unsigned)outcome > NANO_WORKED, 0))
            break;
    }
    *next = at;
    for (int i = 0; i < NANO_EACH; i++)
        sum->outcomes[i] = last->outcomes[i] = 0;
    last->strange = last->leavers = 0;
    sum->spent = all;
    sum->over = over * n;
    sum->outcomes[NANO_WORKED] = worked * n;
    sum->outcomes[NANO_IDLE] = made ? (made - 1 - worked) * n : 0;
    last->spent = spent;
    last->over = spent > budget ? n : 0;
    last->outcome = outcome;
    if (outcome == NANO_EACH)
        each_outcome(room->outcomes, room->wake_ns, n, room->places, room->wakes, room->left_by, last);
    else
        same_outcome(outcome, n, room, last);
    return made;
}

/* What is kept of one tick, where traces are wanted. */
typedef struct __attribute__((packed)) tick_trace {
    uint64_t now_ns;
    uint64_t pass;
    uint32_t cohort;
    uint32_t row;
    uint64_t cost_ns;
    uint8_t outcome;
    uint8_t violated;
} tick_trace;

/* And of one call: when it began and how long it took, in ticks of the counter. */
typedef struct call_span {
    uint64_t began;
    uint64_t spent;
    uint64_t now_ns;
    uint64_t pass;
    uint32_t cohort;
    uint32_t agents;
} call_span;

/* Ready-made ticks, for tests and measurements: nothing, and one step over columns x and v; of a batch, see motions.h. */
static inline int tick_nothing(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    (void)cols, (void)row, (void)now_ns, (void)ctx;
    return NANO_WORKED;
}

static inline int tick_many_nothing(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    (void)cols, (void)idx, (void)n, (void)now_ns, (void)ctx;
    return NANO_WORKED;
}

static inline int tick_move(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    (void)now_ns, (void)ctx;
    ((double *)cols[0])[row] += ((double *)cols[1])[row] * MOTION_STEP;
    return NANO_WORKED;
}

#endif
