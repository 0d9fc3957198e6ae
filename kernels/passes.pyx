"""The nano-scheduler's passes: what is due at one instant is called, cohort by cohort, without the GIL.

A cohort is a number of agents of one kind that share a tick, a rate and a budget. While all goes well it costs one comparison
a pass and one call: its agents are ticked together. Those that sleep, or that have a rate of their own, wait in a
hierarchical timer wheel (`kernels.wheel`) and are called when it says so. Time is either virtual (the next pass is
at the next instant at which something is due) or real (the clock is waited for). Messages that are published in one pass are
read in the next.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memmove, memset

from kernels.population cimport READY, SLEEPING, SUSPENDED, Population
from kernels.topics cimport Bus, bus_delivered, bus_inbox, bus_publish, bus_turn, nano_bus, nano_line
from kernels.wheel cimport Wheel

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

cdef extern from "ticks.h" nogil:
    uint64_t ticks_read() noexcept

cdef extern from "tally.h" nogil:
    enum:
        TALLY_BUCKETS
    uint64_t tally_middle(size_t) noexcept
    void tally_note(uint64_t*, uint64_t, uint64_t) noexcept

cdef extern from "clock.h" nogil:
    int64_t clock_monotonic_ns() noexcept

cdef extern from "pacing.h" nogil:
    int wait_until(int64_t, int64_t) noexcept

cdef extern from "passes.h" nogil:
    ctypedef struct ones_result:
        uint64_t outcomes[5]
        uint64_t strange
        uint64_t over
        size_t leavers
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
    void ones_run(nano_tick, void**, const uint32_t*, uint32_t, size_t, uint64_t, nano_ctx*, uint32_t, uint64_t, uint64_t*,
                  uint32_t*, uint64_t*, uint8_t*, uint32_t*, uint64_t*, ones_result*) noexcept
    void each_outcome(const uint8_t*, const uint64_t*, size_t, uint32_t*, uint64_t*, uint8_t*, ones_result*) noexcept
    int tick_nothing(void**, uint32_t, uint64_t, nano_ctx*) noexcept
    int tick_many_nothing(void**, const uint32_t*, size_t, uint64_t, nano_ctx*) noexcept
    int tick_move(void**, uint32_t, uint64_t, nano_ctx*) noexcept

cdef extern from "motions.h" nogil:
    enum:
        MOTION_MOVE
    nano_tick_many motion_at(int, int) noexcept

cdef extern from "dispatch.h" nogil:
    int cpu_level() noexcept

MANY, ONE, PYTHON = 0, 1, 2
"""Forms of a tick: of a batch, of one agent, and Python's, which the caller of `run` calls."""
WARN, SUSPEND, KILL = 0, 1, 2
"""What becomes of an agent that was over its budget, where guards act."""
TICKS = {
    "nothing": <uintptr_t> &tick_nothing, "nothing_many": <uintptr_t> &tick_many_nothing,
    "move": <uintptr_t> &tick_move, "move_many": <uintptr_t> <void*> motion_at(MOTION_MOVE, cpu_level()),
}
"""Addresses of ready-made native ticks, for tests and measurements. "move" wants columns x and v of f64."""

cdef enum:
    REACHED_ = 0
    PYTHON_DUE_ = 1
    ENOUGH_ = 2
    LOOK_ = 3
    OPEN_ = 4

REACHED, PYTHON_DUE, ENOUGH, LOOK, OPEN = REACHED_, PYTHON_DUE_, ENOUGH_, LOOK_, OPEN_
"""Why `run` returned: the instant was reached; Python's cohorts are due; the passes asked for were made; a moment of real
time is over, so that signals are seen. `step` also says OPEN: somebody is due, and waits to be granted a turn."""

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

cdef struct Members:
    uint32_t* rows                      # ascending; NULL where they are first .. first + n - 1
    uint32_t first
    size_t n
    size_t room

cdef struct Link:
    nano_bus* bus
    uint16_t* topics                    # that the kind writes, by their number for the kind
    uint32_t topics_n
    uint16_t kind

cdef struct Cohort:
    void* tick
    void** bases
    void** shifted
    size_t* steps
    uint32_t fields_n
    uint32_t base                       # row 0 of the kind in the wheel's numbers
    uint64_t size                       # members it was made with
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
    uint64_t* periods                   # of each row of the kind, where each has its own
    uint64_t budget                     # counter ticks an agent
    uint32_t sampling                   # 0 no guard, 1 each agent, n one of n
    uint64_t calls
    uint64_t busy                       # counter ticks
    uint8_t form
    uint8_t on_overrun
    bint due
    nano_ctx ctx
    Link link
    uint16_t* reads
    ones_result made
    uint64_t version                    # counts changes of who is awake or called
    uint64_t ticks
    uint64_t over
    uint64_t missed
    uint64_t* spent                     # tallies, of counter ticks
    uint64_t* late                      # and of ns
    uint32_t* places                    # scratch for as many agents as are called at once
    uint32_t* over_places
    uint64_t* wakes
    uint64_t* wake_ns
    uint64_t* spends
    uint8_t* left_by
    uint8_t* outcomes
    size_t scratch


cdef int publish(nano_ctx* ctx, uint32_t topic, uint32_t row, const void* payload, size_t size) noexcept nogil:
    cdef Link* link = <Link*> ctx.bus
    if link == NULL or topic >= link.topics_n:
        return 0
    return bus_publish(link.bus, link.topics[topic], link.kind, row, payload, size) == 1


cdef int by_number(const void* a, const void* b) noexcept nogil:
    cdef uint32_t x = (<const uint32_t*> a)[0], y = (<const uint32_t*> b)[0]
    return (x > y) - (x < y)


cdef struct Kind:
    uint32_t base                       # the wheel knows row r of this kind as base + r
    uint32_t capacity
    uint32_t* owner                     # cohort of each row
    uint64_t* wakes                     # when each row that waits in the wheel is due, ns
    uint8_t* states

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

FAILED_EVENT, DONE_EVENT, SUSPENDED_EVENT, KILLED_EVENT = NANO_FAILED, NANO_DONE, OVER + ON_SUSPEND, OVER + ON_KILL
NEVER = UINT64_MAX


