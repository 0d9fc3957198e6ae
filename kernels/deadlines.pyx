"""Deadlines of ids, the earliest first: a heap in which a deadline can be moved.

A heap of four children a node (Johnson, "Priority queues with update and finding minimum spanning trees", 1975; LaMarca
and Ladner, "The influence of caches on the performance of heaps", 1996): half as deep as a binary one, and the children of
a node lie in one line of the cache. An id's place is remembered, so moving and cancelling are O(log n).

Unlike the timer wheel it takes any instant, earlier ones as well; for firing at rates the wheel is faster.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline bint before(uint64_t at_ns, uint32_t id, const Deadline* other) noexcept nogil:
    return at_ns < other.at_ns or (at_ns == other.at_ns and id < other.id)


cdef class Deadlines:
    """Ids (32 bits, each once at most) by (instant, id). Room is taken for all ids up to the greatest, 4 bytes each."""

    def __cinit__(self, ids=1024):
        if not 1 <= ids <= 1 << 32:
            raise ValueError(f"room for {ids} ids; it is 1 to 2^32")
        self.ids = ids
        self.places = <uint32_t*> PyMem_RawCalloc(self.ids, 4)
        if self.places == NULL:
            raise MemoryError(f"no memory for deadlines of {ids} ids")

    def __dealloc__(self):
        PyMem_RawFree(self.heap)
        PyMem_RawFree(self.places)

    cdef int reserve(self, uint32_t id) noexcept nogil:
        cdef size_t ids
        cdef void* grown
        if id >= self.ids:
            ids = max(self.ids * 2, <size_t> id + 1)
            grown = PyMem_RawCalloc(ids, 4)         # not realloc: pages that no id needs stay untouched
            if grown == NULL:
                return -1
            memcpy(grown, self.places, self.ids * 4)
            PyMem_RawFree(self.places)
            self.places = <uint32_t*> grown
            self.ids = ids
        if self.count == self.room:
            grown = PyMem_RawRealloc(self.heap, (2 * self.room + 16) * sizeof(Deadline))
            if grown == NULL:
                return -1
            self.heap = <Deadline*> grown
            self.room = 2 * self.room + 16
        return 0

    cdef void sift(self, size_t place, uint32_t id, uint64_t at_ns) noexcept nogil:
        """Put an id at this free place, or wherever above or below it belongs."""
        cdef size_t parent, child, least, last
        cdef Deadline* heap = self.heap
        while place:
            parent = (place - 1) >> 2
            if not before(at_ns, id, &heap[parent]):
                break
            heap[place] = heap[parent]
            self.places[heap[place].id] = <uint32_t> place + 1
            place = parent
        while True:
            child = 4 * place + 1
            if child >= self.count:
                break
            last = min(child + 4, self.count)
            least = child
            child += 1
            while child < last:
                if before(heap[child].at_ns, heap[child].id, &heap[least]):
                    least = child
                child += 1
            if before(at_ns, id, &heap[least]):
                break
            heap[place] = heap[least]
            self.places[heap[place].id] = <uint32_t> place + 1
            place = least
        heap[place].at_ns = at_ns
        heap[place].id = id
        self.places[id] = <uint32_t> place + 1

    cdef void take_out(self, size_t place) noexcept nogil:
        cdef Deadline last
        self.places[self.heap[place].id] = 0
        self.count -= 1
        if place < self.count:
            last = self.heap[self.count]
            self.sift(place, last.id, last.at_ns)

    cdef int add(self, uint32_t id, uint64_t at_ns) noexcept nogil:
        """Set or move the deadline of an id: 0, or -1 without memory (then nothing changed)."""
        cdef size_t place
        if (id >= self.ids or self.count == self.room) and self.reserve(id):
            return -1
        place = self.places[id]
        if place:
            place -= 1
        else:
            place = self.count
            self.count += 1
        self.sift(place, id, at_ns)
        return 0

    cdef bint cancel(self, uint32_t id) noexcept nogil:
        """Forget the deadline of an id; tells whether it had one."""
        if id >= self.ids or self.places[id] == 0:
            return False
        self.take_out(self.places[id] - 1)
        return True

    cdef bint first(self, Deadline* out) noexcept nogil:
        """The earliest; False when there is none."""
        if self.count == 0:
            return False
        out[0] = self.heap[0]
        return True

    cdef size_t due(self, uint64_t now_ns, uint32_t* out, size_t most) noexcept nogil:
        """Take up to `most` ids whose deadline is not after now_ns, by (instant, id): how many."""
        cdef size_t n = 0
        while n < most and self.count and self.heap[0].at_ns <= now_ns:
            out[n] = self.heap[0].id
            n += 1
            self.take_out(0)
        return n

    # -- for Python

    def __len__(self):
        return self.count

    def arm(self, uint32_t id, uint64_t at_ns):
        """Set or move the deadline of an id, ns."""
        if self.add(id, at_ns):
            raise MemoryError(f"no memory for the deadline of id {id}")

    def disarm(self, uint32_t id):
        """Forget the deadline of an id; tells whether it had one."""
        return self.cancel(id)

    def deadline(self, uint32_t id):
        """The deadline of an id, ns; None when it has none."""
        if id >= self.ids or self.places[id] == 0:
            return None
        return self.heap[self.places[id] - 1].at_ns

    def peek(self):
        """The earliest as (ns, id), or None."""
        cdef Deadline found
        return (found.at_ns, found.id) if self.first(&found) else None

    def pop(self):
        """Take the earliest as (ns, id), or None."""
        cdef Deadline found
        if not self.first(&found):
            return None
        self.take_out(0)
        return found.at_ns, found.id

    def expired(self, uint64_t now_ns, out):
        """Take ids whose deadline is not after now_ns, by (instant, id), into a writable buffer of 4-byte items.

        Returns how many, at most as many as there is room for.
        """
        cdef uint32_t[::1] room = out
        return self.due(now_ns, &room[0], room.shape[0]) if room.shape[0] else 0
