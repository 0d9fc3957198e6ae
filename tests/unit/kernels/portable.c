/* What the headers of the kernels compute, as one line a part, to be the same on every processor and C library: random
 * numbers, motions at each level, outcomes, topics, tallies, token buckets. Then the counter, and what it is on this machine. */
#include <stdio.h>

#include "atomics.h"
#include "buckets.h"
#include "clock.h"
#include "crew.h"
#include "deque.h"
#include "guard.h"
#include "lanes.h"
#include "lined.h"
#include "motions.h"
#include "nano.h"
#include "pacing.h"
#include "pages.h"
#include "passes.h"
#include "reserve.h"
#include "tally.h"
#include "ticks.h"
#include "topics.h"
#include "warp.h"
#include "wire.h"

enum { AGENTS = 1000, STEPS = 200 };

static uint64_t hashed(uint64_t hash, const void *bytes, size_t n)
{
    const uint8_t *at = bytes; /* FNV-1a of 64 bits */
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

static const uint64_t START = 0xCBF29CE484222325u;

static void say(const char *what, uint64_t hash) { printf("%s %016llx\n", what, (unsigned long long)hash); }

static void draws(void)
{
    nano_ctx ctx = {.seed = 0x0123456789ABCDEFu, .kind = 3, .pass = 1};
    uint64_t hash = START;
    for (uint32_t row = 0; row < AGENTS; row++) {
        uint64_t bits = nano_random(&ctx, row, row % 7);
        double uniform = nano_uniform(&ctx, row, 1);
        ctx.pass += (uint64_t)row << 20;
        hash = hashed(hashed(hash, &bits, 8), &uniform, 8);
    }
    say("draws", hash);
}

static double x[AGENTS], v[AGENTS];

static void placed(void)
{
    for (int i = 0; i < AGENTS; i++)
        x[i] = (i % 97 - 48) * 0.1 + i * 1e-9, v[i] = (i % 89 - 44) / 7.0;
}

static void motions(void)
{
    void *cols[] = {x, v};
    static uint32_t some[AGENTS / 3];
    for (uint32_t i = 0; i < AGENTS / 3; i++)
        some[i] = 3 * i + i % 2;
    for (int motion = 0; motion < MOTIONS; motion++)
        for (int level = CPU_SCALAR; level <= cpu_level_found(); level++) {
            placed();
            for (int step = 0; step < STEPS; step++)
                motion_at(motion, level)(cols, step % 5 ? NULL : some, step % 5 ? AGENTS : AGENTS / 3, 0, NULL);
            printf("motion %d ", motion); /* levels differ between processors; their bits must not */
            say("", hashed(hashed(START, x, sizeof x), v, sizeof v));
        }
}

static int mixed(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    ((double *)cols[0])[row] += nano_uniform(ctx, row, 0) / 3.0;
    return row % 11 == 3 ? nano_sleep(ctx, now_ns + row) : row % 13 == 5 ? NANO_FAILED : row % 17 == 1 ? 99 : (int)(row % 2);
}

static void outcomes(void)
{
    static uint32_t places[AGENTS], over[AGENTS];
    static uint64_t wakes[AGENTS], counts[TALLY_BUCKETS], wake_ns[AGENTS];
    static uint8_t left_by[AGENTS], said[AGENTS];
    struct ticks_clock clock = {0};
    void *cols[] = {x, v};
    uint64_t hash = START;
    placed();
    for (uint32_t sampling = 0; sampling < 3; sampling++) {
        ones_result result = {0};
        nano_ctx ctx = {.seed = 7, .pass = sampling, .outcomes = said, .wake_ns = wake_ns};
        ones_run(mixed, cols, NULL, 0, AGENTS, 1000, &ctx, sampling, UINT64_MAX, &clock, counts, places, wakes, left_by,
                 over, NULL, &result);
        hash = hashed(hashed(hash, result.outcomes, sizeof result.outcomes), &result.strange, sizeof result.strange);
        hash = hashed(hashed(hash, places, 4 * result.leavers), left_by, result.leavers);
    }
    say("outcomes", hashed(hash, x, sizeof x));
}

static void topics(void)
{
    const uint64_t rooms[] = {100, 400};
    const int full[] = {BUS_DROP, BUS_BLOCK};
    nano_bus *bus = bus_new(2, rooms, full);
    uint64_t hash = START, n;
    const nano_line *lines;
    for (uint32_t pass = 0; pass < 4; pass++) {
        for (uint32_t i = 0; i < 300; i++) {
            uint32_t row = (i * 7919 + pass) % 503;
            bus_publish(bus, i % 3 == 0, (uint16_t)(i % 5), row, &row, i % 2 ? sizeof row : 3);
        }
        bus_turn(bus);
        for (uint16_t topic = 0; topic < 2; topic++) {
            bus_inbox(bus, topic, &lines, &n);
            hash = hashed(hash, lines, n * sizeof *lines);
        }
    }
    bus_free(bus);
    say("topics", hash);
}

static void tallies(void)
{
    uint64_t hash = START, value = 1;
    for (int i = 0; i < 4000; i++) {
        size_t bucket = tally_bucket(value);
        uint64_t middle = tally_middle(bucket), number = bucket;
        hash = hashed(hashed(hash, &number, 8), &middle, 8);
        value = value * 6364136223846793005u + 1442695040888963407u;
        value >>= i % 64;
    }
    say("tallies", hash);
}

static void buckets(void)
{
    struct bucket it = {0};
    uint64_t hash = START, now = 0;
    bucket_set(&it, 7, 1000, 50);
    for (uint64_t i = 0; i < 3000; i++) {
        uint64_t tokens = i % 9 + 1, level, wait;
        int taken = bucket_take(&it, now, tokens);
        level = bucket_level(&it, now), wait = bucket_wait_ns(&it, now, tokens);
        hash = hashed(hashed(hashed(hash, &taken, sizeof taken), &level, 8), &wait, 8);
        now += i * 37 % 1009;
    }
    say("buckets", hash);
}

static void scaled(void)
{
    uint64_t hash = START, a = 3, mult = 5;
    for (int i = 0; i < 4000; i++) {
        uint64_t one = ticks_scaled(a, mult, 40), other = ticks_scaled_by_halves(a, mult, 40);
        if (one != other)
            printf("scaled %llu by %llu differs\n", (unsigned long long)a, (unsigned long long)mult);
        hash = hashed(hash, &one, 8);
        a = a * 6364136223846793005u + 1442695040888963407u;
        mult = (mult * 2862933555777941757u + 3037000493u) >> 20;
    }
    say("scaled", hash);
}

static void counter(void)
{
    uint64_t before = ticks_read(), began = before, behind = 0;
    int64_t from = clock_monotonic_ns();
    while (clock_monotonic_ns() - from < 20000000) {
        uint64_t now = ticks_read();
        behind += now < before;
        before = now;
    }
    printf("# counter %s: %llu ticks in 20 ms, %llu behind; level %s\n", TICKS_COUNTER, (unsigned long long)(before - began),
           (unsigned long long)behind, cpu_level_names[cpu_level_found()]);
    if (behind || before - began < 20000)
        printf("the counter does not count\n");
}

static void memory(void)
{
    size_t bytes = (size_t)1 << 32; /* address space: what is not touched takes no memory */
    char *at = reserve(bytes);
    if (at == NULL) {
        printf("no address space\n");
        return;
    }
    at[0] = at[bytes - 1] = 1;
    release(at, bytes);
}

int main(void)
{
    draws();
    motions();
    outcomes();
    topics();
    tallies();
    buckets();
    scaled();
    memory();
    counter();
    return 0;
}
