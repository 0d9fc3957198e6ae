"""Durations counted in log-linear buckets: within 1 % of any quantile, at a fixed size.

As HdrHistogram does it (G. Tene, https://github.com/HdrHistogram/HdrHistogram): each power of two is divided into 64
equal buckets, so a bucket is at most 1/64 of its values wide and its middle at most 1/128 (0.8 %) off. Two of them are
merged by adding counts, without loss, as DDSketch's are (Masson, Rim, Lee, VLDB 2019).
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "wire.h" nogil:
    uint32_t load_le32(const void*) noexcept

cdef extern from *:
    """
    static inline int highest_bit(uint64_t v) { return 63 - __builtin_clzll(v); }
    /* a * b: the upper 64 bits, and the lower ones through *low. */
    static inline uint64_t product(uint64_t a, uint64_t b, uint64_t *low)
    {
        uint64_t al = a & 0xFFFFFFFFu, ah = a >> 32, bl = b & 0xFFFFFFFFu, bh = b >> 32;
        uint64_t middle = ah * bl + (al * bl >> 32), cross = al * bh + (middle & 0xFFFFFFFFu);
        *low = a * b;
        return ah * bh + (middle >> 32) + (cross >> 32);
    }
    """
    int highest_bit(uint64_t) noexcept nogil
    uint64_t product(uint64_t, uint64_t, uint64_t*) noexcept nogil

cdef enum:
    BITS = 6
    HALF = 1 << BITS                    # buckets a power of two; values below it have a bucket each
    BUCKETS = (64 - BITS + 1) * HALF


cdef inline Py_ssize_t bucket_of(uint64_t ns) noexcept nogil:
    cdef int shift
    if ns < HALF:
        return <Py_ssize_t> ns
    shift = highest_bit(ns) - BITS
    return <Py_ssize_t> (shift * HALF + <Py_ssize_t> (ns >> shift))


cdef inline uint64_t lowest_of(Py_ssize_t bucket) noexcept nogil:
    cdef Py_ssize_t shift
    if bucket < 2 * HALF:
        return <uint64_t> bucket
    shift = bucket // HALF - 1
    return <uint64_t> (bucket - shift * HALF) << shift


cdef inline uint64_t middle_of(Py_ssize_t bucket) noexcept nogil:
    if bucket < 2 * HALF:
        return <uint64_t> bucket
    return lowest_of(bucket) + ((<uint64_t> 1 << (bucket // HALF - 1)) >> 1)


cdef class Histogram:
    """Counts of durations in ns (unsigned, 64 bits); about 30 KB whatever is recorded."""

    def __cinit__(self):
        self.counts = <uint64_t*> PyMem_Calloc(BUCKETS, 8)
        if self.counts == NULL:
            raise MemoryError("no memory for a histogram")
        self.least = <uint64_t> -1

    def __dealloc__(self):
        PyMem_Free(self.counts)

    @property
    def sum_ns(self):
        """The exact sum of what was recorded, ns."""
        return (<object> self.carried << 64) + self.total

    @property
    def min_ns(self):
        """The least recorded value, ns; 0 while there is none."""
        return self.least if self.count else 0

    @property
    def max_ns(self):
        """The greatest recorded value, ns; 0 while there is none."""
        return self.most

    cdef void note_many(self, uint64_t ns, uint64_t times) noexcept nogil:
        """Count a duration as often as told, without the GIL."""
        note(self, ns, times)

    def record(self, uint64_t ns, uint64_t times=1):
        """Count one duration, as often as told."""
        note(self, ns, times)

    def record_many(self, us):
        """Count a column of u32 durations in µs (a contiguous buffer of 4-byte items, such as Outcomes' run times)."""
        cdef object view = memoryview(us)
        cdef const uint8_t[::1] raw
        cdef Py_ssize_t i, n
        if view.itemsize != 4 or view.ndim != 1 or not view.c_contiguous:
            raise ValueError("a column of 4-byte items is needed")
        n = view.shape[0]
        if n == 0:
            return
        raw = view.cast("B")
        for i in range(n):
            note(self, <uint64_t> load_le32(&raw[4 * i]) * 1000, 1)

    def quantile(self, double q):
        """The value, ns, that the fraction q (0 to 1) of what was recorded does not exceed, to 1 %; 0 when empty."""
        cdef uint64_t wanted, seen = 0
        cdef Py_ssize_t bucket
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"quantile {q}; it lies between 0 and 1")
        if self.count == 0:
            return 0
        wanted = <uint64_t> (q * <double> self.count + 0.999999)
        wanted = max(<uint64_t> 1, min(wanted, self.count))
        for bucket in range(BUCKETS):
            seen += self.counts[bucket]
            if seen >= wanted:
                return max(self.least, min(self.most, middle_of(bucket)))
        return self.most

    def buckets(self, bounds_ns):
        """How many values are at or below each bound, ns, ascending: a Prometheus histogram's cumulative counts.

        A bound inside a bucket counts that bucket when its middle is not above the bound.
        """
        cdef list out = []
        cdef Py_ssize_t bucket = 0
        cdef uint64_t seen = 0, bound
        previous = -1
        for bound_ns in bounds_ns:
            if bound_ns < previous:
                raise ValueError("the bounds of buckets must ascend")
            previous = bound_ns
            bound = min(bound_ns, <uint64_t> -1)
            while bucket < BUCKETS and middle_of(bucket) <= bound:
                seen += self.counts[bucket]
                bucket += 1
            out.append(seen)
        return out

    def merge(self, Histogram other not None):
        """Add what another one counted."""
        cdef Py_ssize_t bucket
        cdef uint64_t low
        for bucket in range(BUCKETS):
            self.counts[bucket] += other.counts[bucket]
        low = other.total               # as it was: the other one may be this one
        self.carried += other.carried
        self.total += low
        self.carried += self.total < low
        self.count += other.count
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)


cdef inline void note(Histogram self, uint64_t ns, uint64_t times) noexcept nogil:
    cdef uint64_t low
    if times == 0:
        return
    self.counts[bucket_of(ns)] += times
    self.count += times
    if ns < self.least:
        self.least = ns
    if ns > self.most:
        self.most = ns
    self.carried += product(ns, times, &low)
    self.total += low
    self.carried += self.total < low
