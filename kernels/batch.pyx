"""Batches of calls and outcomes as columns, little endian: built once, passed on without touching each task.

- calls:    ``u32 length[n]``, then the n payloads one after another;
- outcomes: ``u32 index[n] | u32 length[n] | u32 run_us[n] | u8 status[n]``, zeros up to a multiple of 4, payloads.

The layout is that of PAX and of columnar formats after it (Ailamaki et al., "Weaving Relations for Cache
Performance", VLDB 2001): what a hop looks at lies together. Everything read here may come from a hostile peer: the
lengths are checked against the buffer before anything else, in 64 bits.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_GetItem, PyDict_SetItem, PyDict_Size
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_SetItem
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kernels.plain cimport Sink, decode_at, decode_call_at, encode_call, encode_result, sink_free, sink_reserve
from kernels.plain import decode_call, decode_plain, encode_plain

cdef extern from "Python.h":
    object PyObject_GenericGetDict(object, void*)
    int PyGC_Disable() noexcept
    int PyGC_Enable() noexcept

cdef enum:
    TAG = 0x4D                          # "M"
    OK = 0
    OUTCOME_WORDS = 12                  # bytes of the three u32 columns, each task
cdef uint64_t U32_MAX = 0xFFFFFFFF


# ---- building --------------------------------------------------------------------------------------------------

cdef int append_payload(Sink* sink, object payload) except -1:
    cdef Py_buffer raw
    if PyBytes_CheckExact(payload):
        return append(sink, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    PyObject_GetBuffer(payload, &raw, PyBUF_SIMPLE)
    try:
        return append(sink, raw.buf, <size_t> raw.len)
    finally:
        PyBuffer_Release(&raw)


cdef int append(Sink* sink, const void* data, size_t size) except -1:
    if size > U32_MAX:
        raise ValueError(f"a payload of {size} bytes; a column holds lengths up to {U32_MAX}")
    sink.limit = <size_t> -1
    sink_reserve(sink, size)
    if size:
        memcpy(sink.data + sink.size, data, size)
    sink.size += size
    return 0


cdef class CallBuilder:
    """Collects the payloads of one batch of calls."""

    cdef Sink sink
    cdef uint32_t* lengths
    cdef Py_ssize_t room
    cdef readonly Py_ssize_t count

    def __dealloc__(self):
        sink_free(&self.sink)
        PyMem_Free(self.lengths)

    @property
    def nbytes(self):
        """Bytes that take() would return now."""
        return 4 * self.count + <Py_ssize_t> self.sink.size

    cdef int more(self) except -1:
        cdef Py_ssize_t room = self.room * 2 if self.room else 16
        cdef void* lengths
        if <uint64_t> self.count >= U32_MAX:
            raise ValueError(f"a batch holds at most {U32_MAX} tasks")
        lengths = PyMem_Realloc(self.lengths, room * 4)
        if lengths == NULL:
            raise MemoryError(f"no memory for a batch of {room} tasks")
        self.lengths = <uint32_t*> lengths
        self.room = room
        return 0

    def add(self, payload):
        """Append a payload (bytes or another contiguous buffer of bytes); returns its index in the batch."""
        cdef size_t before = self.sink.size
        if self.count == self.room:
            self.more()
        append_payload(&self.sink, payload)
        self.lengths[self.count] = <uint32_t> (self.sink.size - before)
        self.count += 1
        return self.count - 1

    def add_plain(self, tuple args not None, dict kwargs=None):
        """Encode a call with tag M straight into the batch; its index, or -1 and nothing written if it is not plain.

        Not plain is also what takes over kernels.plain.PLAIN_BYTES_MAX bytes.
        """
        cdef size_t before = self.sink.size
        if self.count == self.room:
            self.more()
        if not encode_call(&self.sink, args, kwargs):
            return -1
        self.lengths[self.count] = <uint32_t> (self.sink.size - before)
        self.count += 1
        return self.count - 1

    def take(self):
        """The columns as bytes. The builder is empty afterwards, and keeps its memory for the next batch."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, 4 * self.count + <Py_ssize_t> self.sink.size)
        cdef char* at = PyBytes_AS_STRING(out)
        if self.count:
            memcpy(at, self.lengths, 4 * self.count)
        if self.sink.size:
            memcpy(at + 4 * self.count, self.sink.data, self.sink.size)
        self.count = 0
        self.sink.size = 0
        shrink(&self.sink)
        return out


