"""Native ticks by whatever carries an address: integers, Numba, ctypes, cffi, PyCapsules."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

from swarm.nano.errors import BadTick

TICK: Final = "int (void **, uint32_t, uint64_t, nano_ctx *)"
TICK_MANY: Final = "int (void **, const uint32_t *, size_t, uint64_t, nano_ctx *)"
HINT: Final = "give the address of a function as nano.h declares it: an int, a Numba cfunc, a ctypes or cffi function, or a PyCapsule"


def resolve(tick: Any, signature: str) -> tuple[int, Any]:
    """(address, what must be kept alive) of a native tick. BadTick when it is none, or when nothing executable lies there."""
    address = _address(tick, signature)
    if not executable(address):
        raise BadTick(f"no code lies at the address {address:#x} of {tick!r}", hint=HINT, address=address)
    return address, tick


def _address(tick: Any, signature: str) -> int:
    if isinstance(tick, bool):
        raise BadTick(f"{tick!r} is no native tick", hint=HINT)
    if isinstance(tick, int):
        return tick
    if type(tick).__name__ == "PyCapsule":
        return _capsule(tick, signature)
    found = getattr(tick, "address", None)  # of Numba's cfunc
    if isinstance(found, int):
        return found
    if isinstance(tick, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return ctypes.cast(tick, ctypes.c_void_p).value or 0
    if type(tick).__module__.startswith("_cffi_backend"):
        import cffi  # type: ignore[import-untyped]

        return int(cffi.FFI().cast("uintptr_t", tick))
    raise BadTick(f"{tick!r} is no native tick", hint=HINT)


def _capsule(capsule: Any, signature: str) -> int:
    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    name = name_of(capsule)
    said = (name or b"").decode(errors="replace")
    if said.replace(" ", "") != signature.replace(" ", ""):
        raise BadTick(f"a capsule with the signature {said!r}", hint=f"what is wanted is {signature!r}", signature=said)
    return pointer_of(capsule, name) or 0


def executable(address: int) -> bool:
    """Whether code may be run at an address, as far as the system tells: see proc_pid_maps(5). Elsewhere anything but 0."""
    if not 0 < address < 1 << 64:
        return False
    if sys.platform != "linux":
        return True
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
            for line in maps:
                span, rights = line.split(maxsplit=2)[:2]
                start, _, end = span.partition("-")
                if int(start, 16) <= address < int(end, 16):
                    return "x" in rights
    except OSError:
        return True
    return False
