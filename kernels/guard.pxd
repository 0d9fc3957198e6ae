from libc.stdint cimport uint32_t, uint64_t

from kernels.histogram cimport Histogram
from kernels.ticks cimport Calibration, ticks_clock

cdef extern from "guard.h" nogil:
    cdef enum:
        GUARD_NEAR
        GUARD_FAR
    struct guard_far:
        uint64_t ticks
        uint64_t agents
    struct guard:
        const ticks_clock* clock
        uint64_t budget
        uint64_t last
        uint64_t measured
        uint64_t violations
        uint64_t worst
        uint64_t backwards
        uint64_t every
        uint64_t left
        uint64_t draw
        void (*full)(guard*) noexcept nogil
        void* owner
        uint32_t far_count
        guard_far* far
        uint64_t* near
    void guard_begin(guard*) noexcept
    int guard_chain(guard*) noexcept
    int guard_look(guard*) noexcept
    int guard_seen(guard*, int looked) noexcept
    int guard_span(guard*, uint64_t n) noexcept
    int guard_take(guard*, uint64_t ticks) noexcept
    int guard_take_many(guard*, uint64_t ticks, uint64_t n) noexcept

cdef class Guard:
    cdef guard state                    # for kernels
    cdef readonly Calibration clock
    cdef Histogram counted
    cdef void flush(self) noexcept nogil
