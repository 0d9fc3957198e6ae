"""Search by words: an index (SQLite FTS5, in memory) over keys, tags and all texts in values, made of a kind when it is searched first.

It follows what the shards say and holds nothing of its own, so all nodes that know the same find the same. For the thread of the desk.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from swarm.errors import SwarmError
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.kinds import KINDS
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.views import GONE, Watch

WORDS_MAX: Final = 32
WORDS_CHARACTERS_MAX: Final = 512


class Texts:
    """The index of one node."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._watches: dict[str, Watch] = {}
        self._rows: dict[tuple[str, str], int] = {}
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    def search(self, kind: str, text: str, limit: int) -> list[tuple[str, Any, float]]:
        """(key, value, rank) of what has all of these words, the best (of least rank) first; a word that ends in ``*`` stands for all that begin
        with it."""
        wanted = _wanted(text)
        self._follow(kind)
        found = self._db.execute(
            f"SELECT key, rank FROM {_table(kind)} WHERE words MATCH ? ORDER BY rank, key LIMIT ?",  # noqa: S608
            (wanted, limit),
        ).fetchall()
        return [(key, self._knowledge.get(kind, key), rank) for key, rank in found]

    def _follow(self, kind: str) -> None:
        watch = self._watches.get(kind)
        if watch is None:
            watch = self._knowledge.watch(kind)
            try:
                # One for each kind: how good a find is depends on all that is in the table.
                self._db.execute(f"CREATE VIRTUAL TABLE {_table(kind)} USING fts5 (key UNINDEXED, words)")
            except sqlite3.OperationalError as error:
                self._knowledge.views.unwatch(watch)
                raise SwarmError(
                    f"this node cannot search texts: {error}", hint="the SQLite of its Python was built without FTS5"
                ) from None
            self._watches[kind] = watch
            keys = set(self._knowledge.views.between(kind))
        else:
            keys = {change.key for change in self._knowledge.changes(watch)}
            if watch.lost:
                watch.lost = False
                keys.update(self._knowledge.views.between(kind), (key for of, key in self._rows if of == kind))
        self._db.execute("BEGIN")
        for key in sorted(keys):
            self._index(kind, key)
        self._db.execute("COMMIT")

    def _index(self, kind: str, key: str) -> None:
        row = self._rows.pop((kind, key), None)
        if row is not None:
            self._db.execute(f"DELETE FROM {_table(kind)} WHERE rowid = ?", (row,))  # noqa: S608
        value = self._knowledge.get(kind, key, GONE)
        if value is not GONE:
            shard = self._knowledge.shards[shard_of(kind, key, self._knowledge.shards_count)]
            words = "\n".join((key, *shard.tags(kind, key), *_texts(value)))
            added = self._db.execute(f"INSERT INTO {_table(kind)} VALUES (?, ?)", (key, words))  # noqa: S608
            assert added.lastrowid is not None
            self._rows[kind, key] = added.lastrowid


def _table(kind: str) -> str:
    assert kind in KINDS, kind
    return f'"texts of {kind}"'


def _wanted(text: str) -> str:
    """What FTS5 is asked for: words alone, whatever signs are in them."""
    words = text.split()
    if not 0 < len(words) <= WORDS_MAX or len(text) > WORDS_CHARACTERS_MAX or "\0" in text:
        raise SwarmError(
            f"a search is for 1 to {WORDS_MAX} words, of {WORDS_CHARACTERS_MAX} characters together", hint="say fewer"
        )
    quoted = []
    for word in words:
        bare = word.rstrip("*")
        escaped = bare.replace('"', '""')
        quoted.append(f'"{escaped}"{"*" if bare != word and bare else ""}')
    return " ".join(quoted)


def _texts(value: Any) -> list[str]:
    """All texts in a value, keys of maps among them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return []
