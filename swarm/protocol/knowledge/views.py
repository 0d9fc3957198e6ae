"""Views of shards: keys in order, by tag, and what to tell who watches. They follow what the shards say, and hold nothing of their own.

A view looks at the keys that something was said about since it last looked (`Shard.take_dirty`), so merging stays as fast as it is and
whoever never asks pays nothing. By key there is `Shard.get`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from swarm.protocol.knowledge.bounds import WATCH_EVENTS_MAX
from swarm.protocol.knowledge.shard import Shard

CHUNK_KEYS: Final = 512
REBUILD_SHARE: Final = 8
"""Where more than this part of the keys changes at once, all are sorted anew."""


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE: Final = _Gone()
"""In place of a value that is not there."""


class OrderedKeys:
    """A set of texts in order: a B+ tree of two levels, its leaves of at most twice `CHUNK_KEYS`."""

    __slots__ = ("_chunks", "_count", "_lasts")

    def __init__(self) -> None:
        self._chunks: list[list[str]] = []
        self._lasts: list[str] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def change(self, added: set[str], removed: set[str]) -> None:
        """Puts in and takes out: what is there already, or is not there, stays so."""
        if REBUILD_SHARE * (len(added) + len(removed)) > self._count:
            self._build(sorted({*self, *added} - removed))
            return
        for key in sorted(added):
            self._add(key)
        for key in sorted(removed):
            self._remove(key)

    def _build(self, keys: list[str]) -> None:
        self._chunks = [keys[at : at + CHUNK_KEYS] for at in range(0, len(keys), CHUNK_KEYS)]
        self._lasts = [chunk[-1] for chunk in self._chunks]
        self._count = len(keys)

    def _add(self, key: str) -> None:
        if not self._chunks:
            self._build([key])
            return
        at = min(bisect_left(self._lasts, key), len(self._chunks) - 1)
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        if place < len(chunk) and chunk[place] == key:
            return
        chunk.insert(place, key)
        self._count += 1
        if len(chunk) > 2 * CHUNK_KEYS:
            half = len(chunk) // 2
            self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
            self._lasts[at : at + 1] = [chunk[half - 1], chunk[-1]]
        else:
            self._lasts[at] = chunk[-1]

    def _remove(self, key: str) -> None:
        at = bisect_left(self._lasts, key)
        if at == len(self._chunks):
            return
        chunk = self._chunks[at]
        place = bisect_left(chunk, key)
        if place == len(chunk) or chunk[place] != key:
            return
        del chunk[place]
        self._count -= 1
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from chunk

    def between(self, start: str = "", stop: str | None = None, reverse: bool = False) -> Iterator[str]:
        """Keys from `start` on and before `stop` (None: to the end), in order or in reverse."""
        chunks, lasts = self._chunks, self._lasts
        first = bisect_left(lasts, start)
        end = len(chunks) if stop is None else min(bisect_left(lasts, stop) + 1, len(chunks))
        for at in range(end - 1, first - 1, -1) if reverse else range(first, end):
            chunk = chunks[at]
            low = bisect_left(chunk, start)
            high = len(chunk) if stop is None else bisect_left(chunk, stop)
            yield from reversed(chunk[low:high]) if reverse else chunk[low:high]


def after_prefix(prefix: str) -> str | None:
    """The least text that is after all texts with this prefix; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            # Surrogates are no characters of a key.
            return prefix[:at] + chr(0xE000 if 0xD7FF <= code < 0xE000 else code + 1)
    return None


class Change(NamedTuple):
    """Something about a key changed: what is known there now, GONE if nothing."""

    kind: str
    key: str
    value: Any


class Watch:
    """What changed of a kind under a prefix, until it is read."""

    __slots__ = ("_changes", "kind", "lost", "prefix")

    def __init__(self, kind: str, prefix: str = "") -> None:
        self.kind = kind
        self.prefix = prefix
        self.lost = False
        """More changed than is kept for one that does not read: look at everything anew, then set it back."""
        self._changes: deque[Change] = deque()

    def tell(self, change: Change) -> None:
        """A key of the kind changed."""
        if change.key.startswith(self.prefix):
            if len(self._changes) >= WATCH_EVENTS_MAX:
                self._changes.clear()
                self.lost = True
            self._changes.append(change)

    def read(self) -> list[Change]:
        """What changed since the last call, each key's changes in their order; several at once may be one."""
        found = list(self._changes)
        self._changes.clear()
        return found


class Views:
    """Ordered keys and tags over shards."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._keys: dict[str, OrderedKeys] = {}
        self._tagged: dict[tuple[str, str], set[str]] = {}
        self._tags: dict[tuple[str, str], tuple[str, ...]] = {}
        self._watches: list[Watch] = []

    def watch(self, kind: str, prefix: str = "") -> Watch:
        """Tells from now on what changes, when `refresh` is called."""
        self.refresh()
        watch = Watch(kind, prefix)
        self._watches.append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Tells it no more."""
        self._watches.remove(watch)

    def refresh(self) -> None:
        """Looks at what was said since the last time."""
        for number in sorted(self._shards):
            shard = self._shards[number]
            dirty = shard.take_dirty()
            for kind in sorted(dirty):
                if dirty[kind]:
                    self._look(shard, kind, dirty[kind])

    def _look(self, shard: Shard, kind: str, changed: set[str]) -> None:
        there, gone = set(), set()
        watches = [watch for watch in self._watches if watch.kind == kind]
        for key in sorted(changed) if watches else changed:
            value = shard.get(kind, key, GONE)
            if value is GONE:
                gone.add(key)
                self._tag(kind, key, ())
            else:
                there.add(key)
                self._tag(kind, key, shard.tags(kind, key))
            for watch in watches:
                watch.tell(Change(kind, key, value))
        self._keys.setdefault(kind, OrderedKeys()).change(there, gone)

    def _tag(self, kind: str, key: str, tags: tuple[str, ...]) -> None:
        before = self._tags.get((kind, key), ())
        if before == tags:
            return
        for tag in before:
            keys = self._tagged[kind, tag]
            keys.discard(key)
            if not keys:
                del self._tagged[kind, tag]
        for tag in tags:
            self._tagged.setdefault((kind, tag), set()).add(key)
        if tags:
            self._tags[kind, key] = tags
        else:
            del self._tags[kind, key]

    def between(self, kind: str, start: str = "", stop: str | None = None, reverse: bool = False) -> Iterable[str]:
        """Keys of a kind from `start` on and before `stop`, in order."""
        self.refresh()
        keys = self._keys.get(kind)
        return keys.between(start, stop, reverse) if keys is not None else ()

    def tagged(self, kind: str, tag: str) -> list[str]:
        """Keys of a kind that have this tag, in order."""
        self.refresh()
        return sorted(self._tagged.get((kind, tag), ()))

    def count(self, kind: str) -> int:
        """How many keys of a kind there are."""
        self.refresh()
        keys = self._keys.get(kind)
        return len(keys) if keys is not None else 0


__all__ = ["GONE", "Change", "OrderedKeys", "Views", "Watch", "after_prefix"]
