// A round of each of Boost.Lockfree's queues; spsc_queue of fixed capacity holds no pointer, so it works between processes.
#include <boost/lockfree/queue.hpp>
#include <boost/lockfree/spsc_queue.hpp>
#include <new>

#include "lanes_rounds.h"

using Spsc = boost::lockfree::spsc_queue<line, boost::lockfree::capacity<CAPACITY>>;
using Mpmc = boost::lockfree::queue<line, boost::lockfree::capacity<CAPACITY>>;
static Spsc *spsc;
static Mpmc *mpmc;

ONE_BY_ONE(spsc, spsc->push(*one), spsc->pop(*one))
IN_BATCHES(spsc, spsc->push(some, n), spsc->pop(some, n))
ONE_BY_ONE(mpmc, mpmc->bounded_push(*one), mpmc->pop(*one))

int main()
{
    begin();
    void *base = shared_memory(sizeof(Spsc) + 64);
    for (int process = 0; process < 2; process++) {
        const char *what = process ? "processes" : "spsc";
        spsc = new (base) Spsc();
        round_of(what, "Boost", "one", spsc_put_ones, spsc_get_ones, LINES_ONE, process);
        spsc = new (base) Spsc();
        round_of(what, "Boost", "batched", spsc_put_batches, spsc_get_batches, LINES_BATCHED, process);
    }
    mpmc = new Mpmc();
    round_of("mpmc", "Boost", "one", mpmc_put_ones, mpmc_get_ones, LINES_ONE, 0);
}
