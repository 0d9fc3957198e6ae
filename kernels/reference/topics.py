"""Twin of :mod:`kernels.topics`: which lines find room, and in which order the next pass reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER = struct.Struct("<HHI")  # topic, kind, row
LINE = 64
PAYLOAD_MAX = LINE - HEADER.size


@dataclass
class _Topic:
    lines_max: int
    full: str
    outbox: list[tuple[int, int, bytes]] = field(default_factory=list)  # kind, row, line; in the order of publishing
    inbox: list[bytes] = field(default_factory=list)
    arrived: list[tuple[int, int, bytes]] = field(default_factory=list)
    subscribers: set[int] = field(default_factory=set)
    published: int = 0
    dropped: int = 0
    blocked: int = 0
    delivered: int = 0
    lost: int = 0


class Bus:
    """Topics, each with room for so many lines in a pass."""

    def __init__(self) -> None:
        self._topics: list[_Topic] = []

    def add(self, lines_max: int, full: str = "drop") -> int:
        """A new topic; its number."""
        self._topics.append(_Topic(lines_max, full))
        return len(self._topics) - 1

    def publish(self, topic: int, kind: int, row: int, payload: bytes = b"") -> bool:
        """Publish a payload of at most 56 bytes; False when the topic is full for this pass."""
        to = self._topics[topic]
        if len(to.outbox) == to.lines_max:
            if to.full == "block":
                to.blocked += 1
            else:
                to.dropped += 1
            return False
        to.outbox.append((kind, row, HEADER.pack(topic, kind, row) + payload.ljust(PAYLOAD_MAX, b"\0")))
        to.published += 1
        return True

    def publish_many(self, lines: bytes) -> int:
        """Publish whole lines in order; how many were taken or dropped before one that must wait."""
        for at in range(0, len(lines), LINE):
            topic, kind, row = HEADER.unpack_from(lines, at)
            taken = self.publish(topic, kind, row, lines[at + HEADER.size : at + LINE])
            if not taken and self._topics[topic].full == "block":
                return at // LINE
        return len(lines) // LINE

    def turn(self) -> None:
        """What was published becomes the inbox, sorted by (kind, row), equal ones as they were published."""
        for topic in self._topics:
            room = topic.lines_max - len(topic.outbox)
            topic.lost += max(0, len(topic.arrived) - room)
            topic.outbox += topic.arrived[:room]
            topic.arrived = []
            topic.inbox = [line for _, _, line in sorted(topic.outbox, key=lambda sent: sent[:2])]
            topic.outbox = []

    def arrive(self, lines: bytes) -> int:
        """Lines that were published elsewhere; how many found room so far."""
        taken = 0
        for at in range(0, len(lines), LINE):
            topic, kind, row = HEADER.unpack_from(lines, at)
            to = self._topics[topic]
            if len(to.arrived) == to.lines_max:
                to.lost += 1
                continue
            to.arrived.append((kind, row, lines[at : at + LINE]))
            taken += 1
        return taken

    def lost(self, topic: int) -> int:
        """Lines that arrived and found no room."""
        return self._topics[topic].lost

    def outbox(self, topic: int) -> bytes:
        """The lines published in this pass so far."""
        return b"".join(line for _, _, line in self._topics[topic].outbox)

    def inbox(self, topic: int) -> bytes:
        """The lines of the pass before."""
        return b"".join(self._topics[topic].inbox)

    def pending(self, topic: int) -> int:
        """Lines that were published in this pass so far."""
        return len(self._topics[topic].outbox)

    def counters(self, topic: int) -> tuple[int, int, int, int]:
        """(published, dropped, blocked, delivered), in lines."""
        of = self._topics[topic]
        return of.published, of.dropped, of.blocked, of.delivered

    def delivered(self, topic: int, lines: int) -> None:
        """Count lines that were handed to readers."""
        self._topics[topic].delivered += lines

    def subscribe(self, topic: int, kind: int) -> None:
        """The kind reads the topic."""
        self._topics[topic].subscribers.add(kind)

    def unsubscribe(self, topic: int, kind: int) -> None:
        """The kind no longer reads the topic."""
        self._topics[topic].subscribers.discard(kind)

    def subscribers(self, topic: int) -> list[int]:
        """The kinds that read the topic, ascending."""
        return sorted(self._topics[topic].subscribers)

    def restore(self, topic: int, lines: bytes, counters: Sequence[int]) -> None:
        """The topic as it was between two passes."""
        to = self._topics[topic]
        to.inbox = [lines[at : at + LINE] for at in range(0, len(lines), LINE)]
        to.outbox = []
        to.published, to.dropped, to.blocked, to.delivered = counters
