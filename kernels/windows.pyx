"""Windows: read-only views of a part of a buffer that say when nobody looks through them any more.

A memoryview cannot tell: slices of it, and arrays over it, outlive it, and hold what it was made of. So this is what
they are made of (the exporter of PEP 3118), and its end is theirs.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

cdef extern from "pages.h" nogil:
    void advise_huge_pages(void*, size_t) noexcept

cdef enum:
    LARGE = 4194304                     # bytes from which on huge pages are worth asking for


cdef class Window:
    """Bytes [offset, offset + size) of `buffer`, read-only. `ended` is called with `token` when the last view is gone.

    `ended` is called wherever that happens, in any thread, and must not raise. ValueError when the part is not within
    the buffer.
    """

    cdef Py_buffer raw
    cdef bint held
    cdef char* start
    cdef Py_ssize_t size
    cdef object ended
    cdef object token

    def __cinit__(self, buffer, Py_ssize_t offset, Py_ssize_t size, ended, token):
        PyObject_GetBuffer(buffer, &self.raw, PyBUF_SIMPLE)
        self.held = True
        if offset < 0 or size < 0 or offset > self.raw.len or size > self.raw.len - offset:
            raise ValueError(f"bytes {offset} to {offset + size} of a buffer of {self.raw.len}")
        self.start = <char*> self.raw.buf + offset
        self.size = size
        self.ended = ended
        self.token = token

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a window is read-only")
        PyBuffer_FillInfo(view, self, self.start, self.size, True, flags)

    def __len__(self):
        return self.size

    def __bytes__(self):
        return copy_of(self.start, self.size)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.raw)
            if self.ended is not None:
                self.ended(self.token)

    @property
    def address(self):
        """Where it begins in this process's memory."""
        return <uintptr_t> self.start


def address_of(buffer):
    """Where a contiguous buffer begins in this process's memory."""
    cdef Py_buffer raw
    PyObject_GetBuffer(buffer, &raw, PyBUF_SIMPLE)
    try:
        return <uintptr_t> raw.buf
    finally:
        PyBuffer_Release(&raw)


def copied(buffer):
    """The content of a contiguous buffer as bytes; other threads run meanwhile. Large ones ask for huge pages first.

    Fresh memory costs a page fault every 4 KiB, which takes longer than the copy; with pages of 2 MiB it does not
    (madvise(2), MADV_HUGEPAGE).
    """
    cdef Py_buffer raw
    PyObject_GetBuffer(buffer, &raw, PyBUF_SIMPLE)
    try:
        return copy_of(<const char*> raw.buf, raw.len)
    finally:
        PyBuffer_Release(&raw)


cdef bytes copy_of(const char* start, Py_ssize_t size):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    cdef char* to = PyBytes_AS_STRING(out)
    with nogil:
        if size >= LARGE:
            advise_huge_pages(to, size)
        memcpy(to, start, size)
    return out


def copy_into(target, Py_ssize_t offset, source):
    """Copy a contiguous buffer to `offset` of a writable one; other threads run meanwhile. ValueError without room."""
    cdef Py_buffer there
    cdef Py_buffer raw
    PyObject_GetBuffer(target, &there, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(source, &raw, PyBUF_SIMPLE)
        try:
            if offset < 0 or offset > there.len or raw.len > there.len - offset:
                raise ValueError(f"{raw.len} bytes to place {offset} of a buffer of {there.len}")
            with nogil:
                memcpy(<char*> there.buf + offset, raw.buf, raw.len)
        finally:
            PyBuffer_Release(&raw)
    finally:
        PyBuffer_Release(&there)
