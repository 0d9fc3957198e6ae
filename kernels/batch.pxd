cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "wire.h" nogil:
    uint32_t load_le32(const void*) noexcept
    void store_le32(void*, uint32_t) noexcept

cdef class Columns:
    cdef object view                     # memoryview of the whole buffer, read-only bytes; keeps it alive
    cdef const uint8_t* data
    cdef uint64_t* ends                  # where payload i ends in the buffer; read from the wire once, checked once
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t nbytes
    cdef Py_ssize_t head                 # bytes before the payloads

    cdef int open(self, object buffer, object count, Py_ssize_t head_each, Py_ssize_t lengths_at) except -1
    cdef int within(self, Py_ssize_t i) except -1

    @cython.final
    cdef inline Py_ssize_t start_of(self, Py_ssize_t i) noexcept nogil:
        return <Py_ssize_t> self.ends[i - 1] if i else self.head

cdef class Calls(Columns):
    pass

cdef class Outcomes(Columns):
    cdef readonly bint all_ok
    cdef readonly uint64_t run_us_total

    @cython.final
    cdef inline uint32_t index_at(self, Py_ssize_t i) noexcept nogil:
        return load_le32(self.data + 4 * i)

    @cython.final
    cdef inline uint8_t status_at(self, Py_ssize_t i) noexcept nogil:
        return self.data[12 * self.count + i]
