"""What the segments of a shard say together: of each key what counts, and what time and authors take out of that again.

The state follows from the set of segments. It is `swarm.protocol.knowledge.shard` that knows which are held, and why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blake3 import blake3

from swarm.protocol.knowledge import crdts, fading
from swarm.protocol.knowledge.crdts import Elements, Held, Line, Said, Slot
from swarm.protocol.knowledge.entries import Segment
from swarm.protocol.knowledge.fading import FACTS, PRUNED, USES, Fading
from swarm.protocol.knowledge.kinds import KINDS, Crdt

_new_said = tuple.__new__
BESIDE_FACTS = frozenset((USES, PRUNED))


class Merged:
    """Keys by kind, and what lines said about them."""

    def __init__(self) -> None:
        self.dirty: dict[str, set[str]] = {}
        """Kind -> keys that something was said about since a view has looked (`views`)."""
        self.fading = Fading()
        """How facts fade; `fade_by` changes it."""
        self.loose: set[tuple[str, str]] = set()
        """Keys about which time will forget something."""
        self.spent: dict[bytes, Held] = {}
        """Segments of which nothing counts any more, by id."""
        self._slots: dict[str, dict[str, Slot]] = {}
        self._sets: dict[str, dict[str, Elements]] = {}
        self._stones: set[tuple[str, str]] = set()
        """Keys of which removals are out of date, and are kept for what they removed."""
        self._puts: dict[bytes, dict[tuple[str, str], int]] = {}
        """Of segments of which a part counts: when they first put something under which keys."""

    def take_dirty(self) -> dict[str, set[str]]:
        """Kind -> keys that something was said about since the last time."""
        dirty, self.dirty = self.dirty, {}
        return dirty

    def gone(self, segment: Segment) -> None:
        """A segment is not held any longer."""
        self.spent.pop(segment.id, None)
        self._puts.pop(segment.id, None)

    # --- merging --------------------------------------------------------------------------------------------------------

    def merge(self, held: Held, rows: list[list[Any]]) -> None:
        """A segment is held from now on; `rows` are those of its entries that count."""
        line, live = held.line, 0
        spent, loose = self.spent, self.loose
        kind, slots, changed = "", {}, set[str]()
        known_kind = None
        for row in rows:
            time, of, key, op, value = row[:5]
            if of != kind:
                kind = of
                known_kind = KINDS.get(kind)
                slots = self._slots.setdefault(kind, {})
                changed = self.dirty.setdefault(kind, set())
            if known_kind is None:
                live += 1
                continue
            tags = row[5] if len(row) > 5 else None
            said: Said = _new_said(Said, (time, line, op, value, tags, held))
            if known_kind.crdt is Crdt.SET:
                self._merge_element(kind, key, said)
                changed.add(key)
                continue
            known = slots.get(key)
            if known is None:
                slots[key] = said
                if op:
                    loose.add((kind, key))
            else:
                if type(known) is Said:
                    before: Said | None = known if known[1] is line else None
                    if before is None:
                        slots[key] = {known[1]: known, line: said}
                    elif before[0] < time:
                        slots[key] = said
                else:
                    before = known.get(line)  # type: ignore[union-attr]
                    if before is None or before[0] < time:
                        known[line] = said  # type: ignore[index]
                if before is not None:
                    if before[0] >= time:
                        continue
                    other = before[5]
                    if other is held:
                        live -= 1
                    else:
                        other.live -= 1
                        if other.live == 0:
                            spent[other.segment.id] = other
                if op or before is None:
                    loose.add((kind, key))
            live += 1
            changed.add(key)
            if kind in BESIDE_FACTS:
                self._stir_fact(kind, key)
        held.live += live

    def _stir_fact(self, kind: str, key: str) -> None:
        """Something was said about a fact by which it may be pruned, or be so no more."""
        if kind == PRUNED or key in self._slots.get(PRUNED, ()):
            self.dirty.setdefault(FACTS, set()).add(key)

    def _merge_element(self, kind: str, key: str, said: Said) -> None:
        sets = self._sets.setdefault(kind, {})
        elements = sets.get(key)
        if elements is None:
            elements = sets[key] = Elements()
        said.held.live += 1
        if said.op:
            self.loose.add((kind, key))
            gone = elements.drop(said)
        else:
            gone = elements.add(said)
        if gone is not None:
            self._release([gone])

    def _release(self, gone: list[Said]) -> None:
        for said in gone:
            held = said.held
            held.live -= 1
            if held.live == 0:
                self.spent[held.segment.id] = held

    def take_out(self, line: Line, some: list[Held]) -> None:
        """What these segments of a line say does not count any more."""
        kept = set(line.held) - set(some)
        for kind, key in sorted({(row[1], row[2]) for held in some for row in held.segment.rows()}):
            self.dirty.setdefault(kind, set()).add(key)
            if kind in BESIDE_FACTS:
                self._stir_fact(kind, key)
            elements = self._sets.get(kind, {}).get(key)
            if elements is not None:
                elements.take_out(line, kept)
                if not elements.added and not elements.dropped:
                    del self._sets[kind][key]
            slots = self._slots.get(kind, {})
            slot = slots.get(key)
            if slot is not None:
                left = [said for said in crdts.rows_of(slot) if said.line is not line or said.held in kept]
                self._put_back(slots, key, left)

    def _put_back(self, slots: dict[str, Slot], key: str, left: list[Said]) -> None:
        if not left:
            del slots[key]
        elif len(left) == 1:
            slots[key] = left[0]
        else:
            slots[key] = {said.line: said for said in left}

    # --- time -----------------------------------------------------------------------------------------------------------

    def settle(self, kind: str, key: str, horizon: int) -> None:
        """Forgets what was out of date about a key before the horizon."""
        known_kind = KINDS.get(kind)
        if known_kind is None:
            return
        if known_kind.crdt is Crdt.SET:
            elements = self._sets.get(kind, {}).get(key)
            if elements is None:
                self.loose.discard((kind, key))
                return
            self._release(elements.expire(horizon))
            if elements.is_old(horizon):
                self._stones.add((kind, key))
            if not elements.dropped:
                self.loose.discard((kind, key))
                if not elements.added:
                    del self._sets[kind][key]
            return
        slots = self._slots.get(kind, {})
        slot = slots.get(key)
        if slot is None:
            self.loose.discard((kind, key))
            return
        rows = crdts.rows_of(slot)
        if known_kind.crdt is Crdt.REGISTER:
            last = [crdts.winner(slot)]
            if last[0].op and last[0].time < horizon:
                self._stones.add((kind, key))
        elif known_kind.crdt is Crdt.LOG_ODDS:
            last = list(crdts.by_author(slot).values())
        else:
            last = rows
        counts = set(map(id, last))
        left = [said for said in rows if id(said) in counts or said.time >= horizon]
        self._release([said for said in rows if id(said) not in counts and said.time < horizon])
        self._put_back(slots, key, left)
        if len(left) < 2 and not any(said.op for said in left):
            self.loose.discard((kind, key))

    def lift_stones(self, segments: Iterable[Held], horizon: int) -> bool:
        """Forgets removals before the horizon. But not while a segment is held, for the sake of something else, that has what was removed:
        it would be there again for everybody who reads that segment without the removal. Whether it forgot one."""
        if not self._stones:
            return False
        buried: dict[tuple[str, str], int] = {}
        for held in segments:
            segment = held.segment
            if held.live < segment.count and segment.first_time < horizon:
                for about, time in self._put_by(segment).items():
                    if about in self._stones:
                        buried[about] = min(time, buried.get(about, time))
        lifted = False
        for kind, key in sorted(self._stones):
            first = buried.get((kind, key), horizon)
            elements = self._sets.get(kind, {}).get(key)
            if elements is not None:
                gone = elements.forget(horizon, first)
                if not elements.added and not elements.dropped:
                    del self._sets[kind][key]
            else:
                slots = self._slots.get(kind, {})
                slot = slots.get(key)
                last = None if slot is None else crdts.winner(slot)
                gone = [last] if slot is last and last is not None and last.op and last.time < first else []
                if gone:
                    del slots[key]
            self._release(gone)
            lifted = lifted or bool(gone)
            if gone or first == horizon:
                self._stones.discard((kind, key))
        return lifted

    def _put_by(self, segment: Segment) -> dict[tuple[str, str], int]:
        found = self._puts.get(segment.id)
        if found is None:
            found = self._puts[segment.id] = {}
            for row in segment.rows():
                if row[3] == crdts.PUT:
                    found.setdefault((row[1], row[2]), row[0])
        return found

    # --- reading --------------------------------------------------------------------------------------------------------

    def get(self, kind: str, key: str, default: Any = None) -> Any:
        """What is known under a key: by kind a value, a list of elements, a count, or log-odds. Not to be changed."""
        known_kind = KINDS.get(kind)
        if known_kind is None:
            return default
        if known_kind.crdt is Crdt.SET:
            elements = self._sets.get(kind, {}).get(key)
            return (elements.values() if elements is not None else None) or default
        slot = self._slots.get(kind, {}).get(key)
        if slot is None:
            return default
        if known_kind.crdt is Crdt.REGISTER:
            said = crdts.winner(slot)
            return default if said.op or (kind == FACTS and self.is_pruned(key)) else said.value
        return crdts.total(slot) if known_kind.crdt is Crdt.COUNTER else crdts.evidence(slot)

    def is_pruned(self, key: str) -> bool:
        """Whether a fact is here and is not to be found (`fading`)."""
        pruned = self._slots.get(PRUNED, {}).get(key)
        if pruned is None:
            return False
        return fading.is_pruned(self.slot(FACTS, key), self.slot(USES, key), pruned, self.fading)

    def slot(self, kind: str, key: str) -> Slot | None:
        """What each line said about a key; not of sets."""
        return self._slots.get(kind, {}).get(key)

    def fade_by(self, policy: Fading) -> None:
        """Facts fade otherwise from now on."""
        if policy != self.fading:
            self.fading = policy
            self.dirty.setdefault(FACTS, set()).update(self._slots.get(PRUNED, ()))

    def tags(self, kind: str, key: str) -> tuple[str, ...]:
        """By which tags a key is found, in order: of a register those of the last entry, else those of all that count."""
        known_kind = KINDS.get(kind)
        slot = self._slots.get(kind, {}).get(key)
        if type(slot) is Said:
            return tuple(sorted(set(slot.tags))) if slot.tags else ()
        if slot is not None and known_kind is not None and known_kind.crdt is Crdt.REGISTER:
            return tuple(sorted(set(crdts.winner(slot).tags or ())))
        return tuple(sorted({tag for said in self.said(kind, key) for tag in said.tags or ()}))

    def said(self, kind: str, key: str) -> list[Said]:
        """What counts about a key, the last first."""
        elements = self._sets.get(kind, {}).get(key)
        slot = self._slots.get(kind, {}).get(key)
        rows = elements.rows() if elements is not None else crdts.rows_of(slot) if slot is not None else []
        return sorted(rows, key=crdts.order, reverse=True)

    def keys(self, kind: str) -> list[str]:
        """All keys of a kind about which something is kept, in order; what is gone may be among them."""
        return sorted({*self._slots.get(kind, ()), *self._sets.get(kind, ())})

    def kinds(self) -> list[str]:
        """Kinds of which there is something, known here or not."""
        return sorted({*self._slots, *self._sets})

    @property
    def state_digest(self) -> bytes:
        """32 bytes over all that `get` gives: for tests, it takes its time."""
        hasher = blake3()
        for kind in self.kinds():
            for key in self.keys(kind):
                value = self.get(kind, key)
                if value is not None:
                    hasher.update(crdts.packed([kind, key, value]))
        return hasher.digest()
