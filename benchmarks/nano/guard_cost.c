/* What a guard costs an agent: three loops over the same no-op ticks, called by address, and readings back to back.
 * Compiled by time.py, which passes arrays of uint64_t for what each agent took in each loop, in ticks. */
#include <stddef.h>

#include "guard.h"
#include "nano.h"

static int tick(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    uint64_t *state = (uint64_t *)cols[0];
    (void)ctx;
    state[row] += now_ns;
    return NANO_IDLE;
}

nano_tick volatile chosen = tick; /* as the scheduler knows it: an address */

static void emptied(struct guard *g) { g->far_count = 0; }

/* ns are told by the caller; here everything is ticks of the counter, a round of `agents` each time. */
void rounds(size_t agents, size_t count, uint64_t *state, uint64_t *bare, uint64_t *chained, uint64_t *unguarded,
            uint64_t *sampled, uint64_t *each)
{
    static struct guard g, s;
    struct ticks_clock clock = {.mult = 1, .back_mult = 1, .shift = 1, .counter = 1};
    void *cols[1] = {state};
    nano_tick call = chosen;
    g.clock = s.clock = &clock;
    g.budget = s.budget = 500;
    g.full = s.full = emptied;
    s.every = 64;
    s.left = s.draw = 1;
    for (size_t round = 0; round < count; round++) {
        uint64_t begun, before, now;
        /* pairs of readings, as many as agents */
        before = begun = ticks_read();
        for (size_t i = 0; i < agents; i++) {
            now = ticks_read();
            each[i] = now - before;
            before = now;
        }
        bare[round] = ticks_read() - begun;

        begun = ticks_read();
        guard_begin(&g);
        for (size_t i = 0; i < agents; i++) {
            call(cols, (uint32_t)i, round, NULL);
            guard_chain(&g);
        }
        chained[round] = ticks_read() - begun;

        begun = ticks_read();
        for (size_t i = 0; i < agents; i++)
            call(cols, (uint32_t)i, round, NULL);
        unguarded[round] = ticks_read() - begun;

        begun = ticks_read();
        for (size_t i = 0; i < agents; i++) {
            int look = guard_look(&s);
            call(cols, (uint32_t)i, round, NULL);
            guard_seen(&s, look);
        }
        sampled[round] = ticks_read() - begun;
    }
}

/* What each of the agents of one round took by a chained guard, ticks. */
void singly(size_t agents, uint64_t *state, uint64_t *each)
{
    void *cols[1] = {state};
    nano_tick call = chosen;
    uint64_t before = ticks_read(), now;
    for (size_t i = 0; i < agents; i++) {
        call(cols, (uint32_t)i, 1, NULL);
        now = ticks_read();
        each[i] = now - before;
        before = now;
    }
}
