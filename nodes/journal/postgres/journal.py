"""The journal in PostgreSQL: a commit is one transaction, and what no record needs any more goes in the same one."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.format import JournalId
from nodes.journal.postgres.books import Books, Plan, numbers, together
from nodes.journal.postgres.database import AGAIN_S, LOCK_S, START_S, Database, Fence, Gone, NoSpace, said
from nodes.journal.postgres.schema import (
    Found,
    NodeRow,
    check_owner,
    examine,
    group_digest,
    make,
    node_row,
    record_digest,
    refused,
)
from nodes.journal.postgres.witness import Witness
from nodes.journal.survey import no_collection
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Recovered, Snapshot

TRIES_MAX: Final = 5
"""Times that one commit is tried: each after a new connection, or a conflict that the database found."""
PROBE_BYTES: Final = 1 << 20
_GROUP: Final = """INSERT INTO swarm_journal.groups (node, grp, term, candidate, left_term, left_index, damaged, digest)
    VALUES (%b, %b, %b, %b, %b, %b, %b, %b)
    ON CONFLICT (node, grp) DO UPDATE
    SET term = excluded.term, candidate = excluded.candidate, left_term = excluded.left_term, left_index = excluded.left_index,
        damaged = excluded.damaged, digest = excluded.digest"""
_RECORD: Final = """INSERT INTO swarm_journal.records
    (node, number, grp, flags, snapshot_index, first, entries, form, digest, contents_digest, contents)
    VALUES (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)"""
_REMOVE: Final = "DELETE FROM swarm_journal.records WHERE node = %b AND number = ANY(%b)"
_FENCE: Final = """UPDATE swarm_journal.nodes SET commit = %b, groups = %b, records = %b, bytes = %b
    WHERE node = %b AND session = %b AND commit = %b"""
_TAKE: Final = (
    "UPDATE swarm_journal.nodes SET session = %b, opened = now() WHERE node = %b AND session = %b AND commit = %b"
)
_MAKE: Final = """INSERT INTO swarm_journal.nodes (node, fleet, journal, session, commit, groups, records, bytes)
    VALUES (%b, %b, %b, %b, 0, 0, 0, 0)"""
_VACUUM: Final = ("VACUUM swarm_journal.records", "VACUUM swarm_journal.groups", "VACUUM swarm_journal.nodes")


class PostgresJournal:
    """Made by `open`. As `nodes.journal.journal.Journal` otherwise."""

    def __init__(self, database: Database, id: JournalId, directory: Path | None, bytes_max: int, row: NodeRow) -> None:
        self.id = id
        self.full = False
        self.damaged_at_start: tuple[bytes, ...] = ()
        self.torn_at_start = False
        self.again_s = AGAIN_S
        self._database = database
        self._directory = directory
        self._row = row
        self._witness = Witness(id.key[0].hex(), id.node.hex(), row.journal.hex(), row.commit, database.where)
        self._books = Books(bytes_max)
        self._voted: set[bytes] = set()
        """Groups that have a row of their own."""
        self._recovered: Mapping[bytes, Recovered] = {}

    # Opening.

    @classmethod
    def open(
        cls,
        url: str,
        id: JournalId,
        directory: Path | None,
        bytes_max: int,
        *,
        create: bool = True,
        within_s: float = START_S,
        lock_s: float = LOCK_S,
        waiting: Callable[[str], None] | None = None,
    ) -> PostgresJournal:
        """Opens a node's journal in a database, or makes one where there is none. `directory` is the node's own; None: there
        is nothing of the node's here.

        What is found is on the disk for certain when this returns. JournalRefused when it is not this node's, or cannot be
        judged: then nothing was changed.
        """
        witness = None if directory is None else Witness.read(directory)
        if witness is not None and witness.node != id.node.hex():
            raise JournalRefused(
                Reason.OTHER_NODE,
                f"the journal belongs to another node ({witness.node})",
                hint="was the directory copied? Each node needs an identity and a journal of its own",
            )
        database = Database.reach(url, id, within_s, lock_s, waiting)
        try:
            return cls._opened(database, id, directory, bytes_max, witness, create)
        except psycopg.Error as error:
            database.close()
            raise refused(error, database) from None
        except (NoSpace, Gone) as error:
            database.close()
            raise JournalRefused(
                Reason.NO_SPACE if isinstance(error, NoSpace) else Reason.AWAY,
                f"the database of the journal fails: {error}",
                hint=f"see whether {database.where} is well",
            ) from None
        except BaseException:
            database.close()
            raise

    @classmethod
    def _opened(
        cls,
        database: Database,
        id: JournalId,
        directory: Path | None,
        bytes_max: int,
        witness: Witness | None,
        create: bool,
    ) -> PostgresJournal:
        fleet, node = id.key
        create = create and witness is None
        row = node_row(database, node) if make(database, create) else None
        if row is None:
            if not create:
                raise JournalRefused(
                    Reason.MISSING,
                    f"there is no journal of this node in {database.where}",
                    hint="is it the right database? A node that has lost its journal needs a new identity",
                )
            row = NodeRow(node, fleet, os.urandom(16), os.urandom(16), 0, 0, 0, 0)
            database.connection.execute(_MAKE, (node, fleet, row.journal, row.session))
        check_owner(row, id)
        if witness is not None and (witness.journal != row.journal.hex() or witness.commit > row.commit):
            raise JournalRefused(
                Reason.LOST,
                f"the journal in {database.where} is not as this node left it: it is another one, or of an earlier time",
                hint="was it restored from a backup? The node's votes may be lost: it needs a new identity",
            )
        with no_collection():
            found = examine(database, node, row)
            if found.votes_lost:
                raise JournalRefused(
                    Reason.LOST,
                    "votes of this node in the database are gone, or have been changed",
                    hint="the node needs a new identity: what it promised is not known any more",
                )
            made = cls(database, id, directory, bytes_max, row)
            made._take_over(found)
        return made

    def _take_over(self, found: Found) -> None:
        """From here on it is this process's. By this commit all that was found is on the disk, if it was not yet."""
        row, new = self._row, os.urandom(16)
        self._database.transact(
            lambda connection: connection.execute(_TAKE, (new, self.id.node, row.session, row.commit))
        )
        row.session = new
        self._voted = set(found.voted)
        self.damaged_at_start = tuple(found.damaged)
        self._recovered = self._books.take(found)
        if found.damaged or found.lost:
            # What stands is written anew: what hid the rest of a record may itself be lost.
            plan = Plan(removed=list(found.sizes), votes=set(found.tracks))
            self._books.forget(plan.removed)
            for group, recovered in self._recovered.items():
                self._books.anew(plan, group, recovered)
            self._run(plan)
        self._note()

    def take_recovered(self) -> Mapping[bytes, Recovered]:
        """What was found of each group; it is not kept."""
        recovered, self._recovered = self._recovered, {}
        return recovered

    # Writing.

    def commit(self, writes: Sequence[Write]) -> dict[bytes, Recovered]:
        """Writes all of it in one transaction. As `Journal.commit`."""
        left = together(writes)
        again: dict[bytes, Recovered] = {}
        for needy in (_has_entries, _has_more_than_a_vote, None):
            if not left:
                return again
            plan = self._books.plan(left)
            try:
                if self._books.over and plan.has_entries:
                    raise NoSpace("the journal has reached its bound")
                self._run(plan)
                return again
            except NoSpace as error:
                found = self._reload(plan)
                if needy is None:
                    raise OSError(errno.ENOSPC, f"the database has no space for a vote: {error}") from None
            self.full = True
            groups = {write.group for write in left if needy(write)}
            again |= {group: found[group] for group in sorted(groups)}
            left = [write for write in left if write.group not in groups]
        return again

    def _run(self, plan: Plan) -> None:
        """Has the database do it. NoSpace: it did nothing. OSError: it is not known, or another process was faster."""
        node, row, books = self.id.node, self._row, self._books
        voted = self._voted | plan.votes
        state = (row.commit + 1, len(voted), len(books.sizes), books.bytes, node, row.session, row.commit)
        votes: list[tuple[Any, ...]] = []
        for group in sorted(plan.votes):
            track = books.tracks[group]
            digest = group_digest(node, group, track.vote, track.damaged)
            votes.append((node, group, track.vote.term, track.vote.candidate, *track.vote.left, track.damaged, digest))
        records: list[tuple[Any, ...]] = [
            (node, number, each.group, each.flags, each.snapshot_index, each.first, each.entry_count, each.form,
             record_digest(node, number, each), each.check, contents)
            for number, (each, contents) in plan.records.items()
        ]  # fmt: skip

        def queue(connection: psycopg.Connection[tuple[Any, ...]]) -> Fence:
            fence = connection.execute(_FENCE, state, prepare=True)
            for vote in votes:
                connection.execute(_GROUP, vote, prepare=True)
            if plan.removed:
                connection.execute(_REMOVE, (node, plan.removed))
            for record in records:
                connection.execute(_RECORD, record, prepare=True)
            return fence

        for tried in range(1, TRIES_MAX + 1):
            try:
                self._database.transact(queue)
                break
            except Gone as error:
                if tried == TRIES_MAX:
                    raise OSError(errno.EIO, f"the database at {self._database.where} fails: {error}") from None
                self._connect_again()
        row.commit += 1
        self._voted = voted

    def _connect_again(self) -> None:
        """Nothing was in doubt. OSError if there is no connection for too long, or the journal is another process's by now."""
        old = self._database
        if not old.lost:
            return
        old.close()
        deadline = time.monotonic() + self.again_s
        while True:
            try:
                left_s = max(0.0, deadline - time.monotonic())
                self._database = Database.reach(old.url, self.id, left_s, left_s)
                found = node_row(self._database, self.id.node)
                break
            except JournalRefused as error:
                raise OSError(errno.EIO, str(error)) from None
            except psycopg.Error as error:
                self._database.close()
                if time.monotonic() > deadline:
                    raise OSError(errno.EIO, f"the database at {old.where} fails: {said(error)}") from None
                time.sleep(0.2)
        if found is None or (found.session, found.commit) != (self._row.session, self._row.commit):
            raise OSError(errno.EIO, f"the journal in {old.where} is not as this process left it")

    def _reload(self, plan: Plan) -> dict[bytes, Recovered]:
        """After a transaction that was given up: its groups are as the database has them. What has rotted of them is marked."""
        groups = sorted(plan.touched)
        found = self._examined(groups)
        self._books.forget(plan.records)
        recovered = self._books.take(found, groups)
        for group in found.damaged:
            self._mark(group, recovered)
        return recovered

    def _examined(self, groups: list[bytes]) -> Found:
        for tried in range(1, TRIES_MAX + 1):
            try:
                found = examine(self._database, self.id.node, None, groups)
                break
            except psycopg.Error as error:
                if tried == TRIES_MAX or not self._database.lost:
                    raise OSError(errno.EIO, f"the database at {self._database.where} fails: {said(error)}") from None
                self._connect_again()
        if found.lost or found.votes_lost:
            raise OSError(errno.EIO, f"rows of the journal in {self._database.where} have been changed")
        return found

    def _mark(self, group: bytes, recovered: dict[bytes, Recovered]) -> None:
        """A group's log begins anew, marked as damaged, with what can be read of it; or, without space, with nothing."""
        for kept in (recovered[group], Recovered(recovered[group].vote, Snapshot(), (), True)):
            found = self._examined([group])
            self._books.forget(numbers(self._books.tracks[group]))
            plan = Plan(removed=list(found.sizes), votes={group})
            self._books.forget(plan.removed)
            self._books.anew(plan, group, kept)
            try:
                self._run(plan)
                recovered[group] = kept
                return
            except NoSpace:
                self._books.forget(plan.records)
        raise OSError(errno.ENOSPC, "no space for the mark of damage")

    def settle(self) -> dict[bytes, Recovered]:
        """Nothing waits here."""
        return {}

    def idle(self) -> dict[bytes, Recovered]:
        """Notes what the database has, so that an earlier state of it is known for what it is."""
        if self._witness.commit != self._row.commit:
            self._note()
        return {}

    def _note(self) -> None:
        self._witness.commit = self._row.commit
        if self._directory is not None:
            self._witness.write(self._directory)

    def try_again(self) -> bool:
        """Whether there is space again: the database is asked for some, which is given back at once."""
        books = self._books
        if books.bytes > books.bytes_max - books.bytes_max // 32:
            return False
        connection = self._database.connection
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("CREATE UNLOGGED TABLE swarm_journal.room (room bytea)")
                connection.execute("ALTER TABLE swarm_journal.room ALTER COLUMN room SET STORAGE EXTERNAL")
                connection.execute("INSERT INTO swarm_journal.room VALUES (%b)", (bytes(PROBE_BYTES),))
        except psycopg.Error as error:
            if self._database.lost:
                self._connect_again()
                return False
            if (error.sqlstate or "").startswith("53"):
                return False
            # It may not be asked so: the next entries will show.
        self.full = False
        return True

    def compact(self) -> None:
        """Writes all that is needed anew, in few records, and has the database use the space of the rest again."""
        plan = Plan(removed=list(self._books.sizes))
        kept = {group: self.read(group) for group in self.groups}
        self._books.forget(plan.removed)
        for group, recovered in kept.items():
            self._books.anew(plan, group, recovered)
        self._run(plan)
        for statement in _VACUUM:
            self._database.connection.execute(statement)

    # Room.

    def promise(self, size: int) -> int:
        """Promises room for so many bytes, within the journal's bound; what the database's disk has is not known here. Of any
        thread."""
        return 0 if self.full else self._books.promise(size)

    def give_back(self, cost: int) -> None:
        """Of any thread."""
        self._books.give_back(cost)

    # Looking.

    def read(self, group: bytes) -> Recovered:
        """What is on disk of a group."""
        track = self._examined([group]).tracks.get(group)
        return Recovered() if track is None else track.recovered()

    @property
    def groups(self) -> list[bytes]:
        """Of which something is on disk, sorted."""
        return sorted(self._books.tracks)

    @property
    def bytes(self) -> int:
        """That the rows of this node have in them."""
        return self._books.bytes

    @property
    def where(self) -> str:
        """The database, for people; without secrets."""
        return self._database.where

    def close(self) -> None:
        """Notes what the database has, and lets others open it."""
        try:
            self.idle()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Lets it be as it is."""
        self._database.close()


def _has_entries(write: Write) -> bool:
    return len(write.entries) > 0


def _has_more_than_a_vote(write: Write) -> bool:
    return write.snapshot is not None or write.reset or write.repaired
