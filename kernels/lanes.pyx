"""Bounded lock-free rings of 64-byte lines over any writable buffer, for threads and, with one producer and one consumer,
for processes.

A batch is claimed, copied and published at once, which is what makes it fast: a line of the cache that both sides need
crosses between the cores once a batch. `SpscLane.claim` and `SpscLane.peek` leave the copy away, too. See kernels/lanes.h, which loops without the GIL use directly.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "atomics.h" nogil:
    uint64_t relaxed_load(void*) noexcept

cdef enum:
    LONG_COPY = 4096                    # lines: from here on a copy lasts longer than giving the GIL away and back


cdef char* BYTES = b"B"


cdef inline uint8_t* aligned(void* at) noexcept nogil:
    return <uint8_t*> ((<size_t> at + LANE_LINE - 1) & ~(<size_t> (LANE_LINE - 1)))


cdef inline uint64_t bytes_from(Py_buffer* raw, uint8_t* base) noexcept nogil:
    cdef Py_ssize_t left = raw.len - (base - <uint8_t*> raw.buf)
    return <uint64_t> left if left > 0 else 0


cdef class Lane:
    """What both kinds of rings have in common: lines of 64 bytes in a buffer, which stays locked while the ring lives."""

    LINE = LANE_LINE

    def __init__(self):
        raise TypeError("a lane is a SpscLane or a MpmcLane")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.raw)

    cdef int take_buffer(self, object buffer) except -1:
        if self.held:
            raise TypeError("a lane is opened once")
        PyObject_GetBuffer(buffer, &self.raw, PyBUF_WRITABLE)
        self.held = True
        return 0

    cdef int check(self) except -1:
        if self.base == NULL:
            raise ValueError("no lane was opened")
        return 0

    cdef int check_put(self) except -1:
        self.check()
        if self.claimed:
            raise RuntimeError("lines of this ring are claimed: they come first, at the end of their `with`")
        return 0

    cdef int check_get(self) except -1:
        self.check()
        if self.peeked:
            raise RuntimeError("lines of this ring are being read in place: they are released at the end of their `with`")
        return 0

    cdef int64_t put_lines(self, const void* lines, size_t n) noexcept nogil:
        return LANE_DAMAGED

    cdef int64_t get_lines(self, void* lines, size_t n) noexcept nogil:
        return LANE_DAMAGED

    cdef object damaged(self):
        return ValueError(
            f"the lane is damaged: its counters say that {self.counted()} lines wait in a ring of {self.capacity}"
        )

    cdef object counted(self):
        return (<uint64_t> relaxed_load(self.base + LANE_TAIL_AT)) - (<uint64_t> relaxed_load(self.base + LANE_HEAD_AT))

    @property
    def waiting(self):
        """Lines that wait to be taken, just now."""
        self.check()
        return lane_waiting(self.base, self.capacity)

    def put(self, line):
        """Append a line; False when the ring is full. ValueError unless it is 64 bytes, or when the ring is damaged."""
        cdef Py_buffer raw
        cdef int64_t taken
        self.check_put()
        PyObject_GetBuffer(line, &raw, PyBUF_SIMPLE)
        try:
            if raw.len != LANE_LINE:
                raise ValueError(f"a line has {LANE_LINE} bytes, not {raw.len}")
            taken = self.put_lines(raw.buf, 1)
        finally:
            PyBuffer_Release(&raw)
        if taken < 0:
            raise self.damaged()
        return taken == 1

    def put_many(self, lines):
        """Append as many of these lines (a contiguous buffer) as there is room for; how many. ValueError as put()."""
        cdef Py_buffer raw
        cdef int64_t taken
        cdef size_t n
        self.check_put()
        PyObject_GetBuffer(lines, &raw, PyBUF_SIMPLE)
        try:
            if raw.len % LANE_LINE:
                raise ValueError(f"{raw.len} bytes are not lines of {LANE_LINE}")
            n = <size_t> raw.len // LANE_LINE
            if n >= LONG_COPY:
                with nogil:
                    taken = self.put_lines(raw.buf, n)
            else:
                taken = self.put_lines(raw.buf, n)
        finally:
            PyBuffer_Release(&raw)
        if taken < 0:
            raise self.damaged()
        return taken

    def get(self):
        """The oldest line, or None. ValueError when the ring is damaged."""
        cdef uint8_t[64] line
        cdef int64_t taken
        self.check_get()
        taken = self.get_lines(line, 1)
        if taken < 0:
            raise self.damaged()
        return PyBytes_FromStringAndSize(<char*> line, LANE_LINE) if taken else None

    def get_many(self, into):
        """Take as many lines as there are, or as this writable buffer holds, into its beginning; how many.

        ValueError when it does not hold whole lines, or when the ring is damaged.
        """
        cdef Py_buffer raw
        cdef int64_t taken
        cdef size_t n
        self.check_get()
        PyObject_GetBuffer(into, &raw, PyBUF_WRITABLE)
        try:
            if raw.len % LANE_LINE:
                raise ValueError(f"{raw.len} bytes are not lines of {LANE_LINE}")
            n = <size_t> raw.len // LANE_LINE
            if n >= LONG_COPY:
                with nogil:
                    taken = self.get_lines(raw.buf, n)
            else:
                taken = self.get_lines(raw.buf, n)
        finally:
            PyBuffer_Release(&raw)
        if taken < 0:
            raise self.damaged()
        return taken


cdef class SpscLane(Lane):
    """One end of the ring in this buffer, for one producer and one consumer: threads, or processes over shared memory.

    ValueError when the buffer holds no such ring. Each end is one object; who opens an end anew goes on where the one before
    stood. Lines are published by one store after they were written, and freed by one after they were read: the death of
    one side loses what it had not published, and leaves the other what it had not freed.
    """

    def __cinit__(self):
        self.lane = <lane_spsc*> malloc(sizeof(lane_spsc))
        if self.lane == NULL:
            raise MemoryError("no memory for a lane")

    def __dealloc__(self):
        free(self.lane)

    def __init__(self, buffer):
        cdef uint8_t* base
        self.take_buffer(buffer)
        base = aligned(self.raw.buf)
        if bytes_from(&self.raw, base) < LANE_DATA_AT + LANE_LINE:
            raise ValueError(f"no lane in {self.raw.len} bytes")
        if lane_spsc_open(self.lane, base, bytes_from(&self.raw, base)) != 0:
            raise ValueError("no lane in this buffer: it is not marked as one of this size, or its counters are damaged")
        self.base = base
        self.capacity = self.lane.capacity

    @staticmethod
    def nbytes(capacity):
        """Bytes of a buffer, wherever it lies, for this many lines: a power of two, or the next lower one is made of it."""
        return LANE_DATA_AT + LANE_LINE * capacity + LANE_LINE - 1

    @classmethod
    def create(cls, buffer):
        """Make an empty ring in a writable, contiguous buffer, and open it; its capacity is the largest power of two that
        fits. ValueError when the buffer is too small for a line."""
        cdef Py_buffer raw
        cdef uint8_t* base
        PyObject_GetBuffer(buffer, &raw, PyBUF_WRITABLE)
        try:
            base = aligned(raw.buf)
            if lane_spsc_create(base, bytes_from(&raw, base)) != 0:
                raise ValueError(f"{raw.len} bytes are too small for a lane; {cls.nbytes(1)} are not")
        finally:
            PyBuffer_Release(&raw)
        return cls(buffer)

    cdef int64_t put_lines(self, const void* lines, size_t n) noexcept nogil:
        return lane_spsc_put(self.lane, lines) if n == 1 else lane_spsc_put_many(self.lane, lines, n)

    cdef int64_t get_lines(self, void* lines, size_t n) noexcept nogil:
        return lane_spsc_get(self.lane, lines) if n == 1 else lane_spsc_get_many(self.lane, lines, n)

    def claim(self, size_t lines):
        """Of the producer: up to so many free lines, to be written where they lie and published together, as a `Span`.

        `with lane.claim(n) as rows:`; as many as lie side by side, so fewer before the ring's end, and none when it is full.
        """
        self.check()
        return Span.__new__(Span, self, lines, True)

    def peek(self, size_t lines):
        """Of the consumer: up to so many of the lines that wait, to be read where they lie and then released, as a `Span`.

        `with lane.peek(n) as rows:`; as many as lie side by side, so fewer before the ring's end, and none when it is empty.
        """
        self.check()
        return Span.__new__(Span, self, lines, False)


cdef class Span:
    """Lines of a ring where they lie: inside its `with` a buffer of bytes, which NumPy and memoryview look through.

    `SpscLane.claim` and `SpscLane.peek` make one; each `with` takes lines anew, so that one can be kept for a loop. At its end the
    first `used` lines, all unless that was set, are published or released together; after an exception none are: what was claimed
    is free again, and what was read is read again. Views that somebody keeps longer show later messages.
    RuntimeError for a second span of the same end at a time, ValueError when the ring is damaged.
    """

    def __cinit__(self, SpscLane lane not None, size_t wanted, bint writes):
        self.lane = lane
        self.wanted = wanted
        self.writes = writes
        self.strides[0] = 1

    def __enter__(self):
        cdef int64_t n
        cdef nano_line* free_lines = NULL
        if self.writes:
            self.lane.check_put()
            n = lane_spsc_claim(self.lane.lane, self.wanted, &free_lines)
            self.start = free_lines
        else:
            self.lane.check_get()
            n = lane_spsc_peek(self.lane.lane, self.wanted, &self.start)
        if n < 0:
            raise self.lane.damaged()
        if self.writes:
            self.lane.claimed = True
        else:
            self.lane.peeked = True
        self.open = True
        self.lines = self.left = <size_t> n
        self.shape[0] = <Py_ssize_t> n * LANE_LINE
        return self

    def __exit__(self, kind, error, trace):
        if not self.open:
            raise RuntimeError("this span is not open")
        self.open = False
        if self.writes:
            self.lane.claimed = False
        else:
            self.lane.peeked = False
        if kind is None and self.left:
            if self.writes:
                lane_spsc_publish(self.lane.lane, self.left)
            else:
                lane_spsc_release(self.lane.lane, self.left)

    def __dealloc__(self):
        if self.open and self.writes:
            self.lane.claimed = False
        elif self.open:
            self.lane.peeked = False

    def __len__(self):
        return <Py_ssize_t> self.lines if self.open else 0

    @property
    def used(self):
        """How many lines, the first ones, are published or released at the end. ValueError for more than there are."""
        return self.left if self.open else 0

    @used.setter
    def used(self, Py_ssize_t lines):
        if not self.open or not 0 <= lines <= <Py_ssize_t> self.lines:
            raise ValueError(f"{lines} of {len(self)} lines")
        self.left = <size_t> lines

    def __getbuffer__(self, Py_buffer* view, int flags):
        if not self.open:
            raise BufferError("the lines of a span are seen inside its `with`")
        if flags & PyBUF_WRITABLE and not self.writes:
            raise BufferError("lines that are read in place are read-only")
        view.buf = <void*> self.start
        view.obj = self
        view.len = self.shape[0]
        view.itemsize = 1
        view.readonly = not self.writes
        view.ndim = 1
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = BYTES
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL


cdef class MpmcLane(Lane):
    """The ring in this buffer, for any number of producers and consumers: threads of one process.

    ValueError when the buffer holds no such ring. Lines of one put_many() lie side by side. Not between processes: one that
    died after it claimed a slot would stall the ring there.
    """

    def __init__(self, buffer):
        cdef uint8_t* base
        self.take_buffer(buffer)
        base = aligned(self.raw.buf)
        if bytes_from(&self.raw, base) < LANE_DATA_AT + LANE_LINE:
            raise ValueError(f"no lane in {self.raw.len} bytes")
        if lane_mpmc_open(&self.lane, base, bytes_from(&self.raw, base)) != 0:
            raise ValueError("no lane in this buffer: it is not marked as one of this size")
        self.base = base
        self.capacity = self.lane.capacity

    @staticmethod
    def nbytes(capacity):
        """Bytes of a buffer, wherever it lies, for this many lines: a power of two from 8 on, or the next lower one is made of it."""
        return LANE_DATA_AT + (LANE_LINE + 8) * capacity + LANE_LINE - 1

    @classmethod
    def create(cls, buffer):
        """Make an empty ring in a writable, contiguous buffer, and open it; its capacity is the largest power of two that
        fits. ValueError when the buffer is too small for 8 lines."""
        cdef Py_buffer raw
        cdef uint8_t* base
        PyObject_GetBuffer(buffer, &raw, PyBUF_WRITABLE)
        try:
            base = aligned(raw.buf)
            if lane_mpmc_create(base, bytes_from(&raw, base)) != 0:
                raise ValueError(f"{raw.len} bytes are too small for a lane; {cls.nbytes(8)} are not")
        finally:
            PyBuffer_Release(&raw)
        return cls(buffer)

    cdef int64_t put_lines(self, const void* lines, size_t n) noexcept nogil:
        return lane_mpmc_put_many(&self.lane, lines, n)

    cdef int64_t get_lines(self, void* lines, size_t n) noexcept nogil:
        return lane_mpmc_get_many(&self.lane, lines, n)
