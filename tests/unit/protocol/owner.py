"""An owner under test: batches in, effects out, and outcomes as executors report them."""

from __future__ import annotations

from typing import Any

from kernels.batch import CallBuilder, OutcomeBuilder, Outcomes
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.ownership import Batch, Ownership, OwnershipConfig, ToExecutor
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status

ME, OAK, ELM = b"me" + bytes(14), b"oak" + bytes(13), b"elm" + bytes(13)
CLIENT, OTHER_CLIENT = b"client", b"another client"
SESSION = b"session!"
WALL = 1.7e9


def key_of(number: int) -> bytes:
    """The key of a batch."""
    return ids.batch_key(SESSION, number)


def spec_of(**options: Any) -> Spec:
    """A spec of a call by name."""
    return Spec("call", ("name", "m:f", "f"), "f", **options)


def columns_of(count: int) -> bytes:
    """Call columns of some tasks."""
    builder = CallBuilder()
    for number in range(count):
        builder.add(b"M" + bytes([number % 128]))
    return builder.take()


def report_of(rows: dict[int, int], run_us: int = 1000) -> tuple[int, bytes]:
    """(count, columns) of outcomes by index."""
    builder = OutcomeBuilder()
    for index, status in rows.items():
        builder.add(index, status, run_us, b"M\x01" if status == Status.OK else b"F\x80")
    return len(rows), builder.take()


class Owner:
    """Drives an `Ownership`, and sorts its effects."""

    def __init__(self, slots: float = 2.0, config: OwnershipConfig | None = None, epoch: int = 0) -> None:
        self.now = 100.0
        self.it = Ownership(config or OwnershipConfig(), ME, "me", Capacity({"cpu": slots}), epoch)
        self.dispatched: list[ToExecutor] = []
        self.told: list[Tell] = []
        self.facts: list[Fact] = []
        self.others: list[Any] = []

    def take(self) -> None:
        """Sort what it left."""
        for effect in self.it.take_effects():
            if isinstance(effect, ToExecutor):
                self.dispatched.append(effect)
            elif isinstance(effect, Tell):
                self.told.append(effect)
            elif isinstance(effect, Fact):
                self.facts.append(effect)
            else:
                self.others.append(effect)

    def submit(self, number: int, count: int = 1, spec: Spec | None = None, **options: Any) -> Batch | None:
        """Hand a batch over; the owner's record of it, None if it was refused."""
        granted = options.pop("granted", True)
        client = options.pop("client", CLIENT)
        raw = (spec or spec_of()).encode()
        columns = options.pop("columns", None) or columns_of(count)
        self.it.submit(
            self.now, WALL + self.now, client, "ann", granted, key_of(number), raw, count, columns, **options
        )
        self.take()
        return self.it.batches.get(key_of(number))

    def executor(self, node: bytes, name: str, slots: float = 2.0, linked: bool = True, **totals: float) -> None:
        """Another member, with a link."""
        self.it.executor_seen(self.now, node, name, Capacity({"cpu": slots, **totals}), {"free": slots, "wait": 0})
        if linked:
            self.it.executor_linked(self.now, node)
        self.take()

    def report(self, dispatch: ToExecutor, rows: dict[int, int], executor: bytes | None = None, **load: Any) -> None:
        """An executor reports."""
        count, body = report_of(rows)
        self.it.outcomes(self.now, executor or dispatch.executor, dispatch.dispatch, count, body, load or None)
        self.take()

    def fine(self, dispatch: ToExecutor) -> None:
        """All tasks of a dispatch end well."""
        self.report(dispatch, {index: Status.OK for index in range(dispatch.first, dispatch.first + dispatch.count)})

    def wait(self, for_s: float) -> None:
        """Time goes by, timers fire."""
        until = self.now + for_s
        while (at := self.it.next_deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.it.on_timer(self.now)
            self.take()
        self.now = until

    def taken(self) -> list[ToExecutor]:
        """Dispatches since the last call."""
        dispatched, self.dispatched = self.dispatched, []
        return dispatched

    def messages(self, kind: Kind, to: bytes = CLIENT) -> list[dict[str, Any]]:
        """Headers of messages of a kind so far, to somebody."""
        return [one.header for one in self.told if one.kind == kind and one.to == to]

    def ended(self, number: int, to: bytes = CLIENT, key: bytes | None = None) -> dict[int, int]:
        """Index -> status of what a client was told of a batch. AssertionError if it was told twice."""
        found: dict[int, int] = {}
        for one in self.told:
            if one.kind == Kind.OUTCOMES and one.to == to and one.header["b"] == (key or key_of(number)):
                outcomes = Outcomes(one.parts[0], one.header["n"])
                for row in range(outcomes.count):
                    assert outcomes.index(row) not in found, f"task {outcomes.index(row)} ended twice"
                    found[outcomes.index(row)] = outcomes.status(row)
        return found
