from libc.stdint cimport uint8_t

cdef struct Sink:            # a growing buffer; never beyond `limit` bytes
    uint8_t* data
    size_t size
    size_t room
    size_t limit

cdef int sink_reserve(Sink* sink, size_t more) except -1
cdef void sink_free(Sink* sink) noexcept
cdef int encode_result(Sink* sink, object value) except -1
cdef int encode_call(Sink* sink, tuple args, dict kwargs) except -1
cdef object decode_at(const uint8_t* data, size_t size)
cdef object decode_call_at(const uint8_t* data, size_t size)
