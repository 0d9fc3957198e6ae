/* What the figures of nano-agents are held against: the cost of looking at the counter, memory streams, an idle loop that
 * spins from instant to instant. Compiled by benchmarks/nano/native.py with the flags of our kernels. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "nano.h"
#include "tally.h"
#include "ticks.h"

/* n pairs of readings, one right after the other, as counts (kernels/tally.h). Returns counter ticks in all. */
uint64_t pairs(uint64_t *counts, uint64_t n)
{
    uint64_t began = ticks_read();
    for (uint64_t i = 0; i < n; i++) {
        uint64_t first = ticks_read(), second = ticks_read();
        tally_note(counts, second - first, 1);
    }
    return ticks_read() - began;
}

/* The same chained: the end of one is the beginning of the next. */
uint64_t chained(uint64_t *counts, uint64_t n)
{
    uint64_t began = ticks_read(), last = began;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t now = ticks_read();
        tally_note(counts, now - last, 1);
        last = now;
    }
    return last - began;
}

/* A memory stream (McCalpin's triad) in the form of our kernel: x += v * s, `times` over. */
void stream(double *restrict x, const double *restrict v, double s, size_t n, uint64_t times)
{
    for (uint64_t t = 0; t < times; t++) {
        for (size_t i = 0; i < n; i++)
            x[i] += v[i] * s;
        __asm__ volatile("" ::: "memory");
    }
}

/* An idle loop that spins from one instant to the next, `period_ns` apart, for `instants` of them. Returns how many it missed:
 * the next one had come as well before it looked at the clock. */
uint64_t idle_spin(uint64_t period_ns, uint64_t instants)
{
    uint64_t missed = 0, at = (uint64_t)clock_monotonic_ns() + period_ns, until = at + instants * period_ns, now;
    while (at < until) {
        do {
            now = (uint64_t)clock_monotonic_ns();
        } while (now < at);
        uint64_t behind = (now - at) / period_ns;
        missed += behind;
        at += (behind + 1) * period_ns;
    }
    return missed;
}

void copy(void *to, const void *from, size_t n)
{
    memcpy(to, from, n);
}

int buckets(void)
{
    return TALLY_BUCKETS;
}

uint64_t bucket_middle(size_t bucket)
{
    return tally_middle(bucket);
}

uint64_t counter(void)
{
    return ticks_read();
}

/* A batch tick that computes: 50 steps of a recurrence for each agent, from x. */
int grind(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = (double *)cols[0];
    (void)now_ns, (void)ctx;
    for (size_t i = 0; i < n; i++) {
        size_t at = idx ? idx[i] : i;
        double value = x[at];
        for (int k = 0; k < 50; k++)
            value = value * 0.999 + 0.5 / (1.0 + value * value);
        x[at] = value;
    }
    return NANO_WORKED;
}

/* Publishes what it reads and a number: for the count of allocations. */
int tick_talks(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    uint64_t said[2] = {now_ns, ctx->topics ? ctx->inbox_count[0] : 0};
    if (row % 8 == 0)
        nano_publish(ctx, 0, row, said, sizeof said);
    ((double *)cols[0])[row] += (double)said[1];
    return NANO_WORKED;
}

/* Allocates once, so that the count of allocations is seen to count. */
int tick_allocates(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    (void)now_ns, (void)ctx;
    void *volatile taken = malloc(24);
    ((double *)cols[0])[row] += taken != NULL;
    free(taken);
    return NANO_WORKED;
}
