"""Calls of agents: see calls.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kernels.cohorts cimport Cohort, Kind, call_room, call_tick, nano_ctx, ones_result
from kernels.crew cimport Crew, crew_chunk
from kernels.schedule cimport Schedule
from kernels.topics cimport nano_line
from kernels.traces cimport Traces

cdef extern from "parts.h" nogil:
    enum:
        PART_ROWS
    ctypedef struct outbox "crew_outbox":
        nano_line* lines
        size_t n
        const uint16_t* topics
        uint32_t topics_n
        uint16_t kind
        uint16_t starved
        const uint64_t* rooms
        uint64_t* sent
    ctypedef struct part:
        nano_ctx ctx
        outbox out
        crew_chunk* chunk
        const call_tick* how
        void** cols
        const uint32_t* idx
        uint32_t first
        size_t start
        size_t n
        call_room room
        uint64_t** counts
        ones_result result
    int crew_publish(nano_ctx*, uint32_t, uint32_t, const void*, size_t) noexcept
    void part_run(void*) noexcept
    part* part_new() noexcept
    void part_free(part*) noexcept
    int part_fit(part*, size_t, size_t) noexcept
    void part_join(const part*, const call_room*, ones_result*) noexcept

cdef enum:
    OPENED = 256                        # calls that are run together
    PARTS_MAX = 4096                    # of one call
    UNREAD_MAX = 1 << 16                # lines kept for a cohort that is away

cdef struct Opened:
    Cohort* c
    uint32_t owner
    uint32_t* rows
    uint32_t first
    size_t n
    int how
    size_t place
    size_t begin                        # its parts
    size_t parts


cdef class Calls(Schedule):
    cdef Traces traces
    cdef Crew crew                      # None: all calls are made by the calling thread
    cdef uint64_t part                  # of the clock's ticks: what a part takes, about,
    cdef uint64_t alone                 # and below what calls are not worth several threads
    cdef part** parts
    cdef crew_chunk* chunks
    cdef size_t parts_n
    cdef size_t parts_room
    cdef Opened opened[OPENED]
    cdef size_t opened_n
    cdef uint32_t away                  # cohorts of Python's that tick elsewhere

    cdef void call(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                   size_t place) noexcept nogil
    cdef void call_alone(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                         size_t place) noexcept nogil
    cdef void prepare(self, Cohort* c, uint64_t now) noexcept nogil
    cdef void close(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                    size_t place, uint64_t span, ones_result* result) noexcept nogil
    cdef uint64_t costs(self, Cohort* c, size_t n) noexcept nogil
    cdef bint tallied(self, Cohort* c) noexcept nogil
    cdef part* next_part(self) noexcept nogil
    cdef void cut(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                   size_t place) noexcept nogil
    cdef void run_opened(self, uint64_t now) noexcept nogil
    cdef void carry(self, Cohort* c, part* it) noexcept nogil
    cdef void hand_over(self, Cohort* c) noexcept nogil
    cdef void punish(self, Cohort* c, ones_result* result) noexcept nogil
    cdef void again(self, Cohort* c, const uint32_t* rows, size_t n, uint64_t now) noexcept nogil
    cdef void after(self, Cohort* c, uint32_t owner, uint32_t* rows, uint32_t first, size_t n, uint64_t now, int how,
                    size_t place, ones_result* result) noexcept nogil
    cdef void back(self, Cohort* c, uint32_t cohort, size_t n, ones_result* result) noexcept nogil
    cdef void note_unread(self) noexcept nogil
