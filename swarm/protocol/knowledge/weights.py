"""What facts weigh: each time a fact is put or used it grows stronger, and 50 idle cycles halve what it weighs (`kernels.decay`).

A cycle is a stretch of the clock that stamps are made of, so the weight of a fact follows from what was said about it: nodes that have heard
the same agree on it, whenever each of them looks. Who uses a fact says how much its own uses weigh together at that instant
(kind "uses", the sum over authors counts); saying so again adds nothing.

A fact that weighs less than a threshold is *pruned* (kind "pruned"): nobody finds it any more, and nothing of it is lost. A use, or putting
it again, brings it back, also when that was said elsewhere at the same time. What was pruned for longer than the retention is dropped.

This is exponential forgetting of an evidence count, as in discounted sums; it is not a model of a synapse.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final

from kernels import decay
from swarm.protocol.knowledge import bounds, crdts
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.stamps import ms_of

FACTS, USES, PRUNED, BELIEFS = "facts", "uses", "pruned", "beliefs"
CYCLE_MS: Final = 3_600_000
"""An hour: what nobody uses weighs half after two days."""
NEW: Final = 1.0
"""What a fact weighs that was put and never used."""
GAIN: Final = 1.0
"""What a use adds."""
THRESHOLD: Final = 1 / 64
"""Below this a fact is pruned: after 300 idle cycles if it was never used."""
FREE: Final = float("inf")
"""The strength of a row that is nobody's: it never fades."""


