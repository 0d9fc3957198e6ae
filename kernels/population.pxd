from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    FREE = 0
    READY = 1
    SLEEPING = 2
    SUSPENDED = 3


cdef class Population:
    cdef void** bases                   # where row 0 of each field lies
    cdef size_t* steps                  # bytes from a row to the next, a field each
    cdef size_t* widths                 # bytes of a field
    cdef void** blocks                  # what was reserved
    cdef size_t* sizes
    cdef Py_ssize_t blocks_n
    cdef uint32_t* generations
    cdef uint8_t* states
    cdef uint32_t* freed                # a stack of freed rows
    cdef uint32_t freed_n
    cdef bint freed_sorted
    cdef readonly uint32_t capacity
    cdef readonly uint32_t top          # rows that were ever used
    cdef readonly uint32_t alive
    cdef readonly uint32_t fields_n
    cdef readonly tuple fields
    cdef readonly str layout
    cdef size_t row_bytes
    cdef void grow(self, uint32_t top) noexcept
    cdef int need(self, Py_ssize_t field) except -1
    cdef void* block(self, size_t nbytes) except NULL
    cdef void clear(self, uint32_t row) noexcept nogil
    cdef bint drop(self, uint32_t row) noexcept nogil
