"""A population, or a part of one, as a task of the fleet: what runs in a worker.

It is a generator, whose items are (what, about): "here" once it can be reached, "begun", "progress", "saved". It is told what to
do by letters (`swarm.tasks.told`), which may come twice or not at all, so each has a number. What it returns is its `Ending`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from kernels.passes import NEVER
from swarm import tasks
from swarm.nano.arrays import numpy
from swarm.nano.bridge import Bridge, Pass
from swarm.nano.errors import KindNotThere, NanoError, SchemaMismatch
from swarm.nano.lockstep import HEADER, SAVE, STOP, Part
from swarm.nano.measuring import Mark
from swarm.nano.reports import Report
from swarm.nano.saving import load
from swarm.nano.scheduling import NanoSwarm
from swarm.nano.sources import Source, put
from transport.mesh import Mesh

PROGRESS_S: Final = 0.2
SLICE_S: Final = 0.02
"""About how long a population runs before it looks whether it was told something; well below `node.hold_s`."""
START_S: Final = 60.0
"""How long the parts of a population wait for one another to begin."""
FAILURES_MAX: Final = 16


@dataclass(frozen=True)
class Plan:
    """What a part is to do. Instants are the population's, in ns; a class of its own, so that it is only taken from those who
    may send code."""

    part: int
    parts: int
    until_ns: int
    passes: int | None
    """Passes in all since the population began, at which it ends."""
    save_every_s: float | None
    sources: dict[str, Source] = field(default_factory=dict)
    publics: tuple[bytes, ...] = ()
    secret: bytes = b""
    token: bytes = b""
    bridge: Pass | None = None
    """Where a swarm elsewhere may join these topics."""
    topics: tuple[str, ...] = ()
    bridges: dict[int, Pass] = field(default_factory=dict)
    """In real time: to each of the others."""


@dataclass(frozen=True)
class Saved:
    """A part after a pass."""

    passes: int
    now_ns: int
    blob: Any
    report: Report
    agents: int
    asked: tuple[int, ...] = ()
    """The letters that asked for it."""


@dataclass(frozen=True)
class Ending:
    """How a part ended: `stopped` when it was asked to, and otherwise as its plan has it."""

    saved: Saved
    stopped: bool
    failures: tuple[str, ...]
    node: str
    lines_out: int = 0
    lines_in: int = 0


def run_part(plan: Plan, blob: Any) -> Generator[tuple[str, Any], None, Ending]:
    """Load a population, or a part, and run it."""
    if not isinstance(plan, Plan):
        raise NanoError("a plan is wanted", hint="this is what swarm.nano.submit calls; call that")
    running = tasks.current_task()
    node = running.node if running is not None else ""
    with put(plan.sources), contextlib.ExitStack() as stack:
        try:
            flock = load(blob)
        except SchemaMismatch as error:
            raise KindNotThere(
                f"on {node}: {error.message}" if node else error.message,
                hint=error.hint,
                **{**error.facts, "node": node},
            ) from None
        runner = _Runner(plan, flock, node)
        # what makes way for urgent work stands still between two passes, where real time stands still with it
        stack.enter_context(tasks.places_to_stand())
        if plan.parts == 1 and plan.bridge is not None:
            with Bridge(flock, plan.bridge, plan.topics) as bridge:
                yield ("here", bridge.port)
                yield ("begun", None)
                return (yield from runner.alone())
        if plan.parts == 1:
            yield ("here", 0)
            yield ("begun", None)
            return (yield from runner.alone())
        if flock.time == "real":
            with contextlib.ExitStack() as links:
                joined = {peer: runner.bridge(peer, each) for peer, each in plan.bridges.items() if peer > plan.part}
                for each in joined.values():
                    if each is not None:
                        links.enter_context(each)
                yield ("here", {peer: each.port for peer, each in joined.items() if each is not None})
                for peer, address in runner.told_where().items():
                    other = runner.bridge(peer, plan.bridges[peer].at(address))
                    if other is not None:
                        joined[peer] = links.enter_context(other)
                yield ("begun", None)
                runner.bridges = [each for each in joined.values() if each is not None]
                return (yield from runner.alone())
        with Mesh(plan.part, plan.publics, plan.secret, plan.token) as mesh:
            yield ("here", mesh.port)
            runner.meet(mesh)
            yield ("begun", None)
            return (yield from runner.in_step(mesh))


class _Runner:
    def __init__(self, plan: Plan, flock: NanoSwarm, node: str) -> None:
        self._plan, self._flock, self._node = plan, flock, node
        self._began: Mark = flock.mark()
        self._handled: set[int] = set()
        self._looked_s = self._told_s = self._saved_s = time.monotonic()
        self._wanted: list[int] = []
        """Numbers of letters that want the population saved."""
        self._stop = False
        self.bridges: list[Bridge] = []
        self._busy_s = 0.0
        """What passes took, without waiting for the others."""

    # --- in real time ---------------------------------------------------------------------------------------------------

    def bridge(self, peer: int, over: Pass) -> Bridge | None:
        """Join all topics to those of another part; None where nobody here writes or reads any."""
        flock, mine = self._flock, [each.form.kind for each in self._flock._cohorts if not each.absent]
        written = {said.topic for kind in mine for said in kind.topics_written.values()}
        read = {topic for kind in mine for topic in kind.topics_read.values()}
        if not written and not read:
            return None
        return Bridge(flock, over, sorted(flock.topics), sends=sorted(written), receives=sorted(read))

    def told_where(self) -> dict[int, str]:
        """Where those with lower numbers listen."""
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            for letter in self._letters():
                if letter["do"] == "meet":
                    return {int(part): str(address) for part, address in letter["where"].items()}
            time.sleep(0.02)
        raise NanoError(
            f"part {self._plan.part} on {self._node} was not told of the others in {START_S:g} s",
            hint="did one of them find no free slot? `swarm status` shows it",
        )

    # --- being told ---------------------------------------------------------------------------------------------------

    def _letters(self) -> list[dict[str, Any]]:
        found = []
        for raw in tasks.told():
            letter = msgpack.unpackb(raw)
            if letter["n"] not in self._handled:
                self._handled.add(letter["n"])
                found.append(letter)
        return found

    def _look(self) -> None:
        """See what was asked for meanwhile, and whether it is time to save."""
        for letter in self._letters():
            if letter["do"] == "save":
                self._wanted.append(letter["n"])
            elif letter["do"] == "stop":
                self._stop = True
        every_s = self._plan.save_every_s
        if every_s is not None and not self._wanted and time.monotonic() - self._saved_s >= every_s:
            self._wanted.append(0)

    def _progress(self) -> list[tuple[str, Any]]:
        now_s = time.monotonic()
        if now_s - self._told_s < PROGRESS_S:
            return []
        self._told_s = now_s
        flock = self._flock
        done = flock.now_ns / 1e9 if self._plan.until_ns != NEVER else flock.passes.made
        total = self._plan.until_ns / 1e9 if self._plan.until_ns != NEVER else self._plan.passes
        tasks.progress(done, total, f"{flock.passes.made:,} passes, {flock.agents:,} agents")
        ticks = sum(flock.passes.statistics(number)["ticks"] for number in range(len(flock._cohorts)))
        return [("progress", {
            "passes": flock.passes.made, "now_ns": flock.now_ns, "agents": flock.agents, "ticks": ticks, "node": self._node,
            "busy_s": self._busy_s,
        })]  # fmt: skip

    def _save(self) -> Saved:
        asked = tuple(self._wanted)
        self._wanted.clear()
        self._saved_s = time.monotonic()
        flock = self._flock
        blob = numpy().frombuffer(flock.save(), dtype="u1")  # travels beside the item, without a copy
        return Saved(flock.passes.made, flock.now_ns, blob, flock.report(self._began), flock.agents, asked)

    def _ending(self, lines_out: int = 0, lines_in: int = 0) -> Ending:
        failures = [
            f"{kind.__name__} {row}: {type(error).__name__}: {error}" for kind, row, error in self._flock.failures()
        ]
        return Ending(self._save(), self._stop, tuple(failures[:FAILURES_MAX]), self._node, lines_out, lines_in)

    # --- a population of its own --------------------------------------------------------------------------------------

    def alone(self) -> Generator[tuple[str, Any], None, Ending]:
        """Run it in stretches of about SLICE_S."""
        plan, flock = self._plan, self._flock
        step = 1
        while True:
            tasks.stand()
            self._look()
            if self._wanted:
                yield ("saved", self._save())
            if self._stop:
                break
            left = None if plan.passes is None else plan.passes - flock.passes.made
            if left == 0:
                break
            began_s = time.monotonic()
            if flock.time == "real":
                until_ns = min(plan.until_ns, flock.now_ns + int(SLICE_S * 1e9))
                flock._run(until_ns, left)
                ended = flock.now_ns >= plan.until_ns
            else:
                most = step if left is None else min(step, left)
                # up to the very end in each stretch: what a topology may spend depends on how much is left
                ended = flock._run(plan.until_ns, most).passes < most
            if ended:
                break
            took_s = time.monotonic() - began_s
            step = max(1, int(step * min(4.0, max(0.25, SLICE_S / (took_s + 1e-6)))))
            yield from self._progress()
        counts = [each.counts() for each in self.bridges]
        return self._ending(sum(each.sent for each in counts), sum(each.received for each in counts))

    # --- a part of a population ---------------------------------------------------------------------------------------

    def meet(self, mesh: Mesh) -> None:
        """Learn where the others are, and wait for them."""
        ends = time.monotonic() + START_S
        while not mesh.joined:
            for letter in self._letters():
                if letter["do"] == "meet":
                    mesh.connect({int(part): str(address) for part, address in letter["where"].items()})
            mesh.join(0.02)
            if time.monotonic() > ends:
                raise NanoError(
                    f"part {self._plan.part} on {self._node} did not hear of the others in {START_S:g} s",
                    hint="a firewall between the nodes? parts of a population talk over ports of their own",
                )

    def in_step(self, mesh: Mesh) -> Generator[tuple[str, Any], None, Ending]:
        """Pass by pass with the others."""
        plan, flock = self._plan, self._flock
        part = Part(flock, plan.part)
        peers = mesh.peers
        reads = bytes(msgpack.packb(part.reads))
        number = 0
        for peer in peers:
            mesh.send(peer, number, [HEADER.pack(flock.passes.made, part.soonest_ns, 0, 0), reads])
        others_ns, wanted = {}, {}
        for peer in peers:
            head, their = self._hear(mesh, peer, number)
            others_ns[peer] = head[1]
            wanted[peer] = msgpack.unpackb(their[0])
        while True:
            at_ns = min(part.soonest_ns, *others_ns.values())
            if at_ns >= plan.until_ns or at_ns == NEVER or flock.passes.made == plan.passes:
                if plan.until_ns != NEVER and at_ns >= plan.until_ns:
                    flock.passes.run(plan.until_ns)  # nobody is due before it
                break
            tasks.stand()
            number += 1
            made = flock.passes.made
            began_s = time.perf_counter()
            part.run(at_ns)
            self._busy_s += time.perf_counter() - began_s
            flags = 0
            if plan.part == 0:  # it says for all
                self._look()
                flags = (SAVE if self._wanted else 0) | (STOP if self._stop else 0)
            soonest_ns = part.soonest_ns
            for peer in peers:
                lines = part.lines(wanted[peer])
                count = sum(len(each) for each in lines) // 64
                mesh.send(peer, number, [HEADER.pack(made, soonest_ns, flags, count), *lines])
            for peer in peers:
                head, lines = self._hear(mesh, peer, number)
                if head[0] != made:
                    raise NanoError(f"part {peer} is at pass {head[0]}, part {plan.part} at {made}")
                others_ns[peer] = head[1]
                flags |= head[2]
                for each in lines:
                    part.arrive(each)
            part.finish()
            if flags & SAVE:
                yield ("saved", self._save())
            if flags & STOP:
                self._stop = True
                break
            yield from self._progress()
        return self._ending(part.lines_out, part.lines_in)

    def _hear(self, mesh: Mesh, peer: int, number: int) -> tuple[tuple[int, int, int, int], list[Any]]:
        while True:
            parts = mesh.receive(peer, number, 1.0)
            if parts is not None:
                head = HEADER.unpack(parts[0])
                return (head[0], head[1], head[2], head[3]), parts[1:]
