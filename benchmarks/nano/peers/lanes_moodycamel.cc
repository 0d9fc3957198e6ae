// A round of each of moodycamel's queues that is here, with the tokens that its manual asks for.
#include <concurrentqueue/concurrentqueue.h>
#if __has_include(<readerwriterqueue/readerwriterqueue.h>)
#include <readerwriterqueue/readerwriterqueue.h>
#define FOR_ONE_OF_EACH
#endif

#include "lanes_rounds.h"

static moodycamel::ConcurrentQueue<line> *mpmc;
static moodycamel::ProducerToken *put_token;
static moodycamel::ConsumerToken *get_token;

#ifdef FOR_ONE_OF_EACH
static moodycamel::ReaderWriterQueue<line> *spsc;
ONE_BY_ONE(spsc, spsc->try_enqueue(*one), spsc->try_dequeue(*one))
#endif

ONE_BY_ONE(mpmc, mpmc->try_enqueue(*put_token, *one), mpmc->try_dequeue(*get_token, *one))
IN_BATCHES(mpmc, mpmc->try_enqueue_bulk(*put_token, some, n) ? n : 0, mpmc->try_dequeue_bulk(*get_token, some, n))

static void fresh_mpmc()
{
    delete put_token;
    delete get_token;
    delete mpmc;
    mpmc = new moodycamel::ConcurrentQueue<line>(CAPACITY, 1, 1);
    put_token = new moodycamel::ProducerToken(*mpmc);
    get_token = new moodycamel::ConsumerToken(*mpmc);
}

int main()
{
    begin();
#ifdef FOR_ONE_OF_EACH
    spsc = new moodycamel::ReaderWriterQueue<line>(CAPACITY);
    round_of("spsc", "moodycamel", "one", spsc_put_ones, spsc_get_ones, LINES_ONE, 0);
#else
    fprintf(stderr, "moodycamel's ReaderWriterQueue (libreaderwriterqueue-dev)\n");
#endif
    fresh_mpmc();
    round_of("mpmc", "moodycamel", "one", mpmc_put_ones, mpmc_get_ones, LINES_ONE, 0);
    fresh_mpmc();
    round_of("mpmc", "moodycamel", "batched", mpmc_put_batches, mpmc_get_batches, LINES_BATCHED, 0);
}
