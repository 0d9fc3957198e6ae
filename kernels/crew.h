/* A crew: threads that run the chunks of a pass together, and steal from one another.
 *
 * Chunks are dealt out in order, as contiguous parts of about the same declared cost, a part a thread, so that a thread meets
 * the same rows pass after pass. Each thread takes its own part from the front; who is through steals from the back of another's
 * (Blumofe and Leiserson, "Scheduling multithreaded computations by work stealing", JACM 46(5), 1999; deque.h). A chunk writes
 * only what is its own, so what comes out does not depend on who ran it, nor on how many threads there are.
 *
 * The thread that calls crew_run() is one of the crew. The others spin for a while after a pass, then sleep. A pass does not
 * wait for one that wakes too late: it comes to a closed gate.
 */
#ifndef SWARM_CREW_H
#define SWARM_CREW_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "deque.h"
#include "lined.h"
#include "nano.h"

enum { CREW_MAX = 256 };

typedef struct crew_chunk {
    void (*work)(void *what); /* called once, on any thread, without the GIL */
    void *what;
    uint64_t cost; /* declared, of any unit: only how chunks are dealt out depends on it */
    uint64_t ns; /* out: what it took */
    uint32_t thread; /* out, and known to the work: who runs it; 0 is the caller of crew_run() */
} crew_chunk;

/* What a thread has done since the crew began. Written by it alone, read by anybody. */
typedef struct crew_tally {
    _Atomic uint64_t chunks;
    _Atomic uint64_t steals; /* chunks that were another's */
    _Atomic uint64_t lost; /* attempts at which somebody was faster */
    _Atomic uint64_t busy_ns; /* in chunks */
} crew_tally;

struct crew;

typedef struct crew_member {
    deque own;
    alignas(128) crew_tally tally;
    alignas(128) struct crew *crew;
    uint32_t number;
    uint32_t victims_n;
    uint32_t *victims; /* whom it steals from, in this order */
    int cpu; /* that it is pinned to, or -1 */
    pthread_t thread;
    alignas(128) _Atomic int asleep;
    pthread_mutex_t bed;
    pthread_cond_t bell;
} crew_member;

/* gate: pass << 32 | CREW_OPEN | how many members are inside (without the caller) */
#define CREW_OPEN ((uint64_t)1 << 31)
#define CREW_INSIDE (CREW_OPEN - 1)

typedef struct crew {
    alignas(128) _Atomic uint64_t gate;
    alignas(128) crew_chunk *chunks;
    uint64_t passes;
    alignas(128) _Atomic int joining; /* the caller sleeps until the last one has left */
    pthread_mutex_t bed;
    pthread_cond_t bell;
    alignas(128) pthread_mutex_t turn; /* of callers */
    _Atomic int stop;
    int64_t spin_ns;
    pid_t pid;
    uint32_t n; /* members, the caller's place included */
    uint32_t started; /* threads that are to be joined: members 1 to `started` */
    crew_member *members;
    uint32_t *victims;
} crew;

static inline void crew_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static inline void crew_add(_Atomic uint64_t *count, uint64_t more)
{
    /* one writer: no locked instruction is needed */
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + more, memory_order_relaxed);
}

static inline int64_t crew_chunk_run(crew_member *me, crew_chunk *chunk, int64_t began_ns)
{
    chunk->thread = me->number;
    chunk->work(chunk->what);
    int64_t now_ns = clock_monotonic_ns();
    chunk->ns = (uint64_t)(now_ns - began_ns);
    crew_add(&me->tally.chunks, 1);
    crew_add(&me->tally.busy_ns, chunk->ns);
    return now_ns;
}

/* Run chunks until there are none that nobody has. */
static inline void crew_work(crew_member *me)
{
    crew *c = me->crew;
    crew_chunk *chunks = c->chunks;
    uint64_t which = 0;
    uint32_t last = 0;
    int64_t now_ns = clock_monotonic_ns();
    while (deque_take(&me->own, &which) == DEQUE_GOT)
        now_ns = crew_chunk_run(me, &chunks[which], now_ns);
    for (;;) {
        int lost = 0, got = 0;
        for (uint32_t i = 0; i < me->victims_n && !got; i++) {
            uint32_t at = last + i < me->victims_n ? last + i : last + i - me->victims_n;
            switch (deque_steal(&c->members[me->victims[at]].own, &which)) {
            case DEQUE_GOT:
                got = 1;
                last = at;
                break;
            case DEQUE_LOST:
                lost = 1;
                crew_add(&me->tally.lost, 1);
                break;
            case DEQUE_EMPTY:
                break;
            }
        }
        if (got) {
            crew_add(&me->tally.steals, 1);
            crew_chunk_run(me, &chunks[which], clock_monotonic_ns());
        } else if (!lost) {
            return;
        } else {
            crew_pause();
        }
    }
}

