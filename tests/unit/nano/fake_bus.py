"""A bus in a dictionary, as a mind sees one."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    payload: bytes


class FakeBus:
    """Topics as lists; `turn` makes what was published readable, filled up with zeros as a real line is."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.inbox: dict[str, list[Line]] = {}
        self.outbox: dict[str, list[Line]] = {}

    def read(self, topic: str) -> list[Line]:
        return self.inbox.get(topic, [])

    def publish(self, topic: str, payload: bytes) -> bool:
        assert len(payload) <= 56
        lines = self.outbox.setdefault(topic, [])
        if len(lines) >= self.room:
            return False
        lines.append(Line(payload.ljust(56, b"\0")))
        return True

    def turn(self) -> None:
        self.inbox, self.outbox = self.outbox, {}
