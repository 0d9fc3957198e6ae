from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

cdef struct Deadline:
    uint64_t at_ns
    uint32_t id

cdef class Deadlines:
    cdef Deadline* heap
    cdef uint32_t* places               # of each id, its place in the heap plus 1; 0 while it is not in it
    cdef size_t ids
    cdef size_t room
    cdef readonly size_t count

    # For kernels, without the GIL.
    cdef int add(self, uint32_t id, uint64_t at_ns) noexcept nogil
    cdef bint cancel(self, uint32_t id) noexcept nogil
    cdef bint first(self, Deadline* out) noexcept nogil
    cdef size_t due(self, uint64_t now_ns, uint32_t* out, size_t most) noexcept nogil

    cdef int reserve(self, uint32_t id) noexcept nogil
    cdef void sift(self, size_t place, uint32_t id, uint64_t at_ns) noexcept nogil
    cdef void take_out(self, size_t place) noexcept nogil
