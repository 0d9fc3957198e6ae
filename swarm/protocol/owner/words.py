"""Ranges of tasks, and the words that the fabric itself has to say of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from swarm.protocol.ids import BATCH_KEY_BYTES, batch_text
from swarm.protocol.spec import Spec


def ranges(indices: list[int]) -> list[tuple[int, int]]:
    """Sorted indices as (start, stop) ranges."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def merged(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, stop) ranges in order and without overlaps; empty ones left out."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(parts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        elif start < stop:
            found.append((start, stop))
    return found


def said(message: str, hint: str, spec: Spec, facts: Mapping[str, Any] | None = None) -> bytes:
    """The payload of an outcome that the fabric, not the task, has to tell."""
    return b"F" + bytes(
        msgpack.packb({"message": message, "hint": hint, "facts": {"name": spec.name} | dict(facts or {})})
    )


def quarantined(spec: Spec, crashes: int, node: str, payload: memoryview) -> bytes:
    """The payload for a task that took too many workers with it."""
    last = words_of(payload) or ""
    return said(
        f"{spec.name or 'the task'} took its worker down {crashes} times and is not run again ({last}, last on {node})",
        "run it by itself to see why; swarm task logs shows its last output",
        spec,
    )


def words_of(payload: memoryview) -> str | None:
    """The message in a failure's payload, for the record."""
    if len(payload) < 2 or payload[0] != ord("F"):
        return None
    try:
        fields = msgpack.unpackb(payload[1:])
    except Exception:
        return None
    if not isinstance(fields, dict):
        return None
    kind, message = fields.get("type"), fields.get("message")
    shown = f"{str(kind).rpartition(':')[2]}: {message}" if kind else str(message)
    return shown[:300]


def why_it_stood(what: str, value: Any) -> str:
    """What an executor says of a task that it suspends, or lets go on, in words."""
    if what == "resumed":
        return f"it stood still for {value:.3f} s" if isinstance(value, int | float) else ""
    if not isinstance(value, Mapping):
        return ""
    by, name = value.get("by"), value.get("name")
    of = f", {batch_text(by)}," if isinstance(by, bytes) and len(by) == BATCH_KEY_BYTES else ""
    return f"{str(name)[:80] or 'a task'}{of} is more urgent"
