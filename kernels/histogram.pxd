from libc.stdint cimport uint64_t

cdef class Histogram:
    cdef uint64_t* counts
    cdef uint64_t least
    cdef uint64_t most
    cdef readonly uint64_t count
    cdef uint64_t total                 # of sum_ns, the lower 64 bits
    cdef uint64_t carried               # and the upper ones

    cdef void note_many(self, uint64_t ns, uint64_t times) noexcept nogil
