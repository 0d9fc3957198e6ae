"""What the fleet knew at a moment: the segments of the log again, each only as far as it had come by then.

A moment is a stamp, so it is exact to the entry and the same on every node. What is trusted is decided by today: what revoked authors said, and
lines that contradict themselves, do not count in the past either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from swarm.errors import SwarmError, UsageError
from swarm.protocol.knowledge.allowance import Allowance
from swarm.protocol.knowledge.crdts import Held
from swarm.protocol.knowledge.fading import POLICIES, POLICY, fading_of
from swarm.protocol.knowledge.kinds import KINDS, SPREAD_BY, WHOLE, Crdt
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.rules import STRIKE, Verify
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import COUNTER_BITS, ms_of, time_of
from swarm.protocol.knowledge.views import GONE

WALL_END_MS: Final = (1 << 47) - 1
LINES_MAX: Final = 1 << 20
UNBOUNDED: Final = Allowance(1 << 60, 1 << 60)
STAMP_LEAST: Final = 1 << 50
"""Smaller numbers are milliseconds since 1970: stamps have those from the year 1970 on above their counter."""
EVIDENCE_SAME: Final = 1e-9


def moment(text: str | int) -> int:
    """The stamp up to which all counts: of an ISO 8601 time (UTC where it names no zone), of milliseconds since 1970, or an entry's own stamp.
    UsageError."""
    if isinstance(text, int) or text.isdigit():
        number = int(text)
        if number >= 1 << 63:
            raise UsageError(f"{text} is no moment", hint="a time, milliseconds since 1970, or the stamp of an entry")
        return number if number >= STAMP_LEAST else time_of(number, (1 << COUNTER_BITS) - 1)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no time",
            hint="for example 2026-11-22T09:00:00Z, milliseconds since 1970, or the stamp of an entry",
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return time_of(max(0, round(found.timestamp() * 1000)), (1 << COUNTER_BITS) - 1)


def shown(stamp: int) -> str:
    """A moment as people read it."""
    return datetime.fromtimestamp(ms_of(stamp) / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class OutOfRetention(SwarmError, LookupError):
    """A moment that cannot be read here any more, or not yet (``earliest``, milliseconds)."""


class Then(Shard):
    """A shard as it was at a moment."""

    def __init__(self, number: int, shards: int, verify: Verify, until: int) -> None:
        # What was held once is held now: no line is too old, and none too far ahead, and no author has said too much.
        super().__init__(number, shards, verify, future_ms=WALL_END_MS, lines_max=LINES_MAX, allowance=UNBOUNDED)
        self._until = until

    def _merge(self, held: Held, rows: list[list[Any]]) -> None:
        until = self._until
        super()._merge(held, rows if rows[-1][0] <= until else [row for row in rows if row[0] <= until])


def shard_at(number: int, shards: int, payloads: Iterable[bytes], until: int, verify: Verify) -> Then:
    """A shard of these segments and proofs as it was at a moment."""
    then = Then(number, shards, verify, until)
    for payload in sorted(payloads, key=lambda one: one[0] != STRIKE):  # what a proof takes away is not merged first
        then.take(payload, WALL_END_MS)
    return then


class State:
    """What was known at a moment, of all shards or some."""

    def __init__(self, until: int, shards: Mapping[int, Shard]) -> None:
        self.until = until
        self.shards = shards
        self.unasked: list[str] = []
        """Nodes that may know more and could not be asked, while others could."""
        if WHOLE in shards:
            # Facts that were pruned then are not found in the past either.
            policy = fading_of(shards[WHOLE].get(POLICIES, POLICY))
            for shard in shards.values():
                shard.fade_by(policy)

    def get(self, kind: str, key: str, number: int) -> Any:
        """GONE if nothing."""
        shard = self.shards.get(number)
        return GONE if shard is None else shard.get(kind, key, GONE)

    def records(self, kind: str) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
        """(key, value, tags) of a kind, in the order of keys."""
        there = sorted((key, number) for number, shard in self.shards.items() for key in shard.keys(kind))
        for key, number in there:
            value = self.shards[number].get(kind, key, GONE)
            if value is not GONE:
                yield key, value, self.shards[number].tags(kind, key)

    def kinds(self) -> list[str]:
        """Of which there was something, and which are known here."""
        return sorted({kind for shard in self.shards.values() for kind in shard.kinds()} & KINDS.keys())


class Difference(NamedTuple):
    """A key whose value at the moment is not the one of now. GONE where there is none."""

    kind: str
    key: str
    then: Any
    now: Any
    tags: tuple[str, ...] = ()


def differences(then: State, now: Mapping[int, Shard]) -> list[Difference]:
    """In the order of kinds and keys. What is known of values of no key alone (tags) counts for registers, too."""
    found: list[Difference] = []
    for number in sorted({*then.shards, *now}):
        before, after = then.shards.get(number), now.get(number)
        kinds = {*(before.kinds() if before else ()), *(after.kinds() if after else ())} & KINDS.keys()
        for kind in sorted(kinds - SPREAD_BY.keys()):  # who used a fact, and that it was pruned, stays so
            is_register = KINDS[kind].crdt is Crdt.REGISTER
            for key in sorted({*(before.keys(kind) if before else ()), *(after.keys(kind) if after else ())}):
                one = before.get(kind, key, GONE) if before else GONE
                other = after.get(kind, key, GONE) if after else GONE
                tags = before.tags(kind, key) if before and one is not GONE else ()
                if same(kind, one, other) and not (
                    is_register and other is not GONE and after is not None and tags != after.tags(kind, key)
                ):
                    continue
                found.append(Difference(kind, key, one, other, tags))
    return sorted(found, key=lambda each: (each.kind, each.key))


def same(kind: str, one: Any, other: Any) -> bool:
    """Whether two values of a kind are the same: 1 and 1.0, and 1 and True, are not; no count is a count of 0."""
    crdt = KINDS[kind].crdt
    if crdt in (Crdt.COUNTER, Crdt.LOG_ODDS):
        zero = {GONE: 0}
        first, second = (zero.get(value, value) for value in (one, other))
        return bool(abs(first - second) < EVIDENCE_SAME if crdt is Crdt.LOG_ODDS else first == second)
    if one is GONE or other is GONE:
        return one is other
    from swarm.protocol.knowledge.crdts import packed

    return packed(one) == packed(other)


def set_back(knowledge: Knowledge, each: Difference, wall_ms: int) -> bool:
    """Says what makes a key what it was, as new entries of this node; whether that was possible in full.

    A register is put, or dropped. Of a set the elements that came since are dropped and those that went are put. A counter is counted up or
    down by the difference. Evidence is its author's own: this node's is changed by what lacks, within the bounds of one author.
    """
    crdt = KINDS[each.kind].crdt
    if crdt is Crdt.REGISTER:
        if each.then is GONE:
            knowledge.drop(each.kind, each.key, wall_ms)
        else:
            knowledge.put(each.kind, each.key, each.then, wall_ms, tags=each.tags)
        return True
    if crdt is Crdt.SET:
        return _set_back_elements(knowledge, each, wall_ms)
    before, after = (0 if value is GONE else value for value in (each.then, each.now))
    if crdt is Crdt.COUNTER:
        knowledge.count(each.kind, each.key, wall_ms, max(0, before - after), max(0, after - before))
        return True
    return _set_back_evidence(knowledge, each, before - after, wall_ms)


def _set_back_elements(knowledge: Knowledge, each: Difference, wall_ms: int) -> bool:
    from swarm.protocol.knowledge.crdts import packed

    then = {packed(value): value for value in ([] if each.then is GONE else each.then)}
    now = {packed(value): value for value in ([] if each.now is GONE else each.now)}
    for raw in sorted(now.keys() - then.keys()):
        knowledge.drop(each.kind, each.key, wall_ms, now[raw])
    for raw in sorted(then.keys() - now.keys()):
        knowledge.put(each.kind, each.key, then[raw], wall_ms)
    return True


def _set_back_evidence(knowledge: Knowledge, each: Difference, lacking: float, wall_ms: int) -> bool:
    from swarm.protocol.knowledge.bounds import LOG_ODDS_MAX
    from swarm.protocol.knowledge.entries import shard_of

    shard = knowledge.shard(shard_of(each.kind, each.key, knowledge.shards_count))
    mine = next((said.value for said in shard.said(each.kind, each.key) if said.line.author == knowledge.author), 0.0)
    wanted = mine + lacking
    bounded = max(-LOG_ODDS_MAX, min(LOG_ODDS_MAX, wanted))
    if bounded != mine:
        knowledge.put(each.kind, each.key, bounded, wall_ms)
    return bool(abs(bounded - wanted) < EVIDENCE_SAME)
