"""What a mind needs of who drives it: a bus to read from and publish to. Any object with these two methods will do."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, Protocol

IDLE: Final = 0
WORKED: Final = 1
_F64 = struct.Struct("<d")


class Message(Protocol):
    """What a topic gives."""

    @property
    def payload(self) -> bytes:
        """Up to 56 bytes; a bus may fill them up with zeros."""


class Bus(Protocol):
    """Topics by name: messages of the pass before, and those for the next."""

    def read(self, topic: str, /) -> Iterable[Message]:
        """What was published to a topic in the pass before."""

    def publish(self, topic: str, payload: bytes, /) -> object:
        """Publish up to 56 bytes; something false when there was no room."""


def f64_of(payload: bytes) -> float:
    """The number that a payload begins with. ValueError when it is shorter than 8 bytes."""
    if len(payload) < _F64.size:
        raise ValueError(f"a payload of {len(payload)} bytes where a number of 8 was expected")
    value: float = _F64.unpack_from(payload)[0]
    return value


def as_f64(value: float) -> bytes:
    """A payload of one number, little-endian."""
    return _F64.pack(value)
