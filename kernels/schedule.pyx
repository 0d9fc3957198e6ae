"""Who is scheduled, and who waits: kinds, cohorts, their agents, and the timer wheel of those that wait."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from kernels.cohorts cimport *
from kernels.members cimport *
from kernels.population cimport READY, SLEEPING, SUSPENDED, Population
from kernels.ticks cimport Calibration
from kernels.topics cimport BUS_BLOCK, BUS_DROP, Bus, bus_inbox, bus_publish, nano_bus, nano_line
from kernels.wheel cimport Wheel

from kernels.ticks import shared


cdef int publish(nano_ctx* ctx, uint32_t topic, uint32_t row, const void* payload, size_t size) noexcept nogil:
    cdef Link* link = <Link*> ctx.bus
    cdef int taken
    if link == NULL or topic >= link.topics_n:
        return 0
    taken = bus_publish(link.bus, link.topics[topic], link.kind, row, payload, size)
    # who publishes on several threads cannot be told at once what is dropped at the end, so nobody is
    return taken == 1 or (taken == 0 and link.bus.topic[link.topics[topic]].full == BUS_DROP)


cdef class Schedule:
    """Kinds and cohorts of one population, and who of them is awake, waits or has ended."""

    def __cinit__(self, uint64_t seed=0, uint64_t resolution_ns=1000, Bus bus=None, bint real=False, uint64_t spin_ns=0,
                  Calibration clock=None):
        if not 1 <= resolution_ns <= 1_000_000_000:
            raise ValueError(f"a resolution of {resolution_ns} ns; it lies between 1 ns and 1 s")
        self.seed = seed
        self.resolution_ns = resolution_ns
        self.bus = bus
        self.lines = bus.bus if bus is not None else NULL
        self.real = real
        self.spin_ns = spin_ns
        self.clock = shared() if clock is None else clock
        self.counts = &self.clock.clock
        self.wheel = Wheel(1024, resolution_ns)
        self.populations = []
        self.kept = {}
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
        it.cohorts = it.sole = 0
        if it.owner == NULL or it.wakes == NULL:
            free(it.owner)
            free(it.wakes)
            raise MemoryError(f"no memory for a kind of {population.capacity:,} agents")
        self.kinds_n += 1
        self.populations.append(population)
        return self.kinds_n - 1

    def add_cohort(
        self, uint32_t kind, rows, int form, uintptr_t address=0, *, uint64_t period_ns=0, periods_ns=None,
        uint64_t budget=0, uint32_t sampling=0, int on_overrun=0, first_ns=None, reads=(), writes=(), at_once=(), whole=False,
        keep=None, Py_ssize_t into=-1,
    ):
        """Schedule rows of a kind; returns the cohort's number.

        `address` is that of a native tick. With `period_ns` its rows are called together from `first_ns` (now) on; with
        `periods_ns`, a buffer of u64 for each row, each on its own; with neither only when woken. `budget` is in
        counter ticks an agent; `sampling` 0 measures batches only, 1 each agent, n one of n. `reads` and `writes` are
        numbers of the bus's topics; those of `at_once` are read in
        the pass in which they are published, as far as that was before its turn. A `whole` cohort is never cut into parts for several threads, nor is one that
        writes to a topic that blocks, which must be told at once whether there is room. `keep` lives as long as the cohort.
        `into` names a cohort all of whose agents have ended (`is_over`): it becomes this one, and its counts go on.
        """
        cdef Population population
        cdef Cohort* c
        cdef Py_ssize_t i
        cdef uint32_t row
        cdef const uint64_t[::1] own
        cdef uint64_t at
        self.still()
        if kind >= self.kinds_n:
            raise IndexError(f"kind {kind} of {self.kinds_n}")
        if into >= 0 and not self.is_over(into):
            raise ValueError(f"some of the agents of cohort {into} have not ended")
        if form not in (FORM_MANY, FORM_ONE, FORM_PYTHON) or (form != FORM_PYTHON and address == 0):
            raise ValueError("a native tick needs its address")
        if into < 0 and self.cohorts_n >= COHORTS_MAX:
            raise OverflowError(f"more than {COHORTS_MAX} cohorts")
        population = self.populations[kind]
        if into < 0 and self.cohorts_n == self.cohorts_room:
            self.grow_cohorts()
        c = <Cohort*> calloc(1, sizeof(Cohort))
        if c == NULL:
            raise MemoryError("no memory for a cohort")
        try:
            self.fill(c, population, kind, form, address)
            c.spent = <uint64_t*> calloc(TALLY_BUCKETS, 8)
            c.late = <uint64_t*> calloc(TALLY_BUCKETS, 8)
            c.jitter = <uint64_t*> calloc(TALLY_BUCKETS, 8)
            c.last_late = UINT64_MAX
            if c.spent == NULL or c.late == NULL or c.jitter == NULL:
                raise MemoryError("no memory for a cohort")
            self.wire(c, reads, writes, at_once)
            set_members(c, rows)
            if c.awake.n and (c.awake.n > population.top or member(&c.awake, <Py_ssize_t> c.awake.n - 1) >= population.top
                              or member(&c.awake, 0) >= population.top):
                raise IndexError(f"rows beyond the {population.top} that the population has used")
            c.size = c.living = c.awake.n
            if periods_ns is not None:
                own = memoryview(periods_ns).cast("B").cast("Q")
                if <size_t> own.shape[0] != c.awake.n:
                    raise ValueError(f"{own.shape[0]} periods for {c.awake.n} agents")
                c.turns_room = calloc(<size_t> population.capacity + 2, sizeof(turn))
                if c.turns_room == NULL:
                    raise MemoryError("no memory for the periods of a cohort")
                c.turns = <turn*> (<uintptr_t> c.turns_room + 63 & ~<uintptr_t> 63)  # none lies in two lines
        except BaseException:
            drop_cohort(c)
            raise
        c.how.budget = budget
        c.how.sampling = sampling
        c.whole = whole or self.blocks(c) or c.at_once != NULL
        c.on_overrun = <uint8_t> on_overrun
        c.next = UINT64_MAX
        c.open = -1
        at = self.ceil(self.now_ns if first_ns is None else first_ns)
        into = self.place(c, into)
        if self.kinds[kind].cohorts == 0 or (self.kinds[kind].cohorts == 1 and self.kinds[kind].sole == <uint32_t> into):
            self.kinds[kind].cohorts = 1
            self.kinds[kind].sole = <uint32_t> into
        else:
            self.kinds[kind].cohorts = 2
        for i in range(<Py_ssize_t> c.awake.n):
            row = member(&c.awake, i)
            self.kinds[kind].owner[row] = <uint32_t> into
        self.kept[into] = keep
        if periods_ns is not None:
            for i in range(<Py_ssize_t> c.awake.n):
                row = member(&c.awake, i)
                c.turns[row].period = max(self.ceil(own[i]), self.resolution_ns)
                # spread over a first period, in the order of the rows, so that the wheel's slots fill evenly
                if self.wait(c, row, at + self.ceil(c.turns[row].period * <uint64_t> i // c.awake.n)) < 0:
                    raise MemoryError("no memory in the timer wheel")
            empty(&c.awake)
        elif period_ns:
            c.period = max(self.ceil(period_ns), self.resolution_ns)
            c.next = at
        self.nexts[into] = c.next
        return into

    def is_over(self, Py_ssize_t cohort):
        """Whether all agents of a cohort have ended, and nothing of this pass is to come for it."""
        cdef Cohort* c = self.at(cohort)
        cdef size_t i
        if c.living or c.due or c.away or c.pending or c.owed or c.open >= 0 or c.awake.n or c.called.n or c.joining.n:
            return False
        for i in range(self.events_n):
            if self.events[i].cohort == <uint32_t> cohort:
                return False
        return True

    cdef int place(self, Cohort* c, Py_ssize_t into) except -1:
        """Put a cohort at the end, or in the place of one that is over, whose counts it takes; its number."""
        cdef Cohort* was
        if into < 0:
            self.cohorts[self.cohorts_n] = c
            self.cohorts_n += 1
            return <int> (self.cohorts_n - 1)
        was = self.cohorts[into]
        c.spent, was.spent = was.spent, c.spent
        c.late, was.late = was.late, c.late
        c.jitter, was.jitter = was.jitter, c.jitter
        c.tallies, was.tallies = was.tallies, c.tallies
        c.tallies_n, was.tallies_n = was.tallies_n, c.tallies_n
        c.calls, c.busy, c.made, c.ticks, c.over, c.missed = was.calls, was.busy, was.made, was.ticks, was.over, was.missed
        c.version = was.version + 1
        drop_cohort(was)
        self.cohorts[into] = c
        return <int> into

    cdef int still(self) except -1:
        """RuntimeError while native ticks run: they are called with what would be changed."""
        if self.calling:
            raise RuntimeError("a native tick cannot change who is scheduled: let a Python tick do so, or do it between two passes")
        return 0

    cdef bint blocks(self, Cohort* c) noexcept nogil:
        """Whether it writes to a topic that blocks."""
        cdef uint32_t t
        for t in range(c.link.topics_n):
            if self.lines.topic[c.link.topics[t]].full == BUS_BLOCK:
                return True
        return False

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
        c.how.tick = <void*> address
        c.how.clock = self.counts
        c.how.one = form == FORM_ONE
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

    cdef int wire(self, Cohort* c, reads, writes, at_once) except -1:
        cdef Py_ssize_t i
        if (len(reads) or len(writes)) and self.bus is None:
            raise ValueError("there is no bus to read from or write to")
        for topic in (*reads, *writes):
            if not 0 <= topic < self.bus.topics:
                raise IndexError(f"topic {topic} of {self.bus.topics}")
        c.reads = <uint16_t*> calloc(max(1, len(reads)), 2)
        c.link.topics = <uint16_t*> calloc(max(1, len(writes)), 2)
        c.link.rooms = <uint64_t*> calloc(max(1, len(writes)), 8)
        c.ctx.inbox = <const nano_line**> calloc(max(1, len(reads)), sizeof(void*))
        c.ctx.inbox_count = <uint64_t*> calloc(max(1, len(reads)), 8)
        if c.reads == NULL or c.link.topics == NULL or c.link.rooms == NULL or c.ctx.inbox == NULL or c.ctx.inbox_count == NULL:
            raise MemoryError("no memory for a cohort")
        for i in range(len(reads)):
            c.reads[i] = reads[i]
            if reads[i] in at_once:
                if c.at_once == NULL:
                    c.at_once = <uint8_t*> calloc(len(reads), 1)
                if c.at_once == NULL:
                    raise MemoryError("no memory for a cohort")
                c.at_once[i] = True
        for i in range(len(writes)):
            c.link.topics[i] = writes[i]
            c.link.rooms[i] = self.lines.topic[c.link.topics[i]].lines_max
        c.link.topics_n = <uint32_t> len(writes)
        c.link.bus = self.lines
        c.ctx.topics = <uint32_t> len(reads)
        c.ctx.bus = &c.link
        return 0

    # --- who waits, and who ends --------------------------------------------------------------------------------------------

    cdef Kind* kind_of(self, uint32_t number) noexcept nogil:
        cdef Py_ssize_t low = 0, high = self.kinds_n - 1, middle
        while low < high:
            middle = (low + high + 1) // 2
            if self.kinds[middle].base <= number:
                low = middle
            else:
                high = middle - 1
        return &self.kinds[low]

    cdef void leave(self, Cohort* c, Kind* kind, uint32_t owner, uint32_t row, uint64_t now, uint8_t how,
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
        if at >= FOREVER:
            at = UINT64_MAX
        if c.turns != NULL:
            c.turns[row].wake = at
            c.turns[row].asleep = True
        else:
            self.kinds[c.ctx.kind].wakes[row] = at
        return self.wheel.add(c.base + row, at)

    cdef void enter(self, Cohort* c, const uint32_t* rows, size_t n) noexcept nogil:
        """Rows are awake with their cohort from now on."""
        if n == 0:
            return
        c.version += 1
        # while some of those awake wait for their turn, or have it elsewhere, nobody comes among them
        self.join(&c.joining if self.ordered or c.away else &c.awake, rows, n)

    cdef void join(self, Members* m, const uint32_t* rows, size_t n) noexcept nogil:
        if not join_members(m, rows, n):
            self.starved = True

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
        if at >= FOREVER:
            return UINT64_MAX
        return at if rest == 0 else at + self.resolution_ns - rest

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
                if population.state(it.row) and self.kinds[self.cohorts[it.cohort].ctx.kind].owner[it.row] == it.cohort:
                    population.drop(it.row)
                    self.cohorts[it.cohort].living -= 1
        self.events_n = 0
        return out

    def remove(self, uint32_t kind, rows):
        """End agents, wherever they wait: their rows are freed. Those that are not in use are passed over."""
        cdef Population population = self.kind_population(kind)
        cdef uint32_t row
        self.still()
        for row in sorted(rows):
            if population.state(row) == 0:
                continue
            self.forget(kind, row)
            population.drop(row)
            self.cohorts[self.kinds[kind].owner[row]].living -= 1

    def suspend(self, uint32_t kind, rows):
        """Have agents not called until they are resumed."""
        cdef Population population = self.kind_population(kind)
        cdef uint32_t row
        self.still()
        for row in sorted(rows):
            if population.state(row) in (READY, SLEEPING):
                self.forget(kind, row)
                population.states[row] = SUSPENDED

    def resume(self, uint32_t kind, rows, at_ns=None):
        """Have suspended or sleeping agents, and those that no rate calls, called again, from an instant (now) on."""
        cdef Population population = self.kind_population(kind)
        cdef uint32_t row
        cdef uint64_t at = self.ceil(self.now_ns if at_ns is None else max(self.now_ns, at_ns))
        cdef Cohort* c
        cdef Py_ssize_t i
        cdef list wanted = sorted(rows)
        self.still()
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            if c.ctx.kind == kind and c.period == 0 and c.turns == NULL:
                self.rouse(c, wanted)
        for row in wanted:
            if population.state(row) not in (SLEEPING, SUSPENDED):
                continue
            c = self.cohorts[self.kinds[kind].owner[row]]
            self.wheel.cancel(self.kinds[kind].base + row)
            population.states[row] = SLEEPING
            if self.wait(c, row, at) < 0:
                raise MemoryError("no memory in the timer wheel")

    cdef int rouse(self, Cohort* c, list rows) except -1:
        """Take rows, ascending, from those of a cohort that are awake and have no rate: they are about to wait for an instant."""
        cdef size_t kept = 0, i
        cdef uint32_t row
        cdef Py_ssize_t at = 0, n = len(rows)
        if n == 0 or c.awake.n == 0:
            return 0
        if not own_rows(&c.awake):
            raise MemoryError("no memory for the rows of a cohort")
        for i in range(c.awake.n):
            row = c.awake.rows[i]
            while at < n and rows[at] < row:
                at += 1
            if at < n and rows[at] == row:
                self.kinds[c.ctx.kind].states[row] = SLEEPING
            else:
                c.awake.rows[kept] = row
                kept += 1
        c.awake.n = kept
        c.version += 1
        return 0

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

    def set_budget(self, Py_ssize_t cohort, uint64_t budget):
        """Another budget for a cohort that has one, counter ticks an agent: a tick of the clock is another time than before."""
        cdef Cohort* c = self.at(cohort)
        if c.how.budget == 0 or budget == 0:
            raise ValueError("only a cohort with a budget can be given another")
        c.how.budget = budget

    def durations(self, Py_ssize_t cohort, which="spent"):
        """(middle of a bucket, count) of what ticks took ("spent", counter ticks in "parts" of the statistics) or how late
        passes were ("late", ns), or by how much that differed from the instant before ("jitter", ns)."""
        cdef Cohort* c = self.at(cohort)
        cdef size_t i
        if which not in ("spent", "late", "jitter"):
            raise ValueError(f"{which!r}; there are 'spent', 'late' and 'jitter'")
        if which == "late":
            return [(tally_middle(i), c.late[i]) for i in range(TALLY_BUCKETS) if c.late[i]]
        if which == "jitter":
            return [(tally_middle(i), c.jitter[i]) for i in range(TALLY_BUCKETS) if c.jitter[i]]
        return [(tally_middle(i), n) for i in range(TALLY_BUCKETS) if (n := noted(c, i))]


cdef uint64_t noted(const Cohort* c, size_t bucket) noexcept:
    """Ticks of one bucket, over all threads."""
    cdef uint64_t n = c.spent[bucket]
    cdef uint32_t t
    for t in range(1, c.tallies_n):
        n += c.tallies[t][bucket]
    return n


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


cdef object listed(const Members* m):
    from array import array

    if m.rows == NULL:
        return range(m.first, m.first + m.n)
    return array("I", [m.rows[i] for i in range(m.n)])
