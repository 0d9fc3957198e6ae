"""Lessons in a simulated fleet: what owners learn reaches the others a moment later, and somebody says what is wrong, or no lesson at all.

The log is one dictionary here, since how it spreads is simulated elsewhere (tests/sim/knowledge): what a node is told comes in any order,
and a node that starts is told all of it.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgpack

from swarm.protocol.lessons.advice import Advice, Avoid, Quarantine, Require, RetryAfter
from swarm.protocol.lessons.families import reflected
from swarm.protocol.lessons.fingerprints import Failed
from swarm.protocol.lessons.heeding import Known, Lesson, Mode
from swarm.protocol.lessons.names import call_named
from swarm.protocol.lessons.records import Record
from swarm.protocol.owner.batches import Batch, Learn
from swarm.protocol.owner.heeding import HEED
from swarm.protocol.owner.teaching import key_of, value_of

if TYPE_CHECKING:
    from swarm.protocol.ownership import Ownership
    from tests.sim.fabric.node import SimNode
    from tests.sim.fabric.world import World

LACKS = b"F" + msgpack.packb({
    "type": "builtins:ModuleNotFoundError", "mro": ["builtins:ModuleNotFoundError", "builtins:ImportError"],
    "message": "No module named 'planted'", "traceback": "",
})  # fmt: skip
"""How a task fails on the node that lacks what it needs."""
SPREAD_S = 0.3
LIES_S_MAX = 3.0


class Log:
    """What all are told of lessons."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(f"lessons {world.seed}")
        self.entries: dict[str, Any] = {}
        self.lies: set[str] = set()

    def join(self, node: SimNode) -> None:
        """A node heeds lessons from its start on."""
        heeding = node.ownership.heeding
        heeding.mode = Mode.OBEY
        node.fabric.learn = lambda it, node=node: self._learned(it)  # type: ignore[misc]
        if self.entries:
            node.host.call_later(0.01, node.fabric.told_of_lessons, sorted(self.entries.items()))

    def _learned(self, it: Learn) -> None:
        if it.key not in self.lies:
            self._say(it.key, it.value)

    def _say(self, key: str, value: Any) -> None:
        self.entries[key] = value
        for node in list(self._world.nodes.values()):
            node.host.call_later(0.005 + SPREAD_S * self._rng.random(), self._told, node, key)

    def _told(self, node: SimNode, key: str) -> None:
        node.fabric.told_of_lessons([(key, self.entries.get(key))])

    def lie(self) -> None:
        """Somebody says something that is not so, or nothing that is a lesson."""
        rng, world = self._rng, self._world
        if rng.random() < 0.2:
            self._say(f"nonsense {len(self.entries)}", rng.choice((7, {}, {"lesson": {}, "record": []}, "\ud800")))
            return
        now_ms = int(world.wall() * 1000)
        node = f"node{int(rng.random() * 5)}"
        advice: tuple[Advice, ...]
        ties: tuple[tuple[str, str], ...] = ()
        kind = rng.random()
        if kind < 0.5:
            advice, ties = (Avoid("node", node),), (("node", node),)
        elif kind < 0.7:
            advice = (RetryAfter(int(1000 * LIES_S_MAX * rng.random())),)
        elif kind < 0.85:
            advice = (Require("memory", 10.0 ** (6 * rng.random())),)
        else:
            advice = (Quarantine(int(1000 * LIES_S_MAX * rng.random())),)
        cause = f"lie {len(self.entries)}"
        said = reflected(Failed(message=cause), cause, advice)
        calls = () if rng.random() < 0.3 else (call_named(rng.choice(("m:f", "m:lacks"))),)
        lesson = Lesson(said.pattern, said.family, "", cause, calls, ties, advice, 60_000, now_ms)
        key = key_of(lesson)
        self.lies.add(key)
        self._say(key, value_of(Known(lesson, Record(evidence_ms=now_ms))))

    def revoke(self) -> None:
        """Who said what was not so is not believed any more."""
        for key in sorted(self.lies):
            self._say(key, None)


def held_back(ownership: Ownership) -> set[Batch]:
    """Batches that wait because of a lesson."""
    return {one for one in ownership._holdings.timers.waiting(HEED) if one is not None}
