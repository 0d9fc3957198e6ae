cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

cdef struct Chunk
cdef struct Slot

@cython.final
cdef class Wheel:
    cdef uint64_t* missing              # of each id: the complement of the instant it is due at, 0 while it does not wait
    cdef size_t ids                     # length of `missing`
    cdef Chunk* chunks
    cdef uint32_t room                  # chunks there are
    cdef uint32_t touched               # chunks that were ever used
    cdef uint32_t free                  # first of the chunks given back
    cdef Slot* slots                    # a level after the other
    cdef uint64_t* occupied             # a bit a slot
    cdef uint64_t starts[8]             # of each level but the lowest: where its first occupied slot begins
    cdef uint64_t upper                 # the least of these
    cdef uint64_t here                  # the instant up to which slots are open: the last one that was asked about
    cdef uint64_t soonest               # the first instant at which an id is due, where that is known
    cdef bint known
    cdef uint32_t* run                  # ids out of open slots, ascending from `at` to `end`
    cdef uint32_t* scratch
    cdef uint64_t* bits                 # a bit an id, all clear between two looks
    cdef size_t run_room
    cdef size_t at
    cdef size_t end
    cdef size_t entries                 # those that wait, and those that were cancelled or moved and not met yet
    cdef uint64_t inverse               # of the odd part of the grain, modulo 2^64
    cdef int twos                       # how often 2 is in it
    cdef readonly uint64_t grain_ns
    cdef readonly size_t count

    # For kernels, without the GIL. Instants are ns of one clock, multiples of the grain; UINT64_MAX is never.
    cdef int add(self, uint32_t id, uint64_t at_ns) noexcept nogil
    cdef int add_many(self, const uint32_t* ids, size_t n, const uint64_t* times) noexcept nogil
    cdef int add_taken(self, const uint32_t* ids, size_t n, const uint64_t* times) noexcept nogil
    cdef void cancel(self, uint32_t id) noexcept nogil
    cdef size_t due(self, uint64_t now_ns, uint32_t* out, size_t most) noexcept nogil
    cdef uint64_t next_ns(self) noexcept nogil

    cdef int reserve_ids(self, uint32_t id) noexcept nogil
    cdef int reserve_entry(self, size_t ids) noexcept nogil
    cdef void extend(self, int level, uint64_t number) noexcept nogil
    cdef uint64_t following(self, int level) noexcept nogil
    cdef void begin(self, int level) noexcept nogil
    cdef uint32_t detach(self, int level, uint64_t number, uint32_t* fill) noexcept nogil
    cdef void give_back(self, uint32_t chunk) noexcept nogil
    cdef void collect(self) noexcept nogil
    cdef void expand(self, int level) noexcept nogil
    cdef void open_until(self, uint64_t now) noexcept nogil
    cdef void order(self) noexcept nogil
    cdef uint64_t earliest(self, int level, uint64_t number) noexcept nogil
    cdef void sweep(self) noexcept nogil
