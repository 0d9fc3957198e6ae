/* One round of a queue: a producer on one CPU, a consumer on another, threads or processes. For C and C++, so that ours and
 * its peers run the very same loops.
 *
 * Who finds the queue full or empty waits for 4 pauses of the processor, then 8, then 16 each time. A line is printed for
 * each round: what, queue, how, lines a second, how often the two were preempted. */
#ifndef LANES_ROUNDS_H
#define LANES_ROUNDS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CAPACITY = 4096, BATCH = 64, LINES_ONE = 20000, LINES_BATCHED = 200000 };

typedef struct line {
    uint64_t words[8];
} __attribute__((aligned(64))) line;

/* What the two sides tell each other; in memory that both see. */
struct meeting {
    int arrived;
    uint64_t begin_ns, end_ns;
    long preempted;
};
static struct meeting *meeting;
static int cpus[2] = {-1, -1};

static void *shared_memory(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        abort();
    memset(at, 0, size);
    return at;
}

static inline void pause_once(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

#define WAIT_UNTIL(done)                          \
    for (unsigned pauses = 4; !(done);) {         \
        for (unsigned k = 0; k < pauses; k++)     \
            pause_once();                         \
        if (pauses < 16)                          \
            pauses *= 2;                          \
    }

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static long preemptions(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

static void two_cpus(void)
{
    cpu_set_t allowed;
    int found = 0;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
        if (CPU_ISSET(cpu, &allowed))
            cpus[found++] = cpu;
}

static void settle_on(int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    __atomic_fetch_add(&meeting->arrived, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&meeting->arrived, __ATOMIC_ACQUIRE) < 2)
        pause_once();
}

static void (*consumer)(uint64_t);
static uint64_t lines_of_round;

static void *consume(void *unused)
{
    long before;
    (void)unused;
    settle_on(cpus[1]);
    before = preemptions();
    consumer(lines_of_round);
    meeting->end_ns = clock_ns();
    __atomic_fetch_add(&meeting->preempted, preemptions() - before, __ATOMIC_ACQ_REL);
    return NULL;
}

static double one_round(void (*produce)(uint64_t), void (*take)(uint64_t), uint64_t lines, int process)
{
    pthread_t thread;
    pid_t child = 0;
    long before;
    memset(meeting, 0, sizeof *meeting);
    consumer = take;
    lines_of_round = lines;
    fflush(stdout);
    if (process) {
        child = fork();
        if (child == 0) {
            consume(NULL);
            _exit(0);
        }
    } else {
        pthread_create(&thread, NULL, consume, NULL);
    }
    settle_on(cpus[0]);
    before = preemptions();
    meeting->begin_ns = clock_ns();
    produce(lines);
    __atomic_fetch_add(&meeting->preempted, preemptions() - before, __ATOMIC_ACQ_REL);
    if (process) {
        int status;
        if (waitpid(child, &status, 0) != child || status != 0)
            exit(1);
    } else {
        pthread_join(thread, NULL);
    }
    return (double)lines * 1e9 / (double)(meeting->end_ns - meeting->begin_ns);
}

/* The second of two rounds over the same queue, which is empty after each: the first warms the caches. */
static void round_of(const char *what, const char *queue, const char *how, void (*produce)(uint64_t),
                     void (*take)(uint64_t), uint64_t lines, int process)
{
    double rate;
    one_round(produce, take, lines, process);
    rate = one_round(produce, take, lines, process);
    printf("%s\t%s\t%s\t%.0f\t%ld\n", what, queue, how, rate, meeting->preempted);
}

static inline void check(const line *one, uint64_t number)
{
    if (one->words[0] != number || one->words[7] != ~number) {
        fprintf(stderr, "line %llu is wrong\n", (unsigned long long)number);
        exit(1);
    }
}

/* Single lines. PUT and GET are expressions over `line *one` that say whether it was done. */
#define ONE_BY_ONE(id, PUT, GET)                          \
    static void id##_put_ones(uint64_t lines)             \
    {                                                     \
        line here = {{0}}, *one = &here;                  \
        for (uint64_t i = 0; i < lines; i++) {            \
            one->words[0] = i;                            \
            one->words[7] = ~i;                           \
            WAIT_UNTIL(PUT)                               \
        }                                                 \
    }                                                     \
    static void id##_get_ones(uint64_t lines)             \
    {                                                     \
        line here = {{0}}, *one = &here;                  \
        for (uint64_t i = 0; i < lines; i++) {            \
            WAIT_UNTIL(GET)                               \
            check(one, i);                                \
        }                                                 \
    }

/* Batches. PUT and GET are expressions over `line *some, size_t n` that say how many were done. */
#define IN_BATCHES(id, PUT, GET)                                          \
    static void id##_put_batches(uint64_t lines)                          \
    {                                                                     \
        static line batch[BATCH];                                         \
        for (uint64_t i = 0; i < lines;) {                                \
            size_t whole = lines - i < BATCH ? (size_t)(lines - i) : BATCH, done = 0; \
            for (size_t j = 0; j < whole; j++) {                          \
                batch[j].words[0] = i + j;                                \
                batch[j].words[7] = ~(i + j);                             \
            }                                                             \
            while (done < whole) {                                        \
                line *some = batch + done;                                \
                size_t n = whole - done, now = 0;                         \
                WAIT_UNTIL((now = (size_t)(PUT)))                         \
                done += now;                                              \
            }                                                             \
            i += whole;                                                   \
        }                                                                 \
    }                                                                     \
    static void id##_get_batches(uint64_t lines)                          \
    {                                                                     \
        static line batch[BATCH];                                         \
        for (uint64_t i = 0; i < lines;) {                                \
            line *some = batch;                                           \
            size_t n = BATCH, now = 0;                                    \
            WAIT_UNTIL((now = (size_t)(GET)))                             \
            for (size_t j = 0; j < now; j++)                              \
                check(&batch[j], i + j);                                  \
            i += now;                                                     \
        }                                                                 \
    }

static void begin(void)
{
    meeting = (struct meeting *)shared_memory(sizeof *meeting);
    two_cpus();
    if (cpus[1] < 0) {
        fprintf(stderr, "two CPUs are needed\n");
        exit(2);
    }
}

#endif
