"""The client's side of the protocol: what it has handed over and not got an outcome for.

The session keeps each batch whole until all its outcomes are in, so that it can hand it to another node when the one it
used is gone. Batches that may not be repeated begin only with the session's grant, which it remembers: what was granted
and not reported when a node went away ends as LOST, never twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kernels.batch import Outcomes
from swarm.protocol import ids
from swarm.protocol.messages import Kind, MessageError
from swarm.protocol.messages import field as header_field
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.states import Status

NODE = b""
"""Whom a session talks to: the one node that it is linked to."""
RESUBMIT_BACKOFF_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """Outcomes of a batch, each task's first and only one."""

    batch: int
    outcomes: Outcomes
    fresh: int
    """How many of them are the first of their task."""
    last: bool
    """Nothing more of this batch will follow."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Tasks that have their outcome from the session itself: refused, or lost with the node that ran them."""

    batch: int
    indices: tuple[int, ...]
    status: int
    message: str
    hint: str
    last: bool


@dataclass(frozen=True, slots=True)
class Happened:
    """Something about a task that runs: progress, an item of a stream, output."""

    batch: int
    index: int
    name: str
    value: Any
    body: bytes
    node: str


@dataclass(frozen=True, slots=True)
class Moving:
    """The node stops: find another."""

    reason: str


SessionEffect = Tell | Delivered | Ended | Happened | Moving


@dataclass(slots=True, eq=False)
class Handed:
    """A batch handed over."""

    number: int
    raw: bytes
    rerun: bool
    count: int
    columns: Bytes
    deps: list[bytes]
    left: int
    done: bytearray
    granted: set[int] = field(default_factory=set)
    attempts: int = 0
    refusals: int = 0
    sent: bool = False


