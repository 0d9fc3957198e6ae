"""Packing: records of a snapshot written into chunks, and the table by which their keys are found.

`Packer` takes (key, value) pairs in ascending order of their keys and gives chunks back; `Layout` lays out the table of
all keys, slot after slot in the order of their hashes, so that the same keys make the same table whatever came before.
The formats stand in docs/reference/snapshot-format.md.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "wire.h" nogil:
    uint32_t load_le32(const void*) noexcept
    void store_le32(void*, uint32_t) noexcept

cdef extern from "siphash.h" nogil:
    uint64_t siphash(const uint8_t* secret, const uint8_t* message, size_t size) noexcept

cdef extern from *:
    """
    static inline uint64_t scaled(uint64_t hash, uint64_t slots) { return (uint64_t)((unsigned __int128)hash * slots >> 64); }
    """
    uint64_t scaled(uint64_t hash, uint64_t slots) nogil

cdef enum:
    HEAD = 8                            # of a chunk: records u32, slots u32
    RECORD_HEAD = 6                     # of a record: key bytes u16, value bytes u32
    CHUNK_LEAST = 32768                 # a chunk ends no sooner, but with the last record
    CHUNK_MEAN = 98304                  # further bytes until it ends, on the average
    CHUNK_MOST = 524288                 # bytes of records, unless one record alone has more
    KEY_MOST = 65535
    VALUE_MOST = 67108864
    ENTRY = 16                          # hash u64, chunk u32, zero u32
    SLOT = 8                            # low half of the hash u32, chunk + 1 u32
    TABLE_CHUNK = 65536
    PROBES_MOST = 4096

ENTRY_BYTES = ENTRY
SLOT_BYTES = SLOT
TABLE_CHUNK_BYTES = TABLE_CHUNK
PROBES_MAX = PROBES_MOST
KEY_BYTES_MAX = KEY_MOST
VALUE_BYTES_MAX = VALUE_MOST


cdef struct Entry:
    uint64_t hash
    uint32_t chunk
    uint32_t zero


def hash_of(bytes salt not None, bytes key not None):
    """SipHash-2-4 of a key, with the 16 bytes of salt. ValueError for another length."""
    if PyBytes_GET_SIZE(salt) != 16:
        raise ValueError(f"a salt of {PyBytes_GET_SIZE(salt)} bytes, not 16")
    return siphash(<const uint8_t*> PyBytes_AS_STRING(salt), <const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))


cdef class Packer:
    """Chunks of the records of an iterable of (key, value), both bytes, with strictly ascending keys.

    A chunk ends behind a record whose key's hash says so, so that the same records end chunks wherever they stand: what
    is inserted or changed alters the chunk where it is, and rarely the next.
    """

    cdef object items
    cdef uint8_t salt[16]
    cdef uint8_t* data
    cdef size_t size
    cdef size_t room
    cdef uint64_t* hashes
    cdef uint32_t* offsets
    cdef size_t hashes_room
    cdef Entry* entries_of_run
    cdef size_t entries_count
    cdef size_t entries_room
    cdef uint32_t chunk
    cdef uint64_t taken
    cdef object ahead                   # a record that was taken and belongs to the next chunk
    cdef bytes last_key

    def __cinit__(self, items, bytes salt not None):
        if PyBytes_GET_SIZE(salt) != 16:
            raise ValueError(f"a salt of {PyBytes_GET_SIZE(salt)} bytes, not 16")
        memcpy(self.salt, PyBytes_AS_STRING(salt), 16)
        self.items = iter(items)

    def __dealloc__(self):
        PyMem_Free(self.data)
        PyMem_Free(self.hashes)
        PyMem_Free(self.offsets)
        PyMem_Free(self.entries_of_run)

    @property
    def entries(self):
        """Keys since the last `take_entries`."""
        return self.entries_count

    @property
    def records(self):
        """Records of all chunks that `next_chunk` gave."""
        return self.taken

    cdef int reserve(self, size_t more) except -1:
        cdef size_t room = max(self.room, 65536)
        cdef uint8_t* grown
        while room - self.size < more:
            room *= 2
        if room != self.room:
            grown = <uint8_t*> PyMem_Realloc(self.data, room)
            if grown == NULL:
                raise MemoryError(f"no memory for a chunk of {room} bytes")
            self.data = grown
            self.room = room
        return 0

    cdef int reserve_hashes(self, size_t count) except -1:
        cdef size_t room = max(self.hashes_room, 512)
        cdef void* grown
        while room < count:
            room *= 2
        if room != self.hashes_room:
            grown = PyMem_Realloc(self.hashes, room * sizeof(uint64_t))
            if grown == NULL:
                raise MemoryError(f"no memory for {room} hashes")
            self.hashes = <uint64_t*> grown
            grown = PyMem_Realloc(self.offsets, room * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError(f"no memory for {room} offsets")
            self.offsets = <uint32_t*> grown
            self.hashes_room = room
        return 0

    cdef int reserve_entries(self, size_t more) except -1:
        cdef size_t room = max(self.entries_room, 4096)
        cdef Entry* grown
        while room - self.entries_count < more:
            room *= 2
        if room != self.entries_room:
            grown = <Entry*> PyMem_Realloc(self.entries_of_run, room * sizeof(Entry))
            if grown == NULL:
                raise MemoryError(f"no memory for {room} keys")
            self.entries_of_run = grown
            self.entries_room = room
        return 0

    cdef int check(self, object item) except -1:
        cdef bytes key
        cdef Py_ssize_t shared
        cdef int order
        if not PyTuple_CheckExact(item) or PyTuple_GET_SIZE(item) != 2:
            raise ValueError("a record is a tuple of key and value")
        if not PyBytes_CheckExact(<object> PyTuple_GET_ITEM(item, 0)) or not PyBytes_CheckExact(<object> PyTuple_GET_ITEM(item, 1)):
            raise ValueError("the key and the value of a record are bytes")
        key = <bytes> <object> PyTuple_GET_ITEM(item, 0)
        if PyBytes_GET_SIZE(key) > KEY_MOST:
            raise ValueError(f"a key of {PyBytes_GET_SIZE(key)} bytes: there may be {KEY_MOST}")
        if PyBytes_GET_SIZE(<bytes> <object> PyTuple_GET_ITEM(item, 1)) > VALUE_MOST:
            raise ValueError(
                f"a value of {PyBytes_GET_SIZE(<bytes> <object> PyTuple_GET_ITEM(item, 1))} bytes: there may be {VALUE_MOST}"
            )
        if self.last_key is not None:
            shared = min(PyBytes_GET_SIZE(key), PyBytes_GET_SIZE(self.last_key))
            order = memcmp(PyBytes_AS_STRING(self.last_key), PyBytes_AS_STRING(key), shared)
            if order > 0 or order == 0 and PyBytes_GET_SIZE(key) <= PyBytes_GET_SIZE(self.last_key):
                raise ValueError(f"keys must ascend: {key[:40]!r} comes after {self.last_key[:40]!r}")
        self.last_key = key
        return 0

    def next_chunk(self):
        """The next chunk as (bytes, records, first key); None when there are no more records.

        ValueError for what is no record, or one that does not ascend: then no chunk is to be had any more. What the
        iterable raises goes on.
        """
        cdef object item
        cdef bytes key
        cdef bytes value
        cdef bytes first = None
        cdef size_t bytes_of_key, bytes_of_value, size
        cdef uint64_t hash
        cdef uint32_t count = 0
        cdef uint8_t* at
        self.size = HEAD
        while True:
            if self.ahead is not None:
                item, self.ahead = self.ahead, None
            else:
                item = next(self.items, None)
                if item is None:
                    break
                self.check(item)
            key = <bytes> <object> PyTuple_GET_ITEM(item, 0)
            value = <bytes> <object> PyTuple_GET_ITEM(item, 1)
            bytes_of_key = <size_t> PyBytes_GET_SIZE(key)
            bytes_of_value = <size_t> PyBytes_GET_SIZE(value)
            size = RECORD_HEAD + bytes_of_key + bytes_of_value
            if count and self.size + size > HEAD + CHUNK_MOST:
                self.ahead = item
                break
            self.reserve(size)
            self.reserve_hashes(count + 1)
            self.reserve_entries(1)
            if first is None:
                first = key
            at = self.data + self.size
            at[0] = bytes_of_key & 255
            at[1] = bytes_of_key >> 8
            store_le32(at + 2, <uint32_t> bytes_of_value)
            memcpy(at + RECORD_HEAD, PyBytes_AS_STRING(key), bytes_of_key)
            memcpy(at + RECORD_HEAD + bytes_of_key, PyBytes_AS_STRING(value), bytes_of_value)
            hash = siphash(self.salt, <const uint8_t*> PyBytes_AS_STRING(key), bytes_of_key)
            self.hashes[count] = hash
            self.offsets[count] = <uint32_t> self.size
            self.entries_of_run[self.entries_count] = Entry(hash, self.chunk, 0)
            self.entries_count += 1
            self.size += size
            count += 1
            if self.size >= HEAD + CHUNK_LEAST and <uint64_t> <uint32_t> (hash >> 16) * <uint64_t> CHUNK_MEAN < <uint64_t> size << 32:
                break
        if not count:
            return None
        self.finish(count)
        self.chunk += 1
        self.taken += count
        return PyBytes_FromStringAndSize(<const char*> self.data, <Py_ssize_t> self.size), count, first

    cdef int finish(self, uint32_t count) except -1:
        """The slots behind the records, by which a key is found in its chunk."""
        cdef uint32_t slots = count + count // 3 + 1
        cdef uint32_t i, at
        cdef uint8_t* table
        self.reserve(<size_t> slots * 4)
        table = self.data + self.size
        memset(table, 0, <size_t> slots * 4)
        for i in range(count):
            at = <uint32_t> (<uint64_t> <uint32_t> self.hashes[i] * slots >> 32)
            while load_le32(table + <size_t> at * 4):
                at = at + 1 if at + 1 < slots else 0
            # offsets have 20 bits: with a chunk of more bytes, its one record stands at its beginning
            store_le32(table + <size_t> at * 4, self.offsets[i] | <uint32_t> (self.hashes[i] >> 32 & 0xFFF) << 20)
        self.size += <size_t> slots * 4
        store_le32(self.data, count)
        store_le32(self.data + 4, slots)
        return 0

    def take_entries(self):
        """The hashes of the keys since the last call with the numbers of their chunks, sorted, 16 bytes each."""
        cdef bytes out
        if not self.entries_count:
            return b""
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (self.entries_count * ENTRY))
        sort(self.entries_of_run, <Entry*> PyBytes_AS_STRING(out), self.entries_count)
        self.entries_count = 0
        return out


cdef int sort(Entry* entries, Entry* out, size_t count) except -1:
    """Least digit first, so that equal hashes stay in the order of their chunks. Both arrays are used; it ends in `out`."""
    cdef size_t counts[256]
    cdef size_t i, sum_, here
    cdef int shift
    cdef Entry* source = entries
    cdef Entry* target = out
    cdef Entry* other
    with nogil:
        for shift in range(0, 64, 8):
            memset(counts, 0, sizeof(counts))
            for i in range(count):
                counts[source[i].hash >> shift & 255] += 1
            sum_ = 0
            for i in range(256):
                here = counts[i]
                counts[i] = sum_
                sum_ += here
            for i in range(count):
                here = source[i].hash >> shift & 255
                target[counts[here]] = source[i]
                counts[here] += 1
            other, source, target = source, target, source
        memcpy(out, source, count * sizeof(Entry))
    return 0


def sort_entries(bytes entries not None):
    """Entries of `Packer.take_entries` of several calls, one behind the other, as one sorted run. ValueError for half ones."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(entries)
    cdef bytes out
    cdef Entry* work
    if size % ENTRY:
        raise ValueError(f"{size} bytes are no whole number of entries")
    out = PyBytes_FromStringAndSize(NULL, size)
    work = <Entry*> PyMem_Malloc(size if size else 1)
    if work == NULL:
        raise MemoryError(f"no memory to sort {size // ENTRY} keys")
    try:
        memcpy(work, PyBytes_AS_STRING(entries), size)
        sort(work, <Entry*> PyBytes_AS_STRING(out), <size_t> size // ENTRY)
        return out
    finally:
        PyMem_Free(work)


cdef class Layout:
    """The table of all keys, in chunks of 64 KiB: a key stands in its home slot (hash * slots >> 64) or as near behind as there is room.

    Entries come sorted by hash, so each stands where it would if all had been put in any order and the least hash had
    stayed (ordered linear probing; Amble and Knuth, 1974), and the table is written from front to back.
    """

    cdef uint64_t slots
    cdef uint64_t next_slot
    cdef uint64_t last_hash
    cdef uint64_t done                  # chunks given
    cdef uint64_t farthest
    cdef bytearray chunk

    def __cinit__(self, uint64_t slots):
        if not 1 <= slots < <uint64_t> 1 << 40:
            raise ValueError(f"a table of {slots} slots")
        self.slots = slots
        self.chunk = bytearray(TABLE_CHUNK)

    @property
    def probes(self):
        """Slots that have to be looked at for the key that is farthest from its home, 1 at least."""
        return self.farthest + 1

    def put(self, bytes entries not None):
        """Put sorted entries, none less than those before; the chunks that are full now. ValueError for a lesser one.

        OverflowError when a key would be more than 4,096 slots from its home: other salt is needed.
        """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(entries)
        cdef const Entry* entry = <const Entry*> PyBytes_AS_STRING(entries)
        cdef size_t count = <size_t> size // ENTRY
        cdef size_t i
        cdef uint64_t at
        cdef uint8_t* slot
        cdef list full = []
        if size % ENTRY:
            raise ValueError(f"{size} bytes are no whole number of entries")
        for i in range(count):
            if entry[i].hash < self.last_hash:
                raise ValueError("entries that are not sorted")
            self.last_hash = entry[i].hash
            at = max(scaled(entry[i].hash, self.slots), self.next_slot)
            if at - scaled(entry[i].hash, self.slots) >= PROBES_MOST:
                raise OverflowError(f"a key is {at - scaled(entry[i].hash, self.slots)} slots from its home")
            self.farthest = max(self.farthest, at - scaled(entry[i].hash, self.slots))
            while at >= (self.done + 1) * (TABLE_CHUNK // SLOT):
                full.append(self.turn())
            slot = <uint8_t*> <char*> self.chunk + (at - self.done * (TABLE_CHUNK // SLOT)) * SLOT
            store_le32(slot, <uint32_t> entry[i].hash)
            store_le32(slot + 4, entry[i].chunk + 1)
            self.next_slot = at + 1
        return full

    cdef bytes turn(self):
        cdef bytes out = bytes(self.chunk)
        memset(<char*> self.chunk, 0, TABLE_CHUNK)
        self.done += 1
        return out

    def finish(self):
        """The chunks that are left. The last one ends with the last slot, or with what overflows behind it."""
        cdef list rest = []
        cdef bytes last
        cdef uint64_t end = max(self.slots, self.next_slot)
        while self.done * (TABLE_CHUNK // SLOT) < end:
            rest.append(self.turn())
        if end % (TABLE_CHUNK // SLOT):
            last = rest.pop()
            rest.append(last[: end % (TABLE_CHUNK // SLOT) * SLOT])
        return rest
