"""Segments of the knowledge log on disk: one SQLite file in WAL mode, each transaction synced before it counts.

Rows are (shard, place in the Merkle tree, payload, checksum); beside them the certificates of their authors, since what somebody
said is to be checked when its author has left the fleet long ago. One thread uses it. A file that cannot be read is set
aside under another name: what was in it comes again from peers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from blake3 import blake3

from swarm.errors import SystemRefused
from swarm.protocol.knowledge.bounds import FUTURE_MS, RETENTION_MS
from swarm.protocol.knowledge.entries import BODY_AT, read, read_proof
from swarm.protocol.knowledge.rules import STRIKE, strike_place

FILE: Final = "knowledge.db"
FORMAT: Final = 1
CHECK_BYTES: Final = 8
ASIDE_MAX: Final = 8
"""Damaged files that are kept; the next one takes the place of the last."""
CACHE_KIB: Final = 1024
_SCHEMA: Final = (
    "CREATE TABLE segments (shard INTEGER, place BLOB, payload BLOB, checksum BLOB, UNIQUE (shard, place))",
    "CREATE TABLE authors (id BLOB PRIMARY KEY, certificate BLOB) WITHOUT ROWID",
    "CREATE TABLE numbers (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID",
)
_PAST: Final = (
    "CREATE TABLE IF NOT EXISTS past (shard INTEGER, place BLOB, payload BLOB, checksum BLOB, gone_ms INTEGER, UNIQUE (shard, place))",
    "CREATE INDEX IF NOT EXISTS past_gone ON past (gone_ms)",
)
"""Beside the segments those that were let go, so that the past can be read. A release that does not know it leaves it alone."""
TRIMMED: Final = 500
"""Segments that go at a time where there are too many."""
PAST_KEPT_MS: Final = RETENTION_MS + FUTURE_MS
"""What was let go was in force until then, or, by a clock that ran ahead, that much longer."""


class NotWritten(SystemRefused):
    """The disk did not take it."""


class Row(NamedTuple):
    """What is on disk of a shard. `payload` is None if it is not what was written."""

    shard: int
    place: bytes
    payload: bytes | None


class Store:
    """The file of one node. SystemRefused where it can be neither read nor made."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self.aside: Path | None = None
        """Where a damaged file was put that stood in the way."""
        self.why = ""
        """What was wrong with it."""
        self.counts: dict[int, int] = {}
        """Shard -> rows."""
        self.bytes = 0
        """Of all payloads."""
        self.past_changes = self.trims = 0
        """Counted while the process runs: how often the past changed, and how often some of it had no room."""
        try:
            self._db = self._opened()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise self._refused(error) from error
            self.why = str(error)
            self.set_aside()

    def set_aside(self) -> None:
        """Begin anew; the file is kept under another name."""
        db = getattr(self, "_db", None)
        if db is not None:
            db.close()
        free = (self.path.with_name(f"{FILE}.damaged-{number}") for number in range(1, ASIDE_MAX + 1))
        aside = next((path for path in free if not path.exists()), self.path.with_name(f"{FILE}.damaged-{ASIDE_MAX}"))
        try:
            for end in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + end)
                if part.exists():
                    part.replace(aside.with_name(aside.name + end))
            self._db = self._opened()
        except (OSError, sqlite3.DatabaseError) as error:
            raise self._refused(error) from error
        self.aside, self.counts, self.bytes = aside, {}, 0

    def _refused(self, error: Exception) -> SystemRefused:
        return SystemRefused(
            f"can not open {self.path}: {error}",
            hint="free some space, or see who may write there",
            path=str(self.path),
        )

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            format = db.execute("PRAGMA user_version").fetchone()[0]
            if format > FORMAT:
                raise SystemRefused(
                    f"{self.path} was written by a later release (format {format}; this one knows {FORMAT})",
                    hint="run that release, or move the file away: the fleet has what is in it",
                )
            if not format:
                db.execute("BEGIN IMMEDIATE")
                for table in _SCHEMA:
                    db.execute(table)
                db.execute(f"PRAGMA user_version = {FORMAT}")
                db.execute("COMMIT")
            for table in _PAST:
                db.execute(table)
        except BaseException:
            db.close()
            raise
        self.path.chmod(0o600)
        return db

    # --- reading --------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """All there is, in the order of the trees. sqlite3.DatabaseError where the file is damaged."""
        self.counts, self.bytes = {}, 0
        for shard, place, payload, checksum in self._db.execute(
            "SELECT shard, place, payload, checksum FROM segments ORDER BY shard, place"
        ):
            self.counts[shard] = self.counts.get(shard, 0) + 1
            self.bytes += len(payload) if type(payload) is bytes else 0
            good = type(payload) is bytes and check(payload) == checksum and place_of(payload) == place
            yield Row(shard, place, payload if good else None)

    def authors(self) -> dict[bytes, bytes]:
        """Id -> certificate."""
        return dict(self._db.execute("SELECT id, certificate FROM authors"))

    def clock(self) -> int:
        """The last stamp that was kept."""
        found = self._db.execute("SELECT value FROM numbers WHERE name = 'clock'").fetchone()
        return int.from_bytes(found[0], "big") if found else 0

    def since_ms(self, now_ms: int, shards: Iterable[int] = ()) -> int:
        """From when on all that was let go, of these shards, is in the past here; noted as `now_ms` where it never was."""
        found = self._number("since")
        if found is None:
            self.set_since(now_ms)
            found = now_ms
        own = [self._number(f"since/{number}") for number in shards]
        return max((found if each is None else each for each in own), default=found)

    def set_since(self, since_ms: int, shard: int | None = None) -> None:
        """The past, or that of a shard, is all here from then on. A disk that takes nothing is no error: it is said again at the next start."""
        self._set_number("since" if shard is None else f"since/{shard}", since_ms.to_bytes(8, "big"))

    def holds(self, shards: Iterable[int], now_ms: int) -> None:
        """This node is one of those now that keep these shards: of those that it did not keep before its past begins now."""
        there, before = set(shards), self.held()
        if there != before:
            for number in sorted(there - before) if before is not None else ():
                self.set_since(now_ms, number)
            self._set_number("held", b"".join(number.to_bytes(2, "big") for number in sorted(there)))

    def held(self) -> set[int] | None:
        """The shards that this node kept among others; None where it was alone until now."""
        found = self._db.execute("SELECT value FROM numbers WHERE name = 'held'").fetchone()
        if found is None:
            return None
        return {int.from_bytes(found[0][at : at + 2], "big") for at in range(0, len(found[0]), 2)}

    def _number(self, name: str) -> int | None:
        found = self._db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return int.from_bytes(found[0], "big") if found else None

    def _set_number(self, name: str, value: bytes) -> None:
        try:
            self._db.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))
        except sqlite3.DatabaseError:
            pass

    def begin(self) -> bool:
        """Whether the last stop was in order: if not, this may be an older state of the file than others have seen, as of a machine
        that was set back to an image of it. Noted until `close`."""
        try:
            return self._db.execute("DELETE FROM numbers WHERE name = 'stopped'").rowcount == 1
        except sqlite3.DatabaseError:
            return False

    # --- writing --------------------------------------------------------------------------------------------------------

    def add(self, payloads: Iterable[tuple[int, bytes]], authors: Mapping[bytes, bytes], clock: int) -> None:
        """Writes payloads and certificates; all are on the disk when it returns. NotWritten, and nothing of it is, when not."""
        counts, size = dict(self.counts), self.bytes
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for shard, payload in payloads:
                added = self._db.execute(
                    "INSERT OR IGNORE INTO segments VALUES (?, ?, ?, ?)",
                    (shard, place_of(payload), payload, check(payload)),
                ).rowcount
                counts[shard] = counts.get(shard, 0) + added
                size += added * len(payload)
            self._db.executemany("INSERT OR REPLACE INTO authors VALUES (?, ?)", authors.items())
            self._db.execute("INSERT OR REPLACE INTO numbers VALUES ('clock', ?)", (clock.to_bytes(8, "big"),))
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._roll_back()
            raise self._not_written(error) from error
        self.counts, self.bytes = counts, size

    def keep_only(self, shard: int, places: set[bytes], now_ms: int) -> None:
        """What a shard does not hold any more goes into the past. NotWritten."""
        try:
            held = self._db.execute("SELECT place, length(payload) FROM segments WHERE shard = ?", (shard,)).fetchall()
            gone = [(place, size) for place, size in held if place not in places]
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO past SELECT shard, place, payload, checksum, ? FROM segments WHERE shard = ? AND place = ?",
                ((now_ms, shard, place) for place, _ in gone),
            )
            self._db.executemany(
                "DELETE FROM segments WHERE shard = ? AND place = ?", ((shard, place) for place, _ in gone)
            )
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._roll_back()
            raise self._not_written(error) from error
        self.past_changes += bool(gone)
        self.counts[shard] = len(held) - len(gone)
        self.bytes -= sum(size for _, size in gone)

    def add_past(self, rows: Iterable[tuple[int, bytes, int]]) -> None:
        """What another node has let go: (shard, payload, when, in milliseconds). NotWritten."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO past VALUES (?, ?, ?, ?, ?)",
                ((shard, place_of(payload), payload, check(payload), gone_ms) for shard, payload, gone_ms in rows),
            )
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._roll_back()
            raise self._not_written(error) from error
        self.past_changes += 1

    def trim_past(self, now_ms: int, bytes_max: int) -> None:
        """Forgets what was let go too long ago, and of what is more than so many bytes the oldest: the past begins later then."""
        try:
            # The last row stays: rows are told to others by their numbers, of which none is given twice.
            self._db.execute(
                "DELETE FROM past WHERE gone_ms < ? AND rowid < (SELECT max(rowid) FROM past)", (now_ms - PAST_KEPT_MS,)
            )
            size = self.past_bytes()
            while size > bytes_max:
                until = self._db.execute(
                    "SELECT max(gone_ms) FROM (SELECT gone_ms FROM past ORDER BY gone_ms LIMIT ?)", (TRIMMED,)
                ).fetchone()[0]
                self._db.execute("BEGIN IMMEDIATE")
                self._begins_later(max(until + FUTURE_MS, self.since_ms(now_ms)))
                gone = self._db.execute(
                    "DELETE FROM past WHERE gone_ms <= ? AND rowid < (SELECT max(rowid) FROM past)", (until,)
                ).rowcount
                self._db.execute("COMMIT")
                self.trims += 1
                self.past_changes += 1
                size = self.past_bytes() if gone else 0
        except sqlite3.DatabaseError as error:
            self._roll_back()
            raise self._not_written(error) from error

    def past_bytes(self) -> int:
        """Of all payloads that were let go."""
        return int(self._db.execute("SELECT coalesce(sum(length(payload)), 0) FROM past").fetchone()[0])

    def has_past(self, shard: int, place: bytes) -> bool:
        """Whether something was let go, and is kept."""
        found = self._db.execute("SELECT 1 FROM past WHERE shard = ? AND place = ?", (shard, place)).fetchone()
        return found is not None

    def _begins_later(self, since_ms: int) -> None:
        self.set_since(since_ms)
        self._db.execute(
            "UPDATE numbers SET value = ? WHERE name LIKE 'since/%' AND value < ?", (since_ms.to_bytes(8, "big"),) * 2
        )

    def mend(self, shard: int, payload: bytes) -> None:
        """Writes a segment again that is not what was written. NotWritten."""
        try:
            self._db.execute(
                "UPDATE segments SET payload = ?, checksum = ? WHERE shard = ? AND place = ?",
                (payload, check(payload), shard, place_of(payload)),
            )
        except sqlite3.DatabaseError as error:
            raise self._not_written(error) from error

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _not_written(self, error: sqlite3.DatabaseError) -> NotWritten:
        return NotWritten(
            f"the disk of this node does not take what is to be known: {error}",
            hint=f"free some space where {self.path} is",
            path=str(self.path),
        )

    def close(self, in_order: bool = False) -> None:
        """Closes the file; with `in_order` the next start goes on right after what is in it."""
        if in_order:
            try:
                self._db.execute("INSERT OR REPLACE INTO numbers VALUES ('stopped', x'01')")
            except sqlite3.DatabaseError:
                pass  # no room: the next start leaves some numbers out
        self._db.close()


def check(payload: bytes) -> bytes:
    """What tells that a payload is what was written: its signature included, which no hash of a segment covers."""
    return blake3(payload).digest(CHECK_BYTES)


def place_of(payload: bytes) -> bytes:
    """Where a segment, or the proof against a line, is in the Merkle tree of its shard (24 bytes). FormatError."""
    if payload[:1] == bytes((STRIKE,)):
        return strike_place(read_proof(payload[1 : 1 + BODY_AT]).line)
    return read(payload).place


def author_of(payload: bytes) -> bytes:
    """Whose segment or proof this is, of a payload that was read before."""
    at = 4 if payload[0] == STRIKE else 3
    return payload[at : at + 16]


def _is_damage(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