class Session:
    """State machine of one client. `now` is seconds of any steady clock."""

    def __init__(self, session: bytes) -> None:
        assert len(session) == 8
        self.id = session
        self.linked = False
        self.tasks = 0
        self.bytes = 0
        self._batches: dict[int, Handed] = {}
        self._effects: list[SessionEffect] = []
        self._again: list[tuple[float, int]] = []

    def take_effects(self) -> list[SessionEffect]:
        """What is to be done now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        return min((at for at, _ in self._again), default=None)

    @property
    def unfinished(self) -> Iterable[int]:
        """Numbers of the batches that are not finished."""
        return self._batches

    def submit(self, number: int, raw: bytes, rerun: bool, count: int, columns: Bytes, deps: list[bytes]) -> None:
        """Hand a batch over, now or as soon as there is a node."""
        batch = Handed(number, raw, rerun, count, columns, deps, count, bytearray(count))
        self._batches[number] = batch
        self.tasks += count
        self.bytes += len(columns)
        if self.linked:
            self._send(batch)

    def cancel(self, number: int, index: int | None = None) -> None:
        """Give up a task, or all of a batch. Its outcome still comes, as CANCELLED or what it ended as before."""
        batch = self._batches.get(number)
        if batch is None:
            return
        if not self.linked:
            indices = [index] if index is not None else list(range(batch.count))
            self._end(batch, [row for row in indices if not batch.done[row]], Status.CANCELLED, "it was cancelled", "")
            return
        ranges = None if index is None else [[index, index + 1]]
        self._tell(Kind.CANCEL, {"b": self._key(number), "r": ranges})

    def give_input(self, number: int, index: int, what: str, value: Any, body: bytes = b"") -> None:
        """Send input, a signal or a stream's credit to a task that runs."""
        if self.linked and number in self._batches:
            header = {"b": self._key(number), "i": index, "e": what, "v": value}
            self._effects.append(Tell(NODE, Kind.INPUT, header, (body,) if body else ()))

    def link_up(self) -> None:
        """There is a node. Everything unfinished is handed to it; a node that knows a batch takes it once."""
        self.linked = True
        for batch in list(self._batches.values()):
            if batch.sent and not batch.rerun:
                lost = sorted(row for row in batch.granted if not batch.done[row])
                self._end(batch, lost, Status.LOST, "the node that it was handed to is gone", "it may have run")
            if batch.left:
                if batch.sent:
                    batch.attempts += 1
                self._send(batch)

    def link_down(self) -> None:
        """The node is gone."""
        self.linked = False

    def on_message(self, now: float, kind: int, header: dict[str, Any], body: memoryview) -> None:
        """A message from the node. MessageError or ValueError if it breaks the protocol."""
        if kind == Kind.OUTCOMES:
            self._outcomes(header, body)
        elif kind == Kind.EVENT:
            number = self._number(header)
            batch = self._batches.get(number)
            index = header_field(header, "i", int)
            if batch is not None and 0 <= index < batch.count:
                self._effects.append(
                    Happened(
                        number,
                        index,
                        header_field(header, "e", str),
                        header.get("v"),
                        bytes(body),
                        str(header.get("w", "")),
                    )
                )
        elif kind == Kind.ASK_START:
            self._grant(header)
        elif kind == Kind.REFUSED:
            self._refused(now, header)
        elif kind == Kind.GOODBYE:
            self._effects.append(Moving(str(header.get("reason", ""))))

    def on_timer(self, now: float) -> None:
        """Hand over again what a full node refused."""
        due = [number for at, number in self._again if at <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        for number in due:
            batch = self._batches.get(number)
            if batch is not None and self.linked:
                self._send(batch)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _key(self, number: int) -> bytes:
        return ids.batch_key(self.id, number)

    def _number(self, header: dict[str, Any]) -> int:
        key = header_field(header, "b", bytes)
        if len(key) != ids.BATCH_KEY_BYTES or key[:8] != self.id:
            raise MessageError("a batch of another session")
        return int.from_bytes(key[8:], "big")

    def _tell(self, kind: int, header: dict[str, Any], *parts: Bytes) -> None:
        self._effects.append(Tell(NODE, kind, header, parts))

    def _send(self, batch: Handed) -> None:
        batch.sent = True
        header: dict[str, Any] = {"b": self._key(batch.number), "n": batch.count, "s": batch.raw}
        if batch.attempts:
            header["w"] = batch.attempts
        if batch.deps:
            header["d"] = batch.deps
        self._tell(Kind.SUBMIT, header, batch.columns)

    def _outcomes(self, header: dict[str, Any], body: memoryview) -> None:
        number = self._number(header)
        outcomes = Outcomes(body, header_field(header, "n", int))
        batch = self._batches.get(number)
        if batch is None:
            return
        done, count, fresh = batch.done, batch.count, 0
        for index in outcomes.indices():
            if index >= count:
                raise MessageError(f"an outcome of task {index} of a batch of {count}")
            if not done[index]:
                done[index] = 1
                fresh += 1
        # A second outcome of one task finds its future gone: the first one counts.
        self._effects.append(Delivered(number, outcomes, fresh, batch.left == fresh))
        self._less(batch, fresh)

    def _less(self, batch: Handed, count: int) -> None:
        batch.left -= count
        self.tasks -= count
        if not batch.left:
            self.bytes -= len(batch.columns)
            del self._batches[batch.number]

    def _grant(self, header: dict[str, Any]) -> None:
        number = self._number(header)
        batch = self._batches.get(number)
        asked = header_field(header, "r", list)
        if batch is None:
            return
        for start, stop in asked:
            batch.granted.update(range(max(0, start), min(stop, batch.count)))
        self._tell(Kind.GRANT_START, {"b": self._key(number), "r": asked})

    def _refused(self, now: float, header: dict[str, Any]) -> None:
        batch = self._batches.get(self._number(header))
        if batch is None:
            return
        after = header.get("after")
        if header.get("reason") == "draining":
            self._effects.append(Moving("draining"))
        elif isinstance(after, int | float):
            batch.refusals += 1
            wait = min(RESUBMIT_BACKOFF_MAX_S, float(after) * batch.refusals)
            self._again.append((now + wait, batch.number))
        else:
            rows = [row for row in range(batch.count) if not batch.done[row]]
            self._end(batch, rows, Status.REFUSED, str(header.get("message", "")), str(header.get("hint", "")))

    def _end(self, batch: Handed, rows: list[int], status: Status, message: str, hint: str) -> None:
        if not rows:
            return
        for row in rows:
            batch.done[row] = 1
        self._effects.append(Ended(batch.number, tuple(rows), status, message, hint, batch.left == len(rows)))
        self._less(batch, len(rows))
