"""What home workers can import, as a digest."""

from __future__ import annotations

from pathlib import Path

from nodes.environment import DIGEST_BYTES, Packages, folders
from nodes.machine import capacity_from, fitted
from swarm.protocol.membership_config import INFO_BYTES_MAX
from swarm.protocol.membership_wire import write_info
from swarm.protocol.resources import PACKAGES_LABEL


def test_it_is_the_same_for_the_same_names_and_another_when_something_is_installed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for each in (one, other):
        each.mkdir()
        (each / "spam").mkdir()
        (each / "spam-1.2.dist-info").mkdir()
    (other / "__pycache__").mkdir()
    here, there = Packages([str(one)]), Packages([str(other)])
    assert here.look() and there.look() and here.digest == there.digest and len(here.digest) == DIGEST_BYTES
    assert not here.look(), "nothing has changed"
    (one / "eggs.py").write_text("")
    assert here.look() and here.digest != there.digest
    (one / "eggs.py").unlink()
    assert here.look() and here.digest == there.digest


def test_folders_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    found = folders({"PYTHONPATH": f"{tmp_path}:/nonexistent/planted"})
    assert str(tmp_path) in found and "/nonexistent/planted" not in found
    gone = Packages(["/nonexistent/planted"])
    gone.look()
    assert len(gone.digest) == DIGEST_BYTES


def test_members_say_it_where_there_is_room() -> None:
    assert PACKAGES_LABEL + "07" * DIGEST_BYTES in capacity_from({"e": b"\x07" * DIGEST_BYTES}, "oak").labels
    for wrong in (b"", b"\x07" * 9, "07", 7, None):
        assert not any(label.startswith(PACKAGES_LABEL) for label in capacity_from({"e": wrong}, "oak").labels)
    full: dict[str, object] = {"l": ["x" * (INFO_BYTES_MAX - 12)], "e": bytes(DIGEST_BYTES)}
    assert "e" not in fitted(full) and len(write_info(full)) <= INFO_BYTES_MAX
