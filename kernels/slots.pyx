"""One page of memory between a node and one worker: who starts which task of a slice, and what runs now.

Lock-free, so that neither side can be held up by the other, or by its death. A slice of work is one 64-bit word,
cursor and end; the worker moves the cursor up, the node may pull the end down, both by compare-and-swap, so an index is
either claimed or recalled and never both. What runs now is a record under a sequence lock (Boehm, MSPC 2012).
"""

import fcntl
import os
import tempfile

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

cdef extern from "atomics.h" nogil:
    uint64_t shared_load(void*) noexcept
    void shared_store(void*, uint64_t) noexcept
    int64_t slice_claim(void*) noexcept
    uint64_t slice_recall(void*, uint32_t, uint32_t*) noexcept
    void seqlock_write(uint64_t*, const uint64_t*, int) noexcept
    int seqlock_read(uint64_t*, uint64_t*, int) noexcept

cdef enum:
    PAGE = 4096
    LINE = 64                           # bytes of a cache line: no two words that move apart share one
    COUNT = 16
    RECORD = LINE                       # line 0: the mark of a page; line 1: what runs now; lines 2 to 17: the slices
    FIRST_SLICE = 2 * LINE
    RECORD_WORDS = 3
cdef uint64_t MARK = 0x3153544F4C535753     # "SWSLOTS1"
cdef uint64_t IDLE = 0xFFFFFFFFFFFFFFFF


def _anonymous_file(size):
    """A file descriptor of `size` bytes without a name: memfd where there is one, else an unlinked temporary file."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("swarm-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            # A worker that made it smaller would kill the node with SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except BaseException:
            os.close(fd)
            raise
        return fd
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())


cdef class SlotPage:
    """A page of 16 slices shared by a node (offer, recall, progress, current) and one worker (claim, begin, end).

    Every number read from it was written by the other process: check it against the slice that was offered. Methods
    raise ValueError after close(), and IndexError for a slice that does not exist.
    """

    SLICES = COUNT

    cdef uint8_t* page

    def __init__(self, int fd):
        """Map the page of this descriptor (of create(), inherited); the descriptor may be closed afterwards.

        OSError when it cannot be mapped, ValueError when it is not such a page.
        """
        cdef void* at
        if self.page != NULL:
            raise TypeError("a page is opened once")
        if os.fstat(fd).st_size < PAGE:
            raise ValueError("not a page of slots: it is too small")
        at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            raise OSError("the page of slots cannot be mapped")
        if shared_load(at) != MARK:
            munmap(at, PAGE)
            raise ValueError("not a page of slots: it is not marked as one")
        self.page = <uint8_t*> at

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        if self.page != NULL:
            munmap(self.page, PAGE)
            self.page = NULL

    @classmethod
    def create(cls):
        """A new page: (SlotPage, file descriptor to hand to the worker; the caller closes it)."""
        fd = _anonymous_file(PAGE)
        try:
            os.pwrite(fd, int(MARK).to_bytes(8, "little") + bytes(LINE - 8)
                      + bytes(8) + int(IDLE).to_bytes(8, "little"), 0)
            return cls(fd), fd
        except BaseException:
            os.close(fd)
            raise

    def close(self):
        """Unmap the page. Twice is allowed."""
        self.unmap()

    cdef void* slice_at(self, Py_ssize_t slot) except NULL:
        if self.page == NULL:
            raise ValueError("the page of slots is closed")
        if slot < 0 or slot >= COUNT:
            raise IndexError(f"slice {slot} of {COUNT}")
        return self.page + FIRST_SLICE + slot * LINE

    cdef uint64_t* record(self) except NULL:
        if self.page == NULL:
            raise ValueError("the page of slots is closed")
        return <uint64_t*> (self.page + RECORD)

    def offer(self, Py_ssize_t slot, uint32_t count):
        """Node: a new slice of `count` tasks, from index 0."""
        shared_store(self.slice_at(slot), <uint64_t> count << 32)

    def recall(self, Py_ssize_t slot, uint32_t keep=0):
        """Node: take back what was not claimed, but leave the next `keep`. (new end, old end): the indices from the
        one to the other are not going to start."""
        cdef uint32_t end_now = 0
        cdef uint64_t was = slice_recall(self.slice_at(slot), keep, &end_now)
        return end_now, <uint32_t> (was >> 32)

    def progress(self, Py_ssize_t slot):
        """Node: (cursor, end): indices below the cursor were claimed, those up to the end may still be."""
        cdef uint64_t now = shared_load(self.slice_at(slot))
        return <uint32_t> now, <uint32_t> (now >> 32)

    def current(self):
        """Node: (slot, index, started_ns) of the task that runs now, or None.

        None also when the worker died or stood still in the few instructions between two tasks.
        """
        cdef uint64_t values[RECORD_WORDS]
        if not seqlock_read(self.record(), values, RECORD_WORDS) or values[0] == IDLE:
            return None
        return values[0], values[1], values[2]

    def claim(self, Py_ssize_t slot):
        """Worker: the next index to start, or -1 when the slice is at its end."""
        return slice_claim(self.slice_at(slot))

    def begin(self, Py_ssize_t slot, uint32_t index, uint64_t now_ns):
        """Worker: this task runs from now on. One thread of the worker may say so at a time."""
        cdef uint64_t values[RECORD_WORDS]
        self.slice_at(slot)
        values[0] = <uint64_t> slot
        values[1] = index
        values[2] = now_ns
        seqlock_write(self.record(), values, RECORD_WORDS)

    def end(self):
        """Worker: nothing runs."""
        cdef uint64_t values[RECORD_WORDS]
        values[0] = IDLE
        values[1] = values[2] = 0
        seqlock_write(self.record(), values, RECORD_WORDS)
