"""A damaged chunk that nobody has is made again from the log, also where more was said since; what cannot be is left as it is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nodes.knowledge.rebuilding import Rebuilt
from swarm.snapshots import create
from swarm.snapshots.checking import repair, verify
from swarm.snapshots.mapping import Mapped, read_table

KEY = bytes(range(32))
NAME = "knowledge-03"


def record(stamp: int) -> tuple[bytes, bytes]:
    rng = random.Random(stamp)
    return stamp.to_bytes(8, "big") + rng.randbytes(16), rng.randbytes(700)


BEFORE = [record(stamp) for stamp in range(1500)]
AFTER = BEFORE + [record(stamp) for stamp in range(1500, 1600)]


def flips(path: Path, what: str) -> list[int]:
    """Where there is a byte of a part of the file."""
    mapped = Mapped(path)
    header, _ = read_table(mapped, None)
    mapped.close()
    end = header.table_offset
    return {"first": [300], "last": [end - 1], "many": [300, end // 2, end - 1], "table": [end + 5], "header": [50]}[
        what
    ]


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("what", ["first", "last", "many"])
def test_chunks_are_made_again(tmp_path: Path, what: str, key: bytes | None) -> None:
    create(tmp_path / "one", {NAME: BEFORE, "other": [(b"a", b"b")]}, created_ms=1, in_order=True, key=key)
    (path,) = (tmp_path / "one").glob(f"{NAME}-*")
    whole = path.read_bytes()
    data = bytearray(whole)
    for at in flips(path, what):
        data[at] ^= 1
    path.write_bytes(data)
    report = verify(tmp_path / "one")
    assert report.damage
    rebuilt = Rebuilt(tmp_path / "one", ".made", report, {NAME: AFTER}, KEY)
    _, after = repair(tmp_path / "one", rebuilt, report=report)
    rebuilt.close()
    assert after.whole and path.read_bytes() == whole and rebuilt.chunks > 0
    assert [one.name for one in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("what", ["table", "header"])
def test_tables_are_made_again_where_all_is_as_it_was(tmp_path: Path, what: str) -> None:
    create(tmp_path / "one", {NAME: BEFORE}, created_ms=1, in_order=True)
    (path,) = (tmp_path / "one").glob(f"{NAME}-*")
    whole = path.read_bytes()
    data = bytearray(whole)
    for at in flips(path, what):
        data[at] ^= 1
    path.write_bytes(data)
    report = verify(tmp_path / "one")
    rebuilt = Rebuilt(tmp_path / "one", ".made", report, {NAME: AFTER}, KEY)
    _, after = repair(tmp_path / "one", rebuilt, report=report)
    rebuilt.close()
    assert after.whole and path.read_bytes() == whole


def test_what_the_log_has_not_is_left(tmp_path: Path) -> None:
    create(tmp_path / "one", {NAME: BEFORE}, created_ms=1, in_order=True)
    (path,) = (tmp_path / "one").glob(f"{NAME}-*")
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    report = verify(tmp_path / "one")
    for known in ({}, {NAME: BEFORE[1:]}, {NAME: sorted([*BEFORE, (BEFORE[0][0][:8] + b"\xff" * 16, b"late")])}):
        rebuilt = Rebuilt(tmp_path / "one", ".made", report, known, KEY)
        repaired, after = repair(tmp_path / "one", rebuilt, report=report)
        rebuilt.close()
        assert not repaired and len(after.damage) == 1 and path.read_bytes() == data
