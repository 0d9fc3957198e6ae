"""Simulated worker processes, in the place of `nodes.pool`: they claim tasks from the page, run their programs, crash,
hang, and are killed. What they say to their node comes in order, a moment later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from kernels.batch import Calls, OutcomeBuilder, Outcomes
from kernels.reference.slots import SlotPage
from swarm.protocol import ids
from swarm.protocol.executor.effects import HandInput, HandSlice
from swarm.protocol.spec import Spec, parse_spec
from swarm.protocol.states import Status
from tests.sim.fabric import programs
from tests.sim.fabric.host import Handle
from tests.sim.fabric.lessons import LACKS
from tests.sim.fabric.programs import read_program
from tests.sim.fabric.truth import Attempt, state_of, value_of

if TYPE_CHECKING:
    from tests.sim.fabric.client import SimClient
    from tests.sim.fabric.node import SimNode

PIPE_S = 0.00003
START_S = (0.02, 0.3)
FINISH_MAX_S = 5.0
FLUSH_AGE_S = 0.001
ITEM_S = 0.002


@dataclass
class Ailments:
    """What goes wrong in workers, as probabilities."""

    start_fails: float = 0.0
    dies: float = 0.0
    """While it runs a task."""


@dataclass(slots=True)
class _Part:
    """A slice in a worker's hands."""

    run: int
    slot: int
    start: int
    count: int
    spec: Spec
    token: int
    batch: bytes
    attempt: int
    calls: Calls
    saved: dict[int, tuple[int, bytes]]
    cursor: int = 0


