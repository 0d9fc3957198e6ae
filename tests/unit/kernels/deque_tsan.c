/* One owner, some thieves: every item comes out once, and with what was written before it was pushed. */
#include <pthread.h>
#include <stdio.h>

#include "deque.h"

enum { ITEMS = 20000, THIEVES = 3 };

static deque d;
static uint64_t payload[ITEMS]; /* plain memory: the deque alone makes it visible */
static uint32_t seen[ITEMS]; /* plain, too: two who get the same item are a data race */
static _Atomic int done;
static _Atomic uint64_t stolen, wrong;

static void got(uint64_t item)
{
    if (payload[item] != item * 7 + 1)
        atomic_fetch_add(&wrong, 1);
    seen[item]++;
}

static void *thief(void *unused)
{
    (void)unused;
    for (;;) {
        int last = atomic_load(&done);
        uint64_t item;
        switch (deque_steal(&d, &item)) {
        case DEQUE_GOT:
            got(item);
            atomic_fetch_add(&stolen, 1);
            break;
        case DEQUE_EMPTY:
            if (last)
                return NULL;
            break;
        case DEQUE_LOST:
            break;
        }
    }
}

int main(void)
{
    pthread_t thieves[THIEVES];
    uint64_t taken = 0, item;
    if (deque_init(&d) != 0)
        return 2;
    for (int i = 0; i < THIEVES; i++)
        if (pthread_create(&thieves[i], NULL, thief, NULL) != 0)
            return 2;
    uint32_t noise = 1;
    for (uint64_t i = 0; i < ITEMS;) {
        noise = noise * 1664525u + 1013904223u;
        for (uint32_t n = noise >> 24; n > 0 && i < ITEMS; n--, i++) {
            payload[i] = i * 7 + 1;
            if (deque_push(&d, i) != 0)
                return 2;
        }
        for (uint32_t n = noise >> 16 & 127; n > 0 && deque_take(&d, &item) == DEQUE_GOT; n--, taken++)
            got(item);
    }
    atomic_store(&done, 1);
    while (deque_take(&d, &item) == DEQUE_GOT) {
        got(item);
        taken++;
    }
    for (int i = 0; i < THIEVES; i++)
        pthread_join(thieves[i], NULL);
    uint64_t missing = 0;
    for (int i = 0; i < ITEMS; i++)
        missing += seen[i] != 1;
    printf("%llu taken, %llu stolen, %llu wrong, %llu not once\n", (unsigned long long)taken,
           (unsigned long long)atomic_load(&stolen), (unsigned long long)atomic_load(&wrong), (unsigned long long)missing);
    deque_free(&d);
    return missing || atomic_load(&wrong) || taken + atomic_load(&stolen) != ITEMS;
}
