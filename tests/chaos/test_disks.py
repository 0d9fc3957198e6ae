"""What the nemesis does to a journal is what it says: a torn write leaves nothing damaged, a flipped bit is found."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from nodes.journal.files import STATES, RealFiles
from nodes.journal.format import JournalId
from nodes.journal.journal import Journal, JournalConfig
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, EntryKind, Vote
from tests.chaos.hosts import Hosts

GROUP, ID = b"g" * 16, JournalId(b"f" * 32, b"n" * 16)
SMALL = JournalConfig(bytes_max=1 << 20, segment_bytes=1 << 18)


ENTRIES = [Entry(1, EntryKind.DATA, bytes((number,)) * 9000) for number in range(1, 9)]


class Directory(Hosts):
    """A host of which there is only the journal's directory."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def journal(self, host: str) -> Path:
        return self.where


@pytest.fixture
def host(tmp_path: Path) -> Directory:
    journal = Journal.open(RealFiles(tmp_path / "journal"), ID, SMALL)
    journal.take_recovered()
    for number, entry in enumerate(ENTRIES, 1):
        journal.commit([Write(GROUP, Vote(1, None) if number == 1 else None, None, False, False, number, (entry,))])
    journal.close()
    return Directory(tmp_path / "journal")


def opened(host: Directory) -> tuple[Journal, list[Entry]]:
    journal = Journal.open(RealFiles(host.where), ID, SMALL)
    try:
        return journal, list(journal.take_recovered()[GROUP].entries)
    finally:
        journal.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_torn_write_is_none_and_nothing_is_damaged(host: Directory, seed: int) -> None:
    said = host.tear("h1", random.Random(seed))
    assert "sectors of a commit" in said
    journal, entries = opened(host)
    assert (journal.torn_at_start, journal.damaged_at_start, entries) == (True, (), ENTRIES), said


def test_flipped_bits_are_found(host: Directory) -> None:
    found = 0
    for seed in range(20):
        shutil.copytree(host.where, host.where.parent / "copy", dirs_exist_ok=True)
        copy = Directory(host.where.parent / "copy")
        said = copy.flip_bits("h1", random.Random(seed))
        journal, entries = opened(copy)
        assert entries == ENTRIES or journal.damaged_at_start == (GROUP,), said
        assert not (said.startswith(STATES) and journal.damaged_at_start), said
        found += bool(journal.damaged_at_start)
        shutil.rmtree(copy.where)
    assert found >= 10, "what is flipped lies in what counts"
