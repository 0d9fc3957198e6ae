"""A watched tree: its report is at every time that of an audit from the beginning, and only what changed is measured."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.tools.audit.cache import Cache
from swarm.tools.audit.job import audit
from swarm.tools.audit.watch import Watch, differences
from tests.unit.audit_here import Here

BRANCHY = "def f(x):\n    return 1 if x and x > 2 else 3\n"
PLAIN = "def f(x):\n    return x\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "package").mkdir(parents=True)
    (root / "package" / "a.py").write_text(PLAIN)
    (root / "package" / "b.py").write_text("def g():\n    pass\n")
    (root / "top.py").write_text("x = 1\n")
    return root


def step(watch: Watch) -> list[str]:
    """Look and measure; the texts that were measured."""
    fleet = Here()
    if changes := watch.look():
        watch.update(fleet, changes)
    return sorted(fleet.given)


def test_only_what_changed_is_measured(tree: Path) -> None:
    watch = Watch([str(tree)], Cache(None))
    assert len(step(watch)) == 3
    assert step(watch) == []
    (tree / "package" / "a.py").write_text(BRANCHY)
    (tree / "new.py").write_text("y = 2\n")
    before = watch.report
    assert step(watch) == sorted([BRANCHY, "y = 2\n"])
    assert differences(before, watch.report, ["package/a.py", "new.py"]) == [(3, 1, "package/a.py", 1, "f")]
    (tree / "top.py").unlink()
    assert step(watch) == []
    assert set(watch.report.files) == {"package/a.py", "package/b.py", "new.py"}


def test_what_stops_to_parse_and_is_mended(tree: Path) -> None:
    watch = Watch([str(tree)], Cache(None))
    step(watch)
    (tree / "package" / "a.py").write_text("def f(:\n")
    step(watch)
    assert set(watch.report.errors) == {"package/a.py"} and "package/a.py" not in watch.report.files
    (tree / "package" / "a.py").write_text(PLAIN)
    step(watch)
    assert not watch.report.errors and "package/a.py" in watch.report.files


def test_a_change_of_the_same_size_and_date_is_seen(tree: Path) -> None:
    file = tree / "package" / "a.py"
    watch = Watch([str(tree)], Cache(None))
    step(watch)
    at = file.stat()
    file.write_text(PLAIN.replace("x", "y"))
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert step(watch) == [PLAIN.replace("x", "y")]


def test_a_tree_that_goes_and_comes_back(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.py").write_text("z = 3\n")
    watch = Watch([str(tree), str(other)], Cache(None))
    step(watch)
    names = set(watch.report.files)
    shutil.move(tree, tmp_path / "away")
    step(watch)
    assert set(watch.report.files) == {"other/c.py"}
    shutil.move(tmp_path / "away", tree)
    step(watch)
    assert set(watch.report.files) == names, "under the names that they had"


def test_a_path_that_is_not_there_at_the_beginning_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watch([str(tmp_path / "nowhere")], Cache(None))


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["a.py", "b.py", "d/c.py", "d/e/f.py"]), st.sampled_from([None, PLAIN, BRANCHY, "(", ""])
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(edits=EDITS, cuts=st.sets(st.integers(0, 12)))
def test_it_is_always_the_report_of_an_audit_from_the_beginning(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str | None]], cuts: set[int]
) -> None:
    root = tmp_path_factory.mktemp("edits")
    watch = Watch([str(root)], Cache(None))
    for number, (name, text) in enumerate(edits):
        file = root / name
        if text is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if number in cuts:
            step(watch)
    step(watch)
    whole = audit(Here(), [str(root)], Cache(None))
    assert (watch.report.files, watch.report.errors) == (whole.files, whole.errors)
    assert watch.report.totals() | {"known": 0} == whole.totals() | {"known": 0}
