"""The journal that a node opens for its ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.journal.journal import DEFAULT
from nodes.ledger import open_journal
from nodes.settings import LedgerSection

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "segment"), [(64 * MIB, 4 * MIB), (100 * MIB, 6 * MIB), (1 << 30, DEFAULT.segment_bytes)]
)
def test_a_small_journal_is_of_small_files(tmp_path: Path, size: int, segment: int) -> None:
    journal = open_journal(tmp_path / "journal", b"f" * 32, b"n" * 16, LedgerSection(journal_bytes=size))
    try:
        assert journal.config.bytes_max == size
        assert journal.config.segment_bytes == segment
        assert {path.stat().st_size for path in (tmp_path / "journal").glob("segment-*")} == {segment}
    finally:
        journal.close()
