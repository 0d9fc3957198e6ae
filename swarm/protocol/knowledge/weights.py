"""The weights of all facts that a node has, as columns (`kernels.decay`); who uses them, and what is pruned.

What a fact weighs and when it is pruned is in `fading`. Here is what a node does about it: it gathers its uses and says them now and then, one entry
for a fact however often it was used; it finds what has faded by one pass over the columns; and, where it is the steward of a fact, it says that
this is pruned, and drops it when it was pruned for longer than the retention. Several stewards of one fact do no harm: they say the same twice.

This is exponential forgetting of an evidence count, as in discounted sums; it is not a model of a synapse.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from math import fsum
from typing import Any, Final

from kernels import decay
from swarm.protocol.knowledge import bounds
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.fading import (
    FACTS,
    GAIN,
    POLICIES,
    POLICY,
    PRUNED,
    USES,
    Fading,
    fading_of,
    pruned_at,
    strengths,
    weight_in,
)
from swarm.protocol.knowledge.knowledge import Knowledge, SaidTooMuch
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import ms_of

FREE: Final = float("inf")
"""The strength of a row that is nobody's: it never fades."""
NEVER: Final = 2**32 - 1
GATHERED_MAX: Final = 65_536
"""Facts whose uses wait to be said; of more the uses are not counted."""
PRUNES_MAX: Final = 1000
"""Facts pruned at one time, and dropped at one time: the rest is next."""


class NotPruned(KeyError):
    """There is nothing to bring back."""


