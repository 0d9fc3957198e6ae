from libc.stdint cimport uint32_t, uint64_t

cdef extern from "ticks.h" nogil:
    struct ticks_clock:
        uint64_t base
        uint64_t base_ns
        uint64_t mult
        uint64_t back_mult
        uint32_t shift
        uint32_t counter
    uint64_t ticks_read() noexcept
    uint64_t ticks_system() noexcept
    uint64_t ticks_now(const ticks_clock*) noexcept
    uint64_t ticks_scaled(uint64_t, uint64_t, uint32_t) noexcept
    uint64_t ticks_duration_ns(const ticks_clock*, uint64_t) noexcept
    uint64_t ticks_of_ns(const ticks_clock*, uint64_t) noexcept
    uint64_t ticks_to_ns(const ticks_clock*, uint64_t) noexcept

cdef class Calibration:
    cdef ticks_clock clock              # for kernels; refit() changes it, so not while a loop without the GIL reads it
    cdef readonly str source
    cdef readonly str reason
    cdef readonly double uncertainty_ppm
    cdef readonly double drift_ppm
    cdef readonly int refits
    cdef object first
    cdef object last

    cdef fall_back(self, str reason)
    cdef begin(self, first, last)
    cdef tell(self, mult)
