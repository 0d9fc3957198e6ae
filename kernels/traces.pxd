from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kernels.cohorts cimport Cohort, call_span, tick_trace


cdef class Traces:
    cdef tick_trace* ticks              # the last ticks, in a circle, where they are wanted
    cdef size_t ticks_room
    cdef uint64_t ticks_n               # that were ever written
    cdef uint64_t ticks_taken
    cdef call_span* spans               # and the last calls
    cdef size_t spans_room
    cdef uint64_t spans_n
    cdef uint64_t spans_taken
    cdef double ns_per_tick

    cdef void note_span(self, uint64_t began, uint64_t spent, uint64_t now, uint64_t number, uint32_t owner, size_t n) noexcept nogil
    cdef void note_ticks(self, Cohort* c, uint32_t owner, const uint32_t* rows, uint32_t first, size_t start, size_t n, int outcome,
                         uint64_t spent, uint64_t now, uint64_t number, bint real) noexcept nogil
