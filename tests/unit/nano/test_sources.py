"""Modules of the caller's own are there by their names while a population runs elsewhere, and gone afterwards."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from swarm import nano
from swarm.nano import sources
from swarm.nano.sources import Source

KIND = """
from swarm import nano
from {package}numbers_of_it import STEP

class Snail(nano.Kind, capacity=4):
    x: nano.f64

    def tick(self, now_ns, bus):
        self.x += STEP
"""


def written(folder: Path, package: str = "") -> None:
    where = folder / package if package else folder
    where.mkdir(exist_ok=True)
    (where / "snails.py").write_text(KIND.format(package=f"{package}." if package else ""))
    (where / "numbers_of_it.py").write_text("STEP = 2.5\n")


@pytest.mark.parametrize("package", ["", "garden"])
def test_a_module_and_what_it_uses_go_along(tmp_path, monkeypatch, package):
    written(tmp_path, package)
    name = f"{package}.snails" if package else "snails"
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name, fromlist=["Snail"])
    flock = nano.NanoSwarm()
    flock.spawn(module.Snail, 2, rate_hz=10)
    blob = flock.save()
    found = sources.sources_of([name])
    assert sorted(found) == sorted([name, f"{package}.numbers_of_it" if package else "numbers_of_it"])
    monkeypatch.undo()
    for gone in [*found, "garden"]:
        sys.modules.pop(gone, None)
    with pytest.raises(nano.SchemaMismatch, match=f"{name}:Snail is not found"):
        nano.load(blob)
    with sources.put(found):
        again = nano.load(blob)
        again.run_for(seconds=1)
        assert again.cohorts[0][0].x == 25.0
        assert again.save()
    assert name not in sys.modules
    assert "garden" not in sys.modules


def test_another_module_of_that_name_is_back_afterwards(monkeypatch):
    mine = type(sys)("snails")
    monkeypatch.setitem(sys.modules, "snails", mine)
    with sources.put({"snails": Source("/x/snails.py", "X = 1")}):
        assert sys.modules["snails"].X == 1
    assert sys.modules["snails"] is mine


def test_a_script_is_main_there_too_and_does_not_run():
    before = sys.modules["__main__"]
    script = KIND.format(package="").replace("from numbers_of_it import STEP", "STEP = 1.0")
    with sources.put(
        {"__main__": Source("s.py", f"{script}\nif __name__ == '__main__':\n    raise SystemExit('it ran')\n")}
    ):
        kind = sys.modules["__main__"].Snail
        assert kind.__module__ == "__main__"
        flock = nano.NanoSwarm()
        flock.spawn(kind, 1, rate_hz=1)
        assert nano.load(flock.save()).agents == 1
    assert sys.modules["__main__"] is before


def test_a_script_that_submits_when_it_is_imported_is_told():
    script = "from swarm import nano\nnano.submit(None, nano.NanoSwarm(), seconds=1)\n"
    with pytest.raises(nano.NanoError, match="submits a population when it is imported") as failed:
        with sources.put({"__main__": Source("s.py", script)}):
            pass
    assert "__main__" in failed.value.hint


def test_a_module_that_cannot_be_run_there_says_why():
    with pytest.raises(nano.NanoError, match="snails, which was sent along, cannot be run here: ModuleNotFoundError"):
        with sources.put({"snails": Source("s.py", "import no_such_module_anywhere")}):
            pass
    assert "snails" not in sys.modules


def test_installed_modules_stay_where_they_are():
    assert sources.sources_of(["numpy", "swarm.nano.kinds", "no_such_module"]) == {}