class Weights:
    """What the facts weigh that a node has: one row for a fact itself, and one for each author that used it."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._fading = Fading()
        self._strength: array[float] = array("f")
        self._used: array[int] = array("I")
        self._key_of: list[str] = []
        self._rows: dict[str, list[int]] = {}
        self._free: list[int] = []
        self._gathered: Counter[str] = Counter()
        self._watches = [knowledge.watch(kind) for kind in (FACTS, USES)]
        self._policies = knowledge.watch(POLICIES, POLICY)
        self._look_at_policy()
        self._look_at_all()

    def __len__(self) -> int:
        """How many facts there are, pruned ones among them."""
        self._refresh()
        return len(self._rows)

    @property
    def fading(self) -> Fading:
        """How facts fade now."""
        self._refresh()
        return self._fading

    def fade_by(self, policy: Fading) -> None:
        """Facts fade otherwise from now on: as the policy says that this node, or another that holds it, has heard."""
        if policy == self._fading:
            return
        self._fading = self._knowledge.fading = policy
        for number in sorted(self._knowledge.shards):
            self._knowledge.shards[number].fade_by(policy)
        self._look_at_all()

    # --- using ----------------------------------------------------------------------------------------------------------

    def weight(self, key: str, wall_ms: int) -> float:
        """What a fact weighs at an instant by all that was said; 0 if there is none of this key."""
        self._refresh()
        rows = self._rows.get(key, ())
        return weight_in([(self._strength[row], self._used[row]) for row in rows], self._fading.cycle(wall_ms))

    def use(self, key: str, times: int = 1) -> bool:
        """Notes that this node used a fact; whether there is one that is not pruned. It is said with `say_uses`."""
        shard = self._shard(key)
        if shard is None or shard.get(FACTS, key) is None or times < 1:
            return False
        if key in self._gathered or len(self._gathered) < GATHERED_MAX:
            self._gathered[key] += times
        return True

    def say_uses(self, wall_ms: int, most: int | None = None) -> int:
        """Says what was gathered, an entry for each fact; of how many facts. What is refused for want of room is not said."""
        said = 0
        for key in sorted(self._gathered)[:most]:
            times = self._gathered.pop(key)
            shard = self._shard(key)
            if shard is not None and shard.get(FACTS, key) is not None:
                try:
                    self._say_use(shard, key, times * GAIN, wall_ms)
                except SaidTooMuch:
                    continue
                said += 1
        return said

    def use_now(self, key: str, wall_ms: int) -> float:
        """Says at once that this node used a fact, with what was gathered about it; what it weighs then. KeyError if there is none, or
        it is pruned."""
        self._refresh()
        self._knowledge.flush()
        shard = self._shard(key)
        if shard is None or shard.get(FACTS, key) is None:
            raise KeyError(key)
        self._say_use(shard, key, (1 + self._gathered.pop(key, 0)) * GAIN, wall_ms)
        return self.weight(key, wall_ms)

    def restore(self, key: str, wall_ms: int) -> None:
        """Brings a pruned fact back, as a use does. NotPruned where it is not pruned, or gone for good."""
        self._refresh()
        self._knowledge.flush()
        shard = self._shard(key)
        if shard is None or not shard.is_pruned(key):
            raise NotPruned(key)
        self._say_use(shard, key, GAIN, wall_ms)

    def use_afar(self, key: str, wall_ms: int) -> None:
        """Says that this node used a fact that others hold; they say whether there is one."""
        self._refresh()
        self._say_use(self._knowledge.shard(shard_of(FACTS, key, self._knowledge.shards_count)), key, GAIN, wall_ms)

    def _say_use(self, shard: Shard, key: str, gain: float, wall_ms: int) -> None:
        fading = self._fading
        own = 0.0
        for said in shard.said(USES, key):
            if said.line.author == self._knowledge.author:
                own = max(
                    own, decay.weight(max(0.0, float(said.value)), fading.cycle_of(said.time), fading.cycle(wall_ms))
                )
        self._knowledge.put(USES, key, min(bounds.LOG_ODDS_MAX, own + gain), wall_ms)

    # --- pruning --------------------------------------------------------------------------------------------------------

    def is_pruned(self, key: str) -> bool:
        """Whether a fact is there and is not to be found."""
        self._refresh()
        shard = self._shard(key)
        return shard is not None and shard.is_pruned(key)

    def pruned(self) -> list[tuple[str, int]]:
        """(key, instant in milliseconds since 1970) of facts that are pruned and may be brought back, in the order of keys."""
        self._refresh()
        found = []
        for number in sorted(self._knowledge.shards):
            shard = self._knowledge.shards[number]
            for key in shard.keys(PRUNED):
                time = pruned_at(shard.slot(PRUNED, key))
                if time is not None and shard.is_pruned(key):
                    found.append((key, ms_of(time)))
        return sorted(found)

    def faded(self, wall_ms: int) -> list[str]:
        """Keys of facts that weigh less than the threshold at an instant, in order; pruned ones among them. One pass over the columns."""
        self._refresh()
        cycle, threshold = self._fading.cycle(wall_ms), self._fading.threshold
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
            if count == len(self._rows[key]) and (count == 1 or self.weight(key, wall_ms) < threshold)
        )

    def prune(
        self, wall_ms: int, mine: Callable[[int], bool], retention_ms: int = bounds.RETENTION_MS, most: int = PRUNES_MAX
    ) -> list[str]:
        """Prunes what has faded, and drops what was pruned for longer than the retention; the keys newly pruned, `most` at a time.

        `mine` says of a shard whether this node is its steward. What this node used and did not say yet, it says first.
        """
        self.say_uses(wall_ms)
        knowledge, pruned = self._knowledge, list[str]()
        for key in self.faded(wall_ms):
            shard = self._shard(key)
            if len(pruned) < most and shard is not None and mine(shard.number) and not shard.is_pruned(key):
                knowledge.put(PRUNED, key, self.weight(key, wall_ms), wall_ms)
                pruned.append(key)
        # What was said just now counts below: an older word that it was pruned, under another policy, is over, this one is not.
        knowledge.flush()
        over = 0
        for number in sorted(knowledge.shards):
            shard = knowledge.shards[number]
            for key in shard.keys(PRUNED) if mine(number) else ():
                time = pruned_at(shard.slot(PRUNED, key))
                if time is not None and wall_ms - ms_of(time) > retention_ms and over < most:
                    over += 1
                    if shard.is_pruned(key):
                        knowledge.drop(FACTS, key, wall_ms)
                    knowledge.drop(PRUNED, key, wall_ms)
        return pruned

    # --- by weight ------------------------------------------------------------------------------------------------------

    def heaviest(self, keys: Iterable[str], wall_ms: int, limit: int | None = None) -> list[tuple[str, float]]:
        """(key, weight) of these facts, the heaviest first, and of equal ones in the order of keys. One pass over the columns."""
        self._refresh()
        weights = array("f", bytes(4 * len(self._strength)))
        decay.weigh(self._strength, self._used, self._fading.cycle(wall_ms), weights)
        found = [(-fsum(weights[row] for row in self._rows.get(key, ())), key) for key in keys]
        return [(key, -weight) for weight, key in sorted(found)[:limit]]

    # --- columns --------------------------------------------------------------------------------------------------------

    def _shard(self, key: str) -> Shard | None:
        # Facts, their uses and whether they are pruned are in the same shard (`kinds.Kind.beside`).
        return self._knowledge.shards.get(shard_of(FACTS, key, self._knowledge.shards_count))

    def _refresh(self) -> None:
        if self._knowledge.changes(self._policies) or self._policies.lost:
            self._policies.lost = False
            self._look_at_policy()
        changed: set[str] = set()
        for watch in self._watches:
            changes = self._knowledge.changes(watch)
            if watch.lost:
                watch.lost = False
                self._look_at_all()
            changed.update(change.key for change in changes)
        for key in sorted(changed):
            self._look(key)

    def _look_at_policy(self) -> None:
        policy: Any = self._knowledge.get(POLICIES, POLICY)
        self.fade_by(fading_of(policy))

    def _look_at_all(self) -> None:
        keys = set(self._rows)
        for shard in self._knowledge.shards.values():
            shard.fade_by(self._fading)
            keys.update(shard.keys(FACTS))
        for key in sorted(keys):
            self._look(key)

    def _look(self, key: str) -> None:
        """Fills the rows of a key from what was said."""
        shard = self._shard(key)
        weights = [] if shard is None else strengths(shard.slot(FACTS, key), shard.slot(USES, key), self._fading)
        rows = self._rows.pop(key, [])
        while len(rows) > len(weights):
            row = rows.pop()
            self._strength[row], self._used[row], self._key_of[row] = FREE, NEVER, ""
            self._free.append(row)
        while len(rows) < len(weights):
            if not self._free:
                self._strength.append(FREE)
                self._used.append(NEVER)
                self._key_of.append("")
                self._free.append(len(self._key_of) - 1)
            rows.append(self._free.pop())
        for row, (strength, used) in zip(rows, weights, strict=True):
            self._strength[row], self._used[row], self._key_of[row] = strength, used, key
        if rows:
            self._rows[key] = rows
