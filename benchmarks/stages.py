"""Where a CRITICAL task's time goes between `submit` and its first line, stage by stage; and what processes did meanwhile.

``python -m benchmarks.overload --stages`` starts its nodes by this module (``python -m benchmarks.stages FILE node …``): it notes instants
around what the node does, and writes them to a file when the node ends. Instants are CLOCK_MONOTONIC's, which all processes of a machine
share. Beside the stages: turns of a node's loop that were long, with the processor time that they used (the rest they stood, for want of
a processor), pauses of Python's garbage collector, and for each process how long it ran, and how long it was ready and waited for a
processor (``/proc/PID/schedstat``).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.fleet import line
from swarm.protocol.states import Priority

LONG_NS = 1_000_000
"""Turns that took less are not written down."""
STAGES = ("sent", "arrived", "placed", "dispatched", "handed")
"""What is noted of a task, in this order; before them is the call, and after them its first line."""
WORDS = {
    "sent": "the call, to its batch given to the link",
    "arrived": "to the owner's loop reading it",
    "placed": "to its place decided",
    "dispatched": "to the executor having it",
    "handed": "to a worker's socket",
    "began": "to its first line",
}
now_ns = time.monotonic_ns


class Notes:
    """What a node writes down."""

    def __init__(self) -> None:
        self.stamps: list[tuple[int, str, str]] = []
        """(instant, stage, batch)."""
        self.turns: list[tuple[int, int, int, str]] = []
        """(begin, end, processor time of the thread, of what)."""
        self.arrived_at = 0
        self.urgent: set[bytes] = set()

    def stamp(self, stage: str, batch: bytes, at: int = 0) -> None:
        """A task came so far."""
        self.stamps.append((at or now_ns(), stage, batch.hex()))

    def timed(self, of: type, name: str, what: str) -> None:
        """Have a method's long calls noted."""
        inner = getattr(of, name)

        def method(it: Any, *args: Any) -> Any:
            began, used = now_ns(), time.thread_time_ns()
            if what == "link":
                self.arrived_at = began
            try:
                return inner(it, *args)
            finally:
                if now_ns() - began >= LONG_NS:
                    self.turns.append((began, now_ns(), time.thread_time_ns() - used, what))

        setattr(of, name, method)

    def collected(self) -> Callable[[str, Mapping[str, int]], None]:
        """To be called by the garbage collector."""
        begun: list[tuple[int, int]] = []

        def told(phase: str, info: Mapping[str, int]) -> None:
            if phase == "start":
                begun.append((now_ns(), time.thread_time_ns()))
            elif begun:
                began, used = begun.pop()
                if now_ns() - began >= LONG_NS:
                    self.turns.append((began, now_ns(), time.thread_time_ns() - used, f"garbage {info['generation']}"))

        return told

    def write(self, file: str) -> None:
        """All of it."""
        Path(file).write_text(json.dumps({"stamps": self.stamps, "turns": self.turns}))


def watch(notes: Notes) -> None:
    """Note what this process, a node, does from now on."""
    from nodes.fabric import Fabric
    from nodes.pool import Pool
    from swarm.protocol.execution import Execution

    notes.timed(Fabric, "link_messages", "link")
    notes.timed(Pool, "_readable", "worker")
    notes.timed(Fabric, "_on_timer", "timer")
    gc.callbacks.append(notes.collected())  # type: ignore[arg-type]
    place, dispatch, hand = Fabric._to_executor, Execution.dispatch, Pool.send_slice

    def placed(it: Any, effect: Any) -> None:
        if effect.spec.priority == Priority.CRITICAL:
            notes.stamp("arrived", effect.batch, notes.arrived_at)
            notes.stamp("placed", effect.batch)
        place(it, effect)

    def dispatched(it: Any, now: float, owner: bytes, **options: Any) -> None:
        if options["spec"].priority == Priority.CRITICAL:
            notes.urgent.add(options["batch"])
            notes.stamp("dispatched", options["batch"])
        dispatch(it, now, owner, **options)

    def handed(it: Any, effect: Any) -> None:
        hand(it, effect)
        if effect.extra["batch"] in notes.urgent:
            notes.stamp("handed", effect.extra["batch"])

    Fabric._to_executor, Execution.dispatch, Pool.send_slice = placed, dispatched, handed  # type: ignore[method-assign]