cdef enum:
    KEEP = 1 << 20                      # bytes of buffer that a builder keeps for the next batch


cdef void shrink(Sink* sink) noexcept:
    if sink.room > KEEP:
        sink_free(sink)


cdef struct Row:
    uint32_t index
    uint32_t length
    uint32_t run_us
    uint32_t status


cdef class OutcomeBuilder:
    """Collects the outcomes of tasks of one batch, in the order in which they end."""

    cdef Sink sink
    cdef Row* rows
    cdef Py_ssize_t room
    cdef readonly Py_ssize_t count

    def __dealloc__(self):
        sink_free(&self.sink)
        PyMem_Free(self.rows)

    @property
    def nbytes(self):
        """Bytes that take() would return now."""
        return outcome_head(self.count) + <Py_ssize_t> self.sink.size

    cdef int push(self, uint64_t index, uint64_t run_us, int status, size_t before) except -1:
        self.rows[self.count].index = <uint32_t> index
        self.rows[self.count].length = <uint32_t> (self.sink.size - before)
        # A task of more than 71 minutes shows as 71 minutes: the column serves statistics, not accounts.
        self.rows[self.count].run_us = <uint32_t> (run_us if run_us <= U32_MAX else U32_MAX)
        self.rows[self.count].status = <uint32_t> status
        self.count += 1
        return 0

    cdef int more(self) except -1:
        cdef Py_ssize_t room = self.room * 2 if self.room else 16
        cdef void* rows
        if <uint64_t> self.count >= U32_MAX:
            raise ValueError(f"a batch holds at most {U32_MAX} tasks")
        rows = PyMem_Realloc(self.rows, room * sizeof(Row))
        if rows == NULL:
            raise MemoryError(f"no memory for a batch of {room} outcomes")
        self.rows = <Row*> rows
        self.room = room
        return 0

    def add(self, uint32_t index, uint8_t status, uint64_t run_us, payload):
        """Append an outcome: index in the batch, status (u8), run time in µs (clamped to 32 bits), payload."""
        cdef size_t before = self.sink.size
        if self.count == self.room:
            self.more()
        append_payload(&self.sink, payload)
        self.push(index, run_us, status, before)

    def add_plain(self, uint32_t index, uint64_t run_us, value):
        """Append a result with status OK, encoded with tag M; False and nothing written when it is not plain."""
        cdef size_t before = self.sink.size
        if self.count == self.room:
            self.more()
        if not encode_result(&self.sink, value):
            return False
        self.push(index, run_us, OK, before)
        return True

    def take(self):
        """The columns as bytes. The builder is empty afterwards, and keeps its memory for the next outcomes."""
        cdef Py_ssize_t i, n = self.count, head = outcome_head(n)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, head + <Py_ssize_t> self.sink.size)
        cdef char* at = PyBytes_AS_STRING(out)
        for i in range(n):
            store_le32(at + 4 * i, self.rows[i].index)
            store_le32(at + 4 * (n + i), self.rows[i].length)
            store_le32(at + 4 * (2 * n + i), self.rows[i].run_us)
            at[OUTCOME_WORDS * n + i] = <char> self.rows[i].status
        memset(at + 13 * n, 0, head - 13 * n)
        if self.sink.size:
            memcpy(at + head, self.sink.data, self.sink.size)
        self.count = 0
        self.sink.size = 0
        shrink(&self.sink)
        return out


cdef inline Py_ssize_t outcome_head(Py_ssize_t n) noexcept nogil:
    return (13 * n + 3) & ~(<Py_ssize_t> 3)


# ---- reading ---------------------------------------------------------------------------------------------------

