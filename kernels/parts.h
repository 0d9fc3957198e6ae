/* Parts of a call: its agents in stretches of consecutive rows, which the threads of a crew run.
 *
 * A part has a context, an outbox and a result of its own, and its stretch of what the call has for each agent; what is counted
 * agent by agent is counted for each thread. When all have run, part_join() puts them together in the order of the rows, so
 * that what comes out is what one call would have given, whoever ran what.
 */
#ifndef SWARM_PARTS_H
#define SWARM_PARTS_H

#include "crew.h"
#include "passes.h"

enum { PART_ROWS = 64 }; /* parts begin at multiples of it, so that no line of the cache belongs to two of them */

typedef struct part {
    nano_ctx ctx;
    crew_outbox out;
    crew_chunk *chunk;
    const call_tick *how;
    void **cols; /* cols_room of them */
    size_t cols_room;
    size_t rooms; /* of out.sent */
    const uint32_t *idx;
    uint32_t first;
    size_t start; /* place of its first agent in the call */
    size_t n;
    call_room room;
    uint64_t **counts; /* of each thread */
    ones_result result;
} part;

static inline void part_run(void *what)
{
    part *it = (part *)what;
    uint64_t *counts = it->counts != NULL ? it->counts[it->chunk->thread] : NULL;
    call_run(it->how, it->cols, it->idx, it->first, it->n, it->ctx.now_ns, &it->ctx, counts, &it->room, &it->result);
}

static inline part *part_new(void)
{
    part *it = (part *)lined_new(sizeof(part));
    if (it != NULL)
        it->out.grows = 1;
    return it;
}

static inline void part_free(part *it)
{
    if (it == NULL)
        return;
    free(it->cols);
    free(it->out.lines);
    free(it->out.sent);
    lined_free(it);
}

/* Room for the columns and topics of a kind. 1, or 0 without memory. */
static inline int part_fit(part *it, size_t columns, size_t topics)
{
    if (columns > it->cols_room) {
        void **cols = (void **)realloc(it->cols, columns * sizeof *cols);
        if (cols == NULL)
            return 0;
        it->cols = cols;
        it->cols_room = columns;
    }
    if (topics > it->rooms) {
        uint64_t *sent = (uint64_t *)realloc(it->out.sent, topics * sizeof *sent);
        if (sent == NULL)
            return 0;
        it->out.sent = sent;
        it->rooms = topics;
    }
    if (topics)
        memset(it->out.sent, 0, topics * sizeof *it->out.sent);
    it->out.n = 0;
    it->out.refused = 0;
    it->out.starved = 0;
    return 1;
}

/* Add what came of a part to what came of those before it, in the room of the whole call. */
static inline void part_join(const part *it, const call_room *whole, ones_result *result)
{
    const ones_result *mine = &it->result;
    const uint32_t start = (uint32_t)it->start;
    for (int outcome = 0; outcome < NANO_EACH; outcome++)
        result->outcomes[outcome] += mine->outcomes[outcome];
    result->strange += mine->strange;
    for (size_t i = 0; i < mine->leavers; i++) { /* to where they were, or before */
        whole->places[result->leavers] = it->room.places[i] + start;
        whole->left_by[result->leavers] = it->room.left_by[i];
        whole->wakes[result->leavers] = it->room.wakes[i];
        result->leavers++;
    }
    for (size_t i = 0; i < mine->over; i++) /* a batch is over its budget as a whole */
        whole->over_places[result->over++] = (it->how->one ? it->room.over_places[i] : (uint32_t)i) + start;
    if (result->spent == 0 || mine->began < result->began)
        result->began = mine->began;
    result->spent += mine->spent;
    result->outcome = NANO_EACH;
}

#endif