class Traced:
    """CRITICAL tasks of this process, one after the other: (call, batch on the link, first line) of each, in ns."""

    def __init__(self) -> None:
        from swarm.client.engine import Engine

        self.tasks: list[tuple[int, int, int]] = []
        self._sent = 0
        flush = Engine._flush

        def flushed(engine: Any) -> None:
            flush(engine)
            self._sent = now_ns()

        Engine._flush = flushed  # type: ignore[method-assign]

    def ended(self, called: int, began: int) -> None:
        """One has run."""
        self.tasks.append((called, self._sent, began))


def waited(pids: Mapping[str, int]) -> dict[str, tuple[int, int, int]]:
    """(ns on a processor, ns waiting for one, times on one) of all threads of each process so far."""
    found = {}
    for name, pid in pids.items():
        total = [0, 0, 0]
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    for at, value in enumerate(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()):
                        total[at] += int(value)
        found[name] = (total[0], total[1], total[2])
    return found


def tell(title: str, tasks: Iterable[tuple[int, int, int]], files: Mapping[str, Path]) -> None:
    """Print the stages, and the long turns of the nodes while these tasks were on their way."""
    notes = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    of: dict[str, dict[str, int]] = {}
    for each in notes.values():
        for at, stage, batch in each["stamps"]:
            times = of.setdefault(batch, {})
            times[stage] = max(at, times.get(stage, 0))
    batches = sorted(of.values(), key=lambda times: min(times.values()))
    firsts = [min(times.values()) for times in batches]
    took: dict[str, list[float]] = {stage: [] for stage in WORDS}
    tasks = list(tasks)
    for called, sent, began in tasks:
        at = bisect_left(firsts, called)
        if at == len(firsts) or firsts[at] > began:
            continue
        before = called
        for stage, instant in (("sent", sent), *batches[at].items(), ("began", began)):
            if stage in took:
                took[stage].append(max(0, instant - before) / 1e6)
                before = max(before, instant)
    for stage, words in WORDS.items():
        found = sorted(took[stage])
        if found:
            most = f"{found[len(found) // 2]:.3f} / {found[int(len(found) * 0.99)]:.3f} / {found[-1]:.3f}"
            line(f"{title}: {words}, p50 / p99 / most", most, "ms")
    if not tasks:
        return
    since, until = tasks[0][0], tasks[-1][2]
    for name, each in notes.items():
        kinds: dict[str, list[tuple[float, float]]] = {}
        for began, ended, used, what in each["turns"]:
            if since <= began <= until:
                kinds.setdefault(what, []).append((used / 1e6, (ended - began) / 1e6))
        for what, turns in sorted(kinds.items()):
            line(
                f"{title}: turns of {name} over {LONG_NS / 1e6:.0f} ms, {what}: how many, longest by processor / by clock",
                f"{len(turns)}, {max(turns)[0]:.1f} / {max(turn[1] for turn in turns):.1f}", "ms",
            )  # fmt: skip


def tell_processors(
    before: Mapping[str, tuple[int, int, int]], after: Mapping[str, tuple[int, int, int]], s: float
) -> None:
    """Print what each process had of the processors, and for how long it waited for one."""
    for name, now in after.items():
        ran, stood, times = (mine - then for mine, then in zip(now, before.get(name, (0, 0, 0)), strict=True))
        if times > 0:
            line(
                f"processors: {name}, ran / waited for one, of the time; mean wait",
                f"{ran / s / 1e7:.1f} % / {stood / s / 1e7:.1f} %; {stood / times / 1e6:.3f}", "ms",
            )  # fmt: skip


def main() -> None:
    """A node that is watched: ``python -m benchmarks.stages FILE node …``."""
    notes = Notes()
    atexit.register(notes.write, sys.argv[1])
    sys.argv = ["swarm", *sys.argv[2:]]
    watch(notes)
    from nodes.cli import main as cli

    raise SystemExit(cli())


if __name__ == "__main__":
    main()
