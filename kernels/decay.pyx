"""Weights that halve in 50 idle cycles: over a whole column at the speed of memory, the same bits on every machine.

A column of what each weight was when it was last used (f32), and one of the cycle in which that was (u32). The weight of a row in a cycle
is ``strength * 2 ** (-(cycle - used) / 50)``: nothing is decayed step by step, so it does not matter how often, or when, somebody looks.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

cdef extern from "dispatch.h" nogil:
    enum:
        CPU_LEVELS
    const char* cpu_level_names[CPU_LEVELS]
    int cpu_level() noexcept
    int cpu_level_found() noexcept

cdef extern from "decay.h" nogil:
    enum:
        DECAY_HALF_LIFE
    float decay_one(float, uint32_t, uint32_t) noexcept
    ctypedef void (*decay_weigh)(const float*, const uint32_t*, float*, size_t, uint32_t) noexcept nogil
    decay_weigh weigh_at(int) noexcept

cdef enum:
    BLOCK = 1024  # weighed at a time, so that they stay in the cache until they are looked at

HALF_LIFE = DECAY_HALF_LIFE
"""Idle cycles in which a weight halves."""
LEVELS = tuple(cpu_level_names[level].decode() for level in range(cpu_level_found() + 1))
"""What this processor can do, the best last."""
LEVEL = cpu_level_names[cpu_level()].decode()
"""What is used."""

cdef decay_weigh best = weigh_at(cpu_level())


cdef Py_ssize_t _rows(const float[::1] strength, const uint32_t[::1] used) except -1:
    if strength.shape[0] != used.shape[0]:
        raise ValueError(f"{strength.shape[0]} strengths and {used.shape[0]} cycles: there is one of each for a row")
    return strength.shape[0]


def weight(float strength, uint32_t used, uint32_t cycle):
    """The weight in a cycle of what was so strong when it was last used."""
    return decay_one(strength, used, cycle)


def weigh(const float[::1] strength, const uint32_t[::1] used, uint32_t cycle, float[::1] out, str level=None):
    """Write the weight of every row in a cycle.

    strength, out: f32, contiguous; used: u32, contiguous; all of the same length, out none of the others. ValueError for columns that
    do not fit together, or a level above this processor's.
    """
    cdef Py_ssize_t n = _rows(strength, used)
    cdef decay_weigh loop = best
    if out.shape[0] != n:
        raise ValueError(f"{n} rows do not fit an output of {out.shape[0]}")
    if level is not None:
        if level not in LEVELS:
            raise ValueError(f"no level {level!r} on this processor; there are {', '.join(LEVELS)}")
        loop = weigh_at(LEVELS.index(level))
    if n:
        with nogil:
            loop(&strength[0], &used[0], &out[0], <size_t> n, cycle)


def faded(const float[::1] strength, const uint32_t[::1] used, uint32_t cycle, float threshold, uint32_t[::1] rows, Py_ssize_t first=0):
    """The rows from `first` on that weigh less than the threshold in a cycle, into `rows`, until that is full: (how many, where to go on).

    Where to go on is the number of rows when all were seen. ValueError for columns that do not fit together, IndexError for a row
    beyond them.
    """
    cdef Py_ssize_t n = _rows(strength, used), row, found = 0, most = rows.shape[0], count, within
    cdef float weights[BLOCK]
    if not 0 <= first <= n:
        raise IndexError(f"row {first} of {n}")
    row = first
    with nogil:
        while row < n and found < most:
            count = n - row if n - row < BLOCK else BLOCK
            best(&strength[row], &used[row], weights, <size_t> count, cycle)
            for within in range(count):
                if weights[within] < threshold:
                    rows[found] = <uint32_t> (row + within)
                    found += 1
                    if found == most:
                        count = within + 1
                        break
            row += count
    return found, row
