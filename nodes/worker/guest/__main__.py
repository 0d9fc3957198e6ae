"""A guest worker: runs tasks under a user's own interpreter, on the standard library (Python 3.9 and later).

``/path/to/python nodes/worker/guest --channel FD`` [``--modules A,B``] [``--result-bytes-max N``]. It speaks the frames of
:mod:`nodes.worker.channel`, which it cannot import, and needs nothing installed. There is no page of claims here: the
node sends slices of one task, and each is run as it comes.

Callables by name come from this interpreter's environment. Callables by value need cloudpickle here, and are told by
their exception when the code was made for another minor version of Python. ``import swarm`` gives, where nanoswarm is
not installed, a module with ``current_task``, ``progress``, ``waiting``, ``StateTransaction`` and a ``task`` that only marks.

This folder is run by its path, and what is beside this file is loaded from there under a name of its own: the interpreter
need not know the node's packages, and what they are called hides no module of the user's.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import types
from typing import Any

NAME = "nanoswarm_guest"


def die_with_parent() -> None:
    if sys.platform == "linux":
        try:
            import ctypes

            prctl = ctypes.CDLL(None).prctl
            prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
            prctl(36, ctypes.c_ulong(1), 0, 0, 0)  # what tasks leave in the background stays below us
        except (ImportError, OSError, AttributeError):
            pass  # the end of the channel is noticed between tasks


def load(name: str) -> Any:
    """A module of this folder, as one of the package `NAME`."""
    if NAME not in sys.modules:
        here = os.path.dirname(os.path.abspath(__file__))
        spec = importlib.util.spec_from_file_location(
            NAME, os.path.join(here, "__init__.py"), submodule_search_locations=[here]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{here} cannot be loaded")
        package = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{NAME}.{name}")


def main(arguments: list[str]) -> None:
    die_with_parent()
    # this folder comes first on the path of what is run by it, and would hide the user's modules of the same names
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    options = {name.lstrip("-"): value for name, value in zip(arguments[::2], arguments[1::2])}
    closed = load("channel").Closed
    guest = load("worker").Guest(options)
    load("library").offer_swarm(guest)
    sys.modules["__main__"] = types.ModuleType("__main__")
    out: Any = sys.stdout
    out.reconfigure(line_buffering=True)
    while True:
        try:
            guest.serve()
            break
        except KeyboardInterrupt:
            continue
        except closed:
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)
            os._exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
