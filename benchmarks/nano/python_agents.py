"""Agents whose ticks are Python's, over a bare `for` that calls the same ones, and beside frameworks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.fleet import line
from benchmarks.nano import frameworks
from benchmarks.nano.rounds import at_least, at_most, interleaved
from benchmarks.nano.ticks import slices
from swarm import nano

AGENTS = 10_000
STEPS = 10
PEERS = {
    "mesa": "Mesa", "agentpy": "AgentPy", "mesa_frames": "mesa-frames (columns, x += v dt)", "simpy": "SimPy",
    "asyncio_uvloop": "asyncio on uvloop",
}  # fmt: skip


class Idler(nano.Kind, capacity=AGENTS):
    """Does nothing, as those of the peers."""

    x: nano.f64

    def tick(self, now_ns: int, bus: object) -> None:
        """Nothing."""


def nothing(agent: object, bus: object) -> Any:
    """The same as a generator."""
    while True:
        yield


def flock_of(form: Any) -> nano.NanoSwarm:
    """Agents that do nothing."""
    flock = nano.NanoSwarm(seed=1)
    flock.spawn(form, AGENTS, rate_hz=1_000)
    return flock


def bare(calls: list[Callable[..., Any]], *given: object) -> Callable[[], float]:
    """A way that calls them all in a `for`."""

    def one(each: list[Callable[..., Any]], now: object) -> None:
        for call in each:
            call(now)

    def two(each: list[Callable[..., Any]], now: object, bus: object) -> None:
        for call in each:
            call(now, bus)

    def way() -> float:
        began = time.thread_time_ns()
        for _ in range(STEPS):
            if len(given) == 1:
                one(calls, *given)
            else:
                two(calls, *given)
        return (time.thread_time_ns() - began) / (STEPS * AGENTS)

    return way


def rows() -> None:
    """Print the rows."""
    generators = [nothing(None, None) for _ in range(AGENTS)]
    for each in generators:
        next(each)
    objects = flock_of(Idler)
    handles = list(objects.cohorts[0])
    ways = {
        "generator": slices(flock_of(Idler.generators(nothing)), AGENTS),
        "bare sends": bare([each.send for each in generators], 7),
        "object": slices(objects, AGENTS),
        "bare calls": bare([each.tick for each in handles], 7, None),  # type: ignore[attr-defined]
    }
    opened = {name: frameworks.Peer(name) for name in PEERS}
    try:
        for name, peer in opened.items():
            if peer.missing is None:
                try:
                    peer.ask({"agents": AGENTS, "passes": 1})
                except RuntimeError as error:
                    peer.missing = str(error)
                    continue
                ways[name] = lambda peer=peer: peer.ask({"agents": AGENTS, "passes": STEPS})["ns"]  # type: ignore[misc]
        found = interleaved(ways, rounds=11)
    finally:
        for peer in opened.values():
            peer.close()
    for form, loop, limit in (("generator", "bare sends", 1.15), ("object", "bare calls", 1.25)):
        at_most(f"Python agent, {form}", f"{found[form]:.0f} ns", found[form] / found[loop], limit, " a bare for")
        line("  a bare for that calls them", f"{found[loop]:.0f} ns")
    for name, peer in opened.items():
        if peer.missing is not None:
            line(f"  {PEERS[name]}", "missing", peer.missing)
            continue
        what, value = f"  {PEERS[name]} {peer.version}", f"{found[name]:.0f} ns"
        if name == "mesa":
            at_least(what, value, found[name] / found["object"], 2.5, " object")
            at_least(what, value, found[name] / found["generator"], 2.5, " generator")
        else:
            line(what, value, f"ours: {found[name] / found['object']:.1f} x / {found[name] / found['generator']:.1f} x")
