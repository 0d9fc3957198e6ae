"""Chunks: the arguments of many calls in one payload, and the loop that makes these calls where it arrives.

The payload is that of an ordinary call with tag M and two arguments: a byte string, which holds the arguments of all
calls as MessagePack values one after another, and how many of them make one call (its width). So one thing goes over
the wire and through the nodes, and what is done for each item is what has to be: one encoding, one call, one decoding.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_Append
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t

from kernels.plain cimport Sink, Source, get_value, put_value, sink_free, sink_reserve

cdef extern from "Python.h":
    PyObject* PyIter_Next(object) except? NULL
    object PyObject_Vectorcall(object, PyObject**, size_t, PyObject*)
    int PyErr_CheckSignals() except -1

cdef extern from "clock.h" nogil:
    int64_t clock_monotonic_ns() noexcept

cdef extern from "wire.h" nogil:
    void store_be32(void*, uint32_t) noexcept

cdef enum:
    HEAD = 8                  # M, array of 1, array of 2, bin 32 and its length
    WIDTH = 127               # arguments of one call, at most: a MessagePack integer of one byte
    BREATHER = 256            # calls after which signals and other threads get their turn
    VALUE_BYTES = 65536       # beyond what was asked for, the last item may go so far
    STACK = 8

WIDTH_MAX = WIDTH


cdef int put_item(Sink* sink, object item, int width) except -1:
    cdef Py_ssize_t i
    if width == 1:
        return put_value(sink, item, 0)
    if not PyTuple_CheckExact(item) or PyTuple_GET_SIZE(item) != width:
        raise ValueError(f"an item that is no tuple of {width}")
    for i in range(width):
        if not put_value(sink, <object> PyTuple_GET_ITEM(item, i), 0):
            return 0
    return 1


def pack(items, int width, Py_ssize_t count_max, Py_ssize_t bytes_max, int64_t limit_ns=0):
    """Take items from an iterator, and write them into the payload of one call: (payload, count, left over).

    With `width` 1 an item is the one argument of its call, else it is a tuple of `width` arguments. Ends with
    `count_max` items, or the first that reaches `bytes_max` bytes, or, when `limit_ns` is not 0, about that time after
    the call for inputs that are slow to come. An item that is not plain (see kernels.plain), or more than 64 KiB
    beyond `bytes_max`, is taken and comes back as the one member of a list; else the list is empty. A count of 0 and
    nothing left over means that there is nothing more. ValueError for a width or a bound that makes no sense; what the
    iterator raises goes on.
    """
    cdef Sink sink
    cdef size_t before
    cdef Py_ssize_t count = 0
    cdef int64_t ends = 0
    cdef PyObject* taken
    cdef object item
    cdef list left = []
    if not 1 <= width <= WIDTH or count_max < 1 or not 1 <= bytes_max <= 0x7FFFFFFF:
        raise ValueError(f"a chunk of {count_max} items of {width} arguments in {bytes_max} bytes")
    items = iter(items)
    if limit_ns:
        ends = clock_monotonic_ns() + limit_ns
    sink.data = NULL
    sink.size = sink.room = 0
    sink.limit = <size_t> HEAD + <size_t> bytes_max + VALUE_BYTES + 1
    try:
        sink_reserve(&sink, HEAD)
        sink.size = HEAD
        while count < count_max and sink.size - HEAD < <size_t> bytes_max:
            taken = PyIter_Next(items)
            if taken == NULL:
                break
            item = <object> taken
            Py_DECREF(item)
            before = sink.size
            if not put_item(&sink, item, width):
                sink.size = before
                left.append(item)
                break
            count += 1
            # Looked at often only in the beginning: a slow input is seen at once, a quick one costs nothing.
            if ends and (not count & (count - 1) or not count & 63) and clock_monotonic_ns() >= ends:
                break
        sink.limit = <size_t> -1
        sink_reserve(&sink, 1)
        sink.data[0] = 0x4D
        sink.data[1] = 0x91
        sink.data[2] = 0x92
        sink.data[3] = 0xC6
        store_be32(sink.data + 4, <uint32_t> (sink.size - HEAD))
        sink.data[sink.size] = <uint8_t> width
        return PyBytes_FromStringAndSize(<const char*> sink.data, <Py_ssize_t> sink.size + 1), count, left
    finally:
        sink_free(&sink)


cdef int check_width(int width) except -1:
    if not 1 <= width <= WIDTH:
        raise ValueError(f"calls of {width} arguments")
    return 0


cdef inline object next_value(Source* source):
    if source.at >= source.stop:
        raise ValueError("malformed payload: a call without all of its arguments")
    source.owed = 1
    return get_value(source, 0)


def unpack(items, int width):
    """The items of a chunk again: a list, of values when `width` is 1, else of tuples. ValueError when malformed."""
    cdef Py_buffer raw
    cdef Source source
    cdef list out = []
    check_width(width)
    PyObject_GetBuffer(items, &raw, PyBUF_SIMPLE)
    try:
        source.at = <const uint8_t*> raw.buf
        source.stop = source.at + raw.len
        while source.at < source.stop:
            if width == 1:
                out.append(next_value(&source))
            else:
                out.append(tuple([next_value(&source) for _ in range(width)]))
        return out
    finally:
        PyBuffer_Release(&raw)


def call_each(fn, items, int width, list values not None):
    """Call `fn` with the arguments of each item in turn, and append what it returns to `values`.

    `items` is what a payload of `pack` holds, read as it goes, or any other iterable of items of the same form. What
    `fn` raises goes on: then `values` has the results of the calls before. ValueError when the bytes are malformed,
    once the calls before that place were made.
    """
    cdef Py_buffer raw
    check_width(width)
    if not isinstance(items, (bytes, bytearray, memoryview)):
        each_of(fn, items, width, values)
        return
    PyObject_GetBuffer(items, &raw, PyBUF_SIMPLE)
    try:
        each_packed(fn, <const uint8_t*> raw.buf, raw.len, width, values)
    finally:
        PyBuffer_Release(&raw)


cdef int breathe() except -1:
    PyErr_CheckSignals()
    with nogil:
        pass
    return 0


cdef int each_packed(object fn, const uint8_t* data, Py_ssize_t size, int width, list values) except -1:
    cdef PyObject* few[STACK]
    cdef PyObject** arguments = few
    cdef Source source
    cdef Py_ssize_t made = 0
    cdef int have = 0
    cdef object value
    source.at = data
    source.stop = data + size
    if width > STACK:
        arguments = <PyObject**> PyMem_Malloc(width * sizeof(PyObject*))
        if arguments == NULL:
            raise MemoryError(f"no memory for {width} arguments")
    try:
        while source.at < source.stop:
            while have < width:
                value = next_value(&source)
                Py_INCREF(value)
                arguments[have] = <PyObject*> value
                have += 1
            value = None
            value = PyObject_Vectorcall(fn, arguments, width, NULL)
            PyList_Append(values, value)
            while have:
                have -= 1
                Py_DECREF(<object> arguments[have])
            made += 1
            if not made & (BREATHER - 1):
                breathe()
        return 0
    finally:
        while have:
            have -= 1
            Py_DECREF(<object> arguments[have])
        if arguments != few:
            PyMem_Free(arguments)


cdef int each_of(object fn, object items, int width, list values) except -1:
    cdef Py_ssize_t made = 0
    for item in items:
        if width == 1:
            PyList_Append(values, fn(item))
        else:
            PyList_Append(values, fn(*item))
        made += 1
        if not made & (BREATHER - 1):
            breathe()
    return 0
