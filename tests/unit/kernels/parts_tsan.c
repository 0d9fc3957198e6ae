/* Calls cut into parts, run by a crew of several threads: what comes out is what one part for all gives, and no race is seen. */
#include <stdio.h>

#include "parts.h"
#include "topics.h"

enum { ROWS = 3000, PASSES = 60, TOPICS = 2, ROOM = 100 };

/* Moves by a draw, publishes now and then, and comes to what the draw says. */
static int tick(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = (double *)cols[0];
    uint64_t draw = nano_random(ctx, row, 0);
    x[row] = x[row] * 0.5 + (double)(draw % 1000);
    for (uint32_t k = 0; k < draw % 4; k++)
        x[row] += nano_publish(ctx, k % 3, row, &x[row], sizeof x[row]); /* there is no topic 2 */
    if (draw % 50 == 1)
        return nano_sleep(ctx, now_ns + draw % 99);
    return draw % 50 == 2 ? NANO_FAILED : draw % 50 == 3 ? NANO_DONE : draw % 50 == 4 ? 77 : (int)(draw % 2);
}

static int tick_many(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = (double *)cols[0];
    for (size_t i = 0; i < n; i++) {
        uint32_t row = idx ? idx[i] : ctx->first + (uint32_t)i;
        void *from_row_0 = x - (idx ? 0 : ctx->first);
        nano_ctx each = *ctx;
        each.wake_ns = ctx->wake_ns + i;
        ctx->outcomes[i] = (uint8_t)tick(&from_row_0, row, now_ns, &each);
    }
    return NANO_EACH;
}

typedef struct world {
    double x[ROWS];
    uint32_t idx[ROWS / 2];
    uint32_t places[ROWS], over_places[ROWS];
    uint64_t wakes[ROWS], wake_ns[ROWS], spends[ROWS];
    uint8_t left_by[ROWS], outcomes[ROWS];
    uint64_t hash, counted;
    nano_bus *bus;
} world;

static void mix(world *w, const void *what, size_t size)
{
    for (size_t i = 0; i < size; i++)
        w->hash = (w->hash ^ ((const uint8_t *)what)[i]) * 1099511628211u;
}

static int live(world *w, crew *c, size_t most)
{
    static const uint16_t topics[TOPICS] = {1, 0};
    static const uint64_t rooms[TOPICS] = {ROOM, ROOM};
    const uint64_t lines_max[TOPICS] = {ROOM, ROOM};
    const int full[TOPICS] = {BUS_DROP, BUS_DROP};
    const struct ticks_clock clock = {.counter = 0};
    uint64_t **counts = (uint64_t **)calloc(CREW_MAX, sizeof *counts);
    part *parts[ROWS];
    crew_chunk chunks[ROWS];
    size_t made = 0;
    for (uint32_t t = 0; t < c->n; t++)
        counts[t] = (uint64_t *)calloc(TALLY_BUCKETS, sizeof **counts);
    w->bus = bus_new(TOPICS, lines_max, full);
    for (uint32_t i = 0; i < ROWS / 2; i++)
        w->idx[i] = 2 * i + (i % 3 == 0);
    for (uint64_t pass = 0; pass < PASSES; pass++) {
        const int listed = pass % 3 == 1, one = pass % 2;
        const size_t n = listed ? ROWS / 2 : ROWS;
        const call_tick how = {one ? (void *)tick : (void *)tick_many, &clock, 0, 1, (uint32_t)one};
        const call_room whole = {w->places, w->left_by, w->wakes, w->over_places, w->outcomes, w->wake_ns, NULL};
        size_t parts_n = 0;
        for (size_t start = 0; start < n; parts_n++) {
            size_t end = start + most < n ? start + most : n;
            if (parts_n == made)
                parts[made++] = part_new();
            part *it = parts[parts_n];
            if (it == NULL || !part_fit(it, 1, TOPICS))
                return 0;
            it->ctx = (nano_ctx){.abi = NANO_ABI, .kind = 3, .pass = pass, .seed = 5, .now_ns = pass * 10};
            it->ctx.first = it->first = (uint32_t)start;
            it->ctx.outcomes = w->outcomes + start;
            it->ctx.wake_ns = w->wake_ns + start;
            it->ctx.publish = crew_publish;
            it->ctx.bus = &it->out;
            it->out.topics = topics;
            it->out.topics_n = TOPICS;
            it->out.rooms = rooms;
            it->out.kind = 3;
            it->how = &how;
            it->idx = listed ? w->idx + start : NULL;
            it->start = start;
            it->n = end - start;
            it->counts = counts;
            it->room = (call_room){w->places + start, w->left_by + start, w->wakes + start, w->over_places + start,
                                   w->outcomes + start, w->wake_ns + start, NULL};
            it->cols[0] = one || listed ? w->x : w->x + start;
            it->chunk = &chunks[parts_n];
            chunks[parts_n] = (crew_chunk){.work = part_run, .what = it, .cost = end - start};
            start = end;
        }
        crew_run(c, chunks, parts_n);
        ones_result result;
        memset(&result, 0, sizeof result);
        for (size_t k = 0; k < parts_n; k++) {
            bus_carry(w->bus, parts[k]->out.lines, parts[k]->out.n);
            for (uint32_t t = 0; t < TOPICS; t++)
                if (parts[k]->out.sent[t] > ROOM)
                    w->bus->topic[topics[t]].counters.dropped += parts[k]->out.sent[t] - ROOM;
            part_join(parts[k], &whole, &result);
        }
        bus_turn(w->bus);
        for (uint16_t t = 0; t < TOPICS; t++) {
            const nano_line *lines;
            uint64_t count;
            bus_inbox(w->bus, t, &lines, &count);
            mix(w, lines, count * sizeof *lines);
            mix(w, &w->bus->topic[t].counters, sizeof w->bus->topic[t].counters);
        }
        mix(w, w->x, sizeof w->x);
        mix(w, result.outcomes, sizeof result.outcomes);
        mix(w, &result.strange, sizeof result.strange);
        mix(w, w->places, result.leavers * sizeof *w->places);
        mix(w, w->left_by, result.leavers);
        for (size_t i = 0; i < result.leavers; i++)
            if (w->left_by[i] == NANO_SLEEP)
                mix(w, &w->wakes[i], sizeof w->wakes[i]);
    }
    for (uint32_t t = 0; t < c->n; t++) {
        for (size_t bucket = 0; bucket < TALLY_BUCKETS; bucket++)
            w->counted += counts[t][bucket];
        free(counts[t]);
    }
    free(counts);
    for (size_t k = 0; k < made; k++)
        part_free(parts[k]);
    bus_free(w->bus);
    return 1;
}

int main(void)
{
    uint64_t first = 0, counted = 0;
    const size_t cuts[] = {ROWS, 64, 700, 192};
    for (uint32_t threads = 1; threads <= 4; threads++) {
        int why = 0;
        crew *c = crew_new(threads, NULL, NULL, threads == 3 ? 20000 : 0, &why);
        world *w = (world *)calloc(1, sizeof(world));
        if (c == NULL || w == NULL || !live(w, c, cuts[threads - 1])) {
            printf("no memory or threads: %d\n", why);
            return 1;
        }
        printf("%u threads: %016llx, %llu measured\n", threads, (unsigned long long)w->hash, (unsigned long long)w->counted);
        if (threads == 1) {
            first = w->hash;
            counted = w->counted;
        }
        if (w->hash != first || w->counted != counted || counted != (uint64_t)PASSES / 6 * (2 * ROWS + ROWS / 2))
            return 2;
        free(w);
        crew_free(c);
    }
    return 0;
}