cdef class Passes:
    """The schedule of one population of agents. Instants are ns since its beginning, multiples of `resolution_ns`.

    With `real`, instants are those of the clock, guards act, and what is late is counted; `spin_ns` of each wait are spent
    reading the clock, for which an idle core is needed. Without, time is virtual and nothing depends on how long anything
    took. All methods are called by one thread.
    """

    cdef Cohort** cohorts
    cdef uint64_t* nexts                # of each cohort, side by side
    cdef Py_ssize_t cohorts_n
    cdef Py_ssize_t cohorts_room
    cdef Kind* kinds
    cdef Py_ssize_t kinds_n
    cdef list populations
    cdef list kept                      # what must live as long as its address is used
    cdef Wheel wheel
    cdef Bus bus
    cdef nano_bus* lines                # of the bus; NULL without one
    cdef Event* events
    cdef size_t events_n
    cdef size_t events_room
    cdef uint32_t* woken
    cdef uint32_t* scratch_rows
    cdef readonly uint64_t seed
    cdef readonly uint64_t resolution_ns
    cdef readonly uint64_t now_ns
    cdef readonly uint64_t made
    cdef readonly uint64_t spin_ns
    cdef readonly bint real
    cdef bint inside                    # a pass waits for Python's part of it
    cdef bint ordered                   # a topology says who gets a turn
    cdef uint64_t behind_until          # an instant at which those still owed a turn may have it
    cdef int64_t origin
    cdef tick_trace* traces             # the last ticks, in a circle, where they are wanted
    cdef size_t traces_room
    cdef uint64_t traces_n              # that were ever written
    cdef uint64_t traces_taken
    cdef call_span* spans               # and the last calls
    cdef size_t spans_room
    cdef uint64_t spans_n
    cdef uint64_t spans_taken
    cdef double ns_per_tick
    cdef bint starved                   # memory ran out inside a pass

    def __cinit__(self, uint64_t seed=0, uint64_t resolution_ns=1000, Bus bus=None, bint real=False, uint64_t spin_ns=0):
        if not 1 <= resolution_ns <= 1_000_000_000:
            raise ValueError(f"a resolution of {resolution_ns} ns; it lies between 1 ns and 1 s")
        self.seed = seed
        self.resolution_ns = resolution_ns
        self.bus = bus
        self.lines = bus.bus if bus is not None else NULL
        self.real = real
        self.spin_ns = spin_ns
        self.wheel = Wheel()
        self.populations = []
        self.kept = []
        self.woken = <uint32_t*> malloc(WOKEN_ROOM * 4)
        self.scratch_rows = <uint32_t*> malloc(WOKEN_ROOM * 4)
        if self.woken == NULL or self.scratch_rows == NULL:
            raise MemoryError("no memory for a schedule")

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.cohorts_n):
            drop_cohort(self.cohorts[i])
        for i in range(self.kinds_n):
            free(self.kinds[i].owner)
            free(self.kinds[i].wakes)
        free(self.cohorts)
        free(self.nexts)
        free(self.kinds)
        free(self.events)
        free(self.traces)
        free(self.spans)
        free(self.woken)
        free(self.scratch_rows)

    # --- building ---------------------------------------------------------------------------------------------------

    def add_kind(self, Population population not None):
        """Schedule agents of this population; returns the kind's number. OverflowError beyond 2^32 rows in all."""
        cdef Kind* grown = <Kind*> realloc(self.kinds, (self.kinds_n + 1) * sizeof(Kind))
        cdef uint64_t base = 0
        cdef Kind* it
        if grown == NULL:
            raise MemoryError("no memory for a kind")
        self.kinds = grown
        if self.kinds_n:
            base = <uint64_t> self.kinds[self.kinds_n - 1].base + self.kinds[self.kinds_n - 1].capacity
        if base + population.capacity >= <uint64_t> 1 << 32 or self.kinds_n >= 65535:
            raise OverflowError("the kinds of one swarm have room for 2^32 agents together, and are at most 65,535")
        it = &self.kinds[self.kinds_n]
        it.base = <uint32_t> base
        it.capacity = population.capacity
        # calloc of this size is a fresh mapping: memory is given as rows are used
        it.owner = <uint32_t*> calloc(population.capacity, 4)
        it.wakes = <uint64_t*> calloc(population.capacity, 8)
        it.states = population.states
        if it.owner == NULL or it.wakes == NULL:
            free(it.owner)
            free(it.wakes)
            raise MemoryError(f"no memory for a kind of {population.capacity:,} agents")
        self.kinds_n += 1
        self.populations.append(population)
        return self.kinds_n - 1

    def add_cohort(
        self, uint32_t kind, rows, int form, uintptr_t address=0, *, uint64_t period_ns=0, periods_ns=None,
        uint64_t budget=0, uint32_t sampling=0, int on_overrun=0, first_ns=None, reads=(), writes=(), keep=None,
    ):
        """Schedule rows of a kind; returns the cohort's number.

        `address` is that of a native tick. With `period_ns` its rows are called together from `first_ns` (now) on; with
        `periods_ns`, a buffer of u64 for each row, each on its own; with neither only when woken. `budget` is in
        counter ticks an agent; `sampling` 0 measures batches only, 1 each agent, n one of n. `reads` and `writes` are
        numbers of the bus's topics. `keep` lives as long as the schedule.
        """
        cdef Population population
        cdef Cohort* c
        cdef Py_ssize_t i
        cdef uint32_t row
        cdef const uint64_t[::1] own
        cdef uint64_t at
        if kind >= self.kinds_n:
            raise IndexError(f"kind {kind} of {self.kinds_n}")
        if form not in (FORM_MANY, FORM_ONE, FORM_PYTHON) or (form != FORM_PYTHON and address == 0):
            raise ValueError("a native tick needs its address")
        if self.cohorts_n >= COHORTS_MAX:
            raise OverflowError(f"more than {COHORTS_MAX} cohorts")
        population = self.populations[kind]
        if self.cohorts_n == self.cohorts_room:
            self.grow_cohorts()
        c = <Cohort*> calloc(1, sizeof(Cohort))
        if c == NULL:
            raise MemoryError("no memory for a cohort")
        try:
            self.fill(c, population, kind, form, address)
            c.spent = <uint64_t*> calloc(TALLY_BUCKETS, 8)
            c.late = <uint64_t*> calloc(TALLY_BUCKETS, 8)
            if c.spent == NULL or c.late == NULL:
                raise MemoryError("no memory for a cohort")
            self.wire(c, reads, writes)
            set_members(c, rows)
            c.size = c.awake.n
            if periods_ns is not None:
                own = memoryview(periods_ns).cast("B").cast("Q")
                if <size_t> own.shape[0] != c.awake.n:
                    raise ValueError(f"{own.shape[0]} periods for {c.awake.n} agents")
                c.periods = <uint64_t*> calloc(population.capacity, 8)
                if c.periods == NULL:
                    raise MemoryError("no memory for the periods of a cohort")
        except BaseException:
            drop_cohort(c)
            raise
        c.budget = budget
        c.sampling = sampling
        c.on_overrun = <uint8_t> on_overrun
        c.next = UINT64_MAX
        c.open = -1
        at = self.ceil(self.now_ns if first_ns is None else first_ns)
        for i in range(<Py_ssize_t> c.awake.n):
            row = member(&c.awake, i)
            self.kinds[kind].owner[row] = <uint32_t> self.cohorts_n
        self.cohorts[self.cohorts_n] = c
        self.cohorts_n += 1
        if keep is not None:
            self.kept.append(keep)
        if periods_ns is not None:
            for i in range(<Py_ssize_t> c.awake.n):
                row = member(&c.awake, i)
                c.periods[row] = max(self.ceil(own[i]), self.resolution_ns)
                # spread over a first period, in the order of the rows, so that the wheel's slots fill evenly
                if self.wait(c, row, at + self.ceil(c.periods[row] * <uint64_t> i // c.awake.n)) < 0:
                    raise MemoryError("no memory in the timer wheel")
            empty(&c.awake)
        elif period_ns:
            c.period = max(self.ceil(period_ns), self.resolution_ns)
            c.next = at
        self.nexts[self.cohorts_n - 1] = c.next
        return self.cohorts_n - 1

    cdef int grow_cohorts(self) except -1:
        cdef Py_ssize_t room = max(16, 2 * self.cohorts_room)
        cdef Cohort** cohorts = <Cohort**> realloc(self.cohorts, room * sizeof(void*))
        cdef uint64_t* nexts
        if cohorts != NULL:
            self.cohorts = cohorts
        nexts = <uint64_t*> realloc(self.nexts, room * 8)
        if nexts != NULL:
            self.nexts = nexts
        if cohorts == NULL or nexts == NULL:
            raise MemoryError("no memory for a cohort")
        self.cohorts_room = room
        return 0

    cdef int fill(self, Cohort* c, Population population, uint32_t kind, int form, uintptr_t address) except -1:
        c.tick = <void*> address
        c.form = <uint8_t> form
        c.fields_n = population.fields_n
        c.bases = population.bases
        c.steps = population.steps
        c.base = self.kinds[kind].base
        c.shifted = <void**> calloc(population.fields_n, sizeof(void*))
        if c.shifted == NULL:
            raise MemoryError("no memory for a cohort")
        c.ctx.abi = NANO_ABI
        c.ctx.kind = kind
        c.ctx.seed = self.seed
        c.ctx.publish = &publish
        c.link.kind = <uint16_t> kind
        return 0

    cdef int wire(self, Cohort* c, reads, writes) except -1:
        cdef Py_ssize_t i
        if (len(reads) or len(writes)) and self.bus is None:
            raise ValueError("there is no bus to read from or write to")
        for topic in (*reads, *writes):
            if not 0 <= topic < self.bus.topics:
                raise IndexError(f"topic {topic} of {self.bus.topics}")
        c.reads = <uint16_t*> calloc(max(1, len(reads)), 2)
        c.link.topics = <uint16_t*> calloc(max(1, len(writes)), 2)
        c.ctx.inbox = <const nano_line**> calloc(max(1, len(reads)), sizeof(void*))
        c.ctx.inbox_count = <uint64_t*> calloc(max(1, len(reads)), 8)
        if c.reads == NULL or c.link.topics == NULL or c.ctx.inbox == NULL or c.ctx.inbox_count == NULL:
            raise MemoryError("no memory for a cohort")
        for i in range(len(reads)):
            c.reads[i] = reads[i]
        for i in range(len(writes)):
            c.link.topics[i] = writes[i]
        c.link.topics_n = <uint32_t> len(writes)
        c.link.bus = self.lines
        c.ctx.topics = <uint32_t> len(reads)
        c.ctx.bus = &c.link
        return 0

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, uint64_t until_ns, uint64_t passes=UINT64_MAX):
        """Make passes at every instant before `until_ns` (NEVER: while there is one); why it returned: REACHED, PYTHON_DUE, ENOUGH or LOOK.

        After PYTHON_DUE the caller runs what `due` names, and calls `finish` before anything else. MemoryError when
        memory ran out: agents then wait that nobody wakes.
        """
        cdef int why
        cdef Wheel wheel = self.wheel
        if self.inside:
            raise RuntimeError("a pass waits to be finished")
        if self.real and self.origin == 0:
            self.origin = clock_monotonic_ns() - <int64_t> self.now_ns
        with nogil:
            why = self.go(wheel, until_ns, passes)
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")
        return why

    def finish(self):
        """The pass is over, after Python's part of it, or all turns that were granted."""
        if not self.inside:
            raise RuntimeError("no pass is open")
        self.inside = False
        for i in range(self.cohorts_n):
            self.cohorts[i].due = False
        self.made += 1
        self.turn()

    # --- passes whose order is a topology's -----------------------------------------------------------------------------

    def order(self):
        """From now on passes are made by `step`, `owed`, `grant` and `finish`. RuntimeError once they have begun."""
        if self.made:
            raise RuntimeError("the schedule has begun")
        self.ordered = True

    def step(self, uint64_t until_ns):
        """Go to the next instant before `until_ns` at which somebody is due: OPEN, else as `run` says."""
        cdef int why
        cdef Wheel wheel = self.wheel
        if self.inside or not self.ordered:
            raise RuntimeError("a pass waits to be finished" if self.inside else "order() was not called")
        if self.real and self.origin == 0:
            self.origin = clock_monotonic_ns() - <int64_t> self.now_ns
        with nogil:
            why = self.go_step(wheel, until_ns)
        return why

    cdef int go_step(self, Wheel wheel, uint64_t until) noexcept nogil:
        cdef uint64_t at = self.soonest(wheel), now
        cdef int64_t began = clock_monotonic_ns()
        if self.behind():
            at = min(at, max(self.now_ns, self.behind_until))
        if at >= until:
            if until == UINT64_MAX:
                return ENOUGH_
            if self.real and self.hold(until, began):
                return LOOK_
            self.now_ns = until
            return REACHED_
        now = at
        if self.real:
            if self.hold(at, began):
                return LOOK_
            now = <uint64_t> (clock_monotonic_ns() - self.origin)
            now = max(at, now - now % self.resolution_ns)
            if now >= until:
                now = max(at, until - 1 - (until - 1) % self.resolution_ns)
        self.now_ns = now
        self.gather(wheel, now)
        self.inside = True
        return OPEN_

    cdef bint behind(self) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(self.cohorts_n):
            if self.cohorts[i].owed or self.cohorts[i].called.n:
                return True
        return False

    cdef void gather(self, Wheel wheel, uint64_t now) noexcept nogil:
        """Note who is due."""
        cdef Py_ssize_t i
        cdef Cohort* c
        self.wake(wheel, now)
        for i in range(self.cohorts_n):
            if self.nexts[i] > now:
                continue
            c = self.cohorts[i]
            if not c.owed:
                c.since = c.next
            c.missed += c.owed  # who still waited for the last turn has lost it
            self.advance(c, i, now)
            self.join(&c.awake, c.joining.rows, c.joining.n)
            c.version += c.joining.n
            c.joining.n = 0
            c.owed = c.awake.n

    def owed(self):
        """Who waits for a turn: (cohort, woken, agents, instant since, ns), those with a rate in common and those woken
        between apart."""
        cdef Cohort* c
        found = []
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            if c.called.n:
                found.append((i, True, c.called.n, c.called_since))
            if c.owed:
                found.append((i, False, c.owed, c.since))
        return found

    def room(self, uint64_t until_ns):
        """How long it is to the next instant at which somebody will be due, or to `until_ns`; those who are owed a turn
        then still have it then. NEVER where neither comes."""
        cdef Wheel wheel = self.wheel
        self.behind_until = min(self.soonest(wheel), until_ns)
        return UINT64_MAX if self.behind_until == UINT64_MAX else self.behind_until - self.now_ns

    def grant(self, Py_ssize_t cohort, bint woken, size_t agents):
        """Tick so many of the agents of a native cohort that are owed a turn, the next ones; returns counter ticks."""
        cdef Cohort* c = self.at(cohort)
        cdef Wheel wheel = self.wheel
        cdef uint64_t busy = c.busy
        if not self.inside or c.form == FORM_PYTHON or agents > (c.called.n if woken else c.owed):
            raise ValueError(f"{agents} agents of cohort {cohort} cannot be granted a turn")
        with nogil:
            while agents:
                agents -= self.grant_some(wheel, c, <uint32_t> cohort, woken, agents)
                if self.starved:
                    break
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")
        return c.busy - busy

    cdef size_t grant_some(self, Wheel wheel, Cohort* c, uint32_t owner, bint woken, size_t agents) noexcept nogil:
        """Tick the next stretch of at most so many; how many there were."""
        cdef size_t place, n
        if woken:
            if not self.take_called(c, agents):
                return agents
            self.call(wheel, c, owner, c.turn.rows, 0, agents, self.now_ns, WOKEN, 0)
            return agents
        place = self.stretch(c, agents, &n)
        if n:
            self.call(wheel, c, owner, c.awake.rows + place if c.awake.rows != NULL else NULL,
                      c.awake.first + <uint32_t> place, n, self.now_ns, GRANTED, place)
        return n

    cdef bint take_called(self, Cohort* c, size_t n) noexcept nogil:
        """The first n of those that were woken have their turn: they are taken to `turn`."""
        c.turn.n = 0
        if not room_for(&c.turn, n):
            self.starved = True
            return False
        memcpy(c.turn.rows, c.called.rows, n * 4)
        c.turn.n = n
        memmove(c.called.rows, c.called.rows + n, (c.called.n - n) * 4)
        c.called.n -= n
        c.version += 1
        return True

    cdef size_t stretch(self, Cohort* c, size_t most, size_t* n) noexcept nogil:
        """The next stretch of those that are owed a turn, `most` or up to the end of the circle: its place, and how many."""
        cdef size_t place = lower_bound(&c.awake, c.cursor)
        if place == c.awake.n:
            place = 0
        n[0] = min(most, c.awake.n - place)
        c.owed -= n[0]
        c.cursor = member(&c.awake, <Py_ssize_t> (place + n[0] - 1)) + 1 if n[0] else 0
        return place

    def turn_of(self, Py_ssize_t cohort, bint woken, size_t agents):
        """The rows of Python's that have their turn now, at most so many; `settle` says what came of them."""
        cdef Cohort* c = self.at(cohort)
        cdef size_t n, place
        if not self.inside or c.form != FORM_PYTHON or c.open >= 0 or agents > (c.called.n if woken else c.owed):
            raise ValueError(f"{agents} agents of cohort {cohort} cannot be granted a turn")
        if woken:
            if not self.take_called(c, agents):
                self.starved = False
                raise MemoryError("no memory for the rows of a cohort")
            c.open = WOKEN
            return listed(&c.turn)
        place = self.stretch(c, agents, &n)
        c.open = GRANTED
        c.open_at = place
        c.turn.n = 0
        if not room_for(&c.turn, n):
            raise MemoryError("no memory for the rows of a cohort")
        for i in range(n):
            c.turn.rows[i] = member(&c.awake, <Py_ssize_t> (place + i))
        c.turn.n = n
        return listed(&c.turn)

    @property
    def number(self):
        """Of the pass that waits for Python's part of it, as native ticks know it. RuntimeError when none does."""
        if not self.inside:
            raise RuntimeError("no pass is open")
        return self.made

    def halt(self):
        """Real time stands still until the next `run`."""
        self.origin = 0

    cdef int go(self, Wheel wheel, uint64_t until, uint64_t passes) noexcept nogil:
        cdef uint64_t at, now, left = passes
        cdef int64_t began = clock_monotonic_ns()
        cdef uint32_t quiet = LOOK_PASSES
        cdef bint python
        while True:
            at = self.soonest(wheel)
            if at >= until:
                if until == UINT64_MAX:
                    return ENOUGH_  # nothing will ever be due
                if self.real:
                    if self.hold(until, began):
                        return LOOK_
                self.now_ns = until
                return REACHED_
            if left == 0:
                return ENOUGH_
            now = at
            if self.real:
                if self.hold(at, began):
                    return LOOK_
                now = <uint64_t> (clock_monotonic_ns() - self.origin)
                now = max(at, now - now % self.resolution_ns)
                if now >= until:
                    now = max(at, until - 1 - (until - 1) % self.resolution_ns)
            self.now_ns = now
            python = self.native(wheel, now)
            if python:
                self.inside = True
                return PYTHON_DUE_
            self.made += 1
            left -= 1
            self.turn()
            quiet -= 1
            if quiet == 0:
                quiet = LOOK_PASSES
                if clock_monotonic_ns() - began > 50_000_000:
                    return LOOK_

    cdef bint hold(self, uint64_t at, int64_t began) noexcept nogil:
        """Wait for an instant; True when signals should be looked for first."""
        cdef int64_t target = self.origin + <int64_t> at, now = clock_monotonic_ns()
        if target - now > 60_000_000:
            wait_until(now + 50_000_000, 0)
            return True
        if target > now and wait_until(target, <int64_t> self.spin_ns):
            return True
        return False

    cdef uint64_t soonest(self, Wheel wheel) noexcept nogil:
        cdef uint64_t at = wheel.next_ns()
        cdef Py_ssize_t i
        for i in range(self.cohorts_n):
            at = min(at, self.nexts[i])
        return at

    cdef bint native(self, Wheel wheel, uint64_t now) noexcept nogil:
        """The native part of a pass; whether Python has one."""
        cdef Py_ssize_t i
        cdef Cohort* c
        cdef bint python = self.wake(wheel, now)
        for i in range(self.cohorts_n):
            if self.nexts[i] > now:
                continue
            c = self.cohorts[i]
            self.advance(c, i, now)
            if c.form == FORM_PYTHON:
                c.due = True
                python = True
            elif c.awake.n:
                self.call(wheel, c, <uint32_t> i, c.awake.rows, c.awake.first, c.awake.n, now, TOGETHER, 0)
        return python

    cdef void advance(self, Cohort* c, Py_ssize_t i, uint64_t now) noexcept nogil:
        cdef uint64_t behind = now - c.next, skipped
        if self.real:
            tally_note(c.late, <uint64_t> (clock_monotonic_ns() - self.origin) - c.next, max(<size_t> 1, c.awake.n))
            if behind >= c.period:
                skipped = behind // c.period
                c.missed += skipped * c.awake.n
                c.next += skipped * c.period
        c.next += c.period
        self.nexts[i] = c.next

    cdef bint wake(self, Wheel wheel, uint64_t now) noexcept nogil:
        """Call the agents that wait in the wheel until now; whether there are some of Python's."""
        cdef size_t n, i, begin
        cdef uint32_t number
        cdef uint32_t* rows = self.scratch_rows
        cdef Cohort* c
        cdef Kind* kind
        cdef uint32_t owner
        cdef bint python = False
        while True:
            if wheel.next_ns() > now:
                return python
            n = wheel.due(now, self.woken, WOKEN_ROOM)
            if n == 0:
                return python
            if self.real:
                qsort(self.woken, n, 4, by_number)
            begin = 0
            while begin < n:
                kind = self.kind_of(self.woken[begin])
                owner = kind.owner[self.woken[begin] - kind.base]
                c = self.cohorts[owner]
                i = begin
                while i < n:
                    number = self.woken[i]
                    if number - kind.base >= kind.capacity or number < kind.base:
                        break
                    if kind.owner[number - kind.base] != owner:
                        break
                    rows[i - begin] = number - kind.base
                    kind.states[number - kind.base] = READY
                    i += 1
                if c.periods == NULL and self.nexts[owner] <= now:
                    self.enter(c, rows, i - begin)  # its cohort is due at this very instant: it goes with them
                elif c.form == FORM_PYTHON or self.ordered:
                    if c.called.n == 0:
                        c.called_since = now
                    self.join(&c.called, rows, i - begin)
                    c.version += 1
                    c.due = c.form == FORM_PYTHON
                    python = python or c.due
                else:
                    self.call(wheel, c, owner, rows, 0, i - begin, now, WOKEN, 0)
                begin = i

    cdef Kind* kind_of(self, uint32_t number) noexcept nogil:
        cdef Py_ssize_t low = 0, high = self.kinds_n - 1, middle
        while low < high:
            middle = (low + high + 1) // 2
            if self.kinds[middle].base <= number:
                low = middle
            else:
                high = middle - 1
        return &self.kinds[low]

    cdef void call(self, Wheel wheel, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n,
                   uint64_t now, int how, size_t place) noexcept nogil:
        """Tick n agents; those GRANTED are the stretch from `place` on of those that are awake."""
        cdef ones_result result
        cdef uint64_t began, spent
        cdef size_t i
        cdef uint32_t f
        cdef int outcome
        if not scratch(c, n):
            self.starved = True
            return
        memset(&result, 0, sizeof(result))
        c.ctx.pass_ = self.made
        c.ctx.now_ns = now
        c.ctx.first = first
        c.ctx.outcomes = c.outcomes
        c.ctx.wake_ns = c.wake_ns
        began = ticks_read()
        if c.form == FORM_MANY:
            if rows == NULL:
                for f in range(c.fields_n):
                    c.shifted[f] = <char*> c.bases[f] + <size_t> first * c.steps[f]
                outcome = (<nano_tick_many> c.tick)(c.shifted, NULL, n, now, &c.ctx)
            else:
                outcome = (<nano_tick_many> c.tick)(c.bases, rows, n, now, &c.ctx)
            spent = ticks_read() - began
            c.busy += spent
            tally_note(c.spent, spent * PARTS // n, n)
            if c.budget and spent > c.budget * n:
                result.over = n
            if outcome == NANO_EACH:
                each_outcome(c.outcomes, c.wake_ns, n, c.places, c.wakes, c.left_by, &result)
            elif outcome == NANO_WORKED or outcome == NANO_IDLE:
                result.outcomes[outcome] = n
            else:
                if not NANO_SLEEP <= outcome <= NANO_DONE:
                    result.strange = n
                    outcome = NANO_FAILED
                for i in range(n):
                    c.places[i] = <uint32_t> i
                    c.left_by[i] = <uint8_t> outcome
                    c.wakes[i] = c.wake_ns[i]
                result.outcomes[outcome] = n
                result.leavers = n
        else:
            ones_run(<nano_tick> c.tick, c.bases, rows, first, n, now, &c.ctx, c.sampling,
                     c.budget if c.budget else UINT64_MAX, c.spent, c.places, c.wakes, c.left_by, c.over_places,
                     c.spends if self.traces_room else NULL, &result)
            spent = ticks_read() - began
            c.busy += spent
            outcome = NANO_EACH
        if self.spans_room:
            self.note_span(owner, n, began, spent)
        if self.traces_room:
            self.note_ticks(c, owner, rows, first, n, outcome, spent)
        c.calls += 1
        c.ticks += n
        c.over += result.over
        c.made.strange += result.strange
        for i in range(5):
            c.made.outcomes[i] += result.outcomes[i]
        if result.over and self.real and c.on_overrun:
            self.punish(c, n, &result)
        if result.leavers or how == WOKEN:
            self.after(wheel, c, owner, rows, first, n, now, how, place, &result)

    cdef void note_span(self, uint32_t owner, size_t n, uint64_t began, uint64_t spent) noexcept nogil:
        self.spans[self.spans_n % self.spans_room] = call_span(began, spent, self.now_ns, self.made, owner, <uint32_t> n)
        self.spans_n += 1

    cdef void note_ticks(self, Cohort* c, uint32_t owner, const uint32_t* rows, uint32_t first, size_t n, int outcome,
                         uint64_t spent) noexcept nogil:
        """Traces of n agents; `outcome` is that of all, or NANO_EACH. In virtual time a tick costs what was declared."""
        cdef size_t i
        cdef tick_trace* it
        cdef uint64_t each = spent // n if n else 0
        for i in range(n):
            it = &self.traces[self.traces_n % self.traces_room]
            self.traces_n += 1
            if c.form == FORM_ONE:
                each = c.spends[i]
            it.now_ns = self.now_ns
            it.pass_ = self.made
            it.cohort = owner
            it.row = rows[i] if rows != NULL else first + <uint32_t> i
            it.cost_ns = <uint64_t> (<double> (each if self.real else c.budget) * self.ns_per_tick)
            it.violated = self.real and c.budget != 0 and each > c.budget
            it.outcome = <uint8_t> outcome if outcome != NANO_EACH else min(<uint8_t> NANO_DONE, c.outcomes[i])

    cdef void punish(self, Cohort* c, size_t n, ones_result* result) noexcept nogil:
        """Those that were over their budget leave as well. Both lists are in the order of places: they are merged from the
        back, into the room behind."""
        cdef int64_t i = <int64_t> result.leavers - 1, j = <int64_t> result.over - 1
        cdef int64_t at, most = -1
        cdef uint32_t place, before
        cdef uint8_t what = <uint8_t> (OVER + c.on_overrun)
        if c.form == FORM_MANY:
            for at in range(<int64_t> n):
                c.over_places[at] = <uint32_t> at
        # how many there are of either
        most = 0
        at = 0
        while at <= i and most < <int64_t> result.over:
            place = c.places[at]
            while most < <int64_t> result.over and c.over_places[most] < place:
                most += 1
            if most < <int64_t> result.over and c.over_places[most] == place:
                c.left_by[at] = what if c.left_by[at] != NANO_DONE else NANO_DONE
                # it is there already: taken out of the second list
                memmove(&c.over_places[most], &c.over_places[most + 1], (<size_t> result.over - most - 1) * 4)
                result.over -= 1
            at += 1
        j = <int64_t> result.over - 1
        at = i + j + 1
        result.leavers = <size_t> (at + 1)
        while at >= 0 and j >= 0:
            before = c.places[i] if i >= 0 else 0
            if i >= 0 and before > c.over_places[j]:
                c.places[at] = before
                c.left_by[at] = c.left_by[i]
                c.wakes[at] = c.wakes[i]
                i -= 1
            else:
                c.places[at] = c.over_places[j]
                c.left_by[at] = what
                j -= 1
            at -= 1

    cdef void after(self, Wheel wheel, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n,
                    uint64_t now, int how, size_t place, ones_result* result) noexcept nogil:
        """Those that leave go their ways; of those that the wheel gave the others wait again, or join their cohort."""
        cdef size_t i, at = 0, kept = 0
        cdef uint32_t row
        cdef uint64_t wake
        cdef Kind* kind = &self.kinds[c.ctx.kind]
        if how != WOKEN:
            if not own_rows(&c.awake):
                self.starved = True
                return
            rows = c.awake.rows + place
        for i in range(n):
            row = rows[i]
            if at < result.leavers and c.places[at] == i:
                self.leave(wheel, c, kind, owner, row, now, c.left_by[at], c.wakes[at])
                at += 1
            elif how == WOKEN and c.periods != NULL:
                wake = kind.wakes[row] + c.periods[row]
                if wake <= now:
                    c.missed += 1
                    wake = now + c.periods[row]
                if self.wait(c, row, wake) < 0:
                    self.starved = True
            else:
                rows[kept] = row  # at or before the place where it is read
                kept += 1
        if how == WOKEN:
            self.enter(c, rows, kept)
            return
        memmove(rows + kept, rows + n, (c.awake.n - place - n) * 4)
        c.awake.n -= n - kept
        c.version += 1

    cdef void leave(self, Wheel wheel, Cohort* c, Kind* kind, uint32_t owner, uint32_t row, uint64_t now, uint8_t how,
                    uint64_t wake) noexcept nogil:
        if how == NANO_SLEEP:
            kind.states[row] = SLEEPING
            if self.wait(c, row, self.ceil(max(wake, now + 1))) < 0:
                self.starved = True
            return
        kind.states[row] = SUSPENDED
        self.tell(owner, row, now, how)

    cdef void tell(self, uint32_t owner, uint32_t row, uint64_t now, uint8_t what) noexcept nogil:
        cdef Event* grown
        if self.events_n == self.events_room:
            grown = <Event*> realloc(self.events, max(<size_t> 256, 2 * self.events_room) * sizeof(Event))
            if grown == NULL:
                self.starved = True
                return
            self.events = grown
            self.events_room = max(<size_t> 256, 2 * self.events_room)
        self.events[self.events_n] = Event(owner, row, now, what)
        self.events_n += 1

    cdef int wait(self, Cohort* c, uint32_t row, uint64_t at) noexcept nogil:
        self.kinds[c.ctx.kind].wakes[row] = at
        return self.wheel.add(c.base + row, at)

    cdef void enter(self, Cohort* c, const uint32_t* rows, size_t n) noexcept nogil:
        """Rows are awake with their cohort from now on."""
        if n == 0:
            return
        c.version += 1
        # while some of those awake wait for their turn, nobody comes among them
        self.join(&c.joining if self.ordered else &c.awake, rows, n)

    cdef void join(self, Members* m, const uint32_t* rows, size_t n) noexcept nogil:
        """Rows, ascending and not among the members, become members."""
        cdef size_t at, i, j
        if n == 0:
            return
        if not own_rows(m) or not room_for(m, m.n + n):
            self.starved = True
            return
        at = m.n + n
        i = m.n
        j = n
        while j:
            at -= 1
            if i and m.rows[i - 1] > rows[j - 1]:
                i -= 1
                m.rows[at] = m.rows[i]
            else:
                j -= 1
                m.rows[at] = rows[j]
        m.n += n

    cdef void turn(self) noexcept nogil:
        """The pass is over: what was published in it is read in the next."""
        cdef Py_ssize_t i
        cdef uint32_t t
        cdef Cohort* c
        if self.lines == NULL:
            return
        bus_turn(self.lines)
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            for t in range(c.ctx.topics):
                bus_inbox(self.lines, c.reads[t], &c.ctx.inbox[t], &c.ctx.inbox_count[t])
                bus_delivered(self.lines, c.reads[t], c.ctx.inbox_count[t])

    cdef void deliver(self) noexcept nogil:
        """Have every cohort look at the messages of the pass before."""
        cdef Py_ssize_t i
        cdef uint32_t t
        cdef Cohort* c
        if self.lines == NULL:
            return
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            for t in range(c.ctx.topics):
                bus_inbox(self.lines, c.reads[t], &c.ctx.inbox[t], &c.ctx.inbox_count[t])

    cdef uint64_t ceil(self, uint64_t at) noexcept nogil:
        cdef uint64_t rest = at % self.resolution_ns
        return at if rest == 0 else at + self.resolution_ns - rest

    # --- Python's part of a pass ------------------------------------------------------------------------------------

    @property
    def due(self):
        """Numbers of Python's cohorts that are due in the open pass."""
        return [i for i in range(self.cohorts_n) if self.cohorts[i].due]

    def version(self, Py_ssize_t cohort):
        """A number that changes whenever who is awake in a cohort does."""
        return self.at(cohort).version

    def rows_due(self, Py_ssize_t cohort):
        """The rows of a cohort of Python's to be ticked in the open pass, ascending: a range, or an array."""
        cdef Cohort* c = self.at(cohort)
        return listed(&c.called) if c.called.n else listed(&c.awake)

    def settle(self, Py_ssize_t cohort, leavers, uint64_t spent=0, uint64_t idle=0):
        """What came of the agents of `rows_due`: `leavers` are (place, outcome, wake_ns), ascending, of those that sleep,
        failed or are done; the others worked, `idle` of them idly. `spent` is what they took in counter ticks."""
        cdef Cohort* c = self.at(cohort)
        cdef ones_result result
        cdef size_t n
        cdef size_t i = 0
        cdef Members taken
        if self.ordered and c.open < 0:
            raise RuntimeError("nobody of this cohort has a turn")
        n = c.turn.n if self.ordered else c.called.n if c.called.n else c.awake.n
        if not scratch(c, max(<size_t> 1, n)):
            raise MemoryError("no memory for a cohort's outcomes")
        memset(&result, 0, sizeof(result))
        for place, outcome, wake in leavers:
            if not 0 <= place < <Py_ssize_t> n or (i and place <= c.places[i - 1]) or outcome not in (2, 3, 4):
                raise ValueError(f"({place}, {outcome}) is no outcome of one of {n} agents, in their order")
            c.places[i] = place
            c.left_by[i] = outcome
            c.wakes[i] = wake
            result.outcomes[<int> outcome] += 1
            i += 1
        result.leavers = i
        result.outcomes[NANO_IDLE] = min(idle, n - i)
        result.outcomes[NANO_WORKED] = n - i - result.outcomes[NANO_IDLE]
        if self.spans_room:
            self.note_span(<uint32_t> cohort, n, ticks_read() - spent, spent)
        if self.traces_room:
            for i in range(n):
                c.outcomes[i] = NANO_WORKED
            for i in range(result.leavers):
                c.outcomes[c.places[i]] = c.left_by[i]
            if self.ordered:
                self.note_ticks(c, <uint32_t> cohort, c.turn.rows, 0, n, NANO_EACH, spent)
            elif c.called.n:
                self.note_ticks(c, <uint32_t> cohort, c.called.rows, 0, n, NANO_EACH, spent)
            else:
                self.note_ticks(c, <uint32_t> cohort, c.awake.rows, c.awake.first, n, NANO_EACH, spent)
        c.calls += 1
        c.ticks += n
        c.busy += spent
        if n:
            tally_note(c.spent, spent * PARTS // n, n)
        for i in range(5):
            c.made.outcomes[i] += result.outcomes[i]
        if self.ordered:
            if c.open == WOKEN:
                self.after(self.wheel, c, <uint32_t> cohort, c.turn.rows, 0, n, self.now_ns, WOKEN, 0, &result)
            elif result.leavers:
                self.after(self.wheel, c, <uint32_t> cohort, NULL, 0, n, self.now_ns, GRANTED, c.open_at, &result)
            c.open = -1
        elif c.called.n:
            taken = c.called
            memset(&c.called, 0, sizeof(Members))
            c.version += 1
            self.after(self.wheel, c, <uint32_t> cohort, taken.rows, 0, taken.n, self.now_ns, WOKEN, 0, &result)
            free(taken.rows)
        elif result.leavers:
            self.after(self.wheel, c, <uint32_t> cohort, NULL, 0, n, self.now_ns, TOGETHER, 0, &result)
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_cohort(self, Py_ssize_t cohort):
        """What `restore_cohort` wants, by name: rows as bytes of u32, instants as bytes of u64. Between two passes."""
        cdef Cohort* c = self.at(cohort)
        cdef Kind* kind = &self.kinds[c.ctx.kind]
        cdef Population population = self.populations[c.ctx.kind]
        cdef uint32_t row, n = 0, waits = 0
        cdef size_t i = 0
        cdef uint32_t* rows_at
        cdef uint32_t* waiting_at
        cdef uint64_t* wakes_at
        cdef uint64_t* periods_at
        cdef uint32_t* awake_at

        if self.inside:
            raise RuntimeError("a pass waits to be finished")
        for row in range(population.top):
            if kind.owner[row] == <uint32_t> cohort and population.states[row] != 0:
                n += 1
                if i < c.awake.n and member(&c.awake, i) == row:
                    i += 1
                elif population.states[row] != SUSPENDED:
                    waits += 1
        rows, awake = bytearray(4 * n), bytearray(4 * c.awake.n)
        periods = bytearray(8 * n if c.periods != NULL else 0)
        waiting, wakes = bytearray(4 * waits), bytearray(8 * waits)
        rows_at, awake_at = <uint32_t*> <char*> rows, <uint32_t*> <char*> awake
        waiting_at, wakes_at = <uint32_t*> <char*> waiting, <uint64_t*> <char*> wakes
        periods_at = <uint64_t*> <char*> periods
        n = waits = 0
        i = 0
        for row in range(population.top):
            if kind.owner[row] != <uint32_t> cohort or population.states[row] == 0:
                continue
            rows_at[n] = row
            if c.periods != NULL:
                periods_at[n] = c.periods[row]
            n += 1
            if i < c.awake.n and member(&c.awake, i) == row:
                awake_at[i] = row
                i += 1
            elif population.states[row] != SUSPENDED:
                waiting_at[waits] = row
                wakes_at[waits] = c.next if is_member(&c.joining, row) else kind.wakes[row]
                waits += 1
        return {
            "rows": rows, "awake": awake, "waiting": waiting, "wakes": wakes, "periods": periods,
            "next": c.next, "period": c.period, "size": c.size, "calls": c.calls, "ticks": c.ticks, "over": c.over,
            "missed": c.missed, "owed": c.owed, "cursor": c.cursor, "since": c.since, "made": [c.made.outcomes[i] for i in range(5)],
        }

    def restore_cohort(self, Py_ssize_t cohort, saved):
        """Put a cohort, just added with the saved rows, into the saved state. ValueError when that does not fit."""
        cdef Cohort* c = self.at(cohort)
        cdef Kind* kind = &self.kinds[c.ctx.kind]
        cdef Population population = self.populations[c.ctx.kind]
        cdef bytes rows = bytes(saved["rows"]), awake = bytes(saved["awake"]), waiting = bytes(saved["waiting"])
        cdef bytes wakes = bytes(saved["wakes"]), periods = bytes(saved["periods"])
        cdef const uint32_t* rows_at = <const uint32_t*> <const char*> rows
        cdef const uint32_t* awake_at = <const uint32_t*> <const char*> awake
        cdef const uint32_t* waiting_at = <const uint32_t*> <const char*> waiting
        cdef const uint64_t* wakes_at = <const uint64_t*> <const char*> wakes
        cdef const uint64_t* periods_at = <const uint64_t*> <const char*> periods
        cdef size_t n = len(rows) // 4, awakes = len(awake) // 4, waits = len(waiting) // 4, i, a = 0, w = 0

        if len(rows) % 4 or len(awake) % 4 or len(waiting) % 4 or len(wakes) != 2 * len(waiting):
            raise ValueError("columns of rows and instants that do not fit each other")
        if len(periods) != (2 * len(rows) if c.periods != NULL else 0):
            raise ValueError("periods that do not fit the agents")
        for i in range(n):
            if rows_at[i] >= population.top or kind.owner[rows_at[i]] != <uint32_t> cohort:
                raise ValueError(f"row {rows_at[i]} is not of this cohort")
            if i and rows_at[i] <= rows_at[i - 1]:
                raise ValueError("the rows of a cohort ascend")
            if a < awakes and awake_at[a] == rows_at[i]:
                a += 1
            elif w < waits and waiting_at[w] == rows_at[i]:
                w += 1
        if a != awakes or w != waits:
            raise ValueError("agents that are awake or wait, and are not of this cohort")
        if c.periods != NULL:  # else nobody of a cohort just added waits in the wheel
            for i in range(n):
                self.wheel.cancel(kind.base + rows_at[i])
                c.periods[rows_at[i]] = max(periods_at[i], self.resolution_ns)
        empty(&c.awake)
        if awakes and awake_at[awakes - 1] - awake_at[0] == awakes - 1:
            c.awake.first = awake_at[0]
            c.awake.n = awakes
        elif awakes:
            if not room_for(&c.awake, awakes):
                raise MemoryError("no memory for the rows of a cohort")
            memcpy(c.awake.rows, awake_at, 4 * awakes)
            c.awake.n = awakes
        for i in range(waits):
            if self.wait(c, waiting_at[i], max(wakes_at[i], self.now_ns)) < 0:
                raise MemoryError("no memory in the timer wheel")
        c.owed, c.cursor, c.since = min(<uint64_t> saved["owed"], c.awake.n), saved["cursor"], saved["since"]
        c.next = saved["next"]
        self.nexts[cohort] = c.next
        c.period = saved["period"]
        c.size = saved["size"]
        c.calls, c.ticks, c.over, c.missed = saved["calls"], saved["ticks"], saved["over"], saved["missed"]
        for i in range(5):
            c.made.outcomes[i] = saved["made"][i]
        c.version += 1

    def restore(self, uint64_t now_ns, uint64_t made):
        """Go on at an instant, after so many passes. ValueError for a schedule that has begun."""
        if self.made or self.now_ns:
            raise ValueError("only a schedule that has not begun can be restored")
        self.now_ns = now_ns
        self.made = made
        self.deliver()

    # --- agents -----------------------------------------------------------------------------------------------------

    def take_events(self):
        """What became of agents since the last time: (cohort, row, instant ns, what). Rows of those that ended are freed."""
        cdef size_t i
        cdef Event* it
        cdef Cohort* c
        cdef Population population
        out = []
        for i in range(self.events_n):
            it = &self.events[i]
            out.append((it.cohort, it.row, it.now_ns, it.what))
            if it.what == NANO_DONE or it.what == OVER + ON_KILL:
                population = self.populations[self.cohorts[it.cohort].ctx.kind]
                population.drop(it.row)
        self.events_n = 0
        return out

    def remove(self, uint32_t kind, rows):
        """End agents, wherever they wait: their rows are freed. Those that are not in use are passed over."""
        cdef Population population = self.kind_population(kind)
        cdef uint32_t row
        for row in sorted(rows):
            if population.state(row) == 0:
                continue
            self.forget(kind, row)
            population.drop(row)

    def suspend(self, uint32_t kind, rows):
        """Have agents not called until they are resumed."""
        cdef Population population = self.kind_population(kind)
        cdef uint32_t row
        for row in sorted(rows):
            if population.state(row) in (READY, SLEEPING):
                self.forget(kind, row)
                population.states[row] = SUSPENDED

    def resume(self, uint32_t kind, rows, at_ns=None):
        """Have suspended or sleeping agents called again, from an instant (now) on."""
        cdef Population population = self.kind_population(kind)
        cdef uint32_t row
        cdef uint64_t at = self.ceil(self.now_ns if at_ns is None else max(self.now_ns, at_ns))
        cdef Cohort* c
        for row in sorted(rows):
            if population.state(row) not in (SLEEPING, SUSPENDED):
                continue
            self.wheel.cancel(self.kinds[kind].base + row)
            c = self.cohorts[self.kinds[kind].owner[row]]
            population.states[row] = SLEEPING
            if self.wait(c, row, at) < 0:
                raise MemoryError("no memory in the timer wheel")

    cdef Population kind_population(self, uint32_t kind):
        if kind >= self.kinds_n:
            raise IndexError(f"kind {kind} of {self.kinds_n}")
        return self.populations[kind]

    cdef int forget(self, uint32_t kind, uint32_t row) except -1:
        cdef Cohort* c = self.cohorts[self.kinds[kind].owner[row]]
        self.wheel.cancel(self.kinds[kind].base + row)
        if c.owed and is_member(&c.awake, row) and self.is_owed(c, row):
            c.owed -= 1
        if not (leave_members(&c.awake, row) and leave_members(&c.called, row) and leave_members(&c.joining, row)):
            raise MemoryError("no memory to take an agent out of its cohort")
        c.version += 1
        return 0

    cdef bint is_owed(self, Cohort* c, uint32_t row) noexcept nogil:
        """Whether one of those awake waits for its turn."""
        cdef size_t begin = lower_bound(&c.awake, c.cursor) % c.awake.n, place = lower_bound(&c.awake, row)
        return (place + c.awake.n - begin) % c.awake.n < c.owed

    # --- traces -----------------------------------------------------------------------------------------------------

    def trace(self, size_t ticks=0, size_t spans=0, double ns_per_tick=1.0):
        """Keep the last so many ticks, and the last so many calls, from now on; 0 keeps none. MemoryError."""
        cdef tick_trace* traces = NULL
        cdef call_span* calls = NULL
        if ticks:
            traces = <tick_trace*> calloc(ticks, sizeof(tick_trace))
        if spans:
            calls = <call_span*> calloc(spans, sizeof(call_span))
        if (ticks and traces == NULL) or (spans and calls == NULL):
            free(traces)
            free(calls)
            raise MemoryError(f"no memory for {ticks:,} traces and {spans:,} spans")
        free(self.traces)
        free(self.spans)
        self.traces, self.traces_room = traces, ticks
        self.spans, self.spans_room = calls, spans
        self.traces_n = self.traces_taken = self.spans_n = self.spans_taken = 0
        self.ns_per_tick = ns_per_tick

    def take_traces(self):
        """Ticks since the last time, the oldest first: records of 34 bytes (u64 now_ns, u64 pass, u32 cohort, u32 row, u64
        cost_ns, u8 outcome, u8 violated); and how many were overwritten before."""
        return take_circle(
            <const char*> self.traces, sizeof(tick_trace), self.traces_room, self.traces_n, &self.traces_taken
        )

    def take_spans(self):
        """Calls since the last time, the oldest first: records of 40 bytes (u64 began and u64 spent in counter ticks, u64
        now_ns, u64 pass, u32 cohort, u32 agents); and how many were overwritten before."""
        return take_circle(<const char*> self.spans, sizeof(call_span), self.spans_room, self.spans_n, &self.spans_taken)

    # --- what people ask --------------------------------------------------------------------------------------------

    cdef Cohort* at(self, Py_ssize_t cohort) except NULL:
        if not 0 <= cohort < self.cohorts_n:
            raise IndexError(f"cohort {cohort} of {self.cohorts_n}")
        return self.cohorts[cohort]

    def cohort_of(self, uint32_t kind, uint32_t row):
        """The cohort of a row in use."""
        if self.kind_population(kind).state(row) == 0:
            raise IndexError(f"row {row} is not in use")
        return self.kinds[kind].owner[row]

    def statistics(self, Py_ssize_t cohort):
        """Counts of a cohort by name; durations are in counter ticks."""
        cdef Cohort* c = self.at(cohort)
        return {
            "agents": c.size, "awake": c.awake.n + c.called.n + c.joining.n, "calls": c.calls, "ticks": c.ticks, "busy": c.busy,
            "over": c.over, "missed": c.missed, "idle": c.made.outcomes[0], "worked": c.made.outcomes[1],
            "slept": c.made.outcomes[2], "failed": c.made.outcomes[3], "done": c.made.outcomes[4],
            "strange": c.made.strange, "parts": 1 if c.form == FORM_ONE else PARTS, "period_ns": c.period, "next_ns": c.next,
        }

    def set_period(self, Py_ssize_t cohort, uint64_t period_ns):
        """Tick a cohort of one rate at another one, from its next instant on. ValueError for one that has none."""
        cdef Cohort* c = self.at(cohort)
        if c.period == 0 or period_ns == 0:
            raise ValueError("only a cohort with one rate for all can be given another")
        c.period = max(self.ceil(period_ns), self.resolution_ns)

    def durations(self, Py_ssize_t cohort, which="spent"):
        """(middle of a bucket, count) of what ticks took ("spent", counter ticks in "parts" of the statistics) or how late
        passes were ("late", ns)."""
        cdef Cohort* c = self.at(cohort)
        cdef uint64_t* counts
        cdef size_t i
        if which not in ("spent", "late"):
            raise ValueError(f"{which!r}; there are 'spent' and 'late'")
        counts = c.spent if which == "spent" else c.late
        return [(tally_middle(i), counts[i]) for i in range(TALLY_BUCKETS) if counts[i]]


cdef object take_circle(const char* start, size_t size, size_t room, uint64_t n, uint64_t* taken):
    cdef uint64_t begin = max(taken[0], n - room if n > room else 0), lost = begin - taken[0]
    cdef size_t at, first
    taken[0] = n
    if n == begin:
        return b"", lost
    at = begin % room
    first = min(<size_t> (n - begin), room - at)
    return start[at * size:(at + first) * size] + start[:(<size_t> (n - begin) - first) * size], lost


def counter():
    """The processor's time-stamp counter, the unit of `statistics` and `durations`."""
    return ticks_read()


# --- members of a cohort ----------------------------------------------------------------------------------------------


cdef inline uint32_t member(const Members* m, Py_ssize_t i) noexcept nogil:
    return m.rows[i] if m.rows != NULL else m.first + <uint32_t> i


cdef void empty(Members* m) noexcept nogil:
    free(m.rows)
    memset(m, 0, sizeof(Members))


cdef int set_members(Cohort* c, rows) except -1:
    """From a range of step 1, or any ascending sequence of rows."""
    cdef Members* m = &c.awake
    cdef size_t i = 0
    cdef int64_t last = -1
    m.n = len(rows)
    if isinstance(rows, range) and rows.step == 1:
        m.first = rows.start if m.n else 0
        return 0
    if not room_for(m, m.n):
        raise MemoryError("no memory for the rows of a cohort")
    for row in rows:
        if row <= last:
            raise ValueError("the rows of a cohort ascend")
        m.rows[i] = row
        last = row
        i += 1
    return 0


cdef bint room_for(Members* m, size_t n) noexcept nogil:
    cdef uint32_t* grown
    if m.rows != NULL and n <= m.room:
        return True
    n = max(<size_t> 16, n + n // 2)
    grown = <uint32_t*> realloc(m.rows, n * 4)
    if grown == NULL:
        return False
    m.rows = grown
    m.room = n
    return True


cdef bint own_rows(Members* m) noexcept nogil:
    """Have rows listed, where they were a range."""
    cdef size_t i
    if m.rows != NULL:
        return True
    if not room_for(m, m.n):
        return False
    for i in range(m.n):
        m.rows[i] = m.first + <uint32_t> i
    return True


cdef size_t lower_bound(const Members* m, uint32_t row) noexcept nogil:
    """The place of the first member that is not below a row."""
    cdef size_t low = 0, high = m.n, middle
    while low < high:
        middle = (low + high) // 2
        if member(m, <Py_ssize_t> middle) < row:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint is_member(const Members* m, uint32_t row) noexcept nogil:
    cdef size_t at = lower_bound(m, row)
    return at < m.n and member(m, <Py_ssize_t> at) == row


cdef bint leave_members(Members* m, uint32_t row) noexcept nogil:
    """Take a row out if it is in; False without memory."""
    cdef size_t at = lower_bound(m, row)
    if not is_member(m, row):
        return True
    if not own_rows(m):
        return False
    memmove(m.rows + at, m.rows + at + 1, (m.n - at - 1) * 4)
    m.n -= 1
    return True


cdef object listed(const Members* m):
    from array import array

    if m.rows == NULL:
        return range(m.first, m.first + m.n)
    return array("I", [m.rows[i] for i in range(m.n)])


cdef bint scratch(Cohort* c, size_t n) noexcept nogil:
    """Room for what comes of n agents."""
    cdef size_t room
    if n <= c.scratch:
        return True
    room = max(<size_t> 64, n + n // 4)
    free(c.places)
    free(c.over_places)
    free(c.wakes)
    free(c.wake_ns)
    free(c.spends)
    free(c.left_by)
    free(c.outcomes)
    c.places = <uint32_t*> malloc(room * 4)
    c.over_places = <uint32_t*> malloc(room * 4)
    c.wakes = <uint64_t*> malloc(room * 8)
    c.wake_ns = <uint64_t*> calloc(room, 8)
    c.spends = <uint64_t*> malloc(room * 8)
    c.left_by = <uint8_t*> malloc(room)
    c.outcomes = <uint8_t*> calloc(room, 1)
    c.scratch = room
    if (c.places == NULL or c.over_places == NULL or c.wakes == NULL or c.wake_ns == NULL or c.left_by == NULL
            or c.outcomes == NULL or c.spends == NULL):
        c.scratch = 0
        return False
    return True


cdef void drop_cohort(Cohort* c) noexcept:
    if c == NULL:
        return
    for it in (<uintptr_t> c.shifted, <uintptr_t> c.awake.rows, <uintptr_t> c.called.rows, <uintptr_t> c.joining.rows,
               <uintptr_t> c.turn.rows, <uintptr_t> c.periods,
               <uintptr_t> c.spent, <uintptr_t> c.late, <uintptr_t> c.places, <uintptr_t> c.over_places,
               <uintptr_t> c.wakes, <uintptr_t> c.wake_ns, <uintptr_t> c.spends, <uintptr_t> c.left_by, <uintptr_t> c.outcomes,
               <uintptr_t> c.reads, <uintptr_t> c.link.topics, <uintptr_t> c.ctx.inbox, <uintptr_t> c.ctx.inbox_count):
        free(<void*> <uintptr_t> it)
    free(c)
