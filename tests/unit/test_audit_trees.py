"""What an audit makes of trees as they are: names twice, doors closed, files that end a worker, figures of elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import swarm.tools.audit.cache
from swarm.tools.audit.cache import Cache
from swarm.tools.audit.collect import find
from swarm.tools.audit.job import audit
from tests.unit.audit_here import Here


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "package").mkdir(parents=True)
    (root / "package" / "a.py").write_text("def f(x):\n    return 1 if x and x > 2 else 3\n")
    (root / "b.py").write_text("y = 1\n")
    return root


def test_a_file_that_ends_its_worker_costs_only_itself(tree: Path) -> None:
    (tree / "package" / "bad.py").write_text("poison = 1\n")
    report = audit(Here(), [str(tree)], Cache(None), window=2)
    assert set(report.files) == {"b.py", "package/a.py"}
    assert set(report.errors) == {"package/bad.py"}
    assert "signal 11" in report.errors["package/bad.py"]


def test_files_of_one_name_in_two_trees_stay_two(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.py").write_text("z = 1\n")
    shown = [one.shown for one in find([str(tree), str(other), str(other / "b.py")])]
    assert shown == ["other/b.py", "tree/b.py", "tree/package/a.py"]


def test_a_directory_that_cannot_be_listed_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("package"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = audit(Here(), [str(tree)], Cache(None))
    assert report.errors == {"package": "can not be listed: Permission denied"}
    assert set(report.files) == {"b.py"}


def test_a_link_to_nowhere_is_said(tree: Path) -> None:
    (tree / "gone.py").symlink_to("nowhere.py")
    report = audit(Here(), [str(tree)], Cache(None))
    assert report.errors["gone.py"].startswith("can not be read")


def test_line_ends_of_other_systems_change_nothing(tmp_path: Path) -> None:
    text = 'def f(x):\n    """a\n\n    b"""\n    return x\n'
    (tmp_path / "unix.py").write_bytes(text.encode())
    (tmp_path / "dos.py").write_bytes(text.replace("\n", "\r\n").encode())
    report = audit(Here(), [str(tmp_path)], Cache(None))
    assert report.files["dos.py"] == report.files["unix.py"]


def test_what_a_worker_of_another_python_found_is_told_but_not_kept(tree: Path, tmp_path: Path) -> None:
    report = audit(Here(by="2/6.0.1/3.99"), [str(tree)], Cache(tmp_path / "cache"))
    assert set(report.files) == {"b.py", "package/a.py"}
    fleet = Here()
    audit(fleet, [str(tree)], Cache(tmp_path / "cache"))
    assert len(fleet.given) == 2


def test_a_cache_of_another_radon_is_not_used(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit(Here(), [str(tree)], Cache(tmp_path / "cache"))
    monkeypatch.setattr(swarm.tools.audit.cache, "measured_by", lambda: "2/9.9/3.11")
    fleet = Here()
    audit(fleet, [str(tree)], Cache(tmp_path / "cache"))
    assert len(fleet.given) == 2
