"""The journal by itself: appends with group commit, beside SQLite and bare files in the same run; recovery. The journal in
PostgreSQL, too, where that is installed: in a server of its own on the same disk, over its Unix socket.

Part of ``python -m benchmarks.ledger``; alone: ``python -m benchmarks.journal [--json] [--directory DIR]``. What is measured is the
disk of DIR as much as the journal, so all take turns, and each is shown with the bare write and sync of the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from nodes.journal.files import RealFiles
from nodes.journal.format import JournalId, pack_entries
from nodes.journal.interface import AnyJournal
from nodes.journal.journal import Journal, JournalConfig
from nodes.journal.writer import JournalWriter
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Recovered, Snapshot, Vote
from tests.postgres import Cluster, programs

ID = JournalId(b"fleet", b"n" * 16)
GROUP = b"g" * 16
ENTRY_BYTES = 256
SIZES = (1, 16, 256, 1024)
LARGE = JournalConfig(bytes_max=4 << 30)


def write_of(first: int, entries: list[Entry]) -> Write:
    """What a leader's turn has written; now and then a snapshot stands for what came long before."""
    snapshot = None
    if first > 200_000 and first % 65536 < len(entries):
        snapshot = Snapshot(first - 100_000, 1)
    return Write(GROUP, Vote(1, None) if first == 1 else None, snapshot, False, False, first, entries)


class Ours:
    """The journal, called directly: encoding, one write, one sync."""

    name = "journal"

    def __init__(self, directory: Path) -> None:
        self.journal = Journal.open(RealFiles(directory), ID, LARGE)
        self.first = 1

    def commit(self, entries: list[Entry]) -> None:
        assert not self.journal.commit([write_of(self.first, entries)])
        self.first += len(entries)

    def close(self) -> None:
        self.journal.close()


class Sqlite:
    """SQLite in WAL mode with synchronous=FULL, a row an entry, a transaction a commit."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.connection = sqlite3.connect(directory / "log.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute(
            "CREATE TABLE log (grp BLOB, idx INTEGER, term INTEGER, kind INTEGER, data BLOB, PRIMARY KEY (grp, idx)) WITHOUT ROWID"
        )
        self.first = 1

    def commit(self, entries: list[Entry]) -> None:
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
            [(GROUP, at, *entry) for at, entry in enumerate(entries, self.first)],
        )
        self.connection.execute("COMMIT")
        self.first += len(entries)

    def close(self) -> None:
        self.connection.close()


class Postgres:
    """The journal in PostgreSQL: a transaction a commit, on the disk of a server with its usual settings."""

    name = "postgres"

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        from nodes.journal.postgres.journal import PostgresJournal

        self.journal = PostgresJournal.open(cluster.database(), ID, directory, LARGE.bytes_max)
        self.first = 1

    def commit(self, entries: list[Entry]) -> None:
        assert not self.journal.commit([write_of(self.first, entries)])
        self.first += len(entries)

    def close(self) -> None:
        self.journal.close()


class Bare:
    """The same bytes, written to a preallocated file and synced: what the disk does, at best."""

    name = "bare"

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.descriptor = os.open(directory / "log", os.O_RDWR | os.O_CREAT)
        self.size = 64 << 20
        os.posix_fallocate(self.descriptor, 0, self.size)
        os.fsync(self.descriptor)
        self.at = 0

    def commit(self, entries: list[Entry]) -> None:
        data = bytes(-(-len(entries) * (ENTRY_BYTES + 4) // 4096) * 4096)
        if self.at + len(data) > self.size:
            self.at = 0
        os.pwrite(self.descriptor, data, self.at)
        os.fdatasync(self.descriptor)
        self.at += len(data)

    def close(self) -> None:
        os.close(self.descriptor)


def appends(
    directory: Path, a_commit: int, cluster: Cluster | None, rounds: int = 5, for_s: float = 0.4
) -> dict[str, Any]:
    """Entries a second of all, in turns; of each the median round."""
    entries = [Entry(1, 1, os.urandom(ENTRY_BYTES)) for _ in range(a_commit)]
    stores: list[Ours | Sqlite | Bare | Postgres] = [
        kind(directory / f"{kind.name}-{a_commit}") for kind in (Ours, Sqlite, Bare)
    ]
    if cluster is not None:
        stores.append(Postgres(directory / f"postgres-{a_commit}", cluster))
    rates: dict[str, list[float]] = {store.name: [] for store in stores}
    waits: dict[str, list[float]] = {store.name: [] for store in stores}
    cpu = 0.0
    commits = 0
    for _ in range(rounds):
        for store in stores:
            began, cpu_began, count = time.perf_counter(), time.process_time(), 0
            while (now := time.perf_counter()) - began < for_s:
                store.commit(entries)
                waits[store.name].append(time.perf_counter() - now)
                count += 1
            rates[store.name].append(count * a_commit / (time.perf_counter() - began))
            if store.name == "journal":
                cpu += time.process_time() - cpu_began
                commits += count
    for store in stores:
        store.close()
    figures: dict[str, Any] = {name: median(each) for name, each in rates.items()}
    figures["p50_ms"] = {name: 1000 * median(each) for name, each in waits.items()}
    figures["cpu_us_a_commit"] = 1e6 * cpu / commits
    return figures


def threaded(
    make: Callable[[], AnyJournal], a_turn: int, for_s: float = 2.0, turns_waiting: int = 64
) -> dict[str, float]:
    """Entries a second through the thread as a node has it: turns follow each other while up to `turns_waiting` wait."""

    async def go() -> dict[str, float]:
        loop = asyncio.get_running_loop()
        done = 0
        room = asyncio.Semaphore(turns_waiting)

        def synced(number: int, again: Mapping[bytes, Recovered]) -> None:
            nonlocal done
            assert not again
            for _ in range(number - done):
                room.release()
            done = number

        writer = JournalWriter(make(), loop, synced, lambda full: None)
        entries = [Entry(1, 1, os.urandom(ENTRY_BYTES)) for _ in range(a_turn)]
        first, number, began = 1, 0, time.perf_counter()
        while time.perf_counter() - began < for_s:
            await room.acquire()
            number += 1
            writer.submit(number, [write_of(first, entries)])
            first += a_turn
        commits = writer.commits
        await writer.close()
        took_s = time.perf_counter() - began
        return {"per_s": number * a_turn / took_s, "entries_a_commit": number * a_turn / max(1, commits)}

    return asyncio.run(go())


def recovery(make: Callable[[], AnyJournal], count: int = 1_000_000) -> dict[str, float]:
    """Seconds until all of it is at hand: `count` entries of one group; the pages are in the system's cache."""
    entries = [Entry(1, 1, os.urandom(ENTRY_BYTES)) for _ in range(1000)]
    journal = make()
    for first in range(1, count, 1000):
        vote = Vote(1, None) if first == 1 else None
        journal.commit([Write(GROUP, vote, None, False, False, first, entries)])
    journal.close()
    found: list[float] = []
    cpu: list[float] = []
    for _ in range(3):
        gc.collect()
        began, cpu_began = time.perf_counter(), time.process_time()
        journal = make()
        recovered = journal.take_recovered()[GROUP]
        found.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
        assert len(recovered.entries) == count and not recovered.damaged
        journal.close()
        del recovered, journal
    return {
        "entries": count,
        "s": median(found),
        "cpu_s": median(cpu),
        "bytes": count * pack_entries(entries)[1] / 1000,
    }


