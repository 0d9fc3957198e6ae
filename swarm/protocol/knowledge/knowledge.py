"""What one node says and asks: `put`, `drop`, `count`, `get`, `query`, `watch` over the shards that it has.

What is said gets its stamp at once and becomes part of a signed segment with the next `flush`; whoever asks sees it before
that, since asking flushes. A node may say something about a shard that others hold: its own copy of that shard is then an
outbox (`keeper`), and what it reads there is only what it said itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from kernels.plain import decode_plain, encode_plain
from swarm.errors import SwarmError
from swarm.protocol.knowledge import bounds, fading, kinds
from swarm.protocol.knowledge.entries import Entry, Op, Segment, Sign, read, seal, shard_of, too_long
from swarm.protocol.knowledge.fading import Fading
from swarm.protocol.knowledge.kinds import KINDS, Crdt, Kind
from swarm.protocol.knowledge.rules import STRIKE, Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock, ms_of, time_of
from swarm.protocol.knowledge.views import GONE, Views, Watch, after_prefix

SKIPPED: Final = bounds.SEGMENT_ENTRIES_MAX
"""Numbers that are left out after a stop that may have lost the end of the own line: none is used twice."""
FLUSH_BYTES: Final = bounds.SEGMENT_BYTES_MAX // 2
SEAL_BYTES: Final = 1024
"""What an entry and its segment take besides what it says, at most."""


class BadEntry(SwarmError, ValueError):
    """Something that cannot be put: an unknown kind, a value that is not plain or too long, a key or tag out of bounds."""


class SaidTooMuch(BadEntry):
    """This author has said as much as one may: in all, or at a time."""


class Knowledge:
    """One node's part. `shards` are those that it has, by number; all are of a fleet of `shards_count`."""

    def __init__(
        self,
        author: bytes,
        sign: Sign,
        shards: dict[int, Shard],
        shards_count: int,
        clock: HybridClock,
        open_shard: Callable[[int], Shard],
        clean: bool = True,
    ) -> None:
        """`open_shard` makes an empty shard of a number; `clean` is false if the last stop may have lost what was said last. Own lines
        are gone on with where the shards have them."""
        self.author = author
        self.shards = shards
        self.shards_count = shards_count
        self.clock = clock
        self.views = Views(shards)
        self.fading = Fading()
        """How facts fade; `weights` keeps it to the policy."""
        self._sign = sign
        self._open = open_shard
        self._lines: dict[int, tuple[int, int, int]] = {}
        """Shard -> (life, next number, last stamp) of the own line there."""
        self._totals: dict[tuple[int, str, str], list[int]] = {}
        """(life, kind, key) -> what the own line has counted up and down."""
        self._pending: dict[int, list[Entry]] = {}
        self._pending_bytes: dict[int, int] = {}
        self._flushed: list[Segment] = []
        for number, shard in shards.items():
            own = [(life, ranges) for (of, life), ranges in shard.lines().items() if of == author]
            if own:
                life, ranges = max(own)
                self._lines[number] = life, ranges[-1][1] + (0 if clean else SKIPPED), clock.last

    # --- saying ---------------------------------------------------------------------------------------------------------

    def put(
        self,
        kind: str,
        key: str,
        value: Any,
        wall_ms: int,
        *,
        tags: Iterable[str] = (),
        task: bytes | None = None,
        attempt: int = 0,
    ) -> int:
        """Says what is known under a key, adds an element (a set), or gives one's evidence (log-odds). Returns the stamp. BadEntry."""
        known = self._kind(kind)
        if known.crdt is Crdt.COUNTER:
            raise BadEntry(f"{kind} are counted, not put", hint="use count()", kind=kind)
        return self._say(known, key, Op.PUT, value, wall_ms, tuple(tags), task, attempt)

    def drop(
        self, kind: str, key: str, wall_ms: int, element: Any = GONE, seen: Iterable[list[Any]] | None = None
    ) -> int:
        """Says that a key is gone (registers), or an element of its set. Returns the stamp. Of a set that others hold `seen` are the
        additions that they know of (`additions`). BadEntry."""
        known = self._kind(kind)
        if known.crdt is Crdt.REGISTER:
            return self._say(known, key, Op.DROP, None, wall_ms)
        if known.crdt is not Crdt.SET:
            raise BadEntry(f"{kind} cannot be dropped", hint="put evidence of 0, or count down", kind=kind)
        if element is GONE:
            raise BadEntry("which element is to be dropped was not said", kind=kind)
        if seen is None:
            seen = self.additions(kind, key, element)
        return self._say(known, key, Op.DROP, [element, sorted(seen)[-bounds.SEEN_MAX :]], wall_ms)

    def additions(self, kind: str, key: str, element: Any) -> list[list[Any]]:
        """[author, life, stamp] of each addition of an element to a set that this node knows of."""
        self.flush()
        raw = encode_plain(element, bounds.VALUE_BYTES_MAX)
        return [
            [said.line.author, said.line.life, said.time]
            for said in self._shard(kind, key).said(kind, key)
            if said.op == Op.PUT and encode_plain(said.value, bounds.VALUE_BYTES_MAX) == raw
        ]

    def said(self, kind: str, key: str, most: int) -> list[tuple[bytes, Entry]]:
        """(author, entry) of what counts about a key, where it was learned included, the last `most`, the last first. BadEntry."""
        self._kind(kind)
        self.flush()
        shard = self._shard(kind, key)
        return [(one.line.author, shard.entry(one)) for one in shard.said(kind, key)[:most]]

    def count(self, kind: str, key: str, wall_ms: int, up: int = 1, down: int = 0) -> int:
        """Counts up and down. Returns the stamp. BadEntry."""
        known = self._kind(kind)
        if known.crdt is not Crdt.COUNTER or up < 0 or down < 0:
            raise BadEntry(f"{kind} cannot be counted by {up} up, {down} down", kind=kind)
        # What the line has counted in all is known when it is known which line it is: with the flush.
        return self._say(known, key, Op.PUT, [up, down], wall_ms)

    def _kind(self, kind: str) -> Kind:
        known = KINDS.get(kind)
        if known is None:
            raise BadEntry(f"{kind!r} is no kind of knowledge", hint=f"there are {', '.join(sorted(KINDS))}", kind=kind)
        return known

    def _shard(self, kind: str, key: str) -> Shard:
        return self.shard(shard_of(kind, key, self.shards_count))

    def shard(self, number: int) -> Shard:
        """A shard; an empty one is made if this node has none of it yet."""
        shard = self.shards.get(number)
        if shard is None:
            shard = self.shards[number] = self._open(number)
            shard.fade_by(self.fading)
        return shard

    def _say(
        self,
        kind: Kind,
        key: str,
        op: Op,
        value: Any,
        wall_ms: int,
        tags: tuple[str, ...] = (),
        task: bytes | None = None,
        attempt: int = 0,
    ) -> int:
        raw = encode_plain([kind.name, key, value, list(tags)], bounds.SEGMENT_BYTES_MAX)
        if raw is None:
            raise BadEntry(
                f"the value of {key!r} is not plain",
                hint="None, bool, int, float, str, bytes, lists and dicts",
                key=key,
            )
        if not isinstance(key, str) or not 0 < len(key.encode()) <= bounds.KEY_BYTES_MAX:
            raise BadEntry(f"a key is a text of 1 to {bounds.KEY_BYTES_MAX} bytes", key=key)
        if too_long(value):
            raise BadEntry(
                f"the value of {key!r} is longer than {bounds.VALUE_BYTES_MAX} bytes",
                hint="put it into a blob and its id here",
                key=key,
            )
        if len(tags) > bounds.TAGS_MAX or not all(0 < len(tag.encode()) <= bounds.TAG_BYTES_MAX for tag in tags):
            raise BadEntry(f"tags are at most {bounds.TAGS_MAX} texts of 1 to {bounds.TAG_BYTES_MAX} bytes", key=key)
        if task is not None and (len(task) != bounds.TASK_BYTES or not 0 <= attempt <= bounds.ATTEMPT_MAX):
            raise BadEntry("a task's id is 16 bytes, its attempt a number", key=key)
        wrong = kinds.malformed(kind.crdt, op, value) or (kind.check(value) if op == Op.PUT else None)
        if wrong:
            raise BadEntry(f"the value of {key!r} {wrong}", kind=kind.name, key=key)
        if kind.name == fading.POLICIES and key == fading.POLICY and op == Op.PUT:
            wrong = fading.wrong_policy(value)
            if wrong:
                raise BadEntry(f"the value of {key!r} {wrong}", kind=kind.name, key=key)
        shard = self._shard(kind.name, key)
        number = shard.number
        if self._pending_bytes.get(number, 0) + len(raw) > FLUSH_BYTES:
            self.flush()
        self._keep_within(shard, len(raw), wall_ms)
        # A copy, as it will be read: the caller may change its own.
        value = decode_plain(raw)[2]  # type: ignore[index]
        entry = Entry(self.clock.stamp(wall_ms), kind.name, key, op, value, tags, task, attempt)
        pending = self._pending.setdefault(number, [])
        pending.append(entry)
        self._pending_bytes[number] = self._pending_bytes.get(number, 0) + len(raw) + 48
        if len(pending) == bounds.SEGMENT_ENTRIES_MAX:
            self.flush()
        return entry.time

    @property
    def sealed_until(self) -> int:
        """All that this node said up to this stamp is in segments."""
        first = min((said[0].time for said in self._pending.values() if said), default=1 << 64)
        return first - 1

    def _keep_within(self, shard: Shard, size: int, wall_ms: int) -> None:
        """SaidTooMuch where an entry more would be over what peers take of one author."""
        number, pending = shard.number, len(self._pending.get(shard.number, ()))
        size += self._pending_bytes.get(number, 0) + SEAL_BYTES
        if not shard.has_room(self.author, size, pending + 1, wall_ms):
            raise SaidTooMuch(
                f"this node has said as much as the fleet keeps of one ({bounds.AUTHOR_BYTES_MAX >> 20} MiB or "
                f"{bounds.AUTHOR_ENTRIES_MAX:,} entries in each of {self.shards_count} shards), or too much in a short time",
                hint="wait: what was replaced is forgotten after 30 days; or say it on another node, or put larger things into files",
                shard=number,
            )
        life, first, last = self._lines.get(number, (0, 0, 0))
        if life and not shard.quota.within(life, first + pending + 1, max(self.clock.last, time_of(wall_ms), last)):
            raise SaidTooMuch(
                f"this node has said more than {shard.quota.burst:,} entries at once and {shard.quota.per_s:g} a second in one shard",
                hint="say less often, or put several things under one key",
                shard=number,
            )

    def flush(self) -> None:
        """Signs what was said since; `take` has it then."""
        for number in sorted(self._pending):
            said, shard = self._pending[number], self.shards[number]
            life, first, last = self._lines.get(number, (0, 0, 0))
            if not life or said[0].time <= last or shard.strike((self.author, life)) is not None:
                life, first = said[0].time, 0
            segment = seal(self.author, life, number, first, self._counted(shard, life, said), self._sign)
            outcome = shard.apply(segment, ms_of(segment.last_time))
            if outcome is Outcome.CONTRADICTS:
                # The store is older than what was said, and the rest came back from others. What is new gets a line of its own.
                life = said[0].time
                segment = seal(self.author, life, number, 0, self._counted(shard, life, said), self._sign)
                outcome = shard.apply(segment, ms_of(segment.last_time))
            if outcome is not Outcome.NEW:
                del self._pending[number], self._pending_bytes[number]
                raise SwarmError(
                    f"what this node says about shard {number} is not taken: {outcome.value}",
                    hint="say less often" if outcome is Outcome.QUOTA else "is this node still a member?",
                    outcome=outcome.value,
                )
            for entry in segment.entries() if any(KINDS[one.kind].crdt is Crdt.COUNTER for one in said) else ():
                if KINDS[entry.kind].crdt is Crdt.COUNTER:
                    self._totals[life, entry.kind, entry.key] = entry.value
            self._lines[number] = segment.life, segment.first + segment.count, segment.last_time
            self._flushed.append(segment)
        self._pending.clear()
        self._pending_bytes.clear()

    def _counted(self, shard: Shard, life: int, said: list[Entry]) -> list[Entry]:
        """Entries with what the line has counted in all in place of what was counted since."""
        totals: dict[tuple[str, str], list[int]] = {}
        found = []
        for entry in said:
            if KINDS[entry.kind].crdt is Crdt.COUNTER:
                about = entry.kind, entry.key
                before = totals.get(about) or self._totals.get((life, *about))
                if before is None:
                    mine = (
                        one.value
                        for one in shard.said(*about)
                        if (one.line.author, one.line.life) == (self.author, life)
                    )
                    before = next(mine, [0, 0])
                totals[about] = [before[0] + entry.value[0], before[1] + entry.value[1]]
                entry = replace(entry, value=totals[about])
            found.append(entry)
        return found

    def own_since(self, number: int, time: int) -> list[bytes]:
        """Segments of a shard in which this node said something at a stamp or after it."""
        shard = self.shard(number)
        first = time.to_bytes(8, "big")
        found = (shard.payload(place) for place in shard.tree.places() if place[:8] >= first)
        return [raw for raw in found if raw is not None and raw[0] != STRIKE and read(raw).author == self.author]

    def heard(self, segment: Segment) -> None:
        """A segment came from elsewhere. If it is an own one, which this node has lost, the line goes on after it."""
        if segment.author == self.author:
            said = segment.life, segment.first + segment.count, segment.last_time
            self._lines[segment.shard] = max(said, self._lines.get(segment.shard, (0, 0, 0)))
            for about in [about for about in self._totals if about[0] == segment.life]:
                del self._totals[about]

    def take(self) -> list[Segment]:
        """Own segments since the last call: to be kept on disk, and only then told to others."""
        self.flush()
        found, self._flushed = self._flushed, []
        return found

    # --- asking ---------------------------------------------------------------------------------------------------------

    def get(self, kind: str, key: str, default: Any = None) -> Any:
        """What is known under a key: of a register the value, of a set its elements, of a counter and of log-odds the sum. BadEntry for
        an unknown kind."""
        self._kind(kind)
        if self._pending:
            self.flush()
        shard = self.shards.get(shard_of(kind, key, self.shards_count))
        value = GONE if shard is None else shard.get(kind, key, GONE)
        if value is GONE:
            return default
        return own_copy(value)

    def query(
        self,
        kind: str,
        *,
        prefix: str = "",
        start: str | None = None,
        stop: str | None = None,
        tag: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        only: frozenset[int] | None = None,
    ) -> list[tuple[str, Any]]:
        """(key, value) of a kind in the order of keys: under a prefix, from `start` on and before `stop`, with a tag; at most `limit`. With `only`
        those of these shards."""
        found: list[tuple[str, Any]] = []
        for key in self.keys(kind, prefix=prefix, start=start, stop=stop, tag=tag, reverse=reverse, only=only):
            if limit is not None and len(found) >= limit:
                break
            found.append((key, own_copy(self._shard(kind, key).get(kind, key))))
        return found

    def keys(
        self,
        kind: str,
        *,
        prefix: str = "",
        start: str | None = None,
        stop: str | None = None,
        tag: str | None = None,
        reverse: bool = False,
        only: frozenset[int] | None = None,
    ) -> Iterable[str]:
        """The keys of what `query` gives. Nothing may be said before all are read."""
        self._kind(kind)
        self.flush()
        low, high = max(prefix, start or ""), after_prefix(prefix)
        if stop is not None:
            high = stop if high is None else min(stop, high)
        keys: Iterable[str]
        if tag is not None:
            keys = [key for key in self.views.tagged(kind, tag) if low <= key and (high is None or key < high)]
            keys = reversed(keys) if reverse else keys
        else:
            keys = self.views.between(kind, low, high, reverse)
        if only is None:
            return keys
        return (key for key in keys if shard_of(kind, key, self.shards_count) in only)

    def stamp(self, kind: str, key: str) -> int:
        """The last stamp of what was said about a key, of a fact also of its uses and its pruning; 0 if nothing was."""
        self.flush()
        shard = self.shards.get(shard_of(kind, key, self.shards_count))
        if shard is None:
            return 0
        about = (kind, fading.USES, fading.PRUNED) if kind == fading.FACTS else (kind,)
        return max((said.time for of in about for said in shard.said(of, key)[:1]), default=0)

    def watch(self, kind: str, prefix: str = "") -> Watch:
        """Tells what changes of a kind under a prefix from now on; `Views.refresh` brings it up to date."""
        self._kind(kind)
        self.flush()
        return self.views.watch(kind, prefix)

    def changes(self, watch: Watch) -> list[Any]:
        """What a watch was told since it was read last."""
        self.flush()
        self.views.refresh()
        return watch.read()


def own_copy(value: Any) -> Any:
    """What whoever asked may change."""
    if not isinstance(value, list | dict):
        return value
    raw = encode_plain(value, 1 << 30)
    assert raw is not None
    return decode_plain(raw)
