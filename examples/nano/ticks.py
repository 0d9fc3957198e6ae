"""Batch ticks for the examples: compiled from C where there is a compiler, else a Python function over NumPy arrays.

Both are called in the same way, `int tick_many(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)`
of `nano.h`; the second takes the GIL for each call.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from swarm import nano


class Line(ctypes.Structure):
    """nano_line: one message."""

    _fields_ = [
        ("topic", ctypes.c_uint16), ("kind", ctypes.c_uint16), ("row", ctypes.c_uint32), ("payload", ctypes.c_uint8 * 56),
    ]  # fmt: skip


class Ctx(ctypes.Structure):
    """nano_ctx: what a tick gets beside its columns."""


Publish = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(Ctx), ctypes.c_uint32, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t
)
Ctx._fields_ = [
    ("abi", ctypes.c_uint32), ("kind", ctypes.c_uint32), ("number", ctypes.c_uint64), ("seed", ctypes.c_uint64),
    ("now_ns", ctypes.c_uint64), ("first", ctypes.c_uint32), ("topics", ctypes.c_uint32),
    ("inbox", ctypes.POINTER(ctypes.POINTER(Line))), ("inbox_count", ctypes.POINTER(ctypes.c_uint64)),
    ("outcomes", ctypes.POINTER(ctypes.c_uint8)), ("wake_ns", ctypes.POINTER(ctypes.c_uint64)),
    ("publish", Publish), ("bus", ctypes.c_void_p),
]  # fmt: skip
TickMany = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t, ctypes.c_uint64,
    ctypes.POINTER(Ctx),
)  # fmt: skip


def compiler() -> str | None:
    """The C compiler of this machine: what CC says, else cc, gcc or clang; None without one."""
    return next((found for name in (os.environ.get("CC", "cc"), "gcc", "clang") if (found := shutil.which(name))), None)


@cache
def compiled(source: str, **numbers: float) -> ctypes.CDLL | None:
    """A library made of C, with nano.h at hand and NAME defined for each of `numbers`; None where there is no compiler."""
    cc = compiler()
    if cc is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ticks.c").write_text(source)
        library = Path(folder) / "ticks.so"
        # Without contraction and -march=native the bits are the same on every machine, and in NumPy.
        command = [
            cc,
            "-std=gnu11",
            "-O3",
            "-Wall",
            "-Werror",
            "-ffp-contract=off",
            "-fPIC",
            "-shared",
            f"-I{nano.include()}",
        ]
        defined = [f"-D{name}={number!r}" for name, number in numbers.items()]
        subprocess.run([*command, *defined, "-o", library, Path(folder) / "ticks.c", "-lm"], check=True, timeout=120)
        return ctypes.CDLL(str(library))  # it stays mapped when its file is gone


def over_arrays(kind: type[nano.Kind], tick: Callable[..., int | None]) -> Any:
    """A batch tick that calls `tick(columns, now_ns, ctx)`, `columns` being a NumPy array a field over the very memory.

    For whole cohorts whose rows follow each other, which is how agents tick that neither sleep nor have rates of their own.
    """
    types = [np.dtype(each.code) for each in kind.fields.values()]

    @TickMany
    def tick_many(cols: Any, idx: Any, n: int, now_ns: int, ctx: Any) -> int:
        try:
            if idx:
                raise ValueError("some of the agents only")
            columns = [
                np.frombuffer((ctypes.c_char * (n * type.itemsize)).from_address(cols[at]), type)
                for at, type in enumerate(types)
            ]
            outcome = tick(columns, now_ns, ctx.contents)
        except Exception as error:
            print(f"{kind.__name__}: {type(error).__name__}: {error}")
            return nano.FAILED
        return nano.WORKED if outcome is None else outcome

    return tick_many
