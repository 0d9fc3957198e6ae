"""Plain values as MessagePack: what can cross the wire unchanged, without pickle.

Plain is: None, bool, int of 64 bits (signed or unsigned), float, str without surrogates, bytes, list, and dict
with str keys, each of exactly that type, nested at most 32 deep. The encoding is that of the MessagePack
specification (https://github.com/msgpack/msgpack/blob/master/spec.md), each value in its shortest form, after one
tag byte ``b"M"``.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_SetItem, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "wire.h" nogil:
    uint16_t load_be16(const void*) noexcept
    uint32_t load_be32(const void*) noexcept
    uint64_t load_be64(const void*) noexcept
    void store_be16(void*, uint16_t) noexcept
    void store_be32(void*, uint32_t) noexcept
    void store_be64(void*, uint64_t) noexcept
    float load_be_float(const void*) noexcept
    double load_be_double(const void*) noexcept
    void store_be_double(void*, double) noexcept

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object) except? 0xFFFFFFFFFFFFFFFF
    bint PyUnicode_IS_ASCII "PyUnicode_IS_COMPACT_ASCII" (object)
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)

cdef enum:
    TAG = 0x4D                # "M"
    DEPTH = 32                # containers inside one another in a value
    ENVELOPE = 2              # the two arrays that a call puts around its arguments

PLAIN_DEPTH_MAX = DEPTH       # containers inside one another
# What is bigger goes the way of the big ones (pickle 5 with buffers out of band). It also ends a list that holds itself.
PLAIN_BYTES_MAX = 65536
cdef size_t BYTES_MAX = 65536


# ---- writing ---------------------------------------------------------------------------------------------------

cdef int sink_reserve(Sink* sink, size_t more) except -1:
    """Room for `more` bytes: 1, or 0 where that would pass the limit. MemoryError when there is none."""
    cdef size_t room
    cdef void* data
    if more > sink.limit or sink.size > sink.limit - more:
        return 0
    if sink.size + more <= sink.room:
        return 1
    room = sink.room * 2 if sink.room >= 256 else 256
    if room < sink.size + more:
        room = sink.size + more
    data = PyMem_Realloc(sink.data, room)
    if data == NULL:
        raise MemoryError(f"no memory for a payload buffer of {room} bytes")
    sink.data = <uint8_t*> data
    sink.room = room
    return 1


cdef void sink_free(Sink* sink) noexcept:
    PyMem_Free(sink.data)
    sink.data = NULL
    sink.size = sink.room = 0


cdef int put_length(Sink* sink, size_t n, int fix, size_t fix_max, int form8, int form16) except -1:
    """The head of a str, bin, array or map of n; the 32-bit form follows the 16-bit one in all four."""
    cdef uint8_t* at
    if n > <size_t> 0xFFFFFFFF or not sink_reserve(sink, 5):
        return 0
    at = sink.data + sink.size
    if n <= fix_max and fix:
        at[0] = <uint8_t> (fix | n)
        sink.size += 1
    elif n <= 0xFF and form8:
        at[0] = <uint8_t> form8
        at[1] = <uint8_t> n
        sink.size += 2
    elif n <= 0xFFFF:
        at[0] = <uint8_t> form16
        store_be16(at + 1, <uint16_t> n)
        sink.size += 3
    else:
        at[0] = <uint8_t> (form16 + 1)
        store_be32(at + 1, <uint32_t> n)
        sink.size += 5
    return 1


cdef int put_raw(Sink* sink, const void* data, size_t n) except -1:
    if not sink_reserve(sink, n):
        return 0
    memcpy(sink.data + sink.size, data, n)
    sink.size += n
    return 1


cdef int put_int(Sink* sink, object value) except -1:
    cdef int overflow = 0
    cdef uint8_t* at
    cdef uint64_t u
    cdef long long v = PyLong_AsLongLongAndOverflow(value, &overflow)
    if not sink_reserve(sink, 9):
        return 0
    at = sink.data + sink.size
    if overflow < 0:
        return 0
    if overflow > 0:
        try:
            u = PyLong_AsUnsignedLongLong(value)
        except OverflowError:
            return 0
    elif v >= 0:
        u = <uint64_t> v
    else:
        if v >= -32:
            at[0] = <uint8_t> (<int8_t> v)
            sink.size += 1
        elif v >= -0x80:
            at[0] = 0xD0
            at[1] = <uint8_t> (<int8_t> v)
            sink.size += 2
        elif v >= -0x8000:
            at[0] = 0xD1
            store_be16(at + 1, <uint16_t> (<int16_t> v))
            sink.size += 3
        elif v >= -0x80000000LL:
            at[0] = 0xD2
            store_be32(at + 1, <uint32_t> (<int32_t> v))
            sink.size += 5
        else:
            at[0] = 0xD3
            store_be64(at + 1, <uint64_t> v)
            sink.size += 9
        return 1
    if u < 0x80:
        at[0] = <uint8_t> u
        sink.size += 1
    elif u <= 0xFF:
        at[0] = 0xCC
        at[1] = <uint8_t> u
        sink.size += 2
    elif u <= 0xFFFF:
        at[0] = 0xCD
        store_be16(at + 1, <uint16_t> u)
        sink.size += 3
    elif u <= 0xFFFFFFFFULL:
        at[0] = 0xCE
        store_be32(at + 1, <uint32_t> u)
        sink.size += 5
    else:
        at[0] = 0xCF
        store_be64(at + 1, u)
        sink.size += 9
    return 1


cdef int put_str(Sink* sink, object value) except -1:
    cdef Py_ssize_t n = 0
    cdef const char* text
    cdef bytes encoded
    if PyUnicode_IS_ASCII(value):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        return put_length(sink, n, 0xA0, 31, 0xD9, 0xDA) and put_raw(sink, text, n)
    try:
        # A copy of its own, since AsUTF8AndSize would leave one inside the caller's string for as long as that lives.
        encoded = (<str> value).encode("utf-8")
    except UnicodeEncodeError:
        return 0
    n = PyBytes_GET_SIZE(encoded)
    return put_length(sink, n, 0xA0, 31, 0xD9, 0xDA) and put_raw(sink, PyBytes_AS_STRING(encoded), n)


cdef int put_map(Sink* sink, dict value, int depth) except -1:
    cdef PyObject* key = NULL
    cdef PyObject* item = NULL
    cdef Py_ssize_t at = 0
    if not put_length(sink, PyDict_Size(value), 0x80, 15, 0, 0xDE):
        return 0
    while PyDict_Next(value, &at, &key, &item):
        if type(<object> key) is not str or not put_str(sink, <object> key):
            return 0
        if not put_value(sink, <object> item, depth):
            return 0
    return 1


cdef int put_value(Sink* sink, object value, int depth) except -1:
    """Append a value: 1, or 0 when it is not plain (what was appended so far is the caller's to drop)."""
    cdef Py_ssize_t i, n
    cdef object kind = type(value)
    if value is None or kind is bool:
        if not sink_reserve(sink, 1):
            return 0
        sink.data[sink.size] = 0xC0 if value is None else (0xC3 if value is True else 0xC2)
        sink.size += 1
        return 1
    if kind is int:
        return put_int(sink, value)
    if kind is str:
        return put_str(sink, value)
    if kind is float:
        if not sink_reserve(sink, 9):
            return 0
        sink.data[sink.size] = 0xCB
        store_be_double(sink.data + sink.size + 1, PyFloat_AS_DOUBLE(value))
        sink.size += 9
        return 1
    if kind is bytes:
        n = PyBytes_GET_SIZE(value)
        return put_length(sink, n, 0, 0, 0xC4, 0xC5) and put_raw(sink, PyBytes_AS_STRING(value), n)
    if kind is list:
        n = PyList_GET_SIZE(value)
        if depth >= DEPTH or not put_length(sink, n, 0x90, 15, 0, 0xDC):
            return 0
        for i in range(n):
            if not put_value(sink, <object> PyList_GET_ITEM(value, i), depth + 1):
                return 0
        return 1
    if kind is dict:
        return depth < DEPTH and put_map(sink, <dict> value, depth + 1)
    return 0


cdef int encode_result(Sink* sink, object value) except -1:
    """Tag and value; 0 and nothing written when the value is not plain."""
    return encode_within(sink, value, BYTES_MAX)


cdef int encode_within(Sink* sink, object value, size_t bytes_max) except -1:
    cdef size_t before = sink.size
    cdef int plain
    sink.limit = before + bytes_max
    if not sink_reserve(sink, 2):
        return 0
    sink.data[sink.size] = TAG
    sink.size += 1
    try:
        plain = put_value(sink, value, 0)
    except BaseException:
        sink.size = before
        raise
    if not plain:
        sink.size = before
    return plain


cdef int put_call(Sink* sink, tuple args, dict kwargs) except -1:
    cdef Py_ssize_t i, n = PyTuple_GET_SIZE(args)
    cdef bint named = kwargs is not None and PyDict_Size(kwargs) > 0
    if not sink_reserve(sink, 3):
        return 0
    sink.data[sink.size] = TAG
    sink.data[sink.size + 1] = 0x92 if named else 0x91
    sink.size += 2
    if not put_length(sink, n, 0x90, 15, 0, 0xDC):
        return 0
    for i in range(n):
        if not put_value(sink, <object> PyTuple_GET_ITEM(args, i), 0):
            return 0
    return put_map(sink, kwargs, 0) if named else 1


cdef int encode_call(Sink* sink, tuple args, dict kwargs) except -1:
    """Tag and [args] or [args, kwargs]; 0 and nothing written when an argument is not plain."""
    cdef size_t before = sink.size
    cdef int plain
    sink.limit = before + BYTES_MAX
    try:
        plain = put_call(sink, args, kwargs)
    except BaseException:
        sink.size = before
        raise
    if not plain:
        sink.size = before
    return plain


# ---- reading ---------------------------------------------------------------------------------------------------

cdef int malformed(str why) except -1:
    raise ValueError(f"malformed payload: {why}")


cdef inline int need(Source* source, size_t n) except -1:
    """Are n bytes left, beside those that the promised values need? So nothing is allocated that cannot be filled."""
    if n > <size_t> (source.stop - source.at) - source.owed:
        malformed("cut short")
    return 1


cdef object get_str(Source* source, size_t n):
    need(source, n)
    source.at += n
    return PyUnicode_DecodeUTF8(<const char*> source.at - n, <Py_ssize_t> n, "strict")


cdef object get_bytes(Source* source, size_t n):
    need(source, n)
    source.at += n
    return PyBytes_FromStringAndSize(<const char*> source.at - n, <Py_ssize_t> n)


cdef object get_list(Source* source, size_t n, int depth):
    cdef size_t i
    cdef list out
    cdef object item
    if depth >= DEPTH + ENVELOPE:
        malformed("nested too deep")
    need(source, n)
    source.owed += n
    out = PyList_New(<Py_ssize_t> n)
    for i in range(n):
        item = get_value(source, depth + 1)
        Py_INCREF(item)
        PyList_SET_ITEM(out, <Py_ssize_t> i, item)
    return out


cdef object get_map(Source* source, size_t n, int depth):
    cdef size_t i
    cdef dict out = {}
    cdef object key
    if depth >= DEPTH + ENVELOPE:
        malformed("nested too deep")
    need(source, 2 * n)
    source.owed += 2 * n
    for i in range(n):
        key = get_value(source, depth + 1)
        if type(key) is not str:
            malformed("a key that is not a string")
        PyDict_SetItem(out, key, get_value(source, depth + 1))
    return out


cdef object get_value(Source* source, int depth):
    cdef int head = source.at[0]
    cdef const uint8_t* body = source.at + 1
    cdef size_t wide
    source.at += 1
    source.owed -= 1
    if head < 0x80:
        return head
    if head >= 0xE0:
        return head - 0x100
    if head < 0x90:
        return get_map(source, head & 0x0F, depth)
    if head < 0xA0:
        return get_list(source, head & 0x0F, depth)
    if head < 0xC0:
        return get_str(source, head & 0x1F)
    if head == 0xC0:
        return None
    if head == 0xC2:
        return False
    if head == 0xC3:
        return True
    # The fixed part behind the head: lengths of 1, 2, 4 bytes, floats of 4, 8, integers of 1, 2, 4, 8.
    if head == 0xC4 or head == 0xCC or head == 0xD0 or head == 0xD9:
        wide = 1
    elif head == 0xC5 or head == 0xCD or head == 0xD1 or head == 0xDA or head == 0xDC or head == 0xDE:
        wide = 2
    elif head == 0xC6 or head == 0xCA or head == 0xCE or head == 0xD2 or head == 0xDB or head == 0xDD or head == 0xDF:
        wide = 4
    elif head == 0xCB or head == 0xCF or head == 0xD3:
        wide = 8
    else:
        malformed("an extension type or a reserved byte")
        return None
    need(source, wide)
    source.at += wide
    if head == 0xCC:
        return body[0]
    if head == 0xCD:
        return load_be16(body)
    if head == 0xCE:
        return load_be32(body)
    if head == 0xCF:
        return load_be64(body)
    if head == 0xD0:
        return <int8_t> body[0]
    if head == 0xD1:
        return <int16_t> load_be16(body)
    if head == 0xD2:
        return <int32_t> load_be32(body)
    if head == 0xD3:
        return <int64_t> load_be64(body)
    if head == 0xCB:
        return load_be_double(body)
    if head == 0xCA:
        return <double> load_be_float(body)
    if head == 0xD9:
        return get_str(source, body[0])
    if head == 0xDA:
        return get_str(source, load_be16(body))
    if head == 0xDB:
        return get_str(source, load_be32(body))
    if head == 0xC4:
        return get_bytes(source, body[0])
    if head == 0xC5:
        return get_bytes(source, load_be16(body))
    if head == 0xC6:
        return get_bytes(source, load_be32(body))
    if head == 0xDC:
        return get_list(source, load_be16(body), depth)
    if head == 0xDD:
        return get_list(source, load_be32(body), depth)
    if head == 0xDE:
        return get_map(source, load_be16(body), depth)
    return get_map(source, load_be32(body), depth)


cdef object decode_at(const uint8_t* data, size_t size):
    """The value of a payload with tag M; ValueError when it is malformed."""
    cdef Source source
    cdef object value
    if size < 2 or data[0] != TAG:
        malformed("not tagged as plain, or empty")
    source.at = data + 1
    source.stop = data + size
    source.owed = 1
    value = get_value(&source, 0)
    if source.at != source.stop:
        malformed(f"{source.stop - source.at} bytes behind its end")
    return value


def encode_plain(value, Py_ssize_t bytes_max=PLAIN_BYTES_MAX):
    """The payload of a result: tag M and MessagePack, or None when the value is not plain or over `bytes_max`."""
    cdef Sink sink
    sink.data = NULL
    sink.size = sink.room = sink.limit = 0
    try:
        if bytes_max <= 0 or not encode_within(&sink, value, <size_t> bytes_max):
            return None
        return PyBytes_FromStringAndSize(<const char*> sink.data, <Py_ssize_t> sink.size)
    finally:
        sink_free(&sink)


def decode_plain(payload):
    """The value of a payload with tag M: a result, or a call as a list [args] or [args, kwargs].

    ValueError when it is malformed: another tag, cut short, bytes left over, nested deeper than a call with values of
    PLAIN_DEPTH_MAX can be, keys that are not str, invalid UTF-8, extension types. Memory taken is bounded by the
    payload's size (8 bytes for each byte of it, plus the values themselves).
    """
    cdef Py_buffer raw
    if type(payload) is bytes:
        return decode_at(<const uint8_t*> PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    PyObject_GetBuffer(payload, &raw, PyBUF_SIMPLE)
    try:
        return decode_at(<const uint8_t*> raw.buf, <size_t> raw.len)
    finally:
        PyBuffer_Release(&raw)


def decode_call(payload):
    """The (args, kwargs) of a call's payload with tag M. ValueError when it is malformed or not a call."""
    return as_call(decode_plain(payload))


cdef object as_call(object call):
    cdef Py_ssize_t n
    if type(call) is list:
        n = PyList_GET_SIZE(call)
        if 1 <= n <= 2 and type(call[0]) is list and (n == 1 or type(call[1]) is dict):
            return tuple(<list> call[0]), (call[1] if n == 2 else {})
    malformed("not a call")


cdef object decode_call_at(const uint8_t* data, size_t size):
    """The (args, kwargs) of a call's payload; ValueError when it is malformed or not a call."""
    # What most calls are: no arguments, nothing to look for.
    if size == 3 and data[0] == TAG and data[1] == 0x91 and data[2] == 0x90:
        return (), {}
    return as_call(decode_at(data, size))
