"""A work-stealing deque (Chase and Lev, SPAA 2005) of numbers: kernels/deque.h, for Python.

One thread, the owner, pushes and takes at one end, last in, first out; any thread steals at the other. Lock-free.
"""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "deque.h" nogil:
    enum deque_found:
        DEQUE_EMPTY
        DEQUE_GOT
        DEQUE_LOST
    ctypedef struct deque:
        pass
    int deque_init(deque*) noexcept
    void deque_free(deque*) noexcept
    int deque_push(deque*, uint64_t) noexcept
    deque_found deque_take(deque*, uint64_t*) noexcept
    deque_found deque_steal(deque*, uint64_t*) noexcept
    int64_t deque_size(deque*) noexcept

cdef extern from "lined.h" nogil:
    void* lined_new(size_t nbytes) noexcept
    void lined_free(void*) noexcept


cdef class Deque:
    """Numbers of 64 bits, without a bound but memory's."""

    cdef deque* it

    def __cinit__(self):
        self.it = <deque*> lined_new(sizeof(deque))
        if self.it == NULL or deque_init(self.it) != 0:
            raise MemoryError("no memory for a deque")

    def __dealloc__(self):
        if self.it != NULL:
            deque_free(self.it)
            lined_free(self.it)

    def __len__(self):
        """How many it held at some moment of the call."""
        return deque_size(self.it)

    def push(self, uint64_t item):
        """Owner: add at the bottom. MemoryError when it cannot grow."""
        if deque_push(self.it, item) != 0:
            raise MemoryError("no memory for a larger deque")

    def take(self):
        """Owner: what was pushed last, or None."""
        cdef uint64_t item = 0
        return item if deque_take(self.it, &item) == DEQUE_GOT else None

    def steal(self):
        """Anybody: what was pushed first, or None."""
        cdef uint64_t item = 0
        cdef deque_found found = DEQUE_LOST
        while found == DEQUE_LOST:
            found = deque_steal(self.it, &item)
        return item if found == DEQUE_GOT else None
