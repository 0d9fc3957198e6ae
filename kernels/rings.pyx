"""A ring of byte messages from one producer to one consumer, lock-free, over any writable buffer.

Lamport's queue ("Specifying Concurrent Program Modules", TOPLAS 1983): the producer alone moves the tail, the consumer
alone the head, each on a cache line of its own. A message is a u32 length and its bytes, 8-aligned; one that does not
fit before the end is preceded by a wrap marker and lies at the start. Between cores of one process or, over shared
memory, between processes that trust each other to keep the counters: a message's bounds are checked all the same.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "wire.h" nogil:
    uint32_t load_le32(const void*) noexcept
    void store_le32(void*, uint32_t) noexcept

cdef extern from "atomics.h" nogil:
    uint64_t shared_load(void*) noexcept
    void shared_store(void*, uint64_t) noexcept
    uint64_t relaxed_load(void*) noexcept

cdef enum:
    LINE = 64
    TAIL_AT = LINE                      # line 0: mark and capacity; line 1: tail; line 2: head; then the messages
    HEAD_AT = 2 * LINE
    DATA_AT = 3 * LINE
    HEAD_BYTES = 4
    ALIGN = 8
cdef uint32_t WRAP = 0xFFFFFFFF
cdef uint64_t MARK = 0x31474E4952535753     # "SWSRING1"


cdef inline uint64_t padded(uint64_t size) noexcept nogil:
    return (size + HEAD_BYTES + ALIGN - 1) & ~(<uint64_t> (ALIGN - 1))


cdef class Ring:
    """One end of the ring in this buffer: one thread of one process calls put(), one thread of one calls get().

    The buffer stays locked against resizing while the ring lives. ValueError when it holds no ring.
    """

    cdef Py_buffer raw
    cdef uint8_t* base
    cdef bint held
    cdef readonly uint64_t capacity

    def __init__(self, buffer):
        cdef uint64_t capacity
        if self.held:
            raise TypeError("a ring is opened once")
        PyObject_GetBuffer(buffer, &self.raw, PyBUF_WRITABLE)
        self.held = True
        if self.raw.len < DATA_AT + ALIGN:
            raise ValueError(f"no ring in {self.raw.len} bytes")
        self.base = aligned(<uint8_t*> self.raw.buf)
        capacity = load_capacity(self.base)
        if shared_load(self.base) != MARK or capacity != room_of(&self.raw, self.base):
            raise ValueError("no ring in this buffer: it is not marked as one of this size")
        self.capacity = capacity

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.raw)

    @classmethod
    def create(cls, buffer):
        """Make an empty ring in a writable, contiguous buffer, and open it. ValueError when that is too small."""
        cdef Py_buffer raw
        cdef uint8_t* base
        cdef uint64_t capacity
        PyObject_GetBuffer(buffer, &raw, PyBUF_WRITABLE)
        try:
            base = aligned(<uint8_t*> raw.buf)
            capacity = room_of(&raw, base)
            if capacity < ALIGN:
                raise ValueError(f"{raw.len} bytes are too small for a ring; {DATA_AT + LINE + ALIGN} are not")
            memset(base, 0, DATA_AT)
            memcpy(base + 8, &capacity, 8)
            shared_store(base, MARK)
        finally:
            PyBuffer_Release(&raw)
        return cls(buffer)

    @property
    def free(self):
        """Bytes that are free just now; a message of n takes n + 4, rounded up to 8, and maybe a gap before the end."""
        self.opened()
        return self.capacity - min(self.capacity, shared_load(self.base + TAIL_AT) - shared_load(self.base + HEAD_AT))

    def put(self, message):
        """Append a message (a contiguous buffer of bytes); False when there is no room now.

        ValueError for one that could not fit in the empty ring wherever it starts: over half of its capacity.
        """
        cdef Py_buffer raw
        self.opened()
        if type(message) is bytes:
            return self.append(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))
        PyObject_GetBuffer(message, &raw, PyBUF_SIMPLE)
        try:
            return self.append(raw.buf, <uint64_t> raw.len)
        finally:
            PyBuffer_Release(&raw)

    cdef int opened(self) except -1:
        if self.base == NULL:
            raise ValueError("no ring was opened")
        return 0

    cdef bint append(self, const void* data, uint64_t size) except -1:
        cdef uint64_t head, tail, at, left, needed = padded(size)
        if size >= WRAP or needed * 2 > self.capacity:
            raise ValueError(f"a message of {size} bytes in a ring of {self.capacity}")
        tail = relaxed_load(self.base + TAIL_AT)
        head = shared_load(self.base + HEAD_AT)
        if tail - head > self.capacity:
            raise ValueError("the ring is damaged: its head is out of bounds")
        at = tail % self.capacity
        left = self.capacity - at
        if needed > left:
            if tail - head + left + needed > self.capacity:
                return False
            store_le32(self.base + DATA_AT + at, WRAP)
            tail += left
            at = 0
        elif tail - head + needed > self.capacity:
            return False
        store_le32(self.base + DATA_AT + at, <uint32_t> size)
        if size:
            memcpy(self.base + DATA_AT + at + HEAD_BYTES, data, size)
        shared_store(self.base + TAIL_AT, tail + needed)
        return True

    def get(self):
        """The oldest message as bytes, or None. ValueError when the producer left the bounds of the ring."""
        cdef uint64_t head, tail, at, left, size
        cdef bytes message
        self.opened()
        head = relaxed_load(self.base + HEAD_AT)
        tail = shared_load(self.base + TAIL_AT)
        if tail == head:
            return None
        if tail - head > self.capacity or (tail | head) % ALIGN:
            raise ValueError("the ring is damaged: its tail is out of bounds")
        at = head % self.capacity
        left = self.capacity - at
        size = load_le32(self.base + DATA_AT + at)
        if size == WRAP:
            head += left
            at = 0
            left = self.capacity
            if head >= tail or tail - head > self.capacity:
                raise ValueError("the ring is damaged: nothing follows a wrap")
            size = load_le32(self.base + DATA_AT)
        if padded(size) > left or padded(size) > tail - head:
            raise ValueError("the ring is damaged: a message is out of bounds")
        message = PyBytes_FromStringAndSize(<const char*> self.base + DATA_AT + at + HEAD_BYTES, <Py_ssize_t> size)
        shared_store(self.base + HEAD_AT, head + padded(size))
        return message


cdef uint8_t* aligned(uint8_t* at) noexcept nogil:
    return <uint8_t*> ((<size_t> at + LINE - 1) & ~(<size_t> (LINE - 1)))


cdef uint64_t room_of(Py_buffer* raw, uint8_t* base) noexcept nogil:
    """Bytes for messages: what is left behind the three lines, in whole units."""
    cdef Py_ssize_t left = raw.len - (base - <uint8_t*> raw.buf) - DATA_AT
    return <uint64_t> left & ~(<uint64_t> (ALIGN - 1)) if left > 0 else 0


cdef uint64_t load_capacity(uint8_t* base) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, base + 8, 8)
    return value
