"""NumPy where somebody wants arrays: an extra, asked for when it is first needed."""

from __future__ import annotations

from typing import Any

from swarm.nano.errors import NanoError


def numpy() -> Any:
    """The module. NanoError with a hint where it is not installed."""
    try:
        import numpy
    except ImportError:
        raise NanoError(
            "arrays of agents' fields need NumPy, which is not installed", hint="pip install 'nanoswarm[nano]'"
        ) from None
    return numpy
