"""What a schedule knows of a cohort: agents of one kind that share a tick, a rate and a budget."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

from kernels.members cimport Members
from kernels.ticks cimport ticks_clock
from kernels.topics cimport nano_bus, nano_line

cdef extern from "nano.h" nogil:
    enum:
        NANO_ABI
        NANO_IDLE
        NANO_WORKED
        NANO_SLEEP
        NANO_FAILED
        NANO_DONE
        NANO_EACH
    ctypedef struct nano_ctx:
        uint32_t abi
        uint32_t kind
        uint64_t pass_ "pass"
        uint64_t seed
        uint64_t now_ns
        uint32_t first
        uint32_t topics
        const nano_line** inbox
        uint64_t* inbox_count
        uint8_t* outcomes
        uint64_t* wake_ns
        int (*publish)(nano_ctx*, uint32_t, uint32_t, const void*, size_t) noexcept nogil
        void* bus
    ctypedef int (*nano_tick_many)(void**, const uint32_t*, size_t, uint64_t, nano_ctx*) noexcept nogil
    ctypedef int (*nano_tick)(void**, uint32_t, uint64_t, nano_ctx*) noexcept nogil
    uint64_t nano_random_at(uint64_t, uint32_t, uint32_t, uint64_t, uint32_t) noexcept

cdef extern from "tally.h" nogil:
    enum:
        TALLY_BUCKETS
    uint64_t tally_middle(size_t) noexcept
    void tally_note(uint64_t*, uint64_t, uint64_t) noexcept

cdef extern from "turns.h" nogil:
    ctypedef struct turn:
        uint64_t wake
        uint64_t period
        uint32_t late
        uint32_t asleep
    void turns_come(turn*, const uint32_t*, size_t, uint32_t, uint32_t*, uint8_t*, uint8_t, bint, uint64_t, uint64_t*, uint64_t*) noexcept
    uint64_t turns_go(turn*, const uint32_t*, size_t, uint32_t, uint64_t, uint32_t*, uint64_t*) noexcept
    uint64_t turn_after(uint64_t, uint64_t, uint64_t, uint64_t*) noexcept

cdef extern from "beat.h" nogil:
    ctypedef struct beat:
        pass
    void beat_enter(beat*, uint32_t, uint32_t, uint32_t, uint64_t, uint64_t, uint64_t) noexcept
    void beat_leave(beat*) noexcept

cdef extern from "passes.h" nogil:
    ctypedef struct ones_result:
        uint64_t outcomes[5]
        uint64_t strange
        uint64_t over
        size_t leavers
        uint64_t began
        uint64_t spent
        int outcome
    ctypedef struct call_room:
        uint32_t* places
        uint8_t* left_by
        uint64_t* wakes
        uint32_t* over_places
        uint8_t* outcomes
        uint64_t* wake_ns
        uint64_t* spends
    ctypedef struct call_tick:
        void* tick
        const ticks_clock* clock
        uint64_t budget
        uint32_t sampling
        uint32_t one
    void call_run(const call_tick*, void**, const uint32_t*, uint32_t, size_t, uint64_t, nano_ctx*, uint64_t*, const call_room*,
                  ones_result*) noexcept
    uint64_t lone_run(const call_tick*, void**, const size_t*, uint32_t, void**, const uint32_t*, size_t, nano_ctx*, uint64_t*,
                      const call_room*, uint64_t*, uint64_t, uint64_t, uint64_t, uint64_t, ones_result*, ones_result*) noexcept
    ctypedef struct tick_trace:
        uint64_t now_ns
        uint64_t pass_ "pass"
        uint32_t cohort
        uint32_t row
        uint64_t cost_ns
        uint8_t outcome
        uint8_t violated
    ctypedef struct call_span:
        uint64_t began
        uint64_t spent
        uint64_t now_ns
        uint64_t pass_ "pass"
        uint32_t cohort
        uint32_t agents

cdef enum:
    WOKEN = 0                           # how agents are called: those that the wheel gave,
    TOGETHER = 1                        # all of a cohort that are awake,
    GRANTED = 2                         # or a stretch of these

cdef enum:
    FORM_MANY = 0
    FORM_ONE = 1
    FORM_PYTHON = 2
    ON_SUSPEND = 1
    ON_KILL = 2

cdef struct Link:
    nano_bus* bus
    uint16_t* topics                    # that the kind writes, by their number for the kind
    uint64_t* rooms                     # and lines that each has room for
    uint32_t topics_n
    uint16_t kind

cdef struct Cohort:
    call_tick how
    void** bases
    void** shifted
    size_t* steps
    uint32_t fields_n
    uint32_t base                       # row 0 of the kind in the wheel's numbers
    uint64_t size                       # members it was made with
    uint64_t living                     # of these, how many have not ended
    Members awake                       # those that tick together
    Members called                      # whom the wheel woke between, and who wait for their part of the pass
    Members joining                     # who are awake with the others from the next instant on
    size_t owed                         # of those awake, how many wait for a turn: the ones from `cursor` on, in a circle
    uint32_t cursor                     # row
    uint64_t since                      # ns: when they became due
    uint64_t called_since
    int open                            # how Python's agents that tick now were called; -1 while none do
    size_t open_at
    Members turn                        # they, where they are not those of a whole cohort
    uint64_t period
    uint64_t next
    turn* turns                         # of each row of the kind, where each has a rate of its own
    void* turns_room                    # where that lies
    uint64_t calls
    uint64_t busy                       # counter ticks
    uint8_t form
    uint8_t on_overrun
    bint due
    bint pending                        # its native agents are to be called in the open pass
    bint away                           # Python's agents tick, on a thread of their own
    uint64_t sent                       # pass since which they do
    nano_line* unread                   # published since, to topics that they read
    size_t unread_n
    size_t unread_room
    bint whole                          # never cut into parts
    nano_ctx ctx
    Link link
    uint16_t* reads
    uint8_t* at_once                    # which of these are read in the pass in which they are published; NULL: none
    ones_result made
    uint64_t version                    # counts changes of who is awake or called
    uint64_t ticks
    uint64_t over
    uint64_t missed
    uint64_t* spent                     # tallies, of counter ticks
    uint64_t* late                      # and of ns
    uint64_t* jitter
    uint64_t last_late                  # ns; UINT64_MAX before the first instant
    uint64_t** tallies                  # of each thread of a crew, the first one being `spent`; NULL before they are needed
    uint32_t tallies_n
    call_room room                      # for as many agents as are called at once
    uint64_t* spends
    size_t scratch

cdef struct Kind:
    uint32_t base                       # the wheel knows row r of this kind as base + r
    uint32_t capacity
    uint32_t* owner                     # cohort of each row
    uint64_t* wakes                     # when each row that waits in the wheel is due, ns; of who has a rate of its own see turns
    uint8_t* states
    uint32_t cohorts                    # that rows of it were ever in: 0, 1 or more
    uint32_t sole                       # that one

cdef struct Event:
    uint32_t cohort
    uint32_t row
    uint64_t now_ns
    uint8_t what                        # NANO_FAILED, NANO_DONE, or OVER + ON_SUSPEND / ON_KILL

cdef enum:
    OVER = 16
    PARTS = 64                          # of a counter tick, in which an agent's part of a batch is counted
    LOOK_PASSES = 64
    WOKEN_ROOM = 16384
    COHORTS_MAX = 1 << 20

cdef extern from *:
    """
    #define FOREVER (UINT64_C(1) << 63)  /* ns: what is due then or later never comes */
    """
    uint64_t FOREVER


cdef inline bint scratch(Cohort* c, size_t n) noexcept nogil:
    """Room for what comes of n agents."""
    cdef size_t room
    if n <= c.scratch:
        return True
    room = max(<size_t> 64, n + n // 4)
    free(c.room.places)
    free(c.room.over_places)
    free(c.room.wakes)
    free(c.room.wake_ns)
    free(c.spends)
    free(c.room.left_by)
    free(c.room.outcomes)
    c.room.places = <uint32_t*> malloc(room * 4)
    c.room.over_places = <uint32_t*> malloc(room * 4)
    c.room.wakes = <uint64_t*> malloc(room * 8)
    c.room.wake_ns = <uint64_t*> calloc(room, 8)
    c.spends = <uint64_t*> malloc(room * 8)
    c.room.left_by = <uint8_t*> malloc(room)
    c.room.outcomes = <uint8_t*> calloc(room, 1)
    c.scratch = room
    if (c.room.places == NULL or c.room.over_places == NULL or c.room.wakes == NULL or c.room.wake_ns == NULL or c.room.left_by == NULL
            or c.room.outcomes == NULL or c.spends == NULL):
        c.scratch = 0
        return False
    return True


cdef inline void drop_cohort(Cohort* c) noexcept:
    cdef uint32_t t
    if c == NULL:
        return
    for t in range(1, c.tallies_n):
        free(c.tallies[t])
    for it in (<uintptr_t> c.shifted, <uintptr_t> c.awake.rows, <uintptr_t> c.called.rows, <uintptr_t> c.joining.rows,
               <uintptr_t> c.turn.rows, <uintptr_t> c.turns_room,
               <uintptr_t> c.spent, <uintptr_t> c.late, <uintptr_t> c.jitter, <uintptr_t> c.tallies, <uintptr_t> c.unread, <uintptr_t> c.room.places, <uintptr_t> c.room.over_places,
               <uintptr_t> c.room.wakes, <uintptr_t> c.room.wake_ns, <uintptr_t> c.spends, <uintptr_t> c.room.left_by, <uintptr_t> c.room.outcomes,
               <uintptr_t> c.reads, <uintptr_t> c.at_once, <uintptr_t> c.link.topics, <uintptr_t> c.link.rooms, <uintptr_t> c.ctx.inbox, <uintptr_t> c.ctx.inbox_count):
        free(<void*> <uintptr_t> it)
    free(c)