class SimWorker:
    """One worker process."""

    def __init__(self, pool: SimPool, number: int, python: str) -> None:
        self.pool = pool
        self.number = number
        self.python = python
        self.page = None if python else SlotPage()
        self.alive = True
        self.finishing = False
        self.specs: dict[int, tuple[bytes, bool]] = {}
        self.parts: deque[_Part] = deque()
        self.part: _Part | None = None
        self.attempt: Attempt | None = None
        self.builder = OutcomeBuilder()
        self.flushed_at = 0.0
        self.timer: Handle | None = None
        self.granted_until: float | None = None
        """Runs calls of the client that its slot is granted to until then, if that is not over before."""
        self.stopped_at: float | None = None
        """Its processes stand still since then."""
        self.stood_s = 0.0
        self.held: list[Callable[[], None]] = []
        """What would have happened in it meanwhile."""
        self.leaves: set[tuple[int, int]] = set()
        """Tasks that are to end at their next safe point."""
        self.nested: SimClient | None = None
        self.nested_sessions: dict[tuple[bytes, int, int], int] = {}

    # --- the task loop ------------------------------------------------------------------------------------------------

    def take(self, it: HandSlice) -> None:
        """A slice came."""
        assert self.granted_until is None, f"worker {self.number} has a slice, and a client of its own"
        raw, _ = self.specs[it.spec]
        calls = Calls(b"".join((it.lengths, it.payloads)), it.count)
        extra = it.extra
        self.parts.append(
            _Part(
                it.run,
                it.slot,
                it.start,
                it.count,
                parse_spec(raw),
                extra["token"],
                extra["batch"],
                extra["attempt"],
                calls,
                {index: (moved, state) for index, moved, state in extra.get("saved", ())},
            )
        )
        if self.part is None:
            self._next()

    def _claim(self, part: _Part) -> int:
        if self.page is not None:
            return self.page.claim(part.slot)
        if part.cursor >= part.count:
            return -1
        part.cursor += 1
        return part.cursor - 1

    def _next(self) -> None:
        pool = self.pool
        while self.alive:
            if self.part is None:
                if not self.parts:
                    if self.finishing:
                        self.exit("exit 0")
                    return
                self.part = self.parts.popleft()
            part = self.part
            row = self._claim(part)
            if row < 0:
                self._flush()
                self._say("worker_slice_done", part.slot)
                self.part = None
                continue
            now = pool.node.host.now()
            if self.page is not None:
                self.page.begin(part.slot, row, int(now * 1e9))
            if self.builder.count and now - self.flushed_at > FLUSH_AGE_S:
                self._flush()
            index = part.start + row
            world = pool.node.world
            self.attempt = world.truth.began(
                (part.batch, index), pool.node.number, self.number, part.token, world.sim.now, part.saved.get(index),
                not world.faults and not world.drains,
            )  # fmt: skip
            self._run(part, row, index, self.attempt)
            return

    def _run(self, part: _Part, row: int, index: int, attempt: Attempt) -> None:
        program = read_program(part.calls.payload(row))
        rng, ailments = self.pool.rng, self.pool.ailments
        before = len(self.pool.node.world.truth.begun(attempt.task)) - 1
        if ailments.dies and rng.random() < ailments.dies:
            self._after(program.run_s * rng.random(), self._die)
        elif program.what == programs.CRASHES and before < program.times:
            self._after(program.run_s * rng.random(), self._die)
        elif program.what == programs.HANGS:
            return
        elif program.what == programs.NESTS:
            self._after(program.run_s, self._nest, part, index, program)
        elif program.what == programs.COUNTS:
            self._step(part, index, program, attempt.begun_at_step)
        elif program.what == programs.STREAMS:
            self._after(ITEM_S, self._item, part, index, 0, program.times)
        else:
            status = Status.OK
            if program.what == programs.LACKS and self.pool.node.number == program.times:
                self._after(program.run_s / self.pool.node.speed, self._ended, Status.FAILED, LACKS)
                return
            if program.what == programs.FAILS:
                status = Status.FAILED
            elif program.what == programs.RETRIES and before < program.times:
                status = Status.RETRY if part.spec.retries else Status.FAILED
            self._after(program.run_s / self.pool.node.speed, self._ended, status)

    def _after(self, delay_s: float, what: Any, *args: Any) -> None:
        # A worker goes on while its node stands still: it has its own process.
        world = self.pool.node.world
        attempt, at_s = self.attempt, world.sim.now + delay_s - self.stood_s

        def due() -> None:
            if not self.alive or self.attempt is not attempt:
                return
            if self.stopped_at is not None:
                self.held.append(due)
            elif at_s + self.stood_s > world.sim.now:
                # Later by as long as it stood still, and by no more: what was left to do when it was stopped.
                world.sim.at(at_s + self.stood_s, due)
            else:
                what(*args)

        world.sim.at(at_s + self.stood_s, due)

    def suspend(self) -> None:
        """Stop where it stands."""
        if self.stopped_at is None:
            self.stopped_at = self.pool.node.world.sim.now
            self.pool.node.world.truth.suspensions += 1

    def resume(self) -> None:
        """Go on."""
        if self.stopped_at is not None:
            self.stood_s += self.pool.node.world.sim.now - self.stopped_at
            self.stopped_at = None
            held, self.held = self.held, []
            for due in held:
                due()

    def _ended(self, status: Status, how: bytes = b"F\x81\xa7message\xa2no") -> None:
        part, attempt = self.part, self.attempt
        assert part is not None and attempt is not None
        now = self.pool.node.world.sim.now
        attempt.ended_at, attempt.status = now, status
        self.attempt = None
        if self.page is not None:
            self.page.end()
        run_us = int((now - attempt.at) * 1e6)
        payload = how
        if status in (Status.OK, Status.SAVED):
            payload = value_of(attempt) if status == Status.OK else state_of(attempt)
            run_us = run_us if status == Status.OK else 0
        if not self.builder.count:
            self.flushed_at = self.pool.node.host.now()
        self.builder.add(attempt.task[1], status, run_us, payload)
        self._next()

    def _step(self, part: _Part, index: int, program: programs.Program, steps: int) -> None:
        attempt = self.attempt
        assert attempt is not None
        attempt.steps = steps
        if (part.run, index) in self.leaves:
            self.leaves.discard((part.run, index))
            self._ended(Status.SAVED)
        elif steps == program.times:
            self._ended(Status.OK)
        else:
            # Now and then a step is long: then it is late for its safe point.
            long = self.pool.rng.random() < 0.1
            step_s = program.run_s * (1.0 if long else 0.1) / self.pool.node.speed
            self._after(step_s, self._step, part, index, program, steps + 1)

    def leave(self, run: int, index: int, value: int) -> None:
        """A task is to end at its next safe point, or not any more."""
        if value:
            self.leaves.add((run, index))
        else:
            self.leaves.discard((run, index))

    def _item(self, part: _Part, index: int, sent: int, count: int) -> None:
        if sent == count:
            self._ended(Status.OK)
            return
        self._say("worker_event", part.run, index, "item", [sent, b"item"])
        self._after(ITEM_S, self._item, part, index, sent + 1, count)

    def _nest(self, part: _Part, index: int, program: programs.Program) -> None:
        world, node = self.pool.node.world, self.pool.node
        attempt = self.attempt
        assert attempt is not None
        parent = ids.task_id(part.batch, index)
        key = (parent, part.attempt, part.token)
        number = self.nested_sessions[key] = self.nested_sessions.get(key, 0) + 1
        session = ids.child_session(parent, part.attempt, (part.token,), number)
        client = self.nested = world.nested_client(node, session)
        spec = Spec(
            "call", ("name", "m:child", "child"), "child", rerun=part.spec.rerun, root=part.spec.root or parent,
            parent=parent, depth=part.spec.depth + 1,
        )  # fmt: skip
        deeper = program.times - 1
        one = (
            programs.Program(programs.NESTS, program.run_s, deeper)
            if deeper
            else programs.Program("fine", program.run_s)
        )
        batch = client.submit(spec, [one.encode()] + [programs.Program("fine", program.run_s).encode()])
        self._say("worker_blocked", True)

        def look() -> None:
            if batch.left:
                self._after(0.002, look)
                return
            client.leave()
            self.nested = None
            self._say("worker_blocked", False)
            fine = all(status == Status.OK for status, _ in batch.ended.values())
            self._after(0.0, self._ended, Status.OK if fine else Status.FAILED)

        self._after(0.002, look)

    # --- calls of the client that its slot is granted to ---------------------------------------------------------------

    def serve(self, for_s: float) -> None:
        """Run a client's calls for a while."""
        sim = self.pool.node.world.sim
        until = self.granted_until = sim.now + for_s
        sim.at(until, lambda: self._served(until))
        if self.pool.ailments.dies and self.pool.rng.random() < self.pool.ailments.dies:
            sim.at(sim.now + for_s * self.pool.rng.random(), self._die)

    def revoke(self) -> None:
        """Return after the call that runs."""
        if self.granted_until is not None:
            sim = self.pool.node.world.sim
            until = self.granted_until = min(self.granted_until, sim.now + 0.2 * self.pool.rng.random())
            sim.at(until, lambda: self._served(until))

    def _served(self, until: float) -> None:
        if self.alive and self.granted_until == until:
            self.granted_until = None
            self._say("worker_records", [None] * 3)
            self._say("worker_grant_over")

    # --- saying things ------------------------------------------------------------------------------------------------

    def _say(self, what: str, *args: Any) -> None:
        self.pool.said(self, what, *args)

    def _flush(self) -> None:
        count = self.builder.count
        if count and self.part is not None:
            body = memoryview(self.builder.take())
            self._say("worker_outcomes", self.part.run, Outcomes(body, count), body)
        self.flushed_at = self.pool.node.host.now()

    # --- ending -------------------------------------------------------------------------------------------------------

    def _die(self) -> None:
        self.exit("signal 11")

    def exit(self, why: str, *, by_node: bool = False) -> None:
        """The process is gone, with all that it had not said."""
        if not self.alive:
            return
        self.alive = False
        if self.attempt is not None:
            self.attempt.worker_died = True
            self.attempt.killed = by_node
            self.attempt = None
        if self.nested is not None:
            self.nested.kill()
        self.pool.gone(self, why)


