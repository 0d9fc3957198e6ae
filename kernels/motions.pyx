"""Ready-made batch ticks over columns x and v, compiled for each level of what processors can do, the best of which is chosen.

Every level gives the same bits. `NANO_CPU` in the environment ("scalar", "base", "avx2", "avx512") asks for a lower level than
the processor has.
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t

cdef extern from "nano.h" nogil:
    ctypedef struct nano_ctx:
        pass
    ctypedef int (*nano_tick_many)(void**, const uint32_t*, size_t, uint64_t, nano_ctx*) noexcept nogil

cdef extern from "dispatch.h" nogil:
    enum:
        CPU_LEVELS
    const char* cpu_level_names[CPU_LEVELS]
    int cpu_level() noexcept
    int cpu_level_found() noexcept

cdef extern from "motions.h" nogil:
    nano_tick_many motion_at(int, int) noexcept

NAMES = ("move", "oscillate")
"""x += v * dt, and a damped oscillator of stiffness 1 and damping 1/8; dt is 1 ms."""
LEVELS = tuple(cpu_level_names[level].decode() for level in range(cpu_level_found() + 1))
"""What this processor can do, the best last."""
LEVEL = cpu_level_names[cpu_level()].decode()
"""What is used."""


def tick_many(str name, str level=LEVEL):
    """The address of a batch tick (`nano.h`). ValueError for a motion that there is not, or a level above this processor's."""
    if name not in NAMES:
        raise ValueError(f"no motion {name!r}; there are {', '.join(NAMES)}")
    if level not in LEVELS:
        raise ValueError(f"no level {level!r} on this processor; there are {', '.join(LEVELS)}")
    return <uintptr_t> <void*> motion_at(NAMES.index(name), LEVELS.index(level))
