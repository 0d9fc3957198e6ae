"""The plans of the nemesis, and the short form of `make chaos`. Longer ones take a machine of their own, and minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.__main__ import lacking
from tests.chaos.nemesis import NET_FAULTS, NODE_FAULTS, plan
from tests.lab.fixtures import require
from tests.lan.drivers import ROOT

HOSTS = ["h1", "h2", "h3", "h4", "h5"]


def test_a_seed_gives_the_same_faults_and_every_kind_comes_early() -> None:
    for kinds in (NODE_FAULTS, NET_FAULTS):
        drawn = plan("7", kinds, HOSTS, 40)
        assert drawn == plan("7", kinds, HOSTS, 40)
        assert drawn != plan("8", kinds, HOSTS, 40)
        assert {fault.kind for fault in drawn[: len(kinds)]} == set(kinds)
        assert all(set(fault.hosts) <= set(HOSTS) and fault.lasts_s <= 15.0 for fault in drawn)
    assert plan("7", {}, HOSTS, 40) == []


@pytest.mark.slow
@pytest.mark.lan
@pytest.mark.timeout(900)
def test_a_short_run_breaks_no_promise(tmp_path: Path) -> None:
    require(lacking())
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--seed", "1", "--folder", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, timeout=880,
    )  # fmt: skip
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "verdict    0 lost, 0 double outcomes, 0 stuck" in done.stdout
