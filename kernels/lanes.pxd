from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint8_t, uint64_t

from kernels.topics cimport nano_line

cdef extern from "lanes.h" nogil:
    enum:
        LANE_LINE
        LANE_TAIL_AT
        LANE_HEAD_AT
        LANE_DATA_AT
        LANE_DAMAGED
    const uint64_t LANE_CAPACITY_MAX
    ctypedef struct lane_spsc:
        uint8_t* base
        uint64_t capacity
    ctypedef struct lane_mpmc:
        uint8_t* base
        uint64_t capacity
    int lane_spsc_create(void*, uint64_t) noexcept
    int lane_spsc_open(lane_spsc*, void*, uint64_t) noexcept
    int lane_spsc_put(lane_spsc*, const void*) noexcept
    int lane_spsc_get(lane_spsc*, void*) noexcept
    int64_t lane_spsc_put_many(lane_spsc*, const void*, size_t) noexcept
    int64_t lane_spsc_get_many(lane_spsc*, void*, size_t) noexcept
    int64_t lane_spsc_claim(lane_spsc*, size_t, nano_line**) noexcept
    void lane_spsc_publish(lane_spsc*, size_t) noexcept
    int64_t lane_spsc_peek(lane_spsc*, size_t, const nano_line**) noexcept
    void lane_spsc_release(lane_spsc*, size_t) noexcept
    uint64_t lane_waiting(const uint8_t*, uint64_t) noexcept
    int lane_mpmc_create(void*, uint64_t) noexcept
    int lane_mpmc_open(lane_mpmc*, void*, uint64_t) noexcept
    int lane_mpmc_put(lane_mpmc*, const void*) noexcept
    int lane_mpmc_get(lane_mpmc*, void*) noexcept
    int64_t lane_mpmc_put_many(lane_mpmc*, const void*, size_t) noexcept
    int64_t lane_mpmc_get_many(lane_mpmc*, void*, size_t) noexcept

cdef class Lane:
    cdef Py_buffer raw
    cdef bint held
    cdef uint8_t* base
    cdef readonly uint64_t capacity
    cdef bint claimed                    # lines of the producer's are being written where they lie,
    cdef bint peeked                     # and of the consumer's read

    cdef int take_buffer(self, object buffer) except -1
    cdef int check(self) except -1
    cdef int check_put(self) except -1
    cdef int check_get(self) except -1
    cdef object damaged(self)
    cdef object counted(self)
    cdef int64_t put_lines(self, const void* lines, size_t n) noexcept nogil
    cdef int64_t get_lines(self, void* lines, size_t n) noexcept nogil

cdef class SpscLane(Lane):
    cdef lane_spsc* lane                 # for loops that run without the GIL; lives as long as this object

cdef class Span:
    cdef SpscLane lane
    cdef bint writes
    cdef bint open
    cdef size_t wanted
    cdef size_t lines
    cdef size_t left
    cdef const nano_line* start
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

cdef class MpmcLane(Lane):
    cdef lane_mpmc lane
