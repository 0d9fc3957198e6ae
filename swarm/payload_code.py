"""Callables by value: cloudpickle, the caller's own modules included.

What is importable everywhere (the standard library, installed packages) is sent by name. What only the caller has is
sent by value: everything of ``__main__``, and of modules whose file lies outside the standard library and every
site-packages. The blob of code has a digest (BLAKE3), by which a node asks for it once.

Limit: a module that is imported inside a function's body is not seen here, and has to be importable there.
"""

from __future__ import annotations

import io
import os
import pickle
import site
import sys
import sysconfig
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import cloudpickle

from swarm.payload_canonical import canonical
from transport.bounds import CODE_BYTES_MAX

_MADE_BY = f"swarm python {sys.version_info[0]}.{sys.version_info[1]}".encode()
_PREFIX = b"\x80\x05\x8c" + bytes((len(_MADE_BY),)) + _MADE_BY + b"0"
"""Pickle that pushes a text and pops it again: a blob says which Python made it, and stays a pickle all the same.

Bytecode is not the same from one minor version to the next; a guest worker reads this before it loads the blob.
"""
OURS = frozenset({"swarm", "nodes", "transport", "kernels"})
"""Our own packages are on every node, wherever they were installed from."""

_registering = threading.RLock()


class Code(NamedTuple):
    """A callable by value: its digest (32 bytes), the name to show, and the blob."""

    digest: bytes
    name: str
    blob: bytes


def display_name(fn: Any) -> str:
    """What people call it: the qualified name, without the module and ``<locals>``."""
    inner = getattr(fn, "func", None) if not hasattr(fn, "__qualname__") else None  # functools.partial
    name = getattr(inner if inner is not None else fn, "__qualname__", None) or type(fn).__qualname__
    return str(name).rpartition("<locals>.")[2][:200]


def encode_code(fn: Callable[..., Any]) -> Code:
    """A callable as code. Raises NotPicklable, or PayloadTooLarge beyond CODE_BYTES_MAX."""
    from blake3 import blake3

    from swarm.errors import NotPicklable, PayloadTooLarge

    name = display_name(fn)
    try:
        blob = _PREFIX + canonical(dump_by_value(fn, None, is_local))
    except Exception as error:
        raise NotPicklable(
            f"{name} cannot be sent: {error}",
            hint="it uses something that lives only here (a lock, a socket, an open file); make that inside it",
        ) from error
    if len(blob) > CODE_BYTES_MAX:
        raise PayloadTooLarge(
            f"the code of {name} takes {len(blob)} bytes; at most {CODE_BYTES_MAX} are carried",
            hint="it drags data along, as a global or a default; give that as an argument",
            size_bytes=len(blob),
            limit_bytes=CODE_BYTES_MAX,
        )
    return Code(blake3(blob).digest(), name, blob)


def decode_code(blob: bytes | memoryview) -> Callable[..., Any]:
    """The callable of a blob. Loads a pickle: only for authors granted ``code``. TypeError when it is not callable."""
    fn = pickle.loads(blob)  # noqa: S301 - granted
    if not callable(fn):
        raise TypeError(f"the code is of type {type(fn).__qualname__}, which is not callable")
    return fn  # type: ignore[no-any-return]


def dump_by_value(
    value: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    by_value: Callable[[str], bool] | None = None,
) -> bytes:
    """cloudpickle's pickle of protocol 5. What is defined in modules for which `by_value` is true goes by value."""
    file = io.BytesIO()
    # cloudpickle keeps the modules to send by value in a table of the process: filled only while we are here, so that
    # others who use cloudpickle (joblib, dask) are not touched
    with _registering:
        added = []
        try:
            if by_value is not None:
                known = cloudpickle.list_registry_pickle_by_value()
                for name, module in sorted(sys.modules.items()):
                    if name not in known and module is not None and by_value(name):
                        cloudpickle.register_pickle_by_value(module)
                        added.append(module)
            cloudpickle.Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)
    return file.getvalue()


def is_local(name: str) -> bool:
    """Whether a module is the caller's own: it has a file, and that is not where Python or packages are installed."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or not isinstance(file, str) or getattr(module, "__name__", None) != name:
        return False  # cloudpickle sends __main__ by value anyway
    return name.partition(".")[0] not in OURS and not _installed(file)


@lru_cache(maxsize=8192)
def _installed(file: str) -> bool:
    # before links are followed, too: an environment may be made of links into a store
    given = os.path.abspath(file)
    return given.startswith(_places()) or os.path.realpath(file).startswith(_places())


@lru_cache(maxsize=1)
def _places() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found.update(site.getsitepackages())
    if isinstance(user := site.getusersitepackages(), str):
        found.add(user)
    found.update(path for path in sys.path if path.rstrip(os.sep).endswith(("site-packages", "dist-packages")))
    return tuple(
        sorted({os.path.join(form(path), "") for path in found for form in (os.path.abspath, os.path.realpath)})
    )
