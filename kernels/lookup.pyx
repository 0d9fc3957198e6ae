"""Lookup: the value of a key in chunks of a snapshot that lie in memory, in constant time.

A `Finder` has the chunks that were checked against their hashes; it names the chunk that it needs and has not got. What
is in a chunk is believed nowhere: a correct hash says who wrote it, not that it makes sense. The formats stand in
docs/reference/snapshot-format.md.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "wire.h" nogil:
    uint32_t load_le32(const void*) noexcept

cdef extern from "siphash.h" nogil:
    uint64_t siphash(const uint8_t* secret, const uint8_t* message, size_t size) noexcept

cdef extern from *:
    """
    static inline uint64_t scaled(uint64_t hash, uint64_t slots) { return (uint64_t)((unsigned __int128)hash * slots >> 64); }
    """
    uint64_t scaled(uint64_t hash, uint64_t slots) nogil
    void __builtin_prefetch(const void*) nogil

cdef enum:
    AHEAD = 32                          # keys of `find_many` whose places are asked for from memory at a time
    HEAD = 8
    RECORD_HEAD = 6
    SLOT = 8
    TABLE_CHUNK = 65536
    SLOTS_A_CHUNK = 8192
    PROBES_MOST = 4096

cdef enum:
    ABSENT = 0
    FOUND = 1
    BROKEN = 2


cdef struct Place:
    const uint8_t* value
    size_t size


cdef struct Chunk:
    const uint8_t* start                # NULL while it is not here
    size_t size
    uint64_t slots                      # of a chunk of records; 0 when it has none that fit into it


cdef uint64_t slots_of(const uint8_t* chunk, size_t size) noexcept nogil:
    """Slots of a chunk of records of any content; 0 when they would not fit into it."""
    cdef uint64_t slots
    if size < HEAD:
        return 0
    slots = load_le32(chunk + 4)
    return slots if slots <= (size - HEAD) // 4 else 0


cdef int find_in(const Chunk* held, uint64_t hash, const uint8_t* key, size_t key_size, Place* place) noexcept nogil:
    """Find a key in a chunk of any content: ABSENT, FOUND with its place, or BROKEN."""
    cdef const uint8_t* chunk = held.start
    cdef uint64_t slots = held.slots, tried
    cdef uint64_t table, at, offset, value_size
    cdef uint32_t slot
    cdef uint32_t tag = <uint32_t> (hash >> 32) & 0xFFF
    if slots == 0:
        return BROKEN
    table = held.size - slots * 4
    at = <uint64_t> <uint32_t> hash * slots >> 32
    for tried in range(slots):
        slot = load_le32(chunk + table + at * 4)
        if slot == 0:
            return ABSENT
        if slot >> 20 != tag:
            at = at + 1 if at + 1 < slots else 0
            continue
        offset = slot & 0xFFFFF
        if offset < HEAD or offset > table or table - offset < RECORD_HEAD:
            return BROKEN
        value_size = load_le32(chunk + offset + 2)
        if (<size_t> chunk[offset] | <size_t> chunk[offset + 1] << 8) == key_size:
            if table - offset - RECORD_HEAD < key_size or table - offset - RECORD_HEAD - key_size < value_size:
                return BROKEN
            if memcmp(chunk + offset + RECORD_HEAD, key, key_size) == 0:
                place.value = chunk + offset + RECORD_HEAD + key_size
                place.size = value_size
                return FOUND
        at = at + 1 if at + 1 < slots else 0
    return ABSENT


def records(chunk):
    """All records of a chunk of any content as a list of (key, value), in order. ValueError when it is malformed."""
    cdef Py_buffer raw
    PyObject_GetBuffer(chunk, &raw, PyBUF_SIMPLE)
    try:
        return records_of(<const uint8_t*> raw.buf, <size_t> raw.len)
    finally:
        PyBuffer_Release(&raw)


cdef list records_of(const uint8_t* chunk, size_t size):
    cdef uint64_t count, slots, table, at = HEAD, key_size, value_size, i
    cdef list found = []
    if size < HEAD:
        raise ValueError(f"a chunk of {size} bytes")
    count, slots = load_le32(chunk), load_le32(chunk + 4)
    if slots > (size - HEAD) // 4:
        raise ValueError(f"a chunk of {size} bytes with {slots} slots")
    table = size - slots * 4
    for i in range(count):
        if table - at < RECORD_HEAD:
            raise ValueError(f"record {i} of {count} begins behind the last")
        key_size = <uint64_t> chunk[at] | <uint64_t> chunk[at + 1] << 8
        value_size = load_le32(chunk + at + 2)
        at += RECORD_HEAD
        if table - at < key_size or table - at - key_size < value_size:
            raise ValueError(f"record {i} of {count} is longer than its chunk")
        found.append((
            PyBytes_FromStringAndSize(<const char*> chunk + at, <Py_ssize_t> key_size),
            PyBytes_FromStringAndSize(<const char*> chunk + at + key_size, <Py_ssize_t> value_size),
        ))
        at += key_size + value_size
    if at != table:
        raise ValueError(f"{table - at} bytes between the last record of a chunk and its slots")
    return found


cdef class Finder:
    """Keys of one shard: `data` chunks of records, and behind them in number those of a table of `slots` and what overflows.

    For one thread at a time. ValueError for numbers that make no sense.
    """

    cdef Chunk* chunks
    cdef list held
    cdef uint64_t data
    cdef uint64_t tables
    cdef uint64_t slots
    cdef uint64_t probes
    cdef uint8_t salt[16]

    def __cinit__(self, bytes salt not None, uint32_t data, uint32_t tables, uint64_t slots, uint64_t probes):
        if PyBytes_GET_SIZE(salt) != 16:
            raise ValueError(f"a salt of {PyBytes_GET_SIZE(salt)} bytes, not 16")
        if not 1 <= probes <= PROBES_MOST or slots > <uint64_t> tables * SLOTS_A_CHUNK or tables and not slots:
            raise ValueError(f"a table of {slots} slots in {tables} chunks, {probes} of them to be looked at")
        memcpy(self.salt, PyBytes_AS_STRING(salt), 16)
        self.data = data
        self.tables = tables
        self.slots = slots
        self.probes = probes
        self.held = [None] * (data + tables)
        self.chunks = <Chunk*> PyMem_Calloc(self.data + self.tables + 1, sizeof(Chunk))
        if self.chunks == NULL:
            raise MemoryError(f"no memory for {data + tables} chunks")

    def __dealloc__(self):
        PyMem_Free(self.chunks)

    def put(self, uint32_t number, chunk):
        """Have a chunk, a contiguous buffer that is held as long. IndexError; ValueError for one of the table with a wrong size."""
        cdef Py_buffer raw
        if number >= self.data + self.tables:
            raise IndexError(f"chunk {number} of {self.data + self.tables}")
        view = memoryview(chunk)
        PyObject_GetBuffer(view, &raw, PyBUF_SIMPLE)
        try:
            if number >= self.data and (raw.len > TABLE_CHUNK or raw.len % SLOT):
                raise ValueError(f"chunk {number} of the table has {raw.len} bytes: {TABLE_CHUNK} at most, in slots of {SLOT}")
            self.held[number] = view
            self.chunks[number].start = <const uint8_t*> raw.buf
            self.chunks[number].size = <size_t> raw.len
            self.chunks[number].slots = 0
            if number < self.data:
                self.chunks[number].slots = slots_of(<const uint8_t*> raw.buf, <size_t> raw.len)
        finally:
            PyBuffer_Release(&raw)

    def drop(self, uint32_t number):
        """Have it no longer. IndexError."""
        if number >= self.data + self.tables:
            raise IndexError(f"chunk {number} of {self.data + self.tables}")
        self.chunks[number].start = NULL
        self.held[number] = None

    def has(self, uint32_t number):
        """Whether the chunk is here. IndexError."""
        if number >= self.data + self.tables:
            raise IndexError(f"chunk {number} of {self.data + self.tables}")
        return self.chunks[number].start != NULL

    def chunk(self, uint32_t number):
        """A view of the chunk, or None when it is not here. IndexError."""
        if number >= self.data + self.tables:
            raise IndexError(f"chunk {number} of {self.data + self.tables}")
        return self.held[number]

    def find_many(self, list keys not None):
        """What `find` gives for each of many keys, in a list. Quicker by far where the chunks are larger than the caches.

        Memory is asked for the places of 32 keys before the first of them is needed, so their ways there go side by side
        (group prefetching; Chen, Ailamaki, Gibbons and Mowry, "Improving Hash Join Performance through Prefetching", 2004).
        """
        cdef uint64_t hashes[AHEAD]
        cdef const uint8_t* places[AHEAD]
        cdef Py_ssize_t count = len(keys), begin, i, group
        cdef uint64_t number, at
        cdef uint32_t slot
        cdef const Chunk* chunk
        cdef list out = []
        cdef bytes key
        for i in range(count):
            if not PyBytes_CheckExact(<object> PyList_GET_ITEM(keys, i)):
                raise TypeError("a key is bytes")
        for begin in range(0, count, AHEAD):
            group = min(<Py_ssize_t> AHEAD, count - begin)
            for i in range(group if self.tables else 0):
                key = <bytes> <object> PyList_GET_ITEM(keys, begin + i)
                hashes[i] = siphash(self.salt, <const uint8_t*> PyBytes_AS_STRING(key), <size_t> PyBytes_GET_SIZE(key))
                at = scaled(hashes[i], self.slots)
                chunk = &self.chunks[self.data + at // SLOTS_A_CHUNK]
                places[i] = NULL
                if chunk.start != NULL and at % SLOTS_A_CHUNK * SLOT < chunk.size:
                    places[i] = chunk.start + at % SLOTS_A_CHUNK * SLOT
                    __builtin_prefetch(places[i])
            for i in range(group if self.tables else 0):
                if places[i] == NULL:
                    continue
                number = load_le32(places[i] + 4)
                places[i] = NULL
                if number == 0 or number > self.data:
                    continue
                chunk = &self.chunks[number - 1]
                if chunk.start != NULL and chunk.slots:
                    at = <uint64_t> <uint32_t> hashes[i] * chunk.slots >> 32
                    places[i] = chunk.start + chunk.size - chunk.slots * 4 + at * 4
                    hashes[i] = number - 1
                    __builtin_prefetch(places[i])
            for i in range(group if self.tables else 0):
                if places[i] == NULL:
                    continue
                slot = load_le32(places[i]) & 0xFFFFF
                chunk = &self.chunks[hashes[i]]
                if slot < chunk.size:
                    __builtin_prefetch(chunk.start + slot)
                    __builtin_prefetch(chunk.start + min(<size_t> slot + 64, chunk.size - 1))
            for i in range(group):
                out.append(self.find(<bytes> <object> PyList_GET_ITEM(keys, begin + i)))
        return out

    cpdef object find(self, bytes key):
        """The value of a key; None when there is none; or the number of the chunk that has to be put first.

        Takes one slot of the table and one record, and a few more where hashes meet. ValueError when a chunk is malformed.
        """
        cdef uint64_t hash, at, number, tried, chunk
        cdef const uint8_t* slot
        cdef Place place
        cdef int state
        cdef const uint8_t* text
        cdef size_t size
        if key is None:
            raise TypeError("a key is bytes")
        text = <const uint8_t*> PyBytes_AS_STRING(key)
        size = <size_t> PyBytes_GET_SIZE(key)
        if not self.tables:
            return None
        hash = siphash(self.salt, text, size)
        at = scaled(hash, self.slots)
        for tried in range(self.probes):
            number = self.data + at // SLOTS_A_CHUNK
            if number >= self.data + self.tables:
                return None
            if self.chunks[number].start == NULL:
                return number
            if at % SLOTS_A_CHUNK * SLOT >= self.chunks[number].size:
                return None
            slot = self.chunks[number].start + at % SLOTS_A_CHUNK * SLOT
            chunk = load_le32(slot + 4)
            if chunk == 0:
                return None
            if load_le32(slot) == <uint32_t> hash:
                chunk -= 1
                if chunk >= self.data:
                    raise ValueError(f"the table names chunk {chunk} of {self.data}")
                if self.chunks[chunk].start == NULL:
                    return chunk
                state = find_in(&self.chunks[chunk], hash, text, size, &place)
                if state == FOUND:
                    return PyBytes_FromStringAndSize(<const char*> place.value, <Py_ssize_t> place.size)
                if state == BROKEN:
                    raise ValueError(f"chunk {chunk} is malformed")
            at += 1
        return None

    def find_in(self, uint32_t number, bytes key not None):
        """The value of a key in this chunk, which is here, or None. IndexError, ValueError."""
        cdef Place place
        cdef uint64_t hash
        cdef int state
        if number >= self.data or self.chunks[number].start == NULL:
            raise IndexError(f"chunk {number} of {self.data} is not here")
        hash = siphash(self.salt, <const uint8_t*> PyBytes_AS_STRING(key), <size_t> PyBytes_GET_SIZE(key))
        state = find_in(
            &self.chunks[number], hash, <const uint8_t*> PyBytes_AS_STRING(key),
            <size_t> PyBytes_GET_SIZE(key), &place,
        )
        if state == BROKEN:
            raise ValueError(f"chunk {number} is malformed")
        return PyBytes_FromStringAndSize(<const char*> place.value, <Py_ssize_t> place.size) if state == FOUND else None
