"""An executor under test: runs in, effects out, and workers that claim tasks from their pages as real ones do."""

from __future__ import annotations

from typing import Any

from kernels.batch import CallBuilder, Calls, OutcomeBuilder, Outcomes
from kernels.reference.slots import SlotPage
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.executor.effects import HandSlice, StartWorker, StopWorker
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status

ME, OAK, ELM = b"me" + bytes(14), b"oak" + bytes(13), b"elm" + bytes(13)


def key_of(number: int) -> bytes:
    """The key of a batch."""
    return ids.batch_key(b"session!", number)


def spec_of(**options: Any) -> Spec:
    """A spec of a call by name."""
    return Spec("call", ("name", "m:f", "f"), "f", **options)


class Executor:
    """Drives an `Execution`. Workers get pages and are ready at once; their tasks run when the test says so."""

    def __init__(self, slots: float = 2.0, *, ready: bool = True, **options: Any) -> None:
        self.now = 50.0
        totals = {"cpu": slots, "memory": 100.0}
        capacity = Capacity(totals, pythons=frozenset(("guest",)))
        self.it = Execution(ExecutionConfig(capacity, **options), ME)
        self.pages: dict[int, SlotPage | None] = {}
        self.handed: list[HandSlice] = []
        self.stopped: list[StopWorker] = []
        self.told: list[Tell] = []
        self.facts: list[Fact] = []
        self.others: list[Any] = []
        self.ready = ready
        self.it.start(self.now)
        self.take()

    def take(self) -> None:
        """Carry out what it wants, and sort it."""
        while effects := self.it.take_effects():
            for effect in effects:
                if isinstance(effect, StartWorker):
                    page = self.pages[effect.worker] = None if effect.python else SlotPage()
                    self.it.worker_started(effect.worker, page)
                    if self.ready:
                        self.it.worker_ready(self.now, effect.worker)
                elif isinstance(effect, HandSlice):
                    self.handed.append(effect)
                elif isinstance(effect, StopWorker):
                    self.stopped.append(effect)
                elif isinstance(effect, Tell):
                    self.told.append(effect)
                elif isinstance(effect, Fact):
                    self.facts.append(effect)
                else:
                    self.others.append(effect)

    def dispatch(self, number: int, count: int = 1, owner: bytes = OAK, first: int = 0, **options: Any) -> None:
        """An owner sends a run."""
        given = {name: options.pop(name) for name in ("attempts", "extra") if name in options}
        spec = spec_of(**options)
        builder = CallBuilder()
        for _ in range(count):
            builder.add(b"M\x01")
        calls = Calls(builder.take(), count)
        self.it.dispatch(
            self.now, owner, dispatch=number, batch=key_of(number), spec=spec, raw=spec.encode(), granted=True,
            calls=calls, first=first, **given,
        )  # fmt: skip
        self.take()

    def slices(self) -> list[HandSlice]:
        """Slices handed over since the last call."""
        handed, self.handed = self.handed, []
        return handed

    def claim(self, part: HandSlice) -> int:
        """The worker of a slice begins its next task; the index in the batch."""
        page = self.pages[part.worker]
        if page is None:
            return part.start
        row = page.claim(part.slot)
        assert row >= 0
        page.begin(part.slot, row, int(self.now * 1e9))
        return part.start + row

    def report(self, part: HandSlice, rows: dict[int, int], run_us: int = 50_000) -> None:
        """A worker reports outcomes."""
        builder = OutcomeBuilder()
        for index, status in rows.items():
            builder.add(index, status, run_us, b"M\x01")
        page = self.pages[part.worker]
        if page is not None:
            page.end()
        body = builder.take()
        self.it.worker_outcomes(self.now, part.worker, part.run, Outcomes(body, len(rows)), body)
        self.take()

    def done(self, part: HandSlice) -> None:
        """A worker is through with a slice."""
        self.it.worker_slice_done(self.now, part.worker, part.slot)
        self.take()

    def run(self, part: HandSlice, status: int = Status.OK, run_us: int = 50_000) -> None:
        """A worker runs all of a slice and reports it."""
        self.report(part, {self.claim(part): status for _ in range(part.count)}, run_us)
        self.done(part)

    def run_all(self) -> None:
        """Workers run all that they are handed."""
        while parts := self.slices():
            for part in parts:
                self.run(part)

    def exited(self, worker: int, why: str = "signal 11") -> None:
        """A worker's process is gone."""
        self.it.worker_exited(self.now, worker, why)
        self.take()

    def wait(self, for_s: float) -> None:
        """Time goes by, timers fire."""
        until = self.now + for_s
        while (at := self.it.next_deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.it.on_timer(self.now)
            self.take()
        self.now = until

    def ended(self, number: int, owner: bytes = OAK) -> dict[int, int]:
        """Index -> status of what an owner was told of a dispatch. AssertionError if it was told twice."""
        found: dict[int, int] = {}
        for one in self.told:
            if one.kind == Kind.OUTCOMES and one.to == owner and one.header["d"] == number:
                outcomes = Outcomes(one.parts[0], one.header["n"])
                for row in range(outcomes.count):
                    assert outcomes.index(row) not in found, f"task {outcomes.index(row)} was reported twice"
                    found[outcomes.index(row)] = outcomes.status(row)
        return found

    def at_rest(self) -> None:
        """Nothing is here and nothing is taken."""
        assert self.it.idle
        assert (self.it.waiting, self.it.running, self.it.others(b"")) == (0, 0, 0)
        assert not any(self.it.account.used.values()), self.it.account.used
