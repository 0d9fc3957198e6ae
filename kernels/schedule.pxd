"""Who is scheduled, and who waits: see schedule.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

from kernels.cohorts cimport Cohort, Event, Kind, beat
from kernels.members cimport Members
from kernels.population cimport Population
from kernels.ticks cimport Calibration, ticks_clock
from kernels.topics cimport Bus, nano_bus
from kernels.wheel cimport Wheel


cdef class Schedule:
    cdef Cohort** cohorts
    cdef uint64_t* nexts                # of each cohort, side by side
    cdef Py_ssize_t cohorts_n
    cdef Py_ssize_t cohorts_room
    cdef Kind* kinds
    cdef Py_ssize_t kinds_n
    cdef list populations
    cdef dict kept                      # of each cohort, what must live as long as its address is used
    cdef Wheel wheel
    cdef Bus bus
    cdef nano_bus* lines                # of the bus; NULL without one
    cdef Event* events
    cdef size_t events_n
    cdef size_t events_room
    cdef uint32_t* woken
    cdef uint32_t* scratch_rows
    cdef readonly uint64_t seed
    cdef readonly uint64_t resolution_ns
    cdef readonly uint64_t now_ns
    cdef readonly uint64_t made
    cdef readonly uint64_t spin_ns
    cdef readonly bint real
    cdef bint inside                    # a pass waits for Python's part of it
    cdef bint calling                   # native ticks run: who is scheduled stays as it is
    cdef bint ordered                   # a topology says who gets a turn
    cdef uint64_t behind_until          # an instant at which those still owed a turn may have it
    cdef beat* beats                    # who is ticked just now, for who watches from outside; NULL when nobody does
    cdef object watcher                 # the memory that it lies in
    cdef bint starved                   # memory ran out inside a pass
    cdef readonly Calibration clock     # of what calls take
    cdef const ticks_clock* counts

    cdef bint blocks(self, Cohort* c) noexcept nogil
    cdef int grow_cohorts(self) except -1
    cdef int place(self, Cohort* c, Py_ssize_t into) except -1
    cdef int still(self) except -1
    cdef int fill(self, Cohort* c, Population population, uint32_t kind, int form, uintptr_t address) except -1
    cdef int wire(self, Cohort* c, reads, writes, at_once) except -1
    cdef Kind* kind_of(self, uint32_t number) noexcept nogil
    cdef void leave(self, Cohort* c, Kind* kind, uint32_t owner, uint32_t row, uint64_t now, uint8_t how, uint64_t wake) noexcept nogil
    cdef void tell(self, uint32_t owner, uint32_t row, uint64_t now, uint8_t what) noexcept nogil
    cdef int wait(self, Cohort* c, uint32_t row, uint64_t at) noexcept nogil
    cdef void enter(self, Cohort* c, const uint32_t* rows, size_t n) noexcept nogil
    cdef void join(self, Members* m, const uint32_t* rows, size_t n) noexcept nogil
    cdef void deliver(self) noexcept nogil
    cdef uint64_t ceil(self, uint64_t at) noexcept nogil
    cdef int rouse(self, Cohort* c, list rows) except -1
    cdef Population kind_population(self, uint32_t kind)
    cdef int forget(self, uint32_t kind, uint32_t row) except -1
    cdef bint is_owed(self, Cohort* c, uint32_t row) noexcept nogil
    cdef Cohort* at(self, Py_ssize_t cohort) except NULL

cdef int set_members(Cohort* c, rows) except -1
cdef object listed(const Members* m)