def measure(directory: Path | None = None) -> dict[str, Any]:
    """All figures, on the disk of a directory (here, if none is named)."""
    with (
        tempfile.TemporaryDirectory(prefix="journal-", dir=directory or Path.cwd()) as name,
        _server(directory) as cluster,
    ):
        where = Path(name)
        figures: dict[str, Any] = {"appends_per_s": {}, "threaded": {}}
        for a_commit in SIZES:
            figures["appends_per_s"][str(a_commit)] = appends(where, a_commit, cluster)
            _clear(where)
        places: dict[str, Callable[[str], AnyJournal]] = {
            "": lambda name: Journal.open(RealFiles(where / name), ID, LARGE)
        }
        if cluster is not None:
            places["postgres_"] = _in(cluster, where)
        for kind, opens in places.items():
            rows = figures.setdefault(f"{kind}threaded", {})
            for a_turn in (1, 16):
                rows[str(a_turn)] = threaded(lambda: opens("threaded"), a_turn)
                _clear(where)
            figures[f"{kind}recovery"] = recovery(lambda: opens("recovery"))
            _clear(where)
    return figures


@contextlib.contextmanager
def _server(directory: Path | None) -> Iterator[Cluster | None]:
    """A PostgreSQL of this run's own on the same disk; None where there is none to be had."""
    bin = programs()
    try:
        cluster = None if bin is None else Cluster(bin, directory or Path.cwd())
    except (AssertionError, OSError):  # its user may not come to the directory
        cluster = None
    try:
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()


def _in(cluster: Cluster, directory: Path) -> Callable[[str], AnyJournal]:
    """Journals in its databases: one for each name, as long as the directory has that."""

    def opens(name: str) -> AnyJournal:
        from nodes.journal.postgres.journal import PostgresJournal

        if not (directory / name).exists():
            urls[name] = cluster.database()
        return PostgresJournal.open(urls[name], ID, directory / name, LARGE.bytes_max)

    urls: dict[str, str] = {}
    return opens


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path)


def show(figures: dict[str, Any], say: Callable[[str], None] = print) -> None:
    """For people."""
    for a_commit, row in figures["appends_per_s"].items():
        p50 = row["p50_ms"]
        database = (
            f", journal in PostgreSQL {row['postgres']:,.0f} ({p50['postgres']:.2f} ms)" if "postgres" in row else ""
        )
        say(
            f"journal, {a_commit:>4} entries of {ENTRY_BYTES} B a commit   {row['journal']:10,.0f} appends/s   p50 {p50['journal']:.2f} ms, "
            f"{row['cpu_us_a_commit']:.0f} us of CPU; SQLite WAL FULL {row['sqlite']:,.0f} ({p50['sqlite']:.2f} ms), "
            f"bare write and fdatasync {row['bare']:,.0f} ({p50['bare']:.2f} ms){database}"
        )
    for kind, what in (("", "journal"), ("postgres_", "journal in PostgreSQL")):
        for a_turn, row in figures.get(f"{kind}threaded", {}).items():
            say(
                f"{what}, in its thread, {a_turn:>2} a turn, 64 turns waiting {row['per_s']:10,.0f} appends/s, "
                f"{row['entries_a_commit']:.0f} entries a commit"
            )
        found = figures.get(f"{kind}recovery")
        if found is not None:
            say(
                f"{what}, recovery of {found['entries']:,} entries   {found['s']:.2f} s ({found['cpu_s']:.2f} s of CPU)"
            )
    if "postgres_recovery" not in figures:
        say("journal in PostgreSQL   not measured: it is not installed, or its user may not come to this directory")


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--directory", type=Path, help="on whose disk (the current directory)")
    arguments = parser.parse_args()
    figures = measure(arguments.directory)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)


if __name__ == "__main__":
    main()
