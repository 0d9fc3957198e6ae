"""The tables of journals in PostgreSQL, and what is in them of one node, read and judged.

Schema ``swarm_journal``; all nodes that use a database share its tables, and each row is of one node::

    about     the version of all this: one row
    nodes     node, fleet, a random number of the journal and of the process that has it open, the number of its last
              commit, and how many rows it has in the other two tables
    groups    a group's vote, and whether its log is damaged
    records   a snapshot, or entries that follow each other, packed as in the files of a journal; a record that nothing needs any
              more is removed in the transaction that supersedes it

Each row of the last two has a checksum (blake3, 8 bytes) of what it says, and each record one of its contents: a database may be told to
check its pages, and often is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final

import psycopg
from psycopg import pq

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.format import Flag, JournalId, Row, check
from nodes.journal.postgres.database import Database, said
from nodes.journal.track import Track, Where
from swarm.protocol.raft.entries import Vote

VERSION: Final = 2
_MAKE_LOCK: Final = 0x5357_4A4E
_MAKE: Final = (
    "CREATE SCHEMA IF NOT EXISTS swarm_journal",
    "CREATE TABLE IF NOT EXISTS swarm_journal.about (version integer NOT NULL, one boolean PRIMARY KEY DEFAULT true CHECK (one))",
    """CREATE TABLE IF NOT EXISTS swarm_journal.nodes (
        node bytea PRIMARY KEY, fleet bytea NOT NULL, journal bytea NOT NULL, session bytea NOT NULL, commit bigint NOT NULL,
        groups bigint NOT NULL, records bigint NOT NULL, bytes bigint NOT NULL,
        made timestamptz NOT NULL DEFAULT now(), opened timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 10)""",
    """CREATE TABLE IF NOT EXISTS swarm_journal.groups (
        node bytea, grp bytea, term bigint NOT NULL, candidate bytea, damaged boolean NOT NULL, digest bytea NOT NULL,
        left_term bigint NOT NULL DEFAULT 0, left_index bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (node, grp)) WITH (fillfactor = 50)""",
    """CREATE TABLE IF NOT EXISTS swarm_journal.records (
        node bytea, number bigint, grp bytea NOT NULL, flags smallint NOT NULL, snapshot_index bigint NOT NULL,
        first bigint NOT NULL, entries integer NOT NULL, form smallint NOT NULL, digest bytea NOT NULL,
        contents_digest bytea NOT NULL, contents bytea NOT NULL, PRIMARY KEY (node, number))""",
    # What is in it is small, or compressed already.
    "ALTER TABLE swarm_journal.records ALTER COLUMN contents SET STORAGE EXTERNAL",
)
_FROM_1: Final = (
    "ALTER TABLE swarm_journal.groups ADD COLUMN IF NOT EXISTS left_term bigint NOT NULL DEFAULT 0",
    "ALTER TABLE swarm_journal.groups ADD COLUMN IF NOT EXISTS left_index bigint NOT NULL DEFAULT 0",
    "UPDATE swarm_journal.about SET version = 2",
)
"""What version 1 did not have: where the log ended that a node gave up when it left a group."""
_HEAD = Struct("<16sQBQQIB8s")
_RECORDS: Final = """SELECT number, grp, flags, snapshot_index, first, entries, form, digest, contents_digest, contents
    FROM swarm_journal.records WHERE node = %b ORDER BY number"""
_RECORDS_OF: Final = """SELECT number, grp, flags, snapshot_index, first, entries, form, digest, contents_digest, contents
    FROM swarm_journal.records WHERE node = %b AND grp = ANY(%b) ORDER BY number"""
_AT_ONCE: Final = 64 if pq.version() >= 170000 else 1
"""Rows that are fetched together, where the library knows how to."""


def make(database: Database, create: bool) -> bool:
    """Makes the tables where there are none, if that is wanted; whether there are any. JournalRefused when there are others, or
    later ones."""
    try:
        found = version_of(database)
        if found is None and not create:
            return False
        if found is None:
            with database.connection.transaction():
                database.connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKE_LOCK,))
                for statement in _MAKE:
                    database.connection.execute(statement)
                database.connection.execute(
                    "INSERT INTO swarm_journal.about (version) VALUES (%s) ON CONFLICT DO NOTHING", (VERSION,)
                )
            found = version_of(database)
        if found is not None and found < VERSION:
            with database.connection.transaction():
                database.connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKE_LOCK,))
                for statement in _FROM_1:
                    database.connection.execute(statement)
    except psycopg.Error as error:
        raise refused(error, database) from None
    if found is None or found > VERSION:
        raise JournalRefused(
            Reason.NEWER,
            "the journals in the database were written by a later version of this software",
            hint="install that version again, or give this node a database of its own",
        )
    return True


def version_of(database: Database) -> int | None:
    """Of the tables; None if there are none. JournalRefused if there are others of their name."""
    row = database.one(
        "SELECT to_regnamespace('swarm_journal') IS NOT NULL, to_regclass('swarm_journal.about') IS NOT NULL"
    )
    assert row is not None
    if not row[1]:
        if row[0] and database.one(
            "SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace('swarm_journal') LIMIT 1"
        ):
            raise JournalRefused(
                Reason.FOREIGN,
                "the schema swarm_journal of the database is something else",
                hint="choose another database",
            )
        return None
    found = database.one("SELECT version FROM swarm_journal.about")
    return None if found is None else int(found[0])


def refused(error: psycopg.Error, database: Database) -> JournalRefused:
    """What a start says of an error of the database."""
    state = error.sqlstate or ""
    if state.startswith("53"):
        return JournalRefused(
            Reason.NO_SPACE, f"the database has no space for the journal: {said(error)}", hint="free some there"
        )
    if state in ("42501", "25006"):
        return JournalRefused(
            Reason.READ_ONLY,
            f"the journal can not be written: {said(error)}",
            hint="GRANT CREATE ON DATABASE … TO the user in ledger.journal_url, or have its owner make the schema swarm_journal",
        )
    return JournalRefused(
        Reason.AWAY, f"the database of the journal fails: {said(error)}", hint=f"see whether {database.where} is well"
    )


@dataclass(slots=True)
class NodeRow:
    """What the table of nodes says of one."""

    node: bytes
    fleet: bytes
    journal: bytes
    session: bytes
    commit: int
    groups: int
    records: int
    bytes: int


_NODES: Final = "SELECT node, fleet, journal, session, commit, groups, records, bytes FROM swarm_journal.nodes"


def nodes_of(database: Database) -> list[NodeRow]:
    """All that have a journal in a database."""
    rows = database.connection.execute(f"{_NODES} ORDER BY node", binary=True)
    return [NodeRow(*row) for row in rows]


def node_row(database: Database, node: bytes) -> NodeRow | None:
    """Of one."""
    row = database.one(f"{_NODES} WHERE node = %b", (node,))
    return None if row is None else NodeRow(*row)


def check_owner(row: NodeRow, id: JournalId) -> None:
    """JournalRefused if a node's rows are of another fleet."""
    if row.fleet != id.key[0]:
        raise JournalRefused(
            Reason.FOREIGN,
            "the journal of this node in the database belongs to another fleet",
            hint="give the node an identity of its own, or a database of its own",
        )


