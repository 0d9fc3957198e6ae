from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "nano.h" nogil:
    ctypedef struct nano_line:
        pass
    ctypedef struct nano_ctx:
        pass
    ctypedef int (*nano_tick_many)(void**, const uint32_t*, size_t, uint64_t, nano_ctx*) noexcept nogil

cdef extern from "crew.h" nogil:
    enum:
        CREW_MAX
    ctypedef struct crew_chunk:
        void (*work)(void*) noexcept nogil
        void* what
        uint64_t cost
        uint64_t ns
        uint32_t thread
    ctypedef struct crew_tally:
        pass
    ctypedef struct crew_member:
        crew_tally tally
    ctypedef struct crew:
        uint32_t n
        uint32_t started
        crew_member* members
    ctypedef struct crew_outbox:
        nano_line* lines
        size_t n
        size_t most
        uint64_t refused
        const uint16_t* topics
        uint32_t topics_n
        uint16_t kind
    ctypedef struct crew_tick:
        nano_tick_many tick
        void** cols
        const uint32_t* idx
        size_t n
        uint64_t now_ns
        nano_ctx* ctx
        int outcome
    crew* crew_new(uint32_t, const int32_t*, const int32_t*, int64_t, int*) noexcept
    void crew_run(crew*, crew_chunk*, size_t) noexcept
    void crew_close(crew*) noexcept
    void crew_free(crew*) noexcept
    int crew_publish(nano_ctx*, uint32_t, uint32_t, const void*, size_t) noexcept
    void crew_tick_run(void*) noexcept
    double crew_cost(uint64_t) noexcept
    uint32_t crew_part(double, double, double, uint32_t) noexcept


cdef class Crew:
    cdef crew* it
    cdef void run(self, crew_chunk* chunks, size_t n) noexcept nogil