/* A member comes in when the gate is open for a pass that it has not seen. 1 if it did. */
static inline int crew_enter(crew *c, uint64_t *seen)
{
    uint64_t gate = atomic_load_explicit(&c->gate, memory_order_acquire);
    while ((gate & CREW_OPEN) && gate >> 32 != *seen) {
        if (atomic_compare_exchange_weak_explicit(&c->gate, &gate, gate + 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *seen = gate >> 32;
            return 1;
        }
    }
    return 0;
}

static inline void crew_leave(crew *c)
{
    uint64_t gate = atomic_fetch_sub_explicit(&c->gate, 1, memory_order_seq_cst) - 1;
    if (!(gate & (CREW_OPEN | CREW_INSIDE)) && atomic_load_explicit(&c->joining, memory_order_seq_cst)) {
        pthread_mutex_lock(&c->bed);
        pthread_cond_signal(&c->bell);
        pthread_mutex_unlock(&c->bed);
    }
}

static inline int crew_called(crew *c, uint64_t seen)
{
    uint64_t gate = atomic_load_explicit(&c->gate, memory_order_seq_cst);
    return atomic_load_explicit(&c->stop, memory_order_seq_cst) || ((gate & CREW_OPEN) && gate >> 32 != seen);
}

static inline void crew_wait(crew_member *me, uint64_t seen)
{
    crew *c = me->crew;
    if (c->spin_ns > 0) {
        int64_t until_ns = clock_monotonic_ns() + c->spin_ns;
        do {
            for (int i = 0; i < 16; i++) {
                if (crew_called(c, seen))
                    return;
                crew_pause();
            }
        } while (clock_monotonic_ns() < until_ns);
    }
    pthread_mutex_lock(&me->bed);
    atomic_store_explicit(&me->asleep, 1, memory_order_seq_cst);
    while (!crew_called(c, seen))
        pthread_cond_wait(&me->bell, &me->bed);
    atomic_store_explicit(&me->asleep, 0, memory_order_relaxed);
    pthread_mutex_unlock(&me->bed);
}

static inline void crew_wake(crew_member *member)
{
    if (atomic_load_explicit(&member->asleep, memory_order_seq_cst)) {
        pthread_mutex_lock(&member->bed);
        pthread_cond_signal(&member->bell);
        pthread_mutex_unlock(&member->bed);
    }
}

static inline void *crew_member_main(void *argument)
{
    crew_member *me = argument;
    crew *c = me->crew;
    uint64_t seen = 0;
#ifdef __linux__
    if (me->cpu >= 0 && me->cpu < CPU_SETSIZE) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(me->cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* refused (a container's limits): it runs anywhere */
    }
#endif
    while (!atomic_load_explicit(&c->stop, memory_order_acquire)) {
        if (crew_enter(c, &seen)) {
            crew_work(me);
            crew_leave(c);
        } else {
            crew_wait(me, seen);
        }
    }
    return NULL;
}

/* Whose a chunk is: those whose middle lies in the t-th of n equal parts of the total cost are thread t's. */
static inline uint32_t crew_part(double before, double cost, double total, uint32_t n)
{
    uint32_t t = (uint32_t)((before + cost / 2.0) / total * (double)n);
    return t < n ? t : n - 1;
}

/* So that chunks whose cost is not declared are dealt out by number. */
static inline double crew_cost(uint64_t declared) { return (double)declared + 1.0; }

/* Deal the chunks out. 0, or -1 without memory (then nothing is dealt out). */
static inline int crew_deal(crew *c, crew_chunk *chunks, size_t n)
{
    double total = 0.0;
    for (size_t i = 0; i < n; i++)
        total += crew_cost(chunks[i].cost);
    double before = total;
    for (size_t i = n; i-- > 0;) { /* the last first: an owner takes what was pushed last */
        double cost = crew_cost(chunks[i].cost);
        before -= cost;
        if (deque_push(&c->members[crew_part(before, cost, total, c->n)].own, i) != 0) {
            uint64_t dropped;
            for (uint32_t m = 0; m < c->n; m++)
                while (deque_take(&c->members[m].own, &dropped) == DEQUE_GOT)
                    ;
            return -1;
        }
    }
    return 0;
}

static inline void crew_run_alone(crew *c, crew_chunk *chunks, size_t n)
{
    int64_t now_ns = clock_monotonic_ns();
    for (size_t i = 0; i < n; i++)
        now_ns = crew_chunk_run(&c->members[0], &chunks[i], now_ns);
}

/* Until all who came in have left: by looking for a while, then asleep. */
static inline void crew_join(crew *c)
{
    if (c->spin_ns > 0) {
        int64_t until_ns = clock_monotonic_ns() + c->spin_ns;
        do {
            for (int i = 0; i < 16; i++) {
                if (!(atomic_load_explicit(&c->gate, memory_order_acquire) & CREW_INSIDE))
                    return;
                crew_pause();
            }
        } while (clock_monotonic_ns() < until_ns);
    }
    pthread_mutex_lock(&c->bed);
    atomic_store_explicit(&c->joining, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&c->gate, memory_order_seq_cst) & CREW_INSIDE)
        pthread_cond_wait(&c->bell, &c->bed);
    atomic_store_explicit(&c->joining, 0, memory_order_relaxed);
    pthread_mutex_unlock(&c->bed);
}

/* Run all chunks; returns when they have run. Callers take turns. In a child of fork(), which has none of the threads, and
 * when there is no memory to deal chunks out, the caller runs them alone. */
static inline void crew_run(crew *c, crew_chunk *chunks, size_t n)
{
    if (n == 0)
        return;
    if (c->pid != getpid()) {
        crew_run_alone(c, chunks, n); /* the lock may have been held when the fork was made */
        return;
    }
    pthread_mutex_lock(&c->turn);
    if (c->started == 0 || n == 1 || crew_deal(c, chunks, n) != 0) {
        crew_run_alone(c, chunks, n);
        pthread_mutex_unlock(&c->turn);
        return;
    }
    c->chunks = chunks;
    c->passes = (c->passes + 1) & 0xFFFFFFFFu;
    if (c->passes == 0)
        c->passes = 1; /* 0 is what a member has seen that has seen nothing */
    atomic_store_explicit(&c->gate, c->passes << 32 | CREW_OPEN, memory_order_seq_cst);
    for (uint32_t i = 1; i <= c->started && i < n; i++)
        crew_wake(&c->members[i]);
    crew_work(&c->members[0]);
    if (atomic_fetch_and_explicit(&c->gate, ~CREW_OPEN, memory_order_seq_cst) & CREW_INSIDE)
        crew_join(c);
    c->chunks = NULL;
    pthread_mutex_unlock(&c->turn);
}

/* End the threads; who runs something is waited for. Afterwards callers run alone. */
static inline void crew_close(crew *c)
{
    if (c->pid == getpid()) {
        pthread_mutex_lock(&c->turn);
        atomic_store_explicit(&c->stop, 1, memory_order_seq_cst);
        for (uint32_t i = 1; i <= c->started; i++) {
            pthread_mutex_lock(&c->members[i].bed);
            pthread_cond_signal(&c->members[i].bell);
            pthread_mutex_unlock(&c->members[i].bed);
        }
        for (uint32_t i = 1; i <= c->started; i++)
            pthread_join(c->members[i].thread, NULL);
        c->started = 0;
        pthread_mutex_unlock(&c->turn);
    }
}

static inline void crew_free(crew *c)
{
    if (c == NULL || c->pid != getpid())
        return; /* a child of fork() leaves it: a condition on which threads of the parent sleep cannot be destroyed there */
    crew_close(c);
    if (c->members != NULL)
        for (uint32_t i = 0; i < c->n; i++) {
            deque_free(&c->members[i].own);
            pthread_mutex_destroy(&c->members[i].bed);
            pthread_cond_destroy(&c->members[i].bell);
        }
    pthread_mutex_destroy(&c->turn);
    pthread_mutex_destroy(&c->bed);
    pthread_cond_destroy(&c->bell);
    free(c->victims);
    lined_free(c->members);
    lined_free(c);
}

/* Whom member i steals from: those of its own part of the memory first, each time the next one after it. */
static inline void crew_victims(crew *c, uint32_t i, const int32_t *nodes)
{
    crew_member *me = &c->members[i];
    me->victims = c->victims + (size_t)i * c->n;
    for (int far = 0; far <= 1; far++)
        for (uint32_t step = 1; step < c->n; step++) {
            uint32_t other = (i + step) % c->n;
            if ((nodes != NULL && nodes[other] != nodes[i]) == far)
                me->victims[me->victims_n++] = other;
        }
}

/* n threads, the caller of crew_run() included (1 to CREW_MAX). `cpus` (of each, or -1: not pinned; the caller never is) and
 * `nodes` (of memory) may be NULL. NULL with *why = ENOMEM, or EAGAIN where the system starts no more threads. */
static inline crew *crew_new(uint32_t n, const int32_t *cpus, const int32_t *nodes, int64_t spin_ns, int *why)
{
    crew *c = lined_new(sizeof(crew));
    *why = ENOMEM;
    if (c == NULL)
        return NULL;
    c->pid = getpid();
    c->spin_ns = spin_ns;
    c->n = n;
    pthread_mutex_init(&c->turn, NULL);
    pthread_mutex_init(&c->bed, NULL);
    pthread_cond_init(&c->bell, NULL);
    c->members = lined_new(n * sizeof(crew_member));
    c->victims = calloc((size_t)n * n, sizeof(uint32_t));
    int whole = c->members != NULL && c->victims != NULL;
    if (c->members != NULL)
        for (uint32_t i = 0; i < n; i++) {
            crew_member *member = &c->members[i];
            member->crew = c;
            member->number = i;
            member->cpu = cpus != NULL ? cpus[i] : -1;
            pthread_mutex_init(&member->bed, NULL);
            pthread_cond_init(&member->bell, NULL);
            whole = deque_init(&member->own) == 0 && whole;
            if (whole)
                crew_victims(c, i, nodes);
        }
    if (!whole) {
        crew_free(c);
        return NULL;
    }
    sigset_t all, before; /* signals are for the threads that were there before */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 1; i < n; i++) {
        *why = pthread_create(&c->members[i].thread, NULL, crew_member_main, &c->members[i]);
        if (*why != 0)
            break;
        c->started = i;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (n > 1 && *why != 0) {
        crew_free(c);
        return NULL;
    }
    return c;
}

/* ---- chunks of agents ------------------------------------------------------------------------------------------------- */

/* What a chunk publishes, until the pass is over and somebody carries it to the bus, chunk by chunk in the order of the plan. */
typedef struct crew_outbox {
    nano_line *lines;
    size_t n, most;
    uint64_t refused; /* lines for which there was no room, or no such topic */
    const uint16_t *topics; /* of the bus, by the kind's number */
    uint32_t topics_n;
    uint16_t kind;
    uint16_t grows; /* room is made for more, as far as `rooms` says */
    uint16_t starved; /* there was no memory for a line */
    const uint64_t *rooms; /* of each of the kind's topics, where it grows: lines that it has room for in a pass */
    uint64_t *sent; /* and how many were published to it here */
} crew_outbox;

/* Room for one line more. 1, or 0 without memory. */
static inline int crew_outbox_grow(crew_outbox *out)
{
    size_t most = out->most ? 2 * out->most : 64;
    nano_line *lines = (nano_line *)realloc(out->lines, most * sizeof *lines);
    if (lines == NULL) {
        out->starved = 1;
        return 0;
    }
    out->lines = lines;
    out->most = most;
    return 1;
}

/* The `publish` of a nano_ctx whose `bus` is a crew_outbox. */
static inline int crew_publish(nano_ctx *ctx, uint32_t topic, uint32_t row, const void *payload, size_t size)
{
    crew_outbox *out = ctx->bus;
    if (out == NULL || topic >= out->topics_n || size > sizeof out->lines->payload) {
        if (out != NULL)
            out->refused++;
        return 0;
    }
    if (out->grows && out->sent[topic]++ >= out->rooms[topic])
        return 1; /* more than the topic can ever take: whoever carries these lines to the bus counts it as dropped */
    if (out->n >= out->most && !(out->grows && crew_outbox_grow(out))) {
        out->refused++;
        return 0;
    }
    nano_line *line = &out->lines[out->n++];
    line->topic = out->topics[topic];
    line->kind = out->kind;
    line->row = row;
    if (size)
        memcpy(line->payload, payload, size);
    memset(line->payload + size, 0, sizeof line->payload - size);
    return 1;
}

/* One call of a batch tick: the `what` of a chunk whose work is crew_tick_run. */
typedef struct crew_tick {
    nano_tick_many tick;
    void **cols;
    const uint32_t *idx;
    size_t n;
    uint64_t now_ns;
    nano_ctx *ctx; /* of this chunk alone */
    int outcome; /* out */
} crew_tick;

static inline void crew_tick_run(void *what)
{
    crew_tick *one = what;
    one->outcome = one->tick(one->cols, one->idx, one->n, one->now_ns, one->ctx);
}

#endif