def group_digest(node: bytes, group: bytes, vote: Vote, damaged: bool) -> bytes:
    """The checksum of a group's row."""
    head = b"%d %d %d " % (vote.term, vote.candidate is not None, damaged)
    if vote.left != (0, 0):  # as the first version had it otherwise
        head += b"%d %d " % vote.left
    return check(head + node + bytes((len(group),)) + group + (vote.candidate or b""))


def record_digest(node: bytes, number: int, row: Row) -> bytes:
    """The checksum of what a record says, but for its contents, of which `row.check` is one."""
    return check(
        _HEAD.pack(node, number, row.flags, row.snapshot_index, row.first, row.entry_count, row.form, row.check)
        + row.group
    )


@dataclass(slots=True)
class Found:
    """What was found of a node."""

    tracks: dict[bytes, Track] = field(default_factory=dict)
    voted: set[bytes] = field(default_factory=set)
    """Groups that have a row of their own."""
    sizes: dict[int, int] = field(default_factory=dict)
    """Of records, by their numbers; what each takes, in bytes."""
    rotten: dict[bytes, int] = field(default_factory=dict)
    """Records whose contents have rotted, by their groups."""
    lost: int = 0
    """Records of which nothing can be told, or that are gone."""
    votes_lost: bool = False
    """A vote may be gone."""
    damaged: list[bytes] = field(default_factory=list)
    """Groups whose damage is found for the first time."""

    @property
    def whole(self) -> bool:
        """Nothing has rotted."""
        return not (self.rotten or self.lost or self.votes_lost)


ROW_COST: Final = 128
"""What a record takes beside its contents."""


def examine(database: Database, node: bytes, expected: NodeRow | None, only: list[bytes] | None = None) -> Found:
    """What is there of a node, or of some of its groups; contents are at hand. `expected`: its row, which says how much there is."""
    found = Found()
    for group, term, candidate, left_term, left_index, damaged, digest in _rows(
        database,
        "SELECT grp, term, candidate, left_term, left_index, damaged, digest FROM swarm_journal.groups WHERE node = %b ORDER BY grp",
        (node,),
    ):
        vote = Vote(term, candidate, (left_term, left_index))
        found.voted.add(group)
        if digest != group_digest(node, group, vote, damaged):
            found.votes_lost = True
        if only is None or group in only:
            found.tracks[group] = Track(group, vote, damaged=damaged)
    for number, group, flags, index, first, count, form, digest, contents_digest, contents in _rows(
        database, _RECORDS if only is None else _RECORDS_OF, (node,) if only is None else (node, only)
    ):
        found.sizes[number] = len(contents) + ROW_COST
        snapshot_bytes = len(contents) if flags & Flag.SNAPSHOT else 0
        row = Row(
            group, None, flags, index, first, count, snapshot_bytes, len(contents) - snapshot_bytes, form, contents_digest
        )  # fmt: skip
        if digest != record_digest(node, number, row):
            found.lost += 1
            for track in found.tracks.values():
                track.forget_rest()
            continue
        track = found.tracks.setdefault(group, Track(group, unknown=bool(found.lost)))
        rotten = check(contents) != contents_digest
        if rotten:
            found.rotten[group] = found.rotten.get(group, 0) + 1
        track.apply(row, Where(0, number, 0), None if rotten else contents, lost=rotten)
    if expected is not None:
        found.votes_lost = found.votes_lost or len(found.voted) != expected.groups
        missing = expected.records - len(found.sizes)
        if missing:  # or there are more than there should be: it is not what was written
            found.lost += abs(missing)
            for track in found.tracks.values():
                track.forget_rest()
    for group, track in sorted(found.tracks.items()):
        if not track.whole:
            found.damaged.append(group)
            track.cut()
    return found


def _rows(database: Database, query: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """One after the other: a journal may be larger than what a driver should have at once."""
    with database.connection.cursor(binary=True) as cursor:
        yield from cursor.stream(query, arguments, size=_AT_ONCE)
