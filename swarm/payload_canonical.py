"""Pickles whose bytes depend on what they say, and not on which equal texts were one object when they were written.

A pickle writes an object once and refers to it where it comes again, and which equal texts are the same object depends
on what the process did before (interning, what was unpickled into what). So the code of one function, written by two
processes, may differ; then a task that is run again would seem to submit something else. Here texts and bytes are
written out wherever they come, and frames, which depend on sizes alone, are left out.
"""

from __future__ import annotations

import pickletools
from typing import Any, Final

import msgpack

PICKLE_BYTES_MAX: Final = 256 * 1024
"""Longer ones are left as they are: they are data rather than code, and reading them takes its time."""
LITERAL_BYTES_MAX: Final = 256
"""Longer texts stay references, so that a pickle cannot grow out of bounds."""
_LITERALS: Final = frozenset(("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"))
_REFERENCES: Final = frozenset(("BINGET", "LONG_BINGET"))
_OTHERS: Final = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "GET"))
_MEMOIZE: Final = b"\x94"


def canonical(pickled: bytes) -> bytes:
    """A pickle of the same value in the one form that all equal ones have. Of protocol 4 or 5, else it is left as it is."""
    if len(pickled) > PICKLE_BYTES_MAX or pickled[:1] != b"\x80":
        return pickled
    parts: list[bytes] = []
    literals: dict[Any, bytes] = {}
    places: dict[Any, int] = {}
    seen = 0
    last: bytes | None = None
    found = [(op.name, argument, position or 0) for op, argument, position in pickletools.genops(pickled)]
    ends = [position for _, _, position in found[1:]] + [len(pickled)]
    for (name, argument, begin), end in zip(found, ends):
        raw, literal, last = pickled[begin:end], last, None
        if name == "MEMOIZE":
            if literal is not None:
                literals[seen] = literal
            else:
                places[seen] = len(places)
                parts.append(_MEMOIZE)
            seen += 1
        elif name in _REFERENCES:
            parts.append(literals[argument] if argument in literals else _reference(places[argument]))
        elif name in _OTHERS:
            return pickled
        elif name != "FRAME":
            parts.append(raw)
            if name in _LITERALS and len(raw) <= LITERAL_BYTES_MAX:
                last = raw
    return b"".join(parts)


def _reference(place: int) -> bytes:
    return b"h" + bytes((place,)) if place < 256 else b"j" + place.to_bytes(4, "little")


def canonical_payload(payload: bytes) -> bytes:
    """A payload (`swarm.payload`) whose pickle, if it has one, is in the one form."""
    if payload[:1] == b"P":
        return b"P" + canonical(payload[1:])
    if payload[:1] == b"B":
        pickled, *others = msgpack.unpackb(payload[1:])
        if isinstance(pickled, bytes):
            return b"B" + bytes(msgpack.packb([canonical(pickled), *others]))
    return payload
