/* Threads put and take numbered lines through the rings of kernels/lanes.h; ThreadSanitizer watches, and every line must
 * come out once, whole and, from each producer, in order. Prints what it did; exits 0 when all was right.
 *
 * cc -std=gnu11 -O2 -g -fsanitize=thread -fno-builtin-memcpy -pthread -Ikernels tests/unit/kernels/lanes_tsan.c && ./a.out [lines] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "lanes.h"

enum { CAPACITY = 64, BATCH = 24, THREADS_MAX = 4, WORDS = LANE_LINE / 8 };

static uint64_t lines_each;
static int producers, consumers;
static size_t batch; /* 0: single lines; 1 and more: batches up to that */
static int in_place;
static lane_spsc ends[2];
static lane_mpmc ring;
static _Atomic uint64_t taken_by_all;
static uint64_t sums[THREADS_MAX];

static void wrong(const char *what, uint64_t number)
{
    fprintf(stderr, "%s at %llu\n", what, (unsigned long long)number);
    exit(1);
}

static void number_line(uint64_t *words, uint64_t who, uint64_t number)
{
    words[0] = who;
    words[1] = number;
    for (int i = 2; i < WORDS; i++)
        words[i] = (number * WORDS + (uint64_t)i) ^ who;
}

static void check_line(const uint64_t *words, uint64_t *next)
{
    uint64_t who = words[0], number = words[1];
    if (who >= (uint64_t)producers)
        wrong("a line from nobody", number);
    for (int i = 2; i < WORDS; i++)
        if (words[i] != ((number * WORDS + (uint64_t)i) ^ who))
            wrong("a torn line", number);
    if (number < next[who])
        wrong("a line out of order", number);
    next[who] = number + 1;
}

static int64_t put(const void *lines, size_t n)
{
    if (producers > 1 || consumers > 1)
        return batch ? lane_mpmc_put_many(&ring, lines, n) : lane_mpmc_put(&ring, lines);
    return batch ? lane_spsc_put_many(&ends[0], lines, n) : lane_spsc_put(&ends[0], lines);
}

static int64_t get(void *lines, size_t n)
{
    if (producers > 1 || consumers > 1)
        return batch ? lane_mpmc_get_many(&ring, lines, n) : lane_mpmc_get(&ring, lines);
    return batch ? lane_spsc_get_many(&ends[1], lines, n) : lane_spsc_get(&ends[1], lines);
}

static void *produce(void *argument)
{
    uint64_t who = (uint64_t)(size_t)argument, done = 0;
    uint64_t lines[BATCH][WORDS];
    while (done < lines_each) {
        size_t n = batch ? 1 + (size_t)(done * 7 % batch) : 1;
        int64_t taken;
        if (n > lines_each - done)
            n = (size_t)(lines_each - done);
        if (in_place) {
            nano_line *at;
            taken = lane_spsc_claim(&ends[0], n, &at);
            for (int64_t i = 0; i < taken; i++) {
                number_line(lines[0], who, done + (uint64_t)i);
                memcpy(at + i, lines[0], LANE_LINE);
            }
            if (taken > 0)
                lane_spsc_publish(&ends[0], (size_t)taken);
        } else {
            for (size_t i = 0; i < n; i++)
                number_line(lines[i], who, done + i);
            taken = put(lines, n);
        }
        if (taken < 0)
            wrong("damaged for a producer", done);
        if (taken == 0)
            sched_yield();
        done += (uint64_t)taken;
    }
    return NULL;
}

static void *consume(void *argument)
{
    uint64_t *sum = &sums[(size_t)argument], next[THREADS_MAX] = {0};
    uint64_t lines[BATCH][WORDS];
    while (atomic_load(&taken_by_all) < lines_each * (uint64_t)producers) {
        int64_t taken;
        if (in_place) {
            const nano_line *at;
            taken = lane_spsc_peek(&ends[1], batch, &at);
            for (int64_t i = 0; i < taken; i++)
                memcpy(lines[i], at + i, LANE_LINE);
            if (taken > 0)
                lane_spsc_release(&ends[1], (size_t)taken);
        } else {
            taken = get(lines, batch ? batch : 1);
        }
        if (taken < 0)
            wrong("damaged for a consumer", next[0]);
        for (int64_t i = 0; i < taken; i++) {
            check_line(lines[i], next);
            *sum += lines[i][1];
        }
        if (taken == 0)
            sched_yield();
        atomic_fetch_add(&taken_by_all, (uint64_t)taken);
    }
    return NULL;
}

/* Begin where the counters are about to pass 2^64. */
static void wind_on(uint8_t *base, uint64_t start)
{
    shared_store(base + LANE_TAIL_AT, start);
    shared_store(base + LANE_HEAD_AT, start);
}

static void run(const char *name, int threads_in, int threads_out, size_t in_batches, int without_copy)
{
    uint64_t start = (uint64_t)0 - 2 * CAPACITY, sum = 0;
    size_t bytes = LANE_DATA_AT + CAPACITY * (LANE_LINE + 8);
    uint8_t *base = aligned_alloc(LANE_LINE, bytes);
    pthread_t threads[2 * THREADS_MAX];
    int count = 0;
    producers = threads_in;
    consumers = threads_out;
    batch = in_batches;
    in_place = without_copy;
    atomic_store(&taken_by_all, 0);
    memset(sums, 0, sizeof sums);
    memset(base, 0, bytes);
    if (lane_spsc_create(base, bytes) != 0)
        wrong("no room", bytes);
    wind_on(base, start);
    if (lane_spsc_open(&ends[0], base, bytes) != 0 || lane_spsc_open(&ends[1], base, bytes) != 0)
        wrong("not opened", 0);
    if (threads_in > 1 || threads_out > 1) {
        if (lane_mpmc_create(base, bytes) != 0 || lane_mpmc_open(&ring, base, bytes) != 0 || ring.capacity != CAPACITY)
            wrong("not opened", 0);
        wind_on(base, start);
        for (uint64_t i = 0; i < CAPACITY; i++)
            atomic_store(&ring.slots[(start + i) % CAPACITY].sequence, start + i);
    }
    for (int i = 0; i < threads_in; i++)
        pthread_create(&threads[count++], NULL, produce, (void *)(size_t)i);
    for (int i = 0; i < threads_out; i++)
        pthread_create(&threads[count++], NULL, consume, (void *)(size_t)i);
    while (count)
        pthread_join(threads[--count], NULL);
    for (int i = 0; i < threads_out; i++)
        sum += sums[i];
    if (sum != lines_each * (lines_each - 1) / 2 * (uint64_t)threads_in)
        wrong("lines lost or doubled", sum);
    printf("%s: %llu lines\n", name, (unsigned long long)(lines_each * (uint64_t)threads_in));
    free(base);
}

int main(int count, char **arguments)
{
    lines_each = count > 1 ? strtoull(arguments[1], NULL, 10) : 20000;
    run("spsc, one by one", 1, 1, 0, 0);
    run("spsc, batches", 1, 1, BATCH, 0);
    run("spsc, in place", 1, 1, BATCH, 1);
    run("mpmc 2 to 2, one by one", 2, 2, 0, 0);
    run("mpmc 2 to 2, batches", 2, 2, BATCH, 0);
    run("mpmc 4 to 1, one by one", 4, 1, 0, 0);
    run("mpmc 1 to 4, batches", 1, 4, BATCH, 0);
    run("mpmc 3 to 3, batches", 3, 3, BATCH, 0);
    return 0;
}
