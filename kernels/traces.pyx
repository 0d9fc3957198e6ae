"""The last ticks and the last calls of a schedule, in circles, for critics and profiles."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from kernels.cohorts cimport FORM_ONE, NANO_DONE, NANO_EACH, Cohort, call_span, tick_trace


cdef class Traces:
    """Two circles, of which none is kept before it is asked for."""

    def __dealloc__(self):
        free(self.ticks)
        free(self.spans)

    def keep(self, size_t ticks, size_t spans, double ns_per_tick):
        """The last so many ticks, and the last so many calls, from now on; 0 keeps none. MemoryError."""
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
        free(self.ticks)
        free(self.spans)
        self.ticks, self.ticks_room = traces, ticks
        self.spans, self.spans_room = calls, spans
        self.ticks_n = self.ticks_taken = self.spans_n = self.spans_taken = 0
        self.ns_per_tick = ns_per_tick

    def take_ticks(self):
        """Ticks since the last time, the oldest first: records of 34 bytes (u64 now_ns, u64 pass, u32 cohort, u32 row, u64
        cost_ns, u8 outcome, u8 violated); and how many were overwritten before."""
        return take_circle(
            <const char*> self.ticks, sizeof(tick_trace), self.ticks_room, self.ticks_n, &self.ticks_taken
        )

    def take_spans(self):
        """Calls since the last time, the oldest first: records of 40 bytes (u64 began and u64 spent in counter ticks, u64
        now_ns, u64 pass, u32 cohort, u32 agents); and how many were overwritten before."""
        return take_circle(<const char*> self.spans, sizeof(call_span), self.spans_room, self.spans_n, &self.spans_taken)

    cdef void note_span(self, uint64_t began, uint64_t spent, uint64_t now, uint64_t number, uint32_t owner, size_t n) noexcept nogil:
        """A call of n agents of a cohort."""
        self.spans[self.spans_n % self.spans_room] = call_span(began, spent, now, number, owner, <uint32_t> n)
        self.spans_n += 1

    cdef void note_ticks(self, Cohort* c, uint32_t owner, const uint32_t* rows, uint32_t first, size_t start, size_t n, int outcome,
                         uint64_t spent, uint64_t now, uint64_t number, bint real) noexcept nogil:
        """Traces of n agents, from the `start`-th of a call on; `outcome` is that of all, or NANO_EACH. In virtual time a tick costs what was declared."""
        cdef size_t i
        cdef tick_trace* it
        cdef uint64_t each = spent // n if n else 0
        for i in range(n):
            it = &self.ticks[self.ticks_n % self.ticks_room]
            self.ticks_n += 1
            if c.form == FORM_ONE:
                each = c.spends[start + i]
            it.now_ns = now
            it.pass_ = number
            it.cohort = owner
            it.row = rows[i] if rows != NULL else first + <uint32_t> i
            it.cost_ns = <uint64_t> (<double> (each if real else c.how.budget) * self.ns_per_tick)
            it.violated = real and c.how.budget != 0 and each > c.how.budget
            it.outcome = <uint8_t> outcome if outcome != NANO_EACH else min(<uint8_t> NANO_DONE, c.room.outcomes[start + i])


cdef object take_circle(const char* start, size_t size, size_t room, uint64_t n, uint64_t* taken):
    cdef uint64_t begin = max(taken[0], n - room if n > room else 0), lost = begin - taken[0]
    cdef size_t at, first
    taken[0] = n
    if n == begin:
        return b"", lost
    at = begin % room
    first = min(<size_t> (n - begin), room - at)
    return start[at * size:(at + first) * size] + start[:(<size_t> (n - begin) - first) * size], lost
