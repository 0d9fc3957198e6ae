"""The nano-scheduler's passes: what is due at one instant is called, cohort by cohort, without the GIL.

A cohort is a number of agents of one kind that share a tick, a rate and a budget. While all goes well it costs one comparison
a pass and one call: its agents are ticked together. Those that sleep, or that have a rate of their own, wait in a
hierarchical timer wheel (`kernels.wheel`) and are called when it says so. Time is either virtual (the next pass is
at the next instant at which something is due) or real (the clock is waited for). Messages that are published in one pass are
read in the next.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from kernels.calls cimport Calls
from kernels.cohorts cimport *
from kernels.members cimport *
from kernels.population cimport READY
from kernels.schedule cimport listed
from kernels.ticks cimport ticks_now
from kernels.lanes cimport SpscLane, lane_spsc_get_many
from kernels.topics cimport bus_delivered, bus_inbox, bus_publish, bus_turn, nano_line
from kernels.wheel cimport Wheel

from kernels import saved_cohorts
from kernels.ticks import shared

cdef extern from "clock.h" nogil:
    int64_t clock_monotonic_ns() noexcept

cdef extern from "soon.h" nogil:
    enum:
        SOON_AHEAD
        SOON_FAR
    void soon(const void*) noexcept

cdef extern from "pacing.h" nogil:
    int wait_until(int64_t, int64_t) noexcept

cdef extern from "passes.h" nogil:
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
    GO_ = -1
    AWAY_NS = 100_000                   # so often somebody who comes back is looked for
    DRAINED = 1024                      # lines at once

cdef extern from "atomics.h" nogil:
    uint64_t relaxed_load(void*) noexcept
    void relaxed_store(void*, uint64_t) noexcept


cdef inline bint knocked(uint64_t* at) noexcept nogil:
    if relaxed_load(at) == 0:
        return False
    relaxed_store(at, 0)
    return True


FAILED_EVENT, DONE_EVENT, SUSPENDED_EVENT, KILLED_EVENT = NANO_FAILED, NANO_DONE, OVER + ON_SUSPEND, OVER + ON_KILL
NEVER = UINT64_MAX


@cython.final
cdef class Passes(Calls):
    """The schedule of one population of agents. Instants are ns since its beginning, multiples of `resolution_ns`.

    With `real`, instants are those of the clock, guards act, and what is late is counted; `spin_ns` of each wait are spent
    reading the clock, for which an idle core is needed. Without, time is virtual and nothing depends on how long anything
    took. All methods are called by one thread.
    """
    cdef int64_t origin
    cdef bint apart                     # Python's part has a thread of its own
    cdef SpscLane ring                  # what it publishes, in real time
    cdef uint64_t knocked               # it has something to settle
    cdef nano_line* drained
    cdef readonly uint64_t lonely       # passes that `lone` made

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
        self.still()
        self.calling = True
        with nogil:
            why = self.go(wheel, until_ns, passes)
        self.calling = False
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")
        return why

    def finish(self):
        """The pass is over, after Python's part of it, or all turns that were granted."""
        if not self.inside:
            raise RuntimeError("no pass is open")
        if self.apart:
            self.rest()
        self.inside = False
        for i in range(self.cohorts_n):
            self.cohorts[i].due = False
        self.made += 1
        self.turn()

    # --- passes in step with others' ------------------------------------------------------------------------------------

    @property
    def soonest_ns(self):
        """The next instant at which somebody is due; NEVER where nobody will be."""
        return self.soonest(self.wheel)

    def open(self, uint64_t at_ns):
        """Make the native part of a pass at an instant of virtual time, also where nobody is due; whether Python's `due` are
        to be run. The pass stays open until `finish`, so that lines can arrive from elsewhere. ValueError for an instant
        that is over, or after one at which somebody is due."""
        cdef bint python
        cdef Wheel wheel = self.wheel
        if self.inside or self.ordered or self.real:
            raise RuntimeError("a pass waits to be finished" if self.inside else "this schedule makes its passes itself")
        if not self.now_ns <= at_ns <= self.soonest(wheel):
            raise ValueError(f"a pass at {at_ns} ns, after {self.now_ns} and before somebody is due at {self.soonest(wheel)}")
        self.still()
        self.now_ns = at_ns
        self.calling = True
        with nogil:
            python = self.native(wheel, at_ns)
        self.calling = False
        self.inside = True
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")
        return python

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
        self.still()
        self.calling = True
        with nogil:
            why = self.go_step(wheel, until_ns)
        self.calling = False
        return why

    cdef int go_step(self, Wheel wheel, uint64_t until) noexcept nogil:
        cdef uint64_t at = self.soonest(wheel)
        cdef int why
        if self.behind():
            at = min(at, max(self.now_ns, self.behind_until))
        why = self.reach(at, until, clock_monotonic_ns())
        if why != GO_:
            return why
        self.gather(wheel, self.now_ns)
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
        """Tick so many of the agents of a native cohort that are owed a turn, the next ones; how long that took, of the clock's
        ticks."""
        cdef Cohort* c = self.at(cohort)
        cdef uint64_t began = ticks_now(self.counts)
        if not self.inside or c.form == FORM_PYTHON or agents > (c.called.n if woken else c.owed):
            raise ValueError(f"{agents} agents of cohort {cohort} cannot be granted a turn")
        self.still()
        self.calling = True
        with nogil:
            while agents:
                agents -= self.grant_some(c, <uint32_t> cohort, woken, agents)
                if self.starved:
                    break
        self.calling = False
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")
        return ticks_now(self.counts) - began

    cdef size_t grant_some(self, Cohort* c, uint32_t owner, bint woken, size_t agents) noexcept nogil:
        """Tick the next stretch of at most so many; how many there were."""
        cdef size_t place, n
        if woken:
            if not self.take_called(c, agents):
                return agents
            self.call(c, owner, c.turn.rows, 0, agents, self.now_ns, WOKEN, 0)
            return agents
        place = self.stretch(c, agents, &n)
        if n:
            self.call(c, owner, c.awake.rows + place if c.awake.rows != NULL else NULL,
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

    @property
    def next_ns(self):
        """The instant at which somebody will be due; NEVER when nobody will."""
        cdef Wheel wheel = self.wheel
        cdef uint64_t at = self.soonest(wheel)
        return min(at, max(self.now_ns, self.behind_until)) if self.behind() else at

    def halt(self):
        """Real time stands still until the next `run`."""
        self.origin = 0

    cdef int go(self, Wheel wheel, uint64_t until, uint64_t passes) noexcept nogil:
        cdef uint64_t at, many, left = passes
        cdef int64_t began = clock_monotonic_ns()
        cdef uint32_t quiet = LOOK_PASSES
        cdef int why
        while True:
            at = self.soonest(wheel)
            if left == 0 and at < until:
                return ENOUGH_
            many = self.lone(wheel, until, min(left, <uint64_t> quiet))
            if many:
                left -= many
                quiet -= <uint32_t> many
                if quiet == 0:
                    quiet = LOOK_PASSES
                    if clock_monotonic_ns() - began > 50_000_000:
                        return LOOK_
                continue
            why = self.reach(at, until, began)
            if why != GO_:
                return why
            if self.apart:
                if knocked(&self.knocked):
                    return LOOK_
                if self.mark(wheel, self.now_ns):
                    self.inside = True
                    return PYTHON_DUE_
                self.call_pending(self.now_ns)
            elif self.native(wheel, self.now_ns):
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

    cdef uint64_t lone(self, Wheel wheel, uint64_t until, uint64_t passes) noexcept nogil:
        """Where all that there is is one batch, in virtual time, and nobody looks or listens: the passes of it that come before anything
        else, up to so many. How many there were, and all is as if each had been made by itself; 0 where it is not so."""
        cdef Cohort* c
        cdef ones_result sum, last
        cdef uint64_t limit, made, next
        cdef uint32_t* rows
        if self.cohorts_n != 1 or self.real or self.apart or self.beats != NULL or self.crew is not None:
            return 0
        if self.lines != NULL and (self.lines.topics or self.lines.links != NULL):
            return 0
        c = self.cohorts[0]
        if c.form != FORM_MANY or c.period == 0 or c.awake.n == 0 or c.turns != NULL or self.traces.ticks_room or self.traces.spans_room:
            return 0
        next = self.nexts[0]
        limit = min(until, wheel.next_ns())
        if next >= limit or next != c.next or not scratch(c, c.awake.n):
            return 0
        self.prepare(c, next)
        c.ctx.first = c.awake.first
        rows = c.awake.rows
        made = lone_run(&c.how, c.bases, c.steps, c.fields_n, c.shifted, rows, c.awake.n, &c.ctx, c.spent, &c.room, &next, c.period,
                        min(limit, FOREVER - c.period), passes, PARTS, &sum, &last)
        if made == 0:
            return 0
        self.now_ns = next - c.period
        c.next = self.nexts[0] = next
        c.busy += sum.spent
        c.calls += made - 1
        c.ticks += (made - 1) * c.awake.n
        c.over += sum.over
        c.made.outcomes[0] += sum.outcomes[0]
        c.made.outcomes[1] += sum.outcomes[1]
        self.made += made - 1
        self.close(c, 0, rows, c.awake.first, c.awake.n, self.now_ns, TOGETHER, 0, last.spent, &last)
        self.made += 1
        self.lonely += made
        return made

    cdef int reach(self, uint64_t at, uint64_t until, int64_t began) noexcept nogil:
        """Go to the instant `at`, and GO: a pass is to be made now; or why there is none. In real time instants that have
        gone by already are one: the present."""
        cdef uint64_t now
        if at >= until:
            if until == UINT64_MAX:
                return ENOUGH_  # nothing will ever be due
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
        return GO_

    cdef bint hold(self, uint64_t at, int64_t began) noexcept nogil:
        """Wait for an instant; True when signals should be looked for first."""
        cdef int64_t target = self.origin + <int64_t> at, now = clock_monotonic_ns()
        while self.away and target - now > AWAY_NS and now - began < 50_000_000:
            wait_until(now + AWAY_NS, 0)  # until they are back
            if knocked(&self.knocked):
                return True
            now = clock_monotonic_ns()
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
        cdef bint python = self.wake(wheel, now), together = self.crew is not None and self.beats == NULL and self.worth_it(now)
        for i in range(self.cohorts_n):
            if self.nexts[i] > now:
                continue
            c = self.cohorts[i]
            self.advance(c, i, now)
            if c.awake.n == 0:
                continue  # all of them sleep, or have ended
            if c.form == FORM_PYTHON:
                c.due = True
                python = True
            else:
                self.call_together(c, i, now, together)
        if together:
            self.run_opened(now)
        return python

    cdef void call_together(self, Cohort* c, Py_ssize_t i, uint64_t now, bint together) noexcept nogil:
        """Call all of a cohort that are awake, or open that call for the crew; what was before it in order is before it."""
        if together and not c.whole:
            self.cut(c, <uint32_t> i, c.awake.rows, c.awake.first, c.awake.n, now, TOGETHER, 0)
            return
        if self.beats != NULL:
            self.call(c, <uint32_t> i, c.awake.rows, c.awake.first, c.awake.n, now, TOGETHER, 0)  # one at a time, named
            return
        if together:
            self.run_opened(now)
        self.call_alone(c, <uint32_t> i, c.awake.rows, c.awake.first, c.awake.n, now, TOGETHER, 0)

    # --- with Python's part on a thread of its own ------------------------------------------------------------------------

    def set_apart(self, bint apart, SpscLane ring=None):
        """After PYTHON_DUE, native agents are yet to be called, by `rest`, while Python's tick on another thread. In real time
        that one may be late (`send`); what it puts on `ring` is published at the end of the pass, and `knock` makes `run`
        return."""
        if self.inside or self.away:
            raise RuntimeError("a pass waits to be finished")
        if ring is not None and self.drained == NULL:
            self.drained = <nano_line*> malloc(DRAINED * sizeof(nano_line))
            if self.drained == NULL:
                raise MemoryError("no memory for a ring")
        if self.ring is not None:
            self.drain()
        self.apart = apart
        self.ring = ring

    def __dealloc__(self):
        free(self.drained)

    def knock(self):
        """From another thread: have `run` return soon, LOOK."""
        relaxed_store(&self.knocked, 1)

    def rest(self):
        """Call the native agents of the open pass."""
        with nogil:
            self.call_pending(self.now_ns)
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")

    cdef bint mark(self, Wheel wheel, uint64_t now) noexcept nogil:
        """Note who is due; whether some of Python's are, and are there."""
        cdef Py_ssize_t i
        cdef Cohort* c
        cdef bint python = self.wake(wheel, now)
        for i in range(self.cohorts_n):
            if self.nexts[i] > now:
                continue
            c = self.cohorts[i]
            self.advance(c, i, now)
            if c.awake.n == 0:
                continue
            if c.form != FORM_PYTHON:
                c.pending = True
            elif c.away:
                c.missed += c.awake.n
            else:
                c.due = True
                python = True
        return python

    cdef void call_pending(self, uint64_t now) noexcept nogil:
        cdef Py_ssize_t i
        cdef Cohort* c
        cdef bint together = False
        cdef uint64_t cost = 0
        if self.crew is not None and self.beats == NULL:
            for i in range(self.cohorts_n):
                c = self.cohorts[i]
                if c.pending and not c.whole:
                    cost += self.costs(c, c.awake.n)
            together = cost >= self.alone
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            if c.pending:
                c.pending = False
                self.call_together(c, i, now, together)
        if together:
            self.run_opened(now)

    cdef void drain(self) noexcept nogil:
        """Publish what the other thread has."""
        cdef int64_t n = 1, i
        cdef const nano_line* it
        while n > 0:
            n = lane_spsc_get_many(self.ring.lane, self.drained, DRAINED)
            for i in range(n):
                it = &self.drained[i]
                bus_publish(self.lines, it.topic, it.kind, it.row, it.payload, sizeof(it.payload))

    cdef bint worth_it(self, uint64_t now) noexcept nogil:
        """Whether what is due now takes long enough for several threads."""
        cdef Py_ssize_t i
        cdef uint64_t cost = 0
        cdef Cohort* c
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            if self.nexts[i] <= now and c.form != FORM_PYTHON and not c.whole and c.awake.n:
                cost += self.costs(c, c.awake.n)
                if cost >= self.alone:
                    return True
        return False

    cdef void advance(self, Cohort* c, Py_ssize_t i, uint64_t now) noexcept nogil:
        cdef uint64_t behind = now - c.next, skipped, late
        if self.real:
            late = <uint64_t> (clock_monotonic_ns() - self.origin) - c.next
            tally_note(c.late, late, max(<size_t> 1, c.awake.n))
            if c.last_late != UINT64_MAX:
                tally_note(c.jitter, max(late, c.last_late) - min(late, c.last_late), max(<size_t> 1, c.awake.n))
            c.last_late = late
            if behind >= c.period:
                skipped = behind // c.period
                c.missed += skipped * c.awake.n
                c.next += skipped * c.period
        c.next += c.period
        if c.next >= FOREVER:
            c.next = UINT64_MAX
        self.nexts[i] = c.next

    cdef bint wake(self, Wheel wheel, uint64_t now) noexcept nogil:
        """Call the agents that wait in the wheel until now; whether there are some of Python's."""
        cdef size_t n, m, begin
        cdef uint64_t began
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
            began = <uint64_t> (clock_monotonic_ns() - self.origin) if self.real else 0
            begin = 0
            while begin < n:
                kind = self.kind_of(self.woken[begin])
                m = self.of_one_cohort(kind, self.woken + begin, n - begin, &owner)
                c = self.cohorts[owner]
                if c.turns != NULL:
                    turns_come(c.turns, self.woken + begin, m, kind.base, rows, kind.states, READY, self.real, began, c.late, c.jitter)
                else:
                    self.rise(c, kind, self.woken + begin, m, began)
                begin += m
                if c.turns == NULL and self.nexts[owner] <= now:
                    self.enter(c, rows, m)  # its cohort is due at this very instant: it goes with them
                elif c.form == FORM_PYTHON or self.ordered:
                    if c.called.n == 0:
                        c.called_since = now
                    self.join(&c.called, rows, m)
                    c.version += 1
                    c.due = c.form == FORM_PYTHON and not c.away
                    python = python or c.due
                else:
                    self.call(c, owner, rows, 0, m, now, WOKEN, 0)

    cdef size_t of_one_cohort(self, Kind* kind, const uint32_t* numbers, size_t n, uint32_t* owner) noexcept nogil:
        """How many of these numbers, ascending, from the first on are of one cohort, and of which. The first is of this kind."""
        cdef uint32_t number
        cdef size_t i
        cdef bint sole = kind.cohorts == 1
        owner[0] = kind.sole if sole else kind.owner[numbers[0] - kind.base]
        if sole and numbers[n - 1] - kind.base < kind.capacity:
            return n
        for i in range(1, n):
            if i + SOON_FAR < n and not sole:  # of this kind or of the next one: a hint may be wrong
                soon(&kind.owner[numbers[i + SOON_FAR] - kind.base])
            number = numbers[i]
            if number - kind.base >= kind.capacity or (not sole and kind.owner[number - kind.base] != owner[0]):
                return i
        return n

    cdef void rise(self, Cohort* c, Kind* kind, const uint32_t* numbers, size_t n, uint64_t began) noexcept nogil:
        """Agents that slept are ready: their rows are in `scratch_rows`."""
        cdef size_t i
        cdef uint32_t row
        for i in range(n):
            if i + SOON_AHEAD < n:
                soon(&kind.states[numbers[i + SOON_AHEAD] - kind.base])
            row = numbers[i] - kind.base
            self.scratch_rows[i] = row
            kind.states[row] = READY
            if self.real:
                tally_note(c.late, began - kind.wakes[row], 1)

    cdef void turn(self) noexcept nogil:
        """The pass is over: what was published in it is read in the next."""
        cdef Py_ssize_t i
        cdef uint32_t t
        cdef Cohort* c
        if self.lines == NULL:
            return
        if self.ring is not None:
            self.drain()
        if self.away:
            self.note_unread()
        bus_turn(self.lines)
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            for t in range(c.ctx.topics):
                bus_inbox(self.lines, c.reads[t], &c.ctx.inbox[t], &c.ctx.inbox_count[t])
                bus_delivered(self.lines, c.reads[t], c.ctx.inbox_count[t])

    # --- Python's part of a pass --------------------------------------------------------------------------------------------

    @property
    def due(self):
        """Numbers of Python's cohorts that are due in the open pass."""
        return [i for i in range(self.cohorts_n) if self.cohorts[i].due]

    # --- being watched from outside -----------------------------------------------------------------------------------

    def watch(self, line):
        """Have a writable buffer of 64 bytes, aligned to 8, tell who is ticked just now (see beat.h); None ends that."""
        cdef uint64_t[::1] words
        self.beats = NULL
        self.watcher = None
        if line is not None:
            words = memoryview(line).cast("B").cast("Q")
            if words.shape[0] < 8:
                raise ValueError("a beat is written to 64 bytes")
            self.watcher = words
            self.beats = <beat*> &words[0]

    @property
    def watched(self):
        """Whether somebody looks who is ticked."""
        return self.beats != NULL

    def announce(self, Py_ssize_t cohort):
        """The agents of `rows_due`, or `turn_of`, are about to be ticked: for who watches."""
        cdef Cohort* c = self.at(cohort)
        cdef Members* m = &c.turn if self.ordered else &c.called if c.called.n else &c.awake
        if self.beats != NULL and m.n:
            beat_enter(self.beats, <uint32_t> cohort, member(m, 0), member(m, <Py_ssize_t> m.n - 1), m.n, self.made, self.now_ns)

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_cohort(self, Py_ssize_t cohort):
        """What `restore_cohort` wants, by name: rows as bytes of u32, instants as bytes of u64. Between two passes."""
        return saved_cohorts.save_cohort(self, cohort)

    def restore_cohort(self, Py_ssize_t cohort, saved):
        """Put a cohort, just added with the saved rows, into the saved state. ValueError when that does not fit."""
        saved_cohorts.restore_cohort(self, cohort, saved)
        self.deliver()

    def restore(self, uint64_t now_ns, uint64_t made):
        """Go on at an instant, after so many passes. ValueError for a schedule that has begun."""
        if self.made or self.now_ns:
            raise ValueError("only a schedule that has not begun can be restored")
        if now_ns >= FOREVER or made >= FOREVER:
            raise ValueError(f"an instant of {now_ns} ns after {made} passes is beyond the end of time")
        self.now_ns = now_ns
        self.made = made
        self.deliver()

    # --- traces -----------------------------------------------------------------------------------------------------

    def trace(self, size_t ticks=0, size_t spans=0, double ns_per_tick=1.0):
        """Keep the last so many ticks, and the last so many calls, from now on; 0 keeps none. MemoryError."""
        self.traces.keep(ticks, spans, ns_per_tick)

    def take_traces(self):
        """Ticks since the last time, the oldest first: records of 34 bytes (u64 now_ns, u64 pass, u32 cohort, u32 row, u64
        cost_ns, u8 outcome, u8 violated); and how many were overwritten before."""
        return self.traces.take_ticks()

    def take_spans(self):
        """Calls since the last time, the oldest first: records of 40 bytes (u64 began and u64 spent in counter ticks, u64
        now_ns, u64 pass, u32 cohort, u32 agents); and how many were overwritten before."""
        return self.traces.take_spans()


def counter():
    """The counter that `statistics` and `durations` are in: the processor's, where it can be trusted (`kernels.ticks.shared`)."""
    return shared().ticks()
