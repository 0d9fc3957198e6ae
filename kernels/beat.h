/* Which agents are being ticked just now, for who watches from another process: a line of shared memory for each thread that
 * ticks. Native code that never returns, or that ends the process, leaves its name there.
 *
 * One thread writes a line; it is read from outside when it has not changed for long, or when its writer has ended, so no
 * more is needed than that each word is written whole, and `count` last. */
#ifndef SWARM_BEAT_H
#define SWARM_BEAT_H

#include <stdint.h>

typedef struct beat {
    uint64_t count;  /* goes up whenever a call begins or ends */
    uint64_t cohort; /* whose agents are being ticked, + 1; 0 while none are */
    uint64_t first;  /* rows from .. to, and how many of them */
    uint64_t last;
    uint64_t agents;
    uint64_t pass;
    uint64_t now_ns; /* the instant of the pass */
    uint64_t spare;
} beat;

_Static_assert(sizeof(beat) == 64, "a beat is a line");

static inline void beat_word(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void beat_enter(beat *b, uint32_t cohort, uint32_t first, uint32_t last, uint64_t agents, uint64_t pass,
                              uint64_t now_ns)
{
    beat_word(&b->first, first);
    beat_word(&b->last, last);
    beat_word(&b->agents, agents);
    beat_word(&b->pass, pass);
    beat_word(&b->now_ns, now_ns);
    beat_word(&b->cohort, (uint64_t)cohort + 1);
    __atomic_store_n(&b->count, b->count + 1, __ATOMIC_RELEASE);
}

static inline void beat_leave(beat *b)
{
    beat_word(&b->cohort, 0);
    __atomic_store_n(&b->count, b->count + 1, __ATOMIC_RELEASE);
}

#endif
