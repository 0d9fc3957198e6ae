"""The journal that a node opens for its ledger, and what it says of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodes.journal.journal import DEFAULT
from nodes.ledger import LedgerShell, open_journal
from nodes.node import Node
from nodes.settings import LedgerSection
from swarm.protocol.effects import Fact
from swarm.protocol.member import State
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, EntryKind, Vote

MIB = 1 << 20
FLEET, NODE = b"f" * 32, b"n" * 16


class Around:
    """What the rest of the node is told."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.refusals = SimpleNamespace()

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)


@pytest.mark.parametrize(
    ("size", "segment"), [(64 * MIB, 4 * MIB), (100 * MIB, 6 * MIB), (1 << 30, DEFAULT.segment_bytes)]
)
def test_a_small_journal_is_of_small_files(tmp_path: Path, size: int, segment: int) -> None:
    journal = open_journal(tmp_path / "journal", FLEET, NODE, LedgerSection(journal_bytes=size))
    try:
        assert journal.config.bytes_max == size
        assert journal.config.segment_bytes == segment
        assert {path.stat().st_size for path in (tmp_path / "journal").glob("segment-*")} == {segment}
    finally:
        journal.close()


def test_a_log_that_is_damaged_at_the_start_is_told_of(tmp_path: Path) -> None:
    where, settings = tmp_path / "journal", LedgerSection(journal_bytes=64 * MIB)
    journal = open_journal(where, FLEET, NODE, settings)
    journal.take_recovered()
    for number in (1, 2):
        entries = (Entry(1, EntryKind.DATA, b"d" * 9000),)
        journal.commit([Write(NODE, Vote(1, None) if number == 1 else None, None, False, False, number, entries)])
    journal.close()
    segment = min(where.glob("segment-*"))
    whole = bytearray(segment.read_bytes())
    whole[whole.index(b"d" * 100)] ^= 1
    segment.write_bytes(whole)

    async def start() -> list[Fact]:
        around = cast(Any, Around())
        shell = LedgerShell(
            open_journal(where, FLEET, NODE, settings), NODE, "oak", b"b" * 8, b"z" * 8, around, {}, around,
            asyncio.get_running_loop(), lambda: 0.0, lambda: None, lambda gone: None,
        )  # fmt: skip
        await shell.close()
        return list(around.facts)

    assert [(fact.name, fact.fields) for fact in asyncio.run(start())] == [("ledger.damaged", {"group": NODE})]


def test_a_node_that_has_heard_of_nobody_since_its_start_knows_from_its_logs_that_there_are_others() -> None:
    def raft(*ids: bytes) -> Any:
        return SimpleNamespace(members=SimpleNamespace(all=ids))

    def node(*seen: tuple[bytes, State], remembered: tuple[bytes, ...] = ()) -> Any:
        shell: Any = object.__new__(LedgerShell)
        rafts = {b"1": raft(NODE), b"2": raft(NODE, b"oak", b"elm"), b"3": None}
        shell.__dict__.update(me=NODE, ledger=SimpleNamespace(groups=[b"1", b"2", b"3"], raft=rafts.get))
        made: Any = object.__new__(Node)
        members = [SimpleNamespace(id=id, state=state) for id, state in seen]
        made.__dict__.update(
            ledger=shell, neighbourhood=SimpleNamespace(members=members),
            _discovery=SimpleNamespace(remembered=lambda: list(remembered)),
        )  # fmt: skip
        return made

    both = ((b"oak", State.ALIVE), (b"elm", State.ALIVE))
    assert node().unheard() and node(both[0]).unheard()
    assert not node(*both).unheard() and not node(*both, (b"fir", State.LEFT)).unheard()
    assert node(*both, (b"fir", State.DEAD)).unheard() and node(*both, remembered=(b"fir",)).unheard()
    alone = node()
    alone.ledger = None
    assert not alone.unheard()
