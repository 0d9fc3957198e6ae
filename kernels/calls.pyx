"""Calls of agents: a tick's outcomes, what it took, and what becomes of those that do not just go on."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove, memset

from kernels.cohorts cimport *
from kernels.members cimport *
from kernels.population cimport READY, SLEEPING, SUSPENDED
from kernels.schedule cimport Schedule, listed
from kernels.ticks cimport ticks_now
from kernels.traces cimport Traces


cdef inline uint64_t following(Cohort* c, uint64_t wake, uint64_t period, uint64_t now) noexcept nogil:
    """The instant, beyond this one, at which an agent with a rate of its own is due after `wake`; those left out are missed."""
    cdef uint64_t skipped
    wake += period
    if wake <= now:
        skipped = (now - wake) // period + 1
        c.missed += skipped
        wake += skipped * period
    return wake


cdef class Calls(Schedule):
    """A schedule whose agents are called."""

    def __cinit__(self):
        self.traces = Traces()

    cdef void call(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n,
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
        began = ticks_now(self.counts)
        if c.form == FORM_MANY:
            if rows == NULL:
                for f in range(c.fields_n):
                    c.shifted[f] = <char*> c.bases[f] + <size_t> first * c.steps[f]
                outcome = (<nano_tick_many> c.tick)(c.shifted, NULL, n, now, &c.ctx)
            else:
                outcome = (<nano_tick_many> c.tick)(c.bases, rows, n, now, &c.ctx)
            spent = ticks_now(self.counts) - began
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
                     c.budget if c.budget else UINT64_MAX, self.counts, c.spent, c.places, c.wakes, c.left_by, c.over_places,
                     c.spends if self.traces.ticks_room else NULL, &result)
            spent = ticks_now(self.counts) - began
            c.busy += spent
            outcome = NANO_EACH
        if self.traces.spans_room:
            self.traces.note_span(began, spent, now, self.made, owner, n)
        if self.traces.ticks_room:
            self.traces.note_ticks(c, owner, rows, first, n, outcome, spent, now, self.made, self.real)
        c.calls += 1
        c.ticks += n
        c.over += result.over
        c.made.strange += result.strange
        for i in range(5):
            c.made.outcomes[i] += result.outcomes[i]
        if result.over and self.real and c.on_overrun:
            self.punish(c, n, &result)
        if result.leavers or how == WOKEN:
            self.after(c, owner, rows, first, n, now, how, place, &result)

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

    cdef void after(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n,
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
        elif c.periods != NULL and not result.leavers:
            self.again(c, kind, rows, n, now)
            return
        for i in range(n):
            row = rows[i]
            if at < result.leavers and c.places[at] == i:
                self.leave(c, kind, owner, row, now, c.left_by[at], c.wakes[at])
                at += 1
            elif how == WOKEN and c.periods != NULL:
                if self.wait(c, row, following(c, kind.wakes[row], c.periods[row], now)) < 0:
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

    cdef void again(self, Cohort* c, Kind* kind, const uint32_t* rows, size_t n, uint64_t now) noexcept nogil:
        """Agents with rates of their own, all of whom stay, wait for their next turns."""
        cdef size_t i
        cdef uint32_t row
        cdef uint64_t wake
        for i in range(n):
            row = rows[i]
            wake = following(c, kind.wakes[row], c.periods[row], now)
            kind.wakes[row] = wake
            c.places[i] = c.base + row
            c.wakes[i] = wake
        if self.wheel.add_many(c.places, n, c.wakes) < 0:
            self.starved = True

    # --- Python's part of a pass --------------------------------------------------------------------------------------------

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
        cdef const uint32_t* rows
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
        if self.traces.spans_room:
            self.traces.note_span(ticks_now(self.counts) - spent, spent, self.now_ns, self.made, <uint32_t> cohort, n)
        if self.traces.ticks_room:
            for i in range(n):
                c.outcomes[i] = NANO_WORKED
            for i in range(result.leavers):
                c.outcomes[c.places[i]] = c.left_by[i]
            rows = c.turn.rows if self.ordered else c.called.rows if c.called.n else c.awake.rows
            self.traces.note_ticks(c, <uint32_t> cohort, rows, c.awake.first, n, NANO_EACH, spent, self.now_ns, self.made, self.real)
        c.calls += 1
        c.ticks += n
        c.busy += spent
        if n:
            tally_note(c.spent, spent * PARTS // n, n)
        for i in range(5):
            c.made.outcomes[i] += result.outcomes[i]
        if self.ordered:
            if c.open == WOKEN:
                self.after(c, <uint32_t> cohort, c.turn.rows, 0, n, self.now_ns, WOKEN, 0, &result)
            elif result.leavers:
                self.after(c, <uint32_t> cohort, NULL, 0, n, self.now_ns, GRANTED, c.open_at, &result)
            c.open = -1
        elif c.called.n:
            taken = c.called
            memset(&c.called, 0, sizeof(Members))
            c.version += 1
            self.after(c, <uint32_t> cohort, taken.rows, 0, taken.n, self.now_ns, WOKEN, 0, &result)
            free(taken.rows)
        elif result.leavers:
            self.after(c, <uint32_t> cohort, NULL, 0, n, self.now_ns, TOGETHER, 0, &result)
        if self.starved:
            self.starved = False
            raise MemoryError("no memory to go on with every agent")
