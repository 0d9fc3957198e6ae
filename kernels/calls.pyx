"""Calls of agents: a tick's outcomes, what it took, and what becomes of those that do not just go on."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset

from kernels.cohorts cimport *
from kernels.members cimport *
from kernels.population cimport READY, SLEEPING, SUSPENDED
from kernels.crew cimport Crew, crew_chunk
from kernels.schedule cimport Schedule, listed
from kernels.ticks cimport ticks_now, ticks_of_ns
from kernels.topics cimport bus_carry, bus_inbox, bus_outbox, nano_line
from kernels.traces cimport Traces


cdef class Calls(Schedule):
    """A schedule whose agents are called."""

    def __cinit__(self):
        self.traces = Traces()

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.parts_room):
            part_free(self.parts[i])
        free(self.parts)
        free(self.chunks)

    cdef void call(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n,
                   uint64_t now, int how, size_t place) noexcept nogil:
        """Tick n agents; those GRANTED are the stretch from `place` on of those that are awake."""
        if self.beats != NULL:
            beat_enter(self.beats, owner, rows[0] if rows != NULL else first,
                       rows[n - 1] if rows != NULL else first + <uint32_t> n - 1, n, self.made, now)
        if self.crew is not None and not c.whole and self.costs(c, n) >= self.alone:
            self.cut(c, owner, rows, first, n, now, how, place)
            self.run_opened(now)
        else:
            self.call_alone(c, owner, rows, first, n, now, how, place)
        if self.beats != NULL:
            beat_leave(self.beats)

    cdef void call_alone(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n,
                         uint64_t now, int how, size_t place) noexcept nogil:
        cdef ones_result result
        cdef void** columns = c.bases
        cdef uint32_t f
        cdef size_t i
        if not scratch(c, n):
            self.starved = True
            return
        self.prepare(c, now)
        c.ctx.first = first
        if c.form == FORM_MANY and rows == NULL:
            columns = c.shifted
            for f in range(c.fields_n):
                columns[f] = <char*> c.bases[f] + <size_t> first * c.steps[f]
        call_run(&c.how, columns, rows, first, n, now, &c.ctx, c.spent, &c.room, &result)
        if c.form == FORM_MANY:
            tally_note(c.spent, result.spent * PARTS // n, n)
            if result.over and self.real and c.on_overrun:
                for i in range(n):
                    c.room.over_places[i] = <uint32_t> i
        elif c.how.sampling == 0:
            tally_note(c.spent, result.spent // n, n)
        if self.traces.ticks_room:
            self.traces.note_ticks(c, owner, rows, first, 0, n, result.outcome, result.spent, now, self.made, self.real)
        self.close(c, owner, rows, first, n, now, how, place, result.spent, &result)

    cdef inline void prepare(self, Cohort* c, uint64_t now) noexcept nogil:
        c.ctx.pass_ = self.made
        c.ctx.now_ns = now
        c.ctx.outcomes = c.room.outcomes
        c.ctx.wake_ns = c.room.wake_ns
        c.room.spends = c.spends if self.traces.ticks_room else NULL
        if c.at_once != NULL:
            self.hand_over(c)

    cdef void hand_over(self, Cohort* c) noexcept nogil:
        """Topics that are read at once: what was published until now."""
        cdef uint32_t t
        for t in range(c.ctx.topics):
            if c.at_once[t]:
                bus_outbox(self.lines, c.reads[t], &c.ctx.inbox[t], &c.ctx.inbox_count[t])

    cdef void close(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                    size_t place, uint64_t span, ones_result* result) noexcept nogil:
        """Count what came of a call of n agents, which took so long from end to end, and see to those that leave."""
        cdef size_t i
        c.busy += result.spent
        if self.traces.spans_room:
            self.traces.note_span(result.began, span, now, self.made, owner, n)
        c.calls += 1
        c.ticks += n
        c.over += result.over
        c.made.strange += result.strange
        for i in range(5):
            c.made.outcomes[i] += result.outcomes[i]
        if result.over and self.real and c.on_overrun:
            self.punish(c, result)
        if result.leavers or how == WOKEN:
            self.after(c, owner, rows, first, n, now, how, place, result)

    # --- calls on several threads --------------------------------------------------------------------------------------

    def employ(self, Crew crew, uint64_t part_ns=20_000, uint64_t alone_ns=50_000):
        """Have a crew run native calls, in parts that take about so long; what takes less than `alone_ns` together is run by
        the calling thread alone. None: no crew. Nothing that comes of a call depends on it."""
        if part_ns < 1:
            raise ValueError("a part takes 1 ns at least")
        self.crew = crew
        self.part = max(<uint64_t> 1, ticks_of_ns(self.counts, part_ns))
        self.alone = ticks_of_ns(self.counts, alone_ns)

    cdef uint64_t costs(self, Cohort* c, size_t n) noexcept nogil:
        """What n agents will take, of the clock's ticks: as they did until now, else as declared, else 2 ns each."""
        if c.ticks:
            return <uint64_t> (<double> c.busy / <double> c.ticks * <double> n)
        return n * (c.how.budget if c.how.budget else max(<uint64_t> 1, ticks_of_ns(self.counts, 2)))

    cdef bint tallied(self, Cohort* c) noexcept nogil:
        """Whether each thread has a tally for a cohort that is measured agent by agent."""
        cdef uint32_t t, n = self.crew.it.n
        cdef uint64_t** grown
        if c.form != FORM_ONE or c.tallies_n >= n:
            return True
        grown = <uint64_t**> realloc(c.tallies, n * sizeof(void*))
        if grown == NULL:
            return False
        c.tallies = grown
        grown[0] = c.spent
        for t in range(max(<uint32_t> 1, c.tallies_n), n):
            grown[t] = <uint64_t*> calloc(TALLY_BUCKETS, 8)
            if grown[t] == NULL:
                c.tallies_n = t
                return False
        c.tallies_n = n
        return True

    cdef part* next_part(self) noexcept nogil:
        cdef size_t room = max(<size_t> 64, 2 * self.parts_room)
        cdef part** parts
        cdef crew_chunk* chunks
        if self.parts_n == self.parts_room:
            parts = <part**> realloc(self.parts, room * sizeof(void*))
            if parts == NULL:
                return NULL
            self.parts = parts
            memset(parts + self.parts_room, 0, (room - self.parts_room) * sizeof(void*))
            chunks = <crew_chunk*> realloc(self.chunks, room * sizeof(crew_chunk))
            if chunks == NULL:
                return NULL
            self.chunks = chunks
            self.parts_room = room
        if self.parts[self.parts_n] == NULL:
            self.parts[self.parts_n] = part_new()
        return self.parts[self.parts_n]

    cdef void cut(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                   size_t place) noexcept nogil:
        """Cut a call into parts, which run_opened() runs; by the calling thread at once where there is no memory for that."""
        cdef size_t start = 0, end, most, before = self.parts_n
        cdef uint64_t each
        cdef uint32_t f
        cdef part* it
        cdef Opened* opened
        if self.opened_n == OPENED:
            self.run_opened(now)
            before = 0
        if not scratch(c, n):
            self.starved = True
            return
        self.prepare(c, now)
        each = max(<uint64_t> 1, self.costs(c, n) // n)
        most = max(<size_t> (self.part // each), n // PARTS_MAX + 1)
        most += PART_ROWS - 1
        most -= most % PART_ROWS
        opened = &self.opened[self.opened_n]
        opened.c, opened.owner, opened.rows, opened.first, opened.n = c, owner, rows, first, n
        opened.how, opened.place, opened.begin = how, place, before
        it = NULL
        if self.tallied(c):
            while start < n:
                end = min(n, start + most)
                if rows == NULL and end < n:
                    end -= min((first + end) % PART_ROWS, end - start - 1)
                it = self.next_part()
                if it == NULL or not part_fit(it, c.fields_n, c.link.topics_n):
                    it = NULL
                    break
                it.ctx = c.ctx
                it.ctx.first = first + <uint32_t> start
                it.ctx.outcomes = c.room.outcomes + start
                it.ctx.wake_ns = c.room.wake_ns + start
                it.ctx.publish = &crew_publish
                it.ctx.bus = &it.out
                it.out.topics = c.link.topics
                it.out.rooms = c.link.rooms
                it.out.topics_n = c.link.topics_n
                it.out.kind = c.link.kind
                it.how = &c.how
                it.first = it.ctx.first
                it.idx = rows + start if rows != NULL else NULL
                it.start = start
                it.n = end - start
                it.counts = c.tallies
                it.room.places = c.room.places + start
                it.room.left_by = c.room.left_by + start
                it.room.wakes = c.room.wakes + start
                it.room.over_places = c.room.over_places + start
                it.room.outcomes = it.ctx.outcomes
                it.room.wake_ns = it.ctx.wake_ns
                it.room.spends = c.room.spends + start if c.room.spends != NULL else NULL
                for f in range(c.fields_n):
                    it.cols[f] = c.bases[f]
                    if c.form == FORM_MANY and rows == NULL:
                        it.cols[f] = <char*> it.cols[f] + <size_t> it.first * c.steps[f]
                self.chunks[self.parts_n].work = part_run
                self.chunks[self.parts_n].what = it
                self.chunks[self.parts_n].cost = each * it.n
                self.parts_n += 1
                start = end
        if it == NULL:
            self.parts_n = before
            self.run_opened(now)
            self.call_alone(c, owner, rows, first, n, now, how, place)
            return
        opened.parts = self.parts_n - before
        self.opened_n += 1

    cdef void run_opened(self, uint64_t now) noexcept nogil:
        """Run what was opened; then all is as if each call had been made by itself, in their order."""
        cdef size_t i, k
        cdef Opened* it
        cdef Cohort* c
        cdef part* each
        cdef ones_result result
        cdef uint64_t end
        for i in range(self.parts_n):
            self.parts[i].chunk = &self.chunks[i]
        if self.parts_n:
            self.crew.run(self.chunks, self.parts_n)
        for i in range(self.opened_n):
            it = &self.opened[i]
            c = it.c
            memset(&result, 0, sizeof(result))
            end = 0
            for k in range(it.begin, it.begin + it.parts):
                each = self.parts[k]
                self.carry(c, each)
                part_join(each, &c.room, &result)
                end = max(end, each.result.began + each.result.spent)
                if c.form == FORM_MANY:
                    tally_note(c.spent, each.result.spent * PARTS // each.n, each.n)
                elif c.how.sampling == 0:
                    tally_note(c.spent, each.result.spent // each.n, each.n)
                if self.traces.ticks_room:
                    self.traces.note_ticks(c, it.owner, each.idx, each.first, each.start, each.n, each.result.outcome,
                                           each.result.spent, now, self.made, self.real)
            self.close(c, it.owner, it.rows, it.first, it.n, now, it.how, it.place, end - result.began, &result)
        self.parts_n = self.opened_n = 0

    cdef void carry(self, Cohort* c, part* it) noexcept nogil:
        """Take what a part published to the bus."""
        cdef uint32_t t
        if it.out.starved:
            self.starved = True
        if c.link.topics_n == 0:
            return
        bus_carry(self.lines, it.out.lines, it.out.n)
        for t in range(c.link.topics_n):
            if it.out.sent[t] > c.link.rooms[t]:
                self.lines.topic[c.link.topics[t]].counters.dropped += it.out.sent[t] - c.link.rooms[t]

    cdef void punish(self, Cohort* c, ones_result* result) noexcept nogil:
        """Those that were over their budget leave as well. Both lists are in the order of places: they are merged from the
        back, into the room behind."""
        cdef int64_t i = <int64_t> result.leavers - 1, j = <int64_t> result.over - 1
        cdef int64_t at, most = -1
        cdef uint32_t place, before
        cdef uint8_t what = <uint8_t> (OVER + c.on_overrun)
        # how many there are of either
        most = 0
        at = 0
        while at <= i and most < <int64_t> result.over:
            place = c.room.places[at]
            while most < <int64_t> result.over and c.room.over_places[most] < place:
                most += 1
            if most < <int64_t> result.over and c.room.over_places[most] == place:
                c.room.left_by[at] = what if c.room.left_by[at] != NANO_DONE else NANO_DONE
                # it is there already: taken out of the second list
                memmove(&c.room.over_places[most], &c.room.over_places[most + 1], (<size_t> result.over - most - 1) * 4)
                result.over -= 1
            at += 1
        j = <int64_t> result.over - 1
        at = i + j + 1
        result.leavers = <size_t> (at + 1)
        while at >= 0 and j >= 0:
            before = c.room.places[i] if i >= 0 else 0
            if i >= 0 and before > c.room.over_places[j]:
                c.room.places[at] = before
                c.room.left_by[at] = c.room.left_by[i]
                c.room.wakes[at] = c.room.wakes[i]
                i -= 1
            else:
                c.room.places[at] = c.room.over_places[j]
                c.room.left_by[at] = what
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
        elif c.turns != NULL and not result.leavers:
            self.again(c, rows, n, now)
            return
        for i in range(n):
            row = rows[i]
            if at < result.leavers and c.room.places[at] == i:
                self.leave(c, kind, owner, row, now, c.room.left_by[at], c.room.wakes[at])
                at += 1
            elif how == WOKEN and c.turns != NULL:
                if self.wait(c, row, turn_after(c.turns[row].wake, c.turns[row].period, now, &c.missed)) < 0:
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

    cdef void again(self, Cohort* c, const uint32_t* rows, size_t n, uint64_t now) noexcept nogil:
        """Agents with rates of their own, all of whom stay, wait for their next turns."""
        c.missed += turns_go(c.turns, rows, n, c.base, now, c.room.places, c.room.wakes)
        if self.wheel.add_taken(c.room.places, n, c.room.wakes) < 0:
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
        if self.beats != NULL:
            beat_leave(self.beats)
        if c.away:
            n = c.turn.n if c.open == WOKEN else c.awake.n
        else:
            n = c.turn.n if self.ordered else c.called.n if c.called.n else c.awake.n
        if not scratch(c, max(<size_t> 1, n)):
            raise MemoryError("no memory for a cohort's outcomes")
        memset(&result, 0, sizeof(result))
        for place, outcome, wake in leavers:
            if not 0 <= place < <Py_ssize_t> n or (i and place <= c.room.places[i - 1]) or outcome not in (2, 3, 4):
                raise ValueError(f"({place}, {outcome}) is no outcome of one of {n} agents, in their order")
            c.room.places[i] = place
            c.room.left_by[i] = outcome
            c.room.wakes[i] = wake
            result.outcomes[<int> outcome] += 1
            i += 1
        result.leavers = i
        result.outcomes[NANO_IDLE] = min(idle, n - i)
        result.outcomes[NANO_WORKED] = n - i - result.outcomes[NANO_IDLE]
        if self.traces.spans_room:
            self.traces.note_span(ticks_now(self.counts) - spent, spent, self.now_ns, self.made, <uint32_t> cohort, n)
        if self.traces.ticks_room:
            for i in range(n):
                c.room.outcomes[i] = NANO_WORKED
            for i in range(result.leavers):
                c.room.outcomes[c.room.places[i]] = c.room.left_by[i]
            if c.away:
                rows = c.turn.rows if c.open == WOKEN else c.awake.rows
            else:
                rows = c.turn.rows if self.ordered else c.called.rows if c.called.n else c.awake.rows
            self.traces.note_ticks(c, <uint32_t> cohort, rows, c.awake.first, 0, n, NANO_EACH, spent, self.now_ns, self.made, self.real)
        c.calls += 1
        c.ticks += n
        c.busy += spent
        if n:
            tally_note(c.spent, spent * PARTS // n, n)
        for i in range(5):
            c.made.outcomes[i] += result.outcomes[i]
        if n and c.how.budget and spent > c.how.budget * n:
            c.over += n
            result.over = n
            if self.real and c.on_overrun:
                for i in range(n):
                    c.room.over_places[i] = <uint32_t> i
                self.punish(c, &result)
        if c.away:
            self.back(c, <uint32_t> cohort, n, &result)
        elif self.ordered:
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

    def send(self, Py_ssize_t cohort):
        """The agents of `rows_due` tick elsewhere from now on, and passes go on: their next turns are missed until `settle` says
        what came of them."""
        cdef Cohort* c = self.at(cohort)
        cdef Members taken
        if c.form != FORM_PYTHON or c.away or self.ordered:
            raise ValueError(f"the agents of cohort {cohort} cannot be sent away")
        c.open = TOGETHER
        if c.called.n:
            taken = c.turn
            c.turn = c.called
            c.called = taken
            c.called.n = 0
            c.open = WOKEN
            c.version += 1
        c.away = True
        c.due = False
        c.sent = self.made
        self.away += 1

    cdef void back(self, Cohort* c, uint32_t cohort, size_t n, ones_result* result) noexcept nogil:
        """Those that were away are there again; who was to be called meanwhile is called now."""
        cdef Kind* kind = &self.kinds[c.ctx.kind]
        cdef size_t i
        c.away = False
        self.away -= 1
        if c.open == WOKEN:
            self.after(c, cohort, c.turn.rows, 0, n, self.now_ns, WOKEN, 0, result)
        elif result.leavers:
            self.after(c, cohort, NULL, 0, n, self.now_ns, TOGETHER, 0, result)
        c.open = -1
        self.join(&c.awake, c.joining.rows, c.joining.n)
        c.joining.n = 0
        for i in range(c.called.n):
            kind.states[c.called.rows[i]] = SLEEPING
            if c.turns != NULL:
                c.turns[c.called.rows[i]].asleep = True
            if self.wheel.add(c.base + c.called.rows[i], self.ceil(self.now_ns)) < 0:
                self.starved = True
        c.called.n = 0
        c.version += 1

    def heard(self, Py_ssize_t cohort, uint16_t topic):
        """The lines of a topic that those of a cohort who were away have not read yet, and those of the pass before. To be asked
        for each topic that they read before `send`; `forget_heard` when all were."""
        cdef Cohort* c = self.at(cohort)
        cdef const nano_line* lines
        cdef uint64_t count
        cdef size_t i
        found = bytearray()
        for i in range(c.unread_n):
            if c.unread[i].topic == topic:
                found += (<const char*> &c.unread[i])[:sizeof(nano_line)]
        bus_inbox(self.lines, topic, &lines, &count)
        found += (<const char*> lines)[:count * sizeof(nano_line)]
        return bytes(found)

    def forget_heard(self, Py_ssize_t cohort):
        """What was not read has been."""
        self.at(cohort).unread_n = 0

    cdef void note_unread(self) noexcept nogil:
        """Before the messages of a pass go: they are kept for those who are away."""
        cdef Py_ssize_t i
        cdef uint32_t t
        cdef Cohort* c
        cdef const nano_line* lines
        cdef nano_line* grown
        cdef uint64_t count, fits
        for i in range(self.cohorts_n):
            c = self.cohorts[i]
            if not c.away or c.sent == self.made - 1:  # a pass that is over has been counted
                continue
            for t in range(c.ctx.topics):
                bus_inbox(self.lines, c.reads[t], &lines, &count)
                fits = min(count, <uint64_t> (UNREAD_MAX - c.unread_n))
                if c.unread_n + fits > c.unread_room:
                    grown = <nano_line*> realloc(c.unread, max(<size_t> 64, 2 * (c.unread_n + fits)) * sizeof(nano_line))
                    if grown == NULL:
                        self.starved = True
                        return
                    c.unread = grown
                    c.unread_room = max(<size_t> 64, 2 * (c.unread_n + fits))
                memcpy(c.unread + c.unread_n, lines, fits * sizeof(nano_line))
                c.unread_n += fits
                self.lines.topic[c.reads[t]].counters.dropped += count - fits
