/* When each agent with a rate of its own is due: a line of memory holds all that waking it needs of two of them, since those
 * that are due at one instant lie far apart. */
#ifndef SWARM_TURNS_H
#define SWARM_TURNS_H

#include <stddef.h>
#include <stdint.h>

#include "soon.h"
#include "tally.h"

typedef struct turn {
    uint64_t wake;   /* ns, when it is due; UINT64_MAX never */
    uint64_t period; /* ns */
    uint32_t late;   /* ns, how late it was the last time, + 1; 0 before the first */
    uint32_t asleep; /* its state says something else than that it is ready */
    uint64_t spare;
} turn;

_Static_assert(sizeof(turn) == 32, "two turns are a line");

/* Those with numbers base + row, due now: their rows; and in real time how late each is, and how unevenly it comes. `began`
 * is the instant at which they are called. */
static inline void turns_come(turn *turns, const uint32_t *numbers, size_t n, uint32_t base, uint32_t *rows, uint8_t *states,
                              uint8_t ready, int real, uint64_t began, uint64_t *late_counts, uint64_t *jitter_counts)
{
    uint64_t same = UINT64_MAX, times = 0; /* most are due at one instant: they are counted together */
    for (size_t i = 0; i < n; i++) {
        if (i + SOON_FAR < n)
            soon(&turns[numbers[i + SOON_FAR] - base]);
        uint32_t row = numbers[i] - base;
        turn *it = &turns[row];
        rows[i] = row;
        if (__builtin_expect(it->asleep, 0)) {
            it->asleep = 0;
            states[row] = ready;
        }
        if (!real)
            continue;
        uint64_t late = began - it->wake;
        if (late != same) {
            if (times)
                tally_note(late_counts, same, times);
            same = late;
            times = 0;
        }
        times++;
        if (late > UINT32_MAX - 1)
            late = UINT32_MAX - 1;
        if (__builtin_expect(it->late != 0, 1)) {
            uint32_t before = it->late - 1, now = (uint32_t)late;
            tally_note(jitter_counts, now > before ? now - before : before - now, 1);
        }
        it->late = (uint32_t)late + 1;
    }
    if (times)
        tally_note(late_counts, same, times);
}

/* The next instant, beyond this one, of one that was due at `wake`; what is left out is missed. */
static inline uint64_t turn_after(uint64_t wake, uint64_t period, uint64_t now, uint64_t *missed)
{
    wake += period;
    if (__builtin_expect(wake <= now, 0)) {
        uint64_t skipped = (now - wake) / period + 1;
        *missed += skipped;
        wake += skipped * period;
    }
    return wake;
}

/* The next instants of rows that stay, and their numbers. How many turns were missed. */
static inline uint64_t turns_go(turn *turns, const uint32_t *rows, size_t n, uint32_t base, uint64_t now, uint32_t *numbers,
                                uint64_t *wakes)
{
    uint64_t missed = 0;
    for (size_t i = 0; i < n; i++) {
        turn *it = &turns[rows[i]];
        numbers[i] = base + rows[i];
        wakes[i] = it->wake = turn_after(it->wake, it->period, now, &missed);
    }
    return missed;
}

#endif
