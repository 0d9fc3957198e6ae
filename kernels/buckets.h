/* Token buckets in integers: nothing is rounded, so rates hold however long they run.
 *
 * As the generic cell rate algorithm has it (ITU-T I.371, annex A, virtual scheduling): a bucket is the one instant at which
 * it would be full again. To be exact for any rate, that instant is kept in units of 1 / rate ns, in 128 bits.
 */
#ifndef SWARM_BUCKETS_H
#define SWARM_BUCKETS_H

#include <stdint.h>

#if !defined(__SIZEOF_INT128__)
#error "nanoswarm needs a compiler with integers of 128 bits (gcc, clang on a 64-bit machine)"
#endif

typedef unsigned __int128 bucket_time;

/* rate < 2^62 and per_ns < 2^61, so an instant times the rate, and tokens times per_ns, are below 2^126 and 2^125. */
struct bucket {
    bucket_time full_at; /* ns * rate */
    bucket_time depth;   /* burst * per_ns: how long an empty bucket takes to fill, in the same units */
    uint64_t rate;       /* tokens each per_ns */
    uint64_t per_ns;
};

static inline void bucket_set(struct bucket *b, uint64_t rate, uint64_t per_ns, uint64_t burst)
{
    b->full_at = 0;
    b->depth = (bucket_time)burst * per_ns;
    b->rate = rate;
    b->per_ns = per_ns;
}

static inline bucket_time bucket_from(const struct bucket *b, uint64_t now_ns)
{
    bucket_time now = (bucket_time)now_ns * b->rate;
    return b->full_at > now ? b->full_at : now;
}

static inline int bucket_has(const struct bucket *b, uint64_t now_ns, uint64_t tokens)
{
    return bucket_from(b, now_ns) + (bucket_time)tokens * b->per_ns <= (bucket_time)now_ns * b->rate + b->depth;
}

/* Take tokens whether they are there or not: what is missing is owed, and comes in first. */
static inline void bucket_charge(struct bucket *b, uint64_t now_ns, uint64_t tokens)
{
    const bucket_time most = ((bucket_time)1 << 127) - 1;
    bucket_time full_at = bucket_from(b, now_ns) + (bucket_time)tokens * b->per_ns;
    b->full_at = full_at < most ? full_at : most;
}

static inline int bucket_take(struct bucket *b, uint64_t now_ns, uint64_t tokens)
{
    if (!bucket_has(b, now_ns, tokens))
        return 0;
    bucket_charge(b, now_ns, tokens);
    return 1;
}

/* Tokens that are there; 0 while some are owed. */
static inline uint64_t bucket_level(const struct bucket *b, uint64_t now_ns)
{
    bucket_time lacks = bucket_from(b, now_ns) - (bucket_time)now_ns * b->rate;
    return lacks >= b->depth ? 0 : (uint64_t)((b->depth - lacks) / b->per_ns);
}

/* ns until so many tokens are there, if nobody takes any; UINT64_MAX for more than the bucket holds, or beyond time. */
static inline uint64_t bucket_wait_ns(const struct bucket *b, uint64_t now_ns, uint64_t tokens)
{
    bucket_time wanted = (bucket_time)tokens * b->per_ns, at;
    if (wanted > b->depth)
        return UINT64_MAX;
    if (bucket_has(b, now_ns, tokens))
        return 0;
    at = (b->full_at + wanted - b->depth + b->rate - 1) / b->rate;
    return at > UINT64_MAX ? UINT64_MAX : (uint64_t)at - now_ns;
}

/* ---- a tree of them: each node has its share of its parent's rate ----------------------------------------------------
 * As hierarchical token buckets do it (Devera, "HTB Linux queuing discipline manual", 2002): who has tokens of its own
 * spends those; else it borrows from the nearest ancestor that has some, which it has as far as others left theirs. What
 * is spent is charged to all from there up to the root (node 0), so the whole never exceeds the root's rate for long. */

struct share {
    struct bucket bucket;
    uint32_t parent; /* its own number for the root */
};

/* The node that paid, or -1 when nobody could. */
static inline int64_t share_take(struct share *tree, uint32_t node, uint64_t now_ns, uint64_t tokens)
{
    uint32_t payer = node;
    while (!bucket_has(&tree[payer].bucket, now_ns, tokens)) {
        if (payer == 0)
            return -1;
        payer = tree[payer].parent;
    }
    for (uint32_t at = payer;; at = tree[at].parent) {
        bucket_charge(&tree[at].bucket, now_ns, tokens);
        if (at == 0)
            return payer;
    }
}

/* What was spent without asking, because it took longer than was thought: charged to the node and all above. */
static inline void share_charge(struct share *tree, uint32_t node, uint64_t now_ns, uint64_t tokens)
{
    for (;; node = tree[node].parent) {
        bucket_charge(&tree[node].bucket, now_ns, tokens);
        if (node == 0)
            return;
    }
}

static inline uint64_t share_wait_ns(const struct share *tree, uint32_t node, uint64_t now_ns, uint64_t tokens)
{
    uint64_t least = UINT64_MAX;
    for (;; node = tree[node].parent) {
        uint64_t wait = bucket_wait_ns(&tree[node].bucket, now_ns, tokens);
        if (wait < least)
            least = wait;
        if (node == 0)
            return least;
    }
}

#endif
