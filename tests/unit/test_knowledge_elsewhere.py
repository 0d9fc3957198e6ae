"""Large values on a disk, and rows of several nodes put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.knowledge.blob_files import DIRECTORY, BlobFiles, NoRoom
from nodes.knowledge.elsewhere import together
from swarm.protocol.knowledge.blobs import Reference, id_of, reference_in, referring
from swarm.protocol.knowledge.bounds import BLOB_BYTES_MAX, VALUE_BYTES_MAX


def test_a_blob_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path, 1000)
    one = files.put(b"x" * 400)
    assert files.put(b"x" * 400) == one == id_of(b"x" * 400) and files.bytes == 400
    assert files.read(one) == b"x" * 400 and files.read(bytes(32)) is None
    with pytest.raises(NoRoom, match="keeps 400 of at most 1000 bytes"):
        files.put(b"y" * 601)
    (tmp_path / DIRECTORY / "7.part").write_bytes(b"begun by a process that was killed")
    again = BlobFiles(tmp_path, 1000)
    assert again.ids() == [one] and again.bytes == 400
    assert [path.name for path in (tmp_path / DIRECTORY).iterdir()] == [one.hex()]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_blob_is_not_given_and_makes_room(tmp_path: Path, damage: str) -> None:
    files = BlobFiles(tmp_path, 1000)
    one = files.put(b"x" * 400)
    path = tmp_path / DIRECTORY / one.hex()
    if damage == "flip":
        path.write_bytes(b"x" * 399 + b"y")
    elif damage == "cut":
        path.write_bytes(b"x" * 399)
    else:
        path.unlink()
    assert files.read(one) is None and one not in files and files.bytes == 0
    assert files.put(b"x" * 400) == one and files.read(one) == b"x" * 400


def test_a_disk_that_takes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = BlobFiles(tmp_path, 1000)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nodes.knowledge.blob_files.os.fsync", full)
    with pytest.raises(NoRoom, match="No space left"):
        files.put(b"x" * 100)
    assert files.ids() == [] and files.bytes == 0 and list((tmp_path / DIRECTORY).iterdir()) == []


def test_what_an_entry_says_of_a_blob_is_read_or_is_a_value_like_others() -> None:
    reference = Reference(bytes(32), VALUE_BYTES_MAX + 1)
    assert reference_in(referring(reference)) == reference
    good = referring(reference)
    for wrong in (
        None, {}, [], {"": "blob"}, {**good, "more": 1}, {**good, "id": bytes(31)}, {**good, "id": "x" * 32},
        {**good, "bytes": VALUE_BYTES_MAX}, {**good, "bytes": BLOB_BYTES_MAX + 1}, {**good, "bytes": True}, {**good, "": "bulb"},
    ):  # fmt: skip
        assert reference_in(wrong) is None


@given(
    st.lists(st.lists(st.integers(0, 400), unique=True, max_size=30), min_size=1, max_size=4),
    st.integers(1, 12),
    st.booleans(),
)
def test_parts_of_several_nodes_are_one_list_in_order(keys: list[list[int]], limit: int, reverse: bool) -> None:
    """Asked again and again from the last key on, as a client does: everything comes once, in order."""
    # No key is on two nodes.
    there = [sorted((f"{4 * key + node:05}" for key in found), reverse=reverse) for node, found in enumerate(keys)]
    every = sorted((key for found in there for key in found), reverse=reverse)
    got: list[str] = []
    for _ in range(len(every) + 2):
        parts: list[tuple[bool, list[list[Any]]]] = []
        for found in there:
            left = [key for key in found if not got or (key < got[-1] if reverse else key > got[-1])]
            parts.append((len(left) > limit, [[key, 1] for key in left[:limit]]))
        more, rows = together(parts, limit, reverse)
        assert rows or not more
        got += [row[0] for row in rows]
        if not more:
            break
    assert got == every