cdef class Columns:
    """What Calls and Outcomes share: a checked, read-only view of columns. The buffer must not change meanwhile."""

    def __dealloc__(self):
        PyMem_Free(self.ends)

    cdef int open(self, object buffer, object count, Py_ssize_t head_each, Py_ssize_t lengths_at) except -1:
        """Check that `count` rows of head_each bytes and their payloads fill the buffer exactly."""
        cdef Py_buffer* raw
        cdef Py_ssize_t i, n
        cdef uint64_t at, size
        cdef const uint8_t* lengths
        if self.view is not None:
            raise TypeError("columns are opened once")
        if type(count) is not int or not 0 <= count <= U32_MAX:
            raise ValueError(f"a batch of {count!r} tasks")
        view = PyMemoryView_FromObject(buffer)
        if not view.c_contiguous:
            raise ValueError("columns must be contiguous")
        if view.ndim != 1 or view.itemsize != 1 or view.format != "B":
            view = view.cast("B")
        view = view.toreadonly()
        raw = PyMemoryView_GET_BUFFER(view)
        n = count
        size = raw.len
        if <uint64_t> n > size // <uint64_t> head_each:
            raise ValueError(f"columns of {size} bytes cannot hold {n} tasks")
        at = outcome_head(n) if head_each == 13 else 4 * n
        if at > size:
            raise ValueError(f"columns of {size} bytes cannot hold {n} tasks")
        PyMem_Free(self.ends)               # of an earlier attempt that was refused
        self.ends = <uint64_t*> PyMem_Malloc(8 * n if n else 8)
        if self.ends == NULL:
            raise MemoryError(f"no memory for the view of {n} tasks")
        lengths = <const uint8_t*> raw.buf + lengths_at * n
        self.head = <Py_ssize_t> at
        # n <= 2^32 lengths below 2^32 each cannot overflow 64 bits, so one comparison at the end is enough.
        for i in range(n):
            at += load_le32(lengths + 4 * i)
            self.ends[i] = at
        if at != size:
            raise ValueError(f"columns of {n} tasks speak of {at} bytes, and are {size}")
        self.view = view
        self.data = <const uint8_t*> raw.buf
        self.count = n
        self.nbytes = <Py_ssize_t> size
        return 0

    cdef int within(self, Py_ssize_t i) except -1:
        if i < 0 or i >= self.count:
            raise IndexError(f"task {i} of a batch of {self.count}")
        return 0

    def payload(self, Py_ssize_t i):
        """The payload of row i, a read-only memoryview of bytes, not copied."""
        self.within(i)
        return self.view[self.start_of(i):<Py_ssize_t> self.ends[i]]


cdef class Calls(Columns):
    """Checked view of the columns of a batch of calls. ValueError when they do not fill the buffer exactly."""

    def __init__(self, buffer, count):
        self.open(buffer, count, 4, 0)

    def call(self, Py_ssize_t i):
        """(args, kwargs) of call i when its payload has tag M, else None. ValueError when that is malformed."""
        cdef Py_ssize_t at, size
        self.within(i)
        at = self.start_of(i)
        size = <Py_ssize_t> self.ends[i] - at
        if size == 0 or self.data[at] != TAG:
            return None
        return decode_call_at(self.data + at, size)

    def slice(self, Py_ssize_t start, Py_ssize_t stop):
        """(lengths column, payloads) of the calls in [start, stop): together the columns of these calls alone."""
        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"tasks {start}:{stop} of a batch of {self.count}")
        return self.view[4 * start:4 * stop], self.view[self.start_of(start):self.start_of(stop)]

    def payload_bytes(self, Py_ssize_t start, Py_ssize_t stop):
        """How many bytes the payloads of the calls in [start, stop) take."""
        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"tasks {start}:{stop} of a batch of {self.count}")
        return self.start_of(stop) - self.start_of(start)

    def longest(self):
        """Bytes of the longest payload; 0 for an empty batch."""
        cdef Py_ssize_t i, size, most = 0
        for i in range(self.count):
            size = <Py_ssize_t> self.ends[i] - self.start_of(i)
            if size > most:
                most = size
        return most


cdef class Outcomes(Columns):
    """Checked view of the columns of outcomes, in any order. ValueError when they do not fill the buffer exactly."""

    def __init__(self, buffer, count):
        cdef Py_ssize_t i, n
        cdef uint64_t total = 0
        cdef uint8_t any_status = 0
        self.open(buffer, count, 13, 4)
        n = self.count
        for i in range(13 * n, self.head):
            if self.data[i]:
                raise ValueError("the padding of the columns is not zero")
        for i in range(n):
            total += load_le32(self.data + 8 * n + 4 * i)
        for i in range(n):
            any_status |= self.data[12 * n + i]
        self.run_us_total = total
        self.all_ok = any_status == 0

    def index(self, Py_ssize_t i):
        """Index in the batch of row i; nothing says yet that the batch has it."""
        self.within(i)
        return self.index_at(i)

    def status(self, Py_ssize_t i):
        """Status of row i (u8; any value)."""
        self.within(i)
        return self.status_at(i)

    def run_us(self, Py_ssize_t i):
        """How long row i ran, µs, at most 2^32-1."""
        self.within(i)
        return load_le32(self.data + 8 * self.count + 4 * i)

    def indices(self):
        """The column of indices, a read-only memoryview of format "I"."""
        return self.view[:4 * self.count].cast("I")

    def run_times_us(self):
        """The column of run times, µs, a read-only memoryview of format "I" (Histogram.record_many takes it)."""
        return self.view[8 * self.count:12 * self.count].cast("I")

    def statuses(self):
        """The column of statuses, a read-only memoryview of format "B"."""
        return self.view[12 * self.count:13 * self.count]