class SimPool:
    """The worker processes of one node; has what `nodes.fabric` uses of `nodes.pool.Pool`."""

    def __init__(self, node: SimNode, rng: Random, ailments: Ailments) -> None:
        self.node = node
        self.rng = rng
        self.ailments = ailments
        self.workers: dict[int, SimWorker] = {}

    def __len__(self) -> int:
        return len(self.workers)

    def start(self, worker: int, python: str) -> SlotPage | None:
        """See `nodes.pool.Pool.start`."""
        if self.ailments.start_fails and self.rng.random() < self.ailments.start_fails / 2:
            raise OSError(11, "no process can be started")
        it = self.workers[worker] = SimWorker(self, worker, python)
        delay = START_S[0] + (START_S[1] - START_S[0]) * self.rng.random()
        sim = self.node.world.sim

        def loaded() -> None:
            if not it.alive:
                return
            if self.ailments.start_fails and self.rng.random() < self.ailments.start_fails / 2:
                it.exit("exit 1")
            else:
                self.said(it, "worker_ready", {})

        sim.at(sim.now + delay, loaded)
        return it.page

    def stop(self, worker: int, how: str) -> None:
        """See `nodes.pool.Pool.stop`."""
        it = self.workers.get(worker)
        if it is None:
            return
        if how == "finish":
            self._to(it, self._finish, it)
            self.node.host.call_later(FINISH_MAX_S, self.stop, worker, "kill")
        else:
            sim = self.node.world.sim
            sim.at(sim.now + PIPE_S * (1 + 20 * self.rng.random()), lambda: it.exit("signal 9", by_node=True))

    def suspend(self, worker: int) -> None:
        """See `nodes.pool.Pool.suspend`."""
        it = self.workers.get(worker)
        if it is not None:
            it.suspend()

    def memory(self, workers: Collection[int]) -> dict[int, int]:
        """See `nodes.pool.Pool.memory`."""
        return {worker: 100 + worker for worker in sorted(workers) if worker in self.workers}

    def resume(self, worker: int) -> None:
        """See `nodes.pool.Pool.resume`."""
        it = self.workers.get(worker)
        if it is not None:
            it.resume()

    @staticmethod
    def _finish(it: SimWorker) -> None:
        it.finishing = True
        if it.part is None and not it.parts:
            it.exit("exit 0")

    def send_spec(self, worker: int, number: int, raw: bytes, granted: bool) -> None:
        """See `nodes.pool.Pool.send_spec`."""
        it = self.workers.get(worker)
        if it is not None:
            self._to(it, it.specs.__setitem__, number, (raw, granted))

    def send_slice(self, it: HandSlice) -> None:
        """See `nodes.pool.Pool.send_slice`."""
        worker = self.workers.get(it.worker)
        if worker is not None:
            self._to(worker, worker.take, it)

    def grant(self, client: bytes, for_s: float) -> None:
        """Have a worker set apart for a client of this host, if one can be spared."""
        number = self.node.execution.grant(client)
        if number is not None:
            self._to(self.workers[number], self.workers[number].serve, for_s)

    def send_revoke(self, worker: int) -> None:
        """See `nodes.pool.Pool.send_revoke`."""
        it = self.workers.get(worker)
        if it is not None:
            self._to(it, it.revoke)

    def send_input(self, it: HandInput) -> None:
        """Input changes nothing of what simulated tasks do, but that some end at a safe point."""
        worker = self.workers.get(it.worker)
        if worker is not None and it.what == "save":
            self._to(worker, worker.leave, it.run, it.index, it.value)

    def _to(self, it: SimWorker, call: Any, *args: Any) -> None:
        sim = self.node.world.sim

        def due() -> None:
            if it.stopped_at is not None:
                it.held.append(due)
            elif it.alive:
                call(*args)

        sim.at(sim.now + PIPE_S, due)

    def said(self, it: SimWorker, what: str, *args: Any) -> None:
        """A worker says something; it is read a moment later, or when the node goes on."""
        self.node.host.call_later(PIPE_S, self._heard, what, it.number, *args)

    def _heard(self, what: str, *args: Any) -> None:
        fabric = self.node.fabric
        getattr(fabric, what)(*args)
        fabric.worker_turn()

    def gone(self, it: SimWorker, why: str) -> None:
        """A process is gone: the node sees it after all that it said."""
        self.node.host.call_later(PIPE_S, self._exited, it.number, why)

    def _exited(self, worker: int, why: str) -> None:
        if self.workers.pop(worker, None) is not None:
            self.node.fabric.worker_exited(worker, why)

    def kill_all(self) -> None:
        """See `nodes.pool.Pool.kill_all`. Workers end with their node."""
        for it in [*self.workers.values()]:
            it.exit("signal 9", by_node=True)
