"""The effect that every core of the task fabric shares: a message for somebody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Bytes = bytes | bytearray | memoryview


@dataclass(slots=True)
class Tell:
    """Send a message to a client or node by its link.

    `to` is whatever names the link to the shell: a node id, or a client's link key. The header and the parts of the body
    are handed over unencoded, so that a message to this very node costs no encoding at all.
    """

    to: bytes
    kind: int
    header: dict[str, Any]
    parts: tuple[Bytes, ...] = ()