# ---- settling futures ------------------------------------------------------------------------------------------

cdef object PENDING = "PENDING"
cdef object RUNNING = "RUNNING"
cdef object FINISHED = "FINISHED"
cdef str RESULT_NAME = "_result"
cdef str STATE_NAME = "_state"
cdef str CONDITION_NAME = "_condition"
cdef str CALLBACKS_NAME = "_done_callbacks"
cdef str WAITERS_NAME = "_waiters"


cdef dict attributes_of(object it):
    cdef bint was_on = PyGC_Disable()
    try:
        return PyObject_GenericGetDict(it, NULL)
    finally:
        if was_on:
            PyGC_Enable()


def attributes(it):
    """The dictionary of an object's own attributes: ``it.__dict__``, for objects that several threads look at.

    In CPython 3.11 an object's attributes get their dictionary when it is first asked for, and making it may begin a
    garbage collection, whose callbacks (or another thread, to which they give way) may ask for the same one: both are
    then made, over the same memory, which is freed twice. So nothing is collected meanwhile. From 3.12 on collections
    begin between instructions only.
    """
    return attributes_of(it)


cdef int finish(object future, object value) except -1:
    """Give a future its result: two dict stores when nobody waits on it, else through its own _finish().

    No Python code runs between the look at the dict and the stores (exact str keys, no other object freed), so under
    the GIL nobody can begin to wait, cancel or add a callback in between.
    """
    cdef dict state = attributes_of(future)
    cdef PyObject* now
    if PyDict_Size(state):
        now = PyDict_GetItem(state, STATE_NAME)
        if (
            (now != NULL and <object> now is not PENDING and <object> now is not RUNNING)
            or PyDict_Contains(state, CONDITION_NAME)
            or PyDict_Contains(state, CALLBACKS_NAME)
            or PyDict_Contains(state, WAITERS_NAME)
        ):
            future._finish(value)
            return 0
    # The state last: who reads FINISHED without a lock finds the result there.
    PyDict_SetItem(state, RESULT_NAME, value)
    PyDict_SetItem(state, STATE_NAME, FINISHED)
    return 0


def settle(Outcomes outcomes not None, list futures not None, on_other):
    """Finish the futures of a batch with the outcomes that came for it. Returns how many were finished.

    futures[index] is the future of that task, or None when it is settled already (such outcomes are skipped). A result
    with status OK and tag M is decoded here; its entry becomes None first. Any other outcome, and a result that is
    malformed, goes to on_other(index, status, payload), with the entry left in place. ValueError when an index is
    beyond the list, before anything is settled. An error out of on_other or of a future's _finish() ends the call;
    calling again goes on with the rest.
    """
    cdef Py_ssize_t i, at, size, done = 0, n = outcomes.count
    cdef uint32_t index, most = 0
    cdef object future, value
    for i in range(n):
        index = outcomes.index_at(i)
        if index > most:
            most = index
    if n and most >= PyList_GET_SIZE(futures):
        raise ValueError(f"an outcome for task {most} of a batch of {PyList_GET_SIZE(futures)}")
    for i in range(n):
        index = outcomes.index_at(i)
        if index >= PyList_GET_SIZE(futures):
            raise ValueError("the list of futures became shorter while it was settled")
        future = <object> PyList_GET_ITEM(futures, index)
        if future is None:
            continue
        at = outcomes.start_of(i)
        size = <Py_ssize_t> outcomes.ends[i] - at
        if outcomes.status_at(i) != OK or size < 2 or outcomes.data[at] != TAG:
            on_other(index, outcomes.status_at(i), outcomes.payload(i))
            continue
        if size == 2 and outcomes.data[at + 1] == 0xC0:
            value = None
        else:
            try:
                value = decode_at(outcomes.data + at, size)
            except ValueError:
                on_other(index, OK, outcomes.payload(i))
                continue
        Py_INCREF(None)
        PyList_SetItem(futures, index, None)
        finish(future, value)
        done += 1
    return done
