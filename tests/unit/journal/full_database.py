"""A database whose disk is full, for a process that may mount what it likes: see `test_postgres`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nodes.journal.postgres.journal import PostgresJournal
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Recovered, Vote
from tests.postgres import Cluster, needed
from tests.unit.journal.model import ID
from tests.unit.journal.test_files import GROUP, entries

SIZE = "48m"
"""Of the file system: an empty database takes 8 MiB of it."""


def full(cluster: Cluster, directory: Path) -> None:
    """Entries are refused, a vote is taken, and when there is space again all goes on."""
    small = cluster.directory / "small"
    small.mkdir()
    options = f"size={SIZE},mode=0700,uid={os.stat(cluster.data).st_uid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", str(small)], check=True)
    cluster.execute(f"CREATE TABLESPACE small LOCATION '{small}'", "postgres")
    cluster.execute("CREATE DATABASE small TABLESPACE small", "postgres")
    url = cluster.url("small")
    journal = PostgresJournal.open(url, ID, directory, 1 << 30)
    assert not journal.commit([entries(1, 3)])
    filler = small / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 18, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    last = 3
    again: dict[bytes, Recovered] = {}
    while not again:
        assert last < 2000
        again = journal.commit([entries(last + 1, 1, 100_000)])
        last += not again
    assert len(again[GROUP].entries) == last and journal.full and not journal.try_again()
    assert not journal.commit([Write(GROUP, Vote(9, None), None, False, False, 0, ())])
    filler.unlink()
    assert journal.try_again() and not journal.commit([entries(last + 1, 1, 100_000)])
    journal.close()
    journal = PostgresJournal.open(url, ID, directory, 1 << 30)
    found = journal.take_recovered()[GROUP]
    assert len(found.entries) == last + 1 and found.vote.term == 9 and not found.damaged
    journal.close()


if __name__ == "__main__":
    server = Cluster(needed())
    try:
        full(server, Path(sys.argv[1]))
    finally:
        server.close()
