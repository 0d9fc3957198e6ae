"""Calls of agents: see calls.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from kernels.cohorts cimport Cohort, Kind, ones_result
from kernels.schedule cimport Schedule
from kernels.traces cimport Traces


cdef class Calls(Schedule):
    cdef Traces traces

    cdef void call(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                   size_t place) noexcept nogil
    cdef void punish(self, Cohort* c, size_t n, ones_result* result) noexcept nogil
    cdef void again(self, Cohort* c, Kind* kind, const uint32_t* rows, size_t n, uint64_t now) noexcept nogil
    cdef void after(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                    size_t place, ones_result* result) noexcept nogil
