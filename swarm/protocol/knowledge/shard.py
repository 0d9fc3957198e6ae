"""One shard: the segments that a node holds of it. What they say together is `swarm.protocol.knowledge.merged`.

The segments are a set that grows, and the state follows from the set: any order and any repetition of `apply` give the same. Three
things take segments out again, each so that all nodes come to the same set: an author that contradicts itself (its line is
*struck*, with the proof, which spreads as segments do), an author that is revoked, and time (`expire`: what is out of date
or gone for longer than the retention).
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from swarm.protocol.knowledge import bounds, entries
from swarm.protocol.knowledge.allowance import Allowance, Spoken
from swarm.protocol.knowledge.crdts import Held, Line, Said
from swarm.protocol.knowledge.entries import BODY_AT, Entry, FormatError, Segment
from swarm.protocol.knowledge.fading import Fading
from swarm.protocol.knowledge.kinds import HELD_BY_ALL, WHOLE
from swarm.protocol.knowledge.merged import Merged
from swarm.protocol.knowledge.merkle import Tree
from swarm.protocol.knowledge.rules import STRIKE, Outcome, Quota, Verify, by_number, contradict, strike_place
from swarm.protocol.knowledge.stamps import ms_of


class Shard:
    """The shard `number` of `shards`. Not for several threads at once."""

    def __init__(
        self,
        number: int,
        shards: int,
        verify: Verify,
        quota: Quota | None = None,
        future_ms: int = bounds.FUTURE_MS,
        lines_max: int = bounds.LINES_MAX,
        allowance: Allowance | None = None,
    ) -> None:
        assert 0 <= number < shards <= bounds.SHARDS_MAX
        self.number = number
        self.shards = shards
        self.tree = Tree()
        self.horizon = 0
        """What was out of date before this stamp is forgotten (`expire`)."""
        self.evicted = 0
        """Segments that were let go since their author said too much."""
        self._verify = verify
        self.quota = quota or Quota()
        self._allowance = allowance or Allowance()
        self._spoken: dict[bytes, Spoken] = {}
        self._future_ms = future_ms
        self._lines_max = lines_max
        self._lines: dict[tuple[bytes, int], Line] = {}
        self._lives: dict[bytes, list[int]] = {}
        self._held: dict[bytes, Held] = {}
        self._places: dict[bytes, bytes] = {}
        """Place of a strike -> its payload."""
        self._struck: dict[tuple[bytes, int], bytes] = {}
        self._floors: dict[bytes, int] = {}
        self._merged = merged = Merged()
        # What it says is read very often: nothing stands between.
        self.get, self.slot, self.tags, self.said = merged.get, merged.slot, merged.tags, merged.said
        self.keys, self.kinds, self.is_pruned = merged.keys, merged.kinds, merged.is_pruned
        self.take_dirty, self.fade_by = merged.take_dirty, merged.fade_by
        self.entries = 0
        """Entries of all segments that are held."""

    # --- taking in ------------------------------------------------------------------------------------------------------

    def take(self, payload: bytes, wall_ms: int) -> tuple[Outcome, Segment | None]:
        """What came from elsewhere: a segment, or the proof that a line contradicted itself. Never raises."""
        try:
            if payload[:1] == bytes((STRIKE,)):
                return self._take_strike(payload), None
            segment = entries.read(payload)
        except FormatError:
            return Outcome.MALFORMED, None
        return self.apply(segment, wall_ms), segment

    def apply(self, segment: Segment, wall_ms: int) -> Outcome:
        """Takes in a segment. `wall_ms` is this node's clock, milliseconds since 1970."""
        if segment.id in self._held:
            return Outcome.KNOWN
        refused = self._refuses(segment, wall_ms)
        if refused is not None:
            return refused
        try:
            rows = segment.rows()
        except FormatError:
            return Outcome.MALFORMED
        if not self._all_here(rows):
            return Outcome.WRONG_SHARD
        spoken = self._spoken.get(segment.author)
        if spoken is None:
            spoken = Spoken()
        elif not spoken.fits(segment, self._allowance):
            return Outcome.ALLOWANCE
        elif not spoken.in_time(len(segment.raw), wall_ms, self._allowance):
            return Outcome.RATE
        line = self._lines.get(segment.line)
        if line is None:
            if not self._begins(segment):
                return Outcome.LINES
            line = self._lines[segment.line] = Line(segment.author, segment.life)
        at = bisect_right(line.firsts, segment.first)
        for other in line.held[max(0, at - 1) : at + 1]:
            if contradict(other.segment, segment):
                self._strike(other.segment, segment)
                return Outcome.CONTRADICTS
        held = Held(segment, line)
        line.firsts.insert(at, segment.first)
        line.held.insert(at, held)
        self._held[segment.id] = held
        self.tree.add(segment.place)
        self.entries += segment.count
        self._spoken[segment.author] = spoken
        spoken.add(segment, wall_ms, self._allowance)
        self._merge(held, rows)
        if held.live == 0:
            self._merged.spent[segment.id] = held
        else:  # it may have been at 0 when its first entries were out of date and the rest was not merged yet
            self._merged.spent.pop(segment.id, None)
        if segment.first_time < self.horizon:
            for row in rows:
                self._merged.settle(row[1], row[2], self.horizon)
            self._let_go_spent()
        for id in spoken.over(self._allowance):
            self._evict(self._held[id])
        return Outcome.NEW if segment.id in self._held else Outcome.OLD

    def _refuses(self, segment: Segment, wall_ms: int) -> Outcome | None:
        if segment.shard != self.number:
            return Outcome.WRONG_SHARD
        if segment.line in self._struck:
            return Outcome.STRUCK
        if segment.life < self._floors.get(segment.author, 0):
            return Outcome.LINES
        if not self.quota.allows(segment):
            return Outcome.QUOTA
        if ms_of(segment.last_time) > wall_ms + self._future_ms:
            return Outcome.FUTURE
        header = entries.signed(segment.raw)
        return self._verify(segment.author, header, entries.signature_of(segment.raw))

    def _all_here(self, rows: list[list[Any]]) -> bool:
        crc32, shards, number = zlib.crc32, self.shards, self.number
        if shards == 1:
            return True
        kind, start = "", 0
        for row in rows:
            if row[1] != kind:
                kind = row[1]
                start = entries.start_of(kind)
                if kind in HELD_BY_ALL and number != WHOLE:
                    return False
            if crc32(row[2].encode(), start) % shards != number and kind not in HELD_BY_ALL:
                return False
        return True

    def _begins(self, segment: Segment) -> bool:
        """Notes a new line; of too many of one author the oldest ends."""
        lives = self._lives.setdefault(segment.author, [])
        lives.append(segment.life)
        lives.sort()
        if len(lives) <= self._lines_max:
            return True
        oldest = lives.pop(0)
        self._floors[segment.author] = oldest + 1
        line = self._lines.get((segment.author, oldest))
        if line is not None:
            self._end_line(line)
        place = strike_place((segment.author, oldest))
        if place in self._places:
            del self._places[place], self._struck[segment.author, oldest]
            self.tree.remove(place)
        return oldest != segment.life

    # --- merging --------------------------------------------------------------------------------------------------------

    def _merge(self, held: Held, rows: list[list[Any]]) -> None:
        self._merged.merge(held, rows)

    # --- time -----------------------------------------------------------------------------------------------------------

    def expire(self, horizon: int) -> int:
        """Forgets what was out of date, or gone, before a stamp; how many segments that were. The stamp only ever rises. All holders
        of a shard come to the same state by the same stamp."""
        if horizon <= self.horizon:
            return 0
        self.horizon = horizon
        for kind, key in sorted(self._merged.loose):
            self._merged.settle(kind, key, horizon)
        ended = self._let_go_spent()
        while self._merged.lift_stones(self._held.values(), horizon):
            ended += self._let_go_spent()
        return ended

    def _let_go_spent(self) -> int:
        ended = [held for held in self._merged.spent.values() if held.segment.last_time < self.horizon]
        for held in ended:
            self._let_go(held)
        return len(ended)

    def lapse(self) -> None:
        """Lets go of all before the horizon, for a shard that this node only has something to give to: what was dropped in the meantime
        may be forgotten by those who hold it, and must not come back from here."""
        end = self.horizon.to_bytes(8, "big")
        for place in [place for place in self.tree.places() if place[:8] < end]:
            held = self._held.get(place[8:])
            if held is not None:
                self._evict(held)

    def _evict(self, held: Held) -> None:
        """What a segment says does not count any more, and it is not held."""
        self.evicted += 1
        self._merged.take_out(held.line, [held])
        self._let_go(held)

    def _let_go(self, held: Held) -> None:
        """A segment is not held any longer."""
        segment, line = held.segment, held.line
        self._drop(segment)
        at = bisect_right(line.firsts, segment.first) - 1
        assert line.held[at] is held
        del line.firsts[at], line.held[at]
        if not line.held:
            del self._lines[segment.line]
            self._lives[segment.author].remove(segment.life)

    def _drop(self, segment: Segment) -> None:
        del self._held[segment.id]
        self._merged.gone(segment)
        self.tree.remove(segment.place)
        self.entries -= segment.count
        spoken = self._spoken[segment.author]
        spoken.remove(segment)

    # --- authors --------------------------------------------------------------------------------------------------------

    def drop_author(self, author: bytes) -> None:
        """An author was revoked: nothing that it said counts."""
        for key in sorted(self._lines):
            if key[0] == author:
                self._end_line(self._lines[key])
        for line in sorted(self._struck):
            if line[0] == author:
                self._forget_strike(line)
        self._spoken.pop(author, None)

    def has_room(self, author: bytes, size: int, count: int, wall_ms: int) -> bool:
        """Whether an author may say so many bytes and entries more here without losing what it said before."""
        return self._spoken.get(author, Spoken()).room(size, count, wall_ms, self._allowance)

    def _forget_strike(self, line: tuple[bytes, int]) -> None:
        place = strike_place(line)
        del self._struck[line], self._places[place]
        self._lives[line[0]].remove(line[1])
        self.tree.remove(place)

    def _strike(self, one: Segment, other: Segment) -> None:
        """A line contradicted itself: it ends, and the proof takes its place."""
        line = one.line
        payload = bytes((STRIKE,)) + b"".join(sorted((one.proof, other.proof)))
        place = strike_place(line)
        self._struck[line] = payload
        self._places[place] = payload
        self.tree.add(place)
        known = self._lines.get(line)
        if known is not None:
            self._end_line(known, forget=False)

    def _take_strike(self, payload: bytes) -> Outcome:
        if len(payload) != 1 + 2 * BODY_AT:
            raise FormatError("a proof that is not two headers")
        one, other = (entries.read_proof(payload[at : at + BODY_AT]) for at in (1, 1 + BODY_AT))
        if one.line != other.line or one.shard != self.number or other.shard != self.number:
            raise FormatError("a proof of two lines")
        if one.line in self._struck:
            return Outcome.KNOWN
        if one.life < self._floors.get(one.author, 0):
            return Outcome.LINES
        if one.id == other.id or not contradict(*sorted((one, other), key=by_number)):
            raise FormatError("a proof that proves nothing")
        for each in (one, other):
            refused = self._verify(each.author, entries.signed(each.raw), entries.signature_of(each.raw))
            if refused is not None:
                return refused
        if one.line not in self._lines and not self._begins(one):
            return Outcome.LINES
        self._strike(one, other)
        return Outcome.NEW

    def _end_line(self, line: Line, forget: bool = True) -> None:
        """Takes out all that was said on a line."""
        self._merged.take_out(line, line.held)
        for held in line.held:
            self._drop(held.segment)
        line.firsts.clear()
        line.held.clear()
        del self._lines[line.author, line.life]
        if forget and line.life in self._lives.get(line.author, ()):
            self._lives[line.author].remove(line.life)

    # --- reading --------------------------------------------------------------------------------------------------------

    def entry(self, said: Said) -> Entry:
        """All of an entry, where it was learned included: read again from its segment."""
        return next(Entry.of_row(row) for row in said.held.segment.rows() if row[0] == said.time)

    @property
    def fading(self) -> Fading:
        """How facts fade; `fade_by` changes it."""
        return self._merged.fading

    @property
    def state_digest(self) -> bytes:
        """32 bytes over all that `get` gives: for tests, it takes its time."""
        return self._merged.state_digest

    @property
    def digest(self) -> bytes:
        """32 bytes: equal exactly where the same segments are held."""
        return self.tree.root

    def __len__(self) -> int:
        """Segments held, and proofs."""
        return len(self.tree)

    def segments(self) -> Iterator[bytes]:
        """Everything that makes up the shard, in a fixed order: proofs and segments, as `take` takes them."""
        for place in self.tree.places():
            yield self.payload(place) or b""

    def payload(self, place: bytes) -> bytes | None:
        """What is at a place of the tree; None if nothing is."""
        strike = self._places.get(place)
        if strike is not None:
            return strike
        held = self._held.get(place[8:])
        return held.segment.raw if held is not None else None

    def has(self, id: bytes) -> bool:
        """Whether a segment is held."""
        return id in self._held

    def strike(self, line: tuple[bytes, int]) -> bytes | None:
        """The proof against a line, as `take` takes it; None if there is none."""
        return self._struck.get(line)

    def struck(self) -> list[tuple[bytes, int]]:
        """Lines that contradicted themselves."""
        return sorted(self._struck)

    def lines(self) -> dict[tuple[bytes, int], list[tuple[int, int]]]:
        """Line -> the numbers of entries that are held, as rising ranges (first, end). Gaps are between them."""
        found: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
        for name in sorted(self._lines):
            ranges: list[tuple[int, int]] = []
            for held in self._lines[name].held:
                first, end = held.segment.first, held.segment.first + held.segment.count
                if ranges and ranges[-1][1] == first:
                    ranges[-1] = (ranges[-1][0], end)
                else:
                    ranges.append((first, end))
            found[name] = ranges
        return found
