/* Passes of a crew over plain memory: when crew_run() is back, all is done, once, and can be seen. In some passes a chunk waits
 * until another thread has begun the last one, and that one goes on for a while: so members must come, and be waited for. */
#include <stdio.h>

#include "crew.h"

enum { CHUNKS = 40, PASSES = 400, CALLERS = 2 };

typedef struct job {
    uint64_t count; /* plain memory */
    uint64_t spins;
    _Atomic int *set, *awaited;
} job;

static void work(void *what)
{
    job *one = what;
    uint64_t x = one->count + 1;
    if (one->set != NULL) {
        atomic_store(one->set, 1);
        usleep(300);
    }
    while (one->awaited != NULL && !atomic_load(one->awaited))
        usleep(20);
    for (volatile uint64_t i = 0; i < one->spins; i++)
        ;
    one->count = x;
}

typedef struct caller {
    crew *crew;
    uint64_t number, failures;
    job jobs[CHUNKS];
    crew_chunk chunks[CHUNKS];
} caller;

static void *call(void *argument)
{
    caller *me = argument;
    uint64_t wanted[CHUNKS] = {0};
    for (uint64_t pass = 0; pass < PASSES; pass++) {
        size_t n = (pass * 7 + me->number) % (CHUNKS + 1);
        for (size_t i = 0; i < n; i++) {
            me->jobs[i].spins = (i * 37 + pass) % 11 == 0 ? 2000 : 20;
            me->chunks[i] = (crew_chunk){.work = work, .what = &me->jobs[i], .cost = pass % 3 ? i : 0};
            me->jobs[i].set = me->jobs[i].awaited = NULL;
            wanted[i]++;
        }
        _Atomic int begun = 0;
        if (pass % 8 == 0 && n > 1 && me->crew->n > 1) {
            me->jobs[0].awaited = &begun;
            me->jobs[n - 1].set = &begun;
        }
        crew_run(me->crew, me->chunks, n);
        for (size_t i = 0; i < CHUNKS; i++)
            me->failures += me->jobs[i].count != wanted[i];
        for (size_t i = 0; i < n; i++)
            me->failures += me->chunks[i].thread >= me->crew->n;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    uint32_t threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 3;
    int64_t spin_ns = argc > 2 ? atoll(argv[2]) : 0;
    int32_t nodes[CREW_MAX] = {0};
    int why;
    for (uint32_t i = threads / 2; i < threads; i++)
        nodes[i] = 1;
    crew *c = crew_new(threads, NULL, nodes, spin_ns, &why);
    static caller callers[CALLERS];
    pthread_t ids[CALLERS];
    uint64_t failures = 0, chunks = 0, steals = 0;
    if (c == NULL)
        return 2;
    for (int i = 0; i < CALLERS; i++) {
        callers[i].crew = c;
        callers[i].number = (uint64_t)i;
        if (pthread_create(&ids[i], NULL, call, &callers[i]) != 0)
            return 2;
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(ids[i], NULL);
        failures += callers[i].failures;
    }
    for (uint32_t i = 0; i < threads; i++) {
        chunks += atomic_load(&c->members[i].tally.chunks);
        steals += atomic_load(&c->members[i].tally.steals);
    }
    crew_close(c);
    crew_close(c);
    printf("%llu chunks, %llu stolen, %llu failures\n", (unsigned long long)chunks, (unsigned long long)steals,
           (unsigned long long)failures);
    crew_free(c);
    return failures != 0;
}
