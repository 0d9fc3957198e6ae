"""The C side of these figures (native.c), compiled when it is first needed."""

from __future__ import annotations

import ctypes
import functools
import math
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.passes import counter
from swarm import nano
from swarm.nano.reports import Durations

HERE = Path(__file__).parent
FLAGS = ("-O3", "-g0", "-ffp-contract=off", "-march=native", "-shared", "-fPIC")
"""Of the peers: whatever this processor has, which our kernels find out when they start."""


def compiled(source: str, *more: str) -> Path:
    """A shared object of a C file of this folder. It lies in a temporary folder until the program ends."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("error: these figures need a C compiler\n\nhint: apt-get install gcc libc6-dev")
    made = Path(_folder().name) / f"{source.removesuffix('.c')}.so"
    subprocess.run([compiler, *FLAGS, "-I", nano.include(), str(HERE / source), "-o", str(made), *more], check=True)
    return made


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-nano-")


@functools.cache
def library() -> ctypes.CDLL:
    """native.c, loaded. Its functions run without the GIL."""
    lib = ctypes.CDLL(str(compiled("native.c")))
    u64, pointer = ctypes.c_uint64, ctypes.c_void_p
    lib.pairs.argtypes = lib.chained.argtypes = [pointer, u64]
    lib.pairs.restype = lib.chained.restype = lib.counter.restype = lib.bucket_middle.restype = u64
    lib.bucket_middle.argtypes = [ctypes.c_size_t]
    lib.stream.argtypes = [pointer, pointer, ctypes.c_double, ctypes.c_size_t, u64]
    lib.idle_spin.argtypes, lib.idle_spin.restype = [u64, u64], u64
    lib.copy.argtypes = [pointer, pointer, ctypes.c_size_t]
    return lib


@functools.cache
def per_ns() -> float:
    """Counter ticks a ns."""
    began, at = time.perf_counter_ns(), counter()
    time.sleep(0.05)
    return (counter() - at) / (time.perf_counter_ns() - began)


@dataclass(frozen=True)
class Floor:
    """Readings of the counter one after the other: what can be told apart on this machine at this moment."""

    spent: Durations
    wall_s: float


def floor(readings: int, how: str = "pairs") -> Floor:
    """So many "pairs" of readings, or readings "chained", in ns."""
    lib = library()
    counts = np.zeros(lib.buckets(), dtype=np.uint64)
    took = getattr(lib, how)(counts.ctypes.data, readings)
    found = [(lib.bucket_middle(int(at)) / per_ns(), int(counts[at])) for at in np.flatnonzero(counts)]
    return Floor(Durations(found), took / per_ns() / 1e9)


def spread(spent: Durations, kept: float = 1.0) -> float:
    """Standard deviation, ns, of the lowest fraction `kept` of what was counted."""
    left = kept * spent.count
    n = total = squares = 0.0
    for at, times in spent.counts:
        taken = min(float(times), left)
        left -= taken
        n, total, squares = n + taken, total + taken * at, squares + taken * at * at
        if left <= 0:
            break
    return math.sqrt(max(0.0, squares / n - (total / n) ** 2))


def above(spent: Durations, ns: float) -> int:
    """How many took longer than so many ns."""
    return sum(times for at, times in spent.counts if at > ns)
