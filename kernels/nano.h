/* nano.h: the C interface of nano-agents, version 1.
 *
 * A kind of agents keeps its state in columns (one array a field) or in rows (64-byte aligned records). Its ticks are
 * functions of the two types below, compiled by anybody: C, Cython, Numba's @cfunc, Rust. They run without the GIL, on
 * any core, and must touch nothing of Python's. On several cores, calls of one cohort run at the same time, each with rows
 * and a context of its own: a tick writes its own rows and reads no other's, unless its kind was spawned as `whole`.
 *
 * `python -c "from swarm import nano; print(nano.include())"` prints the folder of this header.
 */
#ifndef NANO_H
#define NANO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NANO_ABI 1u

/* What a tick came to. */
enum nano_outcome {
    NANO_IDLE = 0,   /* nothing was to be done */
    NANO_WORKED = 1, /* something was */
    NANO_SLEEP = 2,  /* not to be called again before the instant set by nano_sleep() */
    NANO_FAILED = 3, /* it went wrong: the agent is suspended, counted and shown */
    NANO_DONE = 4,   /* the agent has ended: its row is freed */
    NANO_EACH = 5    /* of a batch only: the outcome of each agent stands in ctx->outcomes */
};

/* One message: a line of the cache. */
typedef struct nano_line {
    uint16_t topic;
    uint16_t kind; /* of who published it */
    uint32_t row;
    uint8_t payload[56];
} nano_line;

typedef struct nano_ctx nano_ctx;

struct nano_ctx {
    uint32_t abi;   /* NANO_ABI of who calls; fields are only ever added at the end */
    uint32_t kind;  /* number of the kind */
    uint64_t pass;  /* passes since the beginning */
    uint64_t seed;  /* of the population */
    uint64_t now_ns;
    uint32_t first; /* row of the first agent, where idx is NULL */
    uint32_t topics;             /* that the kind reads, and length of the two arrays below */
    const nano_line *const *inbox; /* messages of the pass before, a topic that the kind reads each */
    const uint64_t *inbox_count;
    uint8_t *outcomes;           /* an enum nano_outcome for each agent of the call; read where NANO_EACH is returned */
    uint64_t *wake_ns;           /* when each agent that returned NANO_SLEEP wants to be called next */
    /* Publish a line to the topic, numbered as the kind declared what it writes. 1, or 0 when the topic blocks and has no room,
     * or is none of the kind's. What a topic that drops has no room for is lost and counted when the pass is over: who
     * publishes beside others cannot be told. */
    int (*publish)(nano_ctx *ctx, uint32_t topic, uint32_t row, const void *payload, size_t size);
    void *bus;
};

/* A tick of n agents at once, the primary form. cols: the address of each field's column. Where idx is NULL the agents are
 * the n rows that the columns begin with (their first one has the number ctx->first); else they are the rows idx[0..n-1],
 * ascending. Agents that are due together come in one call or in several. Returns one outcome for all of them, or NANO_EACH. */
typedef int (*nano_tick_many)(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx);

/* A tick of one agent: cols as above, counted from row 0. */
typedef int (*nano_tick)(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx);

/* Names of PyCapsules that carry a tick, as SciPy's LowLevelCallable has it: the signature is the name. */
#define NANO_TICK_MANY_SIGNATURE "int (void **, const uint32_t *, size_t, uint64_t, nano_ctx *)"
#define NANO_TICK_SIGNATURE "int (void **, uint32_t, uint64_t, nano_ctx *)"

/* For a tick of one agent: not to be called again before at_ns. `return nano_sleep(ctx, at_ns);` */
static inline int nano_sleep(nano_ctx *ctx, uint64_t at_ns)
{
    ctx->wake_ns[0] = at_ns;
    return NANO_SLEEP;
}

static inline int nano_publish(nano_ctx *ctx, uint32_t topic, uint32_t row, const void *payload, size_t size)
{
    return ctx->publish(ctx, topic, row, payload, size);
}

/* Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011: 128 bits for a
 * counter and a key, without state, so the same whatever runs before, beside or elsewhere. */
static inline void nano_philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* 64 random bits for (seed, kind, row, pass) and the number of the draw. The counter is (row, kind << 16 | draw, pass);
 * kinds and draws of one tick are below 65,536. */
static inline uint64_t nano_random_at(uint64_t seed, uint32_t kind, uint32_t row, uint64_t pass, uint32_t draw)
{
    uint32_t c[4] = {row, kind << 16 | (draw & 0xFFFFu), (uint32_t)pass, (uint32_t)(pass >> 32)};
    nano_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (uint64_t)c[1] << 32 | c[0];
}

static inline uint64_t nano_random(const nano_ctx *ctx, uint32_t row, uint32_t draw)
{
    return nano_random_at(ctx->seed, ctx->kind, row, ctx->pass, draw);
}

/* Uniform in [0, 1): 53 bits. */
static inline double nano_uniform(const nano_ctx *ctx, uint32_t row, uint32_t draw)
{
    return (double)(nano_random(ctx, row, draw) >> 11) * 0x1.0p-53;
}

#ifdef __cplusplus
}
#endif
#endif
