"""Which releases work together, what a node's directory says, and what a mixed fleet is told."""

from __future__ import annotations

from pathlib import Path

import pytest

import swarm
from nodes import releases
from nodes.releases import number_of, said_of, text_of, work_together
from swarm.errors import SystemRefused


def test_numbers() -> None:
    assert [number_of(each) for each in ("0.1.0", "0.2", "1.2.7", "0.1.0rc1")] == [1, 2, 258, 1]
    assert [number_of(each) for each in ("", "x", "1", "0.300.1", "-1.2", "1.x")] == [0] * 6
    assert text_of(258) == "1.2" and [text_of(each) for each in (0, None, "1", True, 1 << 20)] == [""] * 5
    assert releases.OWN == number_of(swarm.__version__) != 0
    pyproject = (Path(swarm.__file__).parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{swarm.__version__}"\n' in pyproject


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [("0.1.0", "0.1.9", True), ("0.1.0", "0.2.0", True), ("0.1.0", "0.3.0", False), ("0.9.0", "1.0.0", True),
     ("0.9.0", "1.1.0", False), ("1.0.0", "2.0.0", True), ("0.1.0", "2.0.0", False), ("0.1.0", "what", True)],
)  # fmt: skip
def test_neighbours(one: str, other: str, together: bool) -> None:
    assert work_together(number_of(one), number_of(other)) is together
    assert work_together(number_of(other), number_of(one)) is together


def test_a_directory_of_a_release_too_far_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases.check(tmp_path)
    releases.note(tmp_path)
    releases.check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [releases.FILE]
    for version, fine in (("0.2.0", True), ("0.3.0", False), ("1.0.0", True), ("1.1.0", False)):
        monkeypatch.setattr(releases, "OWN", number_of(version))
        monkeypatch.setattr(swarm, "__version__", version)
        if fine:
            releases.check(tmp_path)
            continue
        with pytest.raises(SystemRefused) as refused:
            releases.check(tmp_path)
        assert version in str(refused.value) and "in between" in refused.value.hint
    monkeypatch.undo()
    (tmp_path / releases.FILE).write_text("0.3.1\n")
    with pytest.raises(SystemRefused, match=r"release 0\.3\.1") as refused:
        releases.check(tmp_path)
    assert "0.2" in refused.value.hint
    (tmp_path / releases.FILE).write_bytes(b"\xff")
    releases.check(tmp_path)


def test_what_is_said_of_members() -> None:
    assert said_of([("oak", 1), ("elm", 1), ("fir", 0)]) == ""
    assert said_of([("oak", 1), ("fir", 2), ("elm", 1)]) == "0.1 (elm, oak), 0.2 (fir): an upgrade is under way"
    assert "too far apart" in said_of([("oak", 1), ("fir", 3)])
