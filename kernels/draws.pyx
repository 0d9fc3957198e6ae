"""Random numbers by counter: what a native tick draws with nano_random(), for everybody who is not native.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A number depends on its
place alone, (seed, kind, row, pass, draw), and not on what was drawn before: so runs are the same on any number of cores.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "nano.h" nogil:
    void nano_philox(uint32_t*, uint32_t, uint32_t) noexcept
    uint64_t nano_random_at(uint64_t, uint32_t, uint32_t, uint64_t, uint32_t) noexcept

cdef enum:
    KINDS = 0x10000


def philox(counter, key):
    """Four words of 32 bits for a counter of four and a key of two. OverflowError for a word that is larger."""
    cdef uint32_t c[4]
    cdef uint32_t k0, k1
    c[0], c[1], c[2], c[3] = counter
    k0, k1 = key
    nano_philox(c, k0, k1)
    return c[0], c[1], c[2], c[3]


cdef int check(uint32_t kind, uint32_t draw) except -1:
    if kind >= KINDS or draw >= KINDS:
        raise ValueError(f"kind {kind}, draw {draw}: both are below {KINDS}")
    return 0


def random_at(uint64_t seed, uint32_t kind, uint32_t row, uint64_t number, uint32_t draw=0):
    """64 random bits for a draw of one agent in pass `number`. ValueError for a kind or draw of 65,536 or more."""
    check(kind, draw)
    return nano_random_at(seed, kind, row, number, draw)


def uniform_at(uint64_t seed, uint32_t kind, uint32_t row, uint64_t number, uint32_t draw=0):
    """A number in [0, 1), a multiple of 2^-53. ValueError for a kind or draw of 65,536 or more."""
    check(kind, draw)
    return <double> (nano_random_at(seed, kind, row, number, draw) >> 11) * 2.0 ** -53


def uniforms(double[::1] out, uint64_t seed, uint32_t kind, uint32_t first, uint64_t number, uint32_t draw=0):
    """Fill a buffer of float64 with the draws of the rows from `first` on. ValueError as uniform_at, or beyond row 2^32 - 1."""
    cdef Py_ssize_t i
    check(kind, draw)
    if <uint64_t> first + <uint64_t> out.shape[0] > <uint64_t> 0x100000000:
        raise ValueError(f"{out.shape[0]} rows from {first} on: rows end at 2^32 - 1")
    with nogil:
        for i in range(out.shape[0]):
            out[i] = <double> (nano_random_at(seed, kind, first + <uint32_t> i, number, draw) >> 11) * 2.0 ** -53
