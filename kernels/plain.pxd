from libc.stdint cimport uint8_t

cdef struct Sink:            # a growing buffer; never beyond `limit` bytes
    uint8_t* data
    size_t size
    size_t room
    size_t limit

cdef struct Source:
    const uint8_t* at
    const uint8_t* stop
    size_t owed              # values promised by the heads read so far; each needs a byte, so never more than are left

cdef int sink_reserve(Sink* sink, size_t more) except -1
cdef void sink_free(Sink* sink) noexcept
cdef int encode_result(Sink* sink, object value) except -1
cdef int encode_call(Sink* sink, tuple args, dict kwargs) except -1
cdef object decode_at(const uint8_t* data, size_t size)
cdef object decode_call_at(const uint8_t* data, size_t size)
# For what writes and reads several values one after another, without a head: the caller sets the sink's limit, and
# owes a byte (`owed` = 1, at < stop) for each value that it asks for.
cdef int put_value(Sink* sink, object value, int depth) except -1
cdef object get_value(Source* source, int depth)
