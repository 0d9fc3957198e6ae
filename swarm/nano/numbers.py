"""Numbers as people give them, NumPy's among them."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from swarm.nano.errors import NanoError

NS_MAX = (1 << 64) - 1


def whole(value: Any) -> Any:
    """A whole number as an int, also where it is one of NumPy's; anything else, a truth value too, as it is, for the caller
    to refuse."""
    if isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def real(value: Any) -> bool:
    """Whether it is a real number, of whatever type."""
    return isinstance(value, Real)


def instant(name: str, value: Any) -> int | None:
    """An instant in ns, or None. NanoError for what is none; one that never comes is the last there is."""
    if value is None:
        return None
    if not real(value) or value != value:
        raise NanoError(f"{name}={value!r}", hint="an instant is a number of nanoseconds since the beginning")
    return NS_MAX if value >= NS_MAX else max(0, int(value))
