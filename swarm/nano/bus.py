"""Messages between agents, as Python's ticks see them: read from the pass before, published for the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import length_hint
from struct import Struct
from typing import Any, NamedTuple

from kernels.draws import random_at, uniform_at
from kernels.lanes import SpscLane
from kernels.passes import Passes
from kernels.topics import Bus
from swarm.nano.arrays import numpy
from swarm.nano.errors import NanoError

LINE_BYTES = 64
PAYLOAD_BYTES = 56
_LINE = Struct("<HHI56s")
TOPICS_MAX = 1024


class Message(NamedTuple):
    """A line of a topic: who published it, and up to 56 bytes, filled up with zeros."""

    kind: int
    row: int
    payload: bytes


class Port:
    """The bus as the agents of one cohort see it: the topics that their kind declared."""

    __slots__ = (
        "_at_once", "_bus", "_drops", "_kind", "_numbers", "_passes", "_read", "_ticking", "heard", "number", "outbox", "ring", "rows",
    )  # fmt: skip

    def __init__(
        self,
        bus: Bus,
        passes: Passes,
        kind: int,
        numbers: Mapping[str, int],
        read: Mapping[str, int],
        drops: frozenset[str] = frozenset(),
        at_once: frozenset[str] = frozenset(),
    ) -> None:
        self._bus = bus
        self._passes = passes
        self._kind = kind
        self._numbers = numbers
        """Topics that may be written, and their numbers."""
        self._read = read
        self._at_once = frozenset(read[topic] for topic in at_once)
        self._drops = drops
        """Topics that lose what they have no room for, and tell nobody."""
        self._ticking: Any = None
        self.rows: Any = ()
        self.heard: dict[int, bytes] | None = None
        """What was published, by topic, to agents that tick on a thread of their own while passes go on."""
        self.outbox: list[bytes] | None = None
        """Where lines go in virtual time until native agents have published theirs."""
        self.ring: SpscLane | None = None
        """And in real time."""
        self.number = -1
        """Of the pass, while it is not that of `passes`."""

    def read(self, topic: str) -> list[Message]:
        """Messages that were published to a topic in the pass before, in the order (kind, row, sequence); with `delay=0` in this
        pass, as they were published."""
        lines = memoryview(self._lines(self._number(self._read, topic, "read"))).cast("B")
        found = []
        for at in range(0, len(lines), LINE_BYTES):
            kind, row = (
                int.from_bytes(lines[at + 2 : at + 4], "little"),
                int.from_bytes(lines[at + 4 : at + 8], "little"),
            )
            found.append(Message(kind, row, bytes(lines[at + 8 : at + LINE_BYTES])))
        return found

    def lines(self, topic: str) -> Any:
        """The same as a structured array (topic, kind, row, payload), without a copy; good until the pass is over."""
        np = numpy()
        line = np.dtype([("topic", "<u2"), ("kind", "<u2"), ("row", "<u4"), ("payload", "V56")])
        return np.frombuffer(self._lines(self._number(self._read, topic, "read")), dtype=line)

    def _lines(self, number: int) -> Any:
        if number in self._at_once:
            return self._bus.outbox(number)
        return self._bus.inbox(number) if self.heard is None else self.heard.get(number, b"")

    def publish(self, topic: str, payload: bytes, row: int | None = None) -> bool:
        """Publish up to 56 bytes; False when the topic has no room and blocks. `row` is that of the agent that ticks now.

        What a topic that drops has no room for is lost and counted; nobody is told, as with native agents."""
        number = self._number(self._numbers, topic, "write to")
        if len(payload) > PAYLOAD_BYTES:
            raise NanoError(
                f"a message of {len(payload)} bytes to {topic!r}; it has room for {PAYLOAD_BYTES}",
                hint="what is larger travels by reference: publish where it lies",
            )
        row = self._row() if row is None else row
        if self.outbox is not None:
            self.outbox.append(_LINE.pack(number, self._kind, row, payload))
            return True
        if self.ring is not None:
            return self.ring.put(_LINE.pack(number, self._kind, row, payload))
        return self._bus.publish(number, self._kind, row, payload) or topic in self._drops

    def random(self, draw: int = 0) -> int:
        """64 random bits of the agent that ticks now: those that `nano_random()` gives a native tick in its place, so they
        depend on (seed, kind, row, pass, draw) alone."""
        return random_at(self._passes.seed, self._kind, self._row(), self._pass(), draw)

    def uniform(self, draw: int = 0) -> float:
        """The same as a number in [0, 1), as `nano_uniform()` has it."""
        return uniform_at(self._passes.seed, self._kind, self._row(), self._pass(), draw)

    @property
    def reads(self) -> Collection[int]:
        """Numbers of the topics that may be read."""
        return self._read.values()

    def _pass(self) -> int:
        return self._passes.number if self.number < 0 else self.number

    def _row(self) -> int:
        """Of the agent that ticks now: as many have been taken off the list as it is shorter."""
        if self._ticking is None:
            raise NanoError("nobody ticks now", hint="publish with the row of an agent; draw random numbers in a tick")
        return int(self.rows[len(self.rows) - length_hint(self._ticking) - 1])

    def _number(self, known: Mapping[str, int], topic: str, what: str) -> int:
        number = known.get(topic)
        if number is None:
            raise NanoError(
                f"this kind does not {what} the topic {topic!r}",
                hint=f"declare it: {topic} = nano.{'reads' if what == 'read' else 'writes'}({topic!r})",
            )
        return number
