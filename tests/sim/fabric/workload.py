"""What simulated clients hand over: batches of every kind, at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from swarm.protocol import ids
from swarm.protocol.spec import Spec
from tests.sim.fabric import programs
from tests.sim.fabric.client import SimClient, Submitted
from tests.sim.fabric.programs import Program
from tests.sim.fabric.world import World


@dataclass(frozen=True)
class Mix:
    """How often a batch is of which kind; the rest are plain tasks."""

    once: float = 0.15
    """Not repeatable."""
    failing: float = 0.1
    retried: float = 0.1
    crashing: float = 0.05
    hanging: float = 0.05
    nested: float = 0.1
    streams: float = 0.05
    lacking: float = 0.0
    """Fail on one of the nodes."""
    counting: float = 0.0
    """Can be moved while they run."""
    dependent: float = 0.15
    hungry: float = 0.1
    """Needs more than a slot, or something that few have."""
    guests: float = 0.05
    cancelled: float = 0.15
    """Given up, some of them, a moment later."""
    skewed: float = 0.0
    """Many short tasks, and long ones behind them, of one kind."""

    reprioritized: float = 0.2
    """Made more or less urgent a moment later, some of their tasks or all."""
    told: float = 0.15
    """It is told how long they take, right or wrong."""
    tasks_max: int = 40
    run_s: float = 0.2
    """Longest run time of a usual task."""


class Workload:
    """Hands random batches of a mix to the clients of a world."""

    def __init__(self, world: World, mix: Mix) -> None:
        self.world = world
        self.mix = mix
        self.rng = Random(f"workload {world.seed}")
        self.fickle = Random(f"urgency {world.seed}")
        self.told = Random(f"told {world.seed}")

    def one(self, client: SimClient) -> Submitted:
        """One batch."""
        rng, mix = self.rng, self.mix
        if mix.skewed and rng.random() < mix.skewed:
            return self._skewed(client)
        options: dict[str, Any] = {"priority": rng.choice((0, 1, 1, 1, 2, 3)), "nice": rng.choice((0, 0, 0, -5, 7))}
        count = 1 + int(rng.random() ** 3 * mix.tasks_max)
        run_s = mix.run_s * rng.random() ** 3
        what, times = programs.FINE, 0
        deps: list[bytes] = []
        kind = rng.random()
        for name in ("failing", "retried", "crashing", "hanging", "nested", "streams", "lacking", "counting"):
            kind -= getattr(mix, name)
            if kind < 0:
                what, times, count = self._program(name, options, count)
                break
        if rng.random() < mix.once and not options.get("retries"):
            options["rerun"] = False
            count = min(count, 8)
        if rng.random() < mix.hungry:
            options["needs"] = rng.choice(({"cpu": 2.0}, {"cpu": 0.5}, {"memory": 600.0}, {"gpu": 1}, {"cpu": 0}))
        if rng.random() < mix.guests and what != programs.COUNTS:
            options["python"] = "guest"
        if rng.random() < mix.dependent:
            # What has ended already is passed as a value, as the client does.
            sources = [one for one in client.batches.values() if one.left][-6:]
            for source in rng.sample(sources, min(len(sources), 1 + int(rng.random() * 2))):
                open_rows = [row for row in range(source.count) if row not in source.ended]
                deps.append(ids.task_id(source.key, rng.choice(open_rows)))
            count = 1 if deps else count
        if rng.random() < 0.05:
            options["deadline"] = self.world.wall() + rng.random() * 3
        if what != programs.HANGS and rng.random() < 0.05:
            options["timeout_s"] = 0.05 + run_s
        fn = ("name", "m:lacks" if what == programs.LACKS else "m:f", what)
        name = f"{what}{len(client.batches) + 1}"
        if self.told.random() < mix.told:
            # Of one kind, so that they are told apart by nothing else.
            name, options["expected_s"] = f"{what} told", self.told.choice((0.002, 0.05, 0.5, 30.0, run_s or 1e-3))
        spec = Spec("call", fn, name, **options)
        payloads = [Program(what, run_s * (0.5 + rng.random()), times).encode() for _ in range(count)]
        batch = client.submit(spec, payloads, deps)
        if what == programs.HANGS and "timeout_s" not in options:
            client.host.call_later(0.1 + rng.random() * 1.5, client.cancel, batch)
        elif rng.random() < mix.cancelled:
            self._give_up_later(client, batch, rng.random() * 1.5)
        fickle = self.fickle
        if fickle.random() < mix.reprioritized:
            for _ in range(1 + int(fickle.random() * 3)):
                ranges = self._ranges(fickle, batch) if fickle.random() < 0.5 else None
                urgency = (fickle.choice((None, 0, 1, 2, 3)), fickle.choice((0, -20, 19)))
                client.host.call_later(fickle.random() * 1.5, partial(client.reprioritize, batch, ranges, *urgency))
        return batch

    def _skewed(self, client: SimClient) -> Submitted:
        """What an owner sends far ahead, since it is short so far, and then is not."""
        rng = self.rng
        options: dict[str, Any] = {"priority": rng.choice((0, 1, 1, 3)), "rerun": rng.random() >= self.mix.once}
        spec = Spec("call", ("name", "m:f", "fine"), f"skewed{len(client.batches) + 1}", **options)
        times = [0.0003] * int(400 * rng.random()) + [
            0.05 + 0.6 * rng.random() for _ in range(int(20 * rng.random()) + 4)
        ]
        batch = client.submit(spec, [Program(programs.FINE, run_s).encode() for run_s in times])
        if rng.random() < 2 * self.mix.cancelled:
            self._give_up_later(client, batch, rng.random() * 1.5)
        return batch

    @staticmethod
    def _ranges(rng: Random, batch: Submitted) -> list[tuple[int, int]]:
        start = int(rng.random() * batch.count)
        return [(start, min(batch.count, start + 1 + int(rng.random() * (batch.count - start))))]

    def _program(self, name: str, options: dict[str, Any], count: int) -> tuple[str, int, int]:
        rng = self.rng
        if name == "failing":
            return programs.FAILS, 0, count
        if name == "retried":
            options |= {"retries": int(rng.random() * 4), "backoff_s": (0.01, 2.0, 0.5)}
            return programs.RETRIES, 1 + int(rng.random() * 3), count
        if name == "crashing":
            return programs.CRASHES, 1 + int(rng.random() * 4), min(count, 4)
        if name == "hanging":
            if rng.random() < 0.6:
                options["timeout_s"] = 0.05 + rng.random()
            return programs.HANGS, 0, min(count, 3)
        if name == "nested":
            return programs.NESTS, 1 + int(rng.random() * 2), min(count, 8)
        if name == "lacking":
            return programs.LACKS, int(rng.random() * 3), count
        if name == "counting":
            options["checkpoint"] = True
            return programs.COUNTS, 3 + int(rng.random() * 20), min(count, 3)
        options["stream"] = True
        return programs.STREAMS, int(rng.random() * 6), min(count, 6)

    def _give_up_later(self, client: SimClient, batch: Submitted, after_s: float) -> None:
        rng = self.rng
        ranges = None
        if rng.random() < 0.5:
            ranges = self._ranges(rng, batch)
        kill = rng.random() < 0.8
        client.host.call_later(after_s, lambda: client.cancel(batch, ranges, kill=kill))