class Weights:
    """What the facts weigh that a node has, by columns: one row for a fact itself, and one for each author that used it."""

    def __init__(self, knowledge: Knowledge, cycle_ms: int = CYCLE_MS) -> None:
        """`cycle_ms`: milliseconds of a cycle, the same in the whole fleet, a second at least."""
        if cycle_ms < 1000:
            raise ValueError(f"a cycle of {cycle_ms} ms: it takes a second at least")
        self.cycle_ms = cycle_ms
        self._knowledge = knowledge
        self._strength: array[float] = array("f")
        self._used: array[int] = array("I")
        self._key_of: list[str] = []
        self._rows: dict[str, list[int]] = {}
        self._free: list[int] = []
        self._watches = [knowledge.watch(kind) for kind in (FACTS, USES)]
        for key in knowledge.views.between(FACTS):
            self._look(key)

    def __len__(self) -> int:
        """How many facts there are, pruned ones among them."""
        self._refresh()
        return len(self._rows)

    def weight(self, key: str, wall_ms: int) -> float:
        """What a fact weighs at an instant; 0 if there is none of this key."""
        self._refresh()
        return self._weight(self._rows.get(key, ()), self.cycle(wall_ms))

    def use(self, key: str, wall_ms: int, gain: float = GAIN) -> None:
        """Says that this node used a fact. KeyError if there is none."""
        self._refresh()
        if key not in self._rows:
            raise KeyError(key)
        own, cycle = 0.0, self.cycle(wall_ms)
        for said in self._said(USES, key):
            if said.line.author == self._knowledge.author:
                own = max(own, decay.weight(said.value, self.cycle(ms_of(said.time)), cycle))
        self._knowledge.put(USES, key, min(bounds.LOG_ODDS_MAX, own + gain), wall_ms)

    def is_pruned(self, key: str) -> bool:
        """Whether a fact is there and is not to be found: it was pruned after all that was said of it."""
        pruned = [said.time for said in self._said(PRUNED, key)[:1] if not said.op]
        return bool(pruned) and all(
            said.time < pruned[0] for kind in (FACTS, USES) for said in self._said(kind, key)[:1]
        )

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a fact that is not pruned."""
        return default if self.is_pruned(key) else self._knowledge.get(FACTS, key, default)

    def faded(self, wall_ms: int, threshold: float = THRESHOLD) -> list[str]:
        """Keys of facts that weigh less at an instant, in order; pruned ones among them. One pass over the columns."""
        self._refresh()
        cycle = self.cycle(wall_ms)
        rows = array("I", bytes(self._used.itemsize * len(self._used)))
        found, _ = decay.faded(self._strength, self._used, cycle, threshold, rows)
        light: dict[str, int] = {}
        for row in rows[:found]:
            key = self._key_of[row]
            light[key] = light.get(key, 0) + 1
        # Many light ones may make a heavy one.
        return sorted(
            key
            for key, count in light.items()
            if count == len(self._rows[key]) and (count == 1 or self._weight(self._rows[key], cycle) < threshold)
        )

    def prune(self, wall_ms: int, mine: Callable[[str], bool], threshold: float = THRESHOLD) -> list[str]:
        """Prunes what has faded, and drops what was pruned for longer than the retention; the keys newly pruned.

        `mine` says of a key whether it is this node that does it: several that do harm nobody, and say the same twice.
        """
        pruned = [key for key in self.faded(wall_ms, threshold) if mine(key) and not self.is_pruned(key)]
        for key in pruned:
            self._knowledge.put(PRUNED, key, self.weight(key, wall_ms), wall_ms)
        over = [
            key
            for key, _ in self._knowledge.query(PRUNED)
            if wall_ms - ms_of(self._said(PRUNED, key)[0].time) > bounds.RETENTION_MS and mine(key)
        ]
        for key in over:
            if self.is_pruned(key):
                self._knowledge.drop(FACTS, key, wall_ms)
            self._knowledge.drop(PRUNED, key, wall_ms)
        return pruned

    def cycle(self, wall_ms: int) -> int:
        """The number of the cycle of an instant."""
        return min(max(0, wall_ms // self.cycle_ms), 2**32 - 1)

    def _said(self, kind: str, key: str) -> list[crdts.Said]:
        # Facts, their uses and whether they are pruned are in shards of their own each: keys are spread by kind, too.
        self._knowledge.flush()
        shard = self._knowledge.shards.get(shard_of(kind, key, self._knowledge.shards_count))
        return [] if shard is None else shard.said(kind, key)

    def _weight(self, rows: Iterable[int], cycle: int) -> float:
        return sum(decay.weight(self._strength[row], self._used[row], cycle) for row in rows)

    def _refresh(self) -> None:
        changed: set[str] = set()
        for watch in self._watches:
            changes = self._knowledge.changes(watch)
            if watch.lost:
                watch.lost = False
                changed.update(self._knowledge.views.between(FACTS), self._rows)
            changed.update(change.key for change in changes)
        for key in sorted(changed):
            self._look(key)

    def _look(self, key: str) -> None:
        """Fills the rows of a key from what was said: the fact first, then who used it by their ids."""
        facts = self._said(FACTS, key)[:1]
        weights: list[tuple[float, int]] = []
        if facts and not facts[0].op:
            weights.append((NEW, self.cycle(ms_of(facts[0].time))))
            last = {said.line.author: said for said in reversed(self._said(USES, key))}
            weights += [(float(last[author].value), self.cycle(ms_of(last[author].time))) for author in sorted(last)]
        rows = self._rows.pop(key, [])
        while len(rows) > len(weights):
            row = rows.pop()
            self._strength[row], self._used[row], self._key_of[row] = FREE, 2**32 - 1, ""
            self._free.append(row)
        while len(rows) < len(weights):
            if not self._free:
                self._strength.append(FREE)
                self._used.append(2**32 - 1)
                self._key_of.append("")
                self._free.append(len(self._key_of) - 1)
            rows.append(self._free.pop())
        for row, (strength, used) in zip(rows, weights, strict=True):
            self._strength[row], self._used[row], self._key_of[row] = strength, used, key
        if rows:
            self._rows[key] = rows


def belief(knowledge: Knowledge, key: str, wall_ms: int, cycle_ms: int = CYCLE_MS) -> float:
    """The log-odds of a belief at an instant: what each author says counts half after 50 cycles. 0 (even odds) where nobody says anything."""
    knowledge.flush()
    shard = knowledge.shards.get(shard_of(BELIEFS, key, knowledge.shards_count))
    last = {} if shard is None else {said.line.author: said for said in reversed(shard.said(BELIEFS, key))}
    cycle = wall_ms // cycle_ms
    # Single precision holds no sign of its own in decay's columns: the size decays, the sign stays.
    total = 0.0
    for author in sorted(last):
        value = float(last[author].value)
        size = decay.weight(abs(value), ms_of(last[author].time) // cycle_ms, cycle)
        total += size if value > 0 else -size
    return max(-bounds.LOG_ODDS_SUM_MAX, min(bounds.LOG_ODDS_SUM_MAX, total))
