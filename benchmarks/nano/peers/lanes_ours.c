/* A round of each of kernels/lanes.h. */
#include "lanes_rounds.h"

#include "lanes.h"

static lane_spsc put_end, get_end;
static lane_mpmc ring;

static void fresh_spsc(void *base, size_t size)
{
    if (lane_spsc_create(base, size) || lane_spsc_open(&put_end, base, size) || lane_spsc_open(&get_end, base, size)
        || put_end.capacity != CAPACITY)
        abort();
}

static void fresh_mpmc(void *base, size_t size)
{
    if (lane_mpmc_create(base, size) || lane_mpmc_open(&ring, base, size) || ring.capacity != CAPACITY)
        abort();
}

ONE_BY_ONE(spsc, lane_spsc_put(&put_end, one) == 1, lane_spsc_get(&get_end, one) == 1)
IN_BATCHES(spsc, lane_spsc_put_many(&put_end, some, n), lane_spsc_get_many(&get_end, some, n))
ONE_BY_ONE(mpmc, lane_mpmc_put(&ring, one) == 1, lane_mpmc_get(&ring, one) == 1)
IN_BATCHES(mpmc, lane_mpmc_put_many(&ring, some, n), lane_mpmc_get_many(&ring, some, n))

/* Written and read where they lie, without a copy. */
static void put_in_place(uint64_t lines)
{
    for (uint64_t i = 0; i < lines;) {
        nano_line *at;
        int64_t n = 0;
        WAIT_UNTIL((n = lane_spsc_claim(&put_end, lines - i < BATCH ? (size_t)(lines - i) : BATCH, &at)) > 0)
        for (int64_t j = 0; j < n; j++, i++) {
            line *one = (line *)(at + j);
            one->words[0] = i;
            one->words[7] = ~i;
        }
        lane_spsc_publish(&put_end, (size_t)n);
    }
}

static void get_in_place(uint64_t lines)
{
    for (uint64_t i = 0; i < lines;) {
        const nano_line *at;
        int64_t n = 0;
        WAIT_UNTIL((n = lane_spsc_peek(&get_end, BATCH, &at)) > 0)
        for (int64_t j = 0; j < n; j++, i++)
            check((const line *)(at + j), i);
        lane_spsc_release(&get_end, (size_t)n);
    }
}

int main(void)
{
    size_t spsc_size = LANE_DATA_AT + CAPACITY * LANE_LINE, mpmc_size = spsc_size + CAPACITY * 8;
    void *base;
    begin();
    base = shared_memory(mpmc_size);
    for (int process = 0; process < 2; process++) {
        const char *what = process ? "processes" : "spsc";
        fresh_spsc(base, spsc_size);
        round_of(what, "ours", "one", spsc_put_ones, spsc_get_ones, LINES_ONE, process);
        fresh_spsc(base, spsc_size);
        round_of(what, "ours", "batched", spsc_put_batches, spsc_get_batches, LINES_BATCHED, process);
        fresh_spsc(base, spsc_size);
        round_of(what, "ours", "in place", put_in_place, get_in_place, LINES_BATCHED, process);
    }
    fresh_mpmc(base, mpmc_size);
    round_of("mpmc", "ours", "one", mpmc_put_ones, mpmc_get_ones, LINES_ONE, 0);
    fresh_mpmc(base, mpmc_size);
    round_of("mpmc", "ours", "batched", mpmc_put_batches, mpmc_get_batches, LINES_BATCHED, 0);
    return 0;
}
