"""Where a journal may be, with what can happen to it there: files of its own, a database."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from nodes.journal.errors import JournalRefused
from nodes.journal.files import File, RealFiles
from nodes.journal.format import JournalId
from nodes.journal.interface import AnyJournal
from nodes.journal.journal import Journal
from tests.postgres import Cluster
from tests.unit.journal.model import ID, SMALL

GROUP = b"g" * 16


class Place(Protocol):
    """A place for one journal."""

    name: str
    patience_s: float
    """How long opening it waits for a server, or for a lock, where it does."""
    opens: str
    """Python that opens it as `journal`, in a process of its own."""

    def open(self, id: JournalId = ID, *, create: bool = True) -> AnyJournal:
        """A process opens it."""

    def image(self) -> object:
        """All that is there, to be compared."""

    def rot(self) -> None:
        """A bit flips in entries of GROUP that are synced, of which others come before."""

    def cut(self) -> None:
        """The last of what was synced is gone."""

    def lose_votes(self) -> None:
        """Votes are gone, from wherever they were kept."""

    def later(self) -> None:
        """It is of a later version."""

    def fill(self, full: bool) -> None:
        """There is no space at all; or there is some again. While it is open."""

    def remove(self) -> None:
        """Nothing of it is there any more."""


class Filling:
    """Real files on a disk that others may fill."""

    def __init__(self, files: RealFiles, place: FilesPlace) -> None:
        self._files, self._place = files, place

    def __getattr__(self, name: str) -> object:
        return getattr(self._files, name)

    def create(self, name: str, size: int) -> File:
        if self._place.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._files.create(name, size)


class FilesPlace:
    """A directory."""

    name = "files"

    def __init__(self, root: Path) -> None:
        self.directory = root / "journal"
        self.patience_s = 0.0
        self.full = False
        self.opens = (
            "from pathlib import Path; from tests.unit.journal.test_files import opened; "
            f"journal = opened(Path({str(self.directory)!r}))"
        )

    def open(self, id: JournalId = ID, *, create: bool = True) -> AnyJournal:
        return Journal.open(Filling(RealFiles(self.directory), self), id, SMALL, create=create)  # type: ignore[arg-type]

    def image(self) -> object:
        if not self.directory.exists():
            return {}
        return {path.name: path.read_bytes() for path in sorted(self.directory.iterdir()) if path.name != "lock"}

    def _last(self) -> Path:
        return sorted(self.directory.glob("segment-*"))[-1]

    def rot(self) -> None:
        path = sorted(self.directory.glob("segment-*"))[0]
        data = bytearray(path.read_bytes())
        data[8192 * 4 + 300] ^= 1
        path.write_bytes(data)

    def cut(self) -> None:
        os.truncate(self._last(), 8192 * 2)

    def lose_votes(self) -> None:
        for path in self.directory.glob("state-*"):
            path.unlink()

    def later(self) -> None:
        import nodes.journal.state
        from nodes.journal.state import State

        nodes.journal.state.VERSION += 1
        try:
            for name in ("state-a", "state-b"):
                (self.directory / name).write_bytes(State(*ID.key, 99).pack())
        finally:
            nodes.journal.state.VERSION -= 1

    def fill(self, full: bool) -> None:
        self.full = full

    def remove(self) -> None:
        for path in self.directory.iterdir():
            path.unlink()


_FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON swarm_journal.records FOR EACH ROW EXECUTE FUNCTION full_disk();
CREATE FUNCTION full_room() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE EVENT TRIGGER full_room ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION full_room();
"""
_SPACE = "DROP EVENT TRIGGER full_room; DROP FUNCTION full_room; DROP FUNCTION full_disk CASCADE;"


class PostgresPlace:
    """A database of a real server."""

    name = "postgres"

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.patience_s = 30.0
        self.directory = root / "journal"
        self.url = cluster.database()
        self.opens = (
            "from pathlib import Path; from nodes.journal.postgres.journal import PostgresJournal; "
            "from tests.unit.journal.model import ID, SMALL; "
            f"journal = PostgresJournal.open({self.url!r}, ID, Path({str(self.directory)!r}), SMALL.bytes_max)"
        )

    def open(self, id: JournalId = ID, *, create: bool = True) -> AnyJournal:
        from nodes.journal.postgres.journal import PostgresJournal

        return PostgresJournal.open(
            self.url,
            id,
            self.directory,
            SMALL.bytes_max,
            create=create,
            within_s=self.patience_s,
            lock_s=self.patience_s,
        )

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """As the database's owner."""
        return self.cluster.execute(statement, self.url)

    def image(self) -> object:
        if self.sql("SELECT to_regclass('swarm_journal.nodes')") == [(None,)]:
            return []
        return [
            self.sql(f"SELECT * FROM swarm_journal.{table} ORDER BY 1, 2")
            for table in ("about", "nodes", "groups", "records")
        ]

    def rot(self) -> None:
        self.rot_first(3)

    def rot_first(self, after: int = 0) -> None:
        """Of the first record after some."""
        self.sql(
            "UPDATE swarm_journal.records SET contents = set_bit(contents, 100, 1 - get_bit(contents, 100)) WHERE number = "
            f"(SELECT number FROM swarm_journal.records ORDER BY number OFFSET {after} LIMIT 1)"
        )

    def cut(self) -> None:
        self.sql("DELETE FROM swarm_journal.records WHERE number = (SELECT max(number) FROM swarm_journal.records)")

    def lose_votes(self) -> None:
        self.sql("DELETE FROM swarm_journal.groups")

    def later(self) -> None:
        self.sql("UPDATE swarm_journal.about SET version = version + 1")

    def fill(self, full: bool) -> None:
        self.sql(_FULL if full else _SPACE)

    def remove(self) -> None:
        self.sql("DELETE FROM swarm_journal.nodes")


def reason_of(place: Place, id: JournalId = ID, *, create: bool = True) -> JournalRefused:
    """It is not opened, and nothing in it is changed."""
    before = place.image()
    try:
        place.open(id, create=create).close()
    except JournalRefused as error:
        assert error.hint and place.image() == before
        return error
    raise AssertionError("it was opened")
