"""The knowledge log under partitions, week-long absences, wrong clocks, restored disks and members that lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.knowledge import faults
from tests.sim.knowledge.plan import draw
from tests.sim.knowledge.runs import run

ROOT = Path(__file__).parents[2]
SEEDS = 16
"""In CI. `make sim SEEDS=…` runs more, and `python -m tests.sim.knowledge --seeds 10000` many."""
SEEDS_MAX = 300
"""Within so many seeds each planted fault is found."""


@pytest.mark.parametrize("first", range(0, SEEDS, 8))
def test_a_handful_of_seeds(first: int) -> None:
    for seed in range(first, first + 8):
        assert run(seed).events > 0


def test_seeds_are_of_all_that_may_go_wrong() -> None:
    plans = [draw(seed) for seed in range(60)]
    names = {step.name for plan in plans for step in plan.steps}
    assert names >= {"crash", "part", "away", "weather", "clock", "ahead", "pause", "lie", "revoke", "restore"}
    assert {plan.week for plan in plans} == {True, False}
    assert {plan.replication.whole_nodes_max for plan in plans} == {0, 16}


def test_one_seed_is_one_run_under_any_hash_seed() -> None:
    script = "from tests.sim.knowledge.runs import run; print([run(seed).trace for seed in (1, 2, 4)])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1 and printed != {"[0, 0, 0]\n"}


@pytest.mark.parametrize("name", sorted(faults.FAULTS))
def test_a_planted_fault_is_found(name: str) -> None:
    """From the seed on that found it when it was planted; a change of the protocol moves that, and then it takes longer."""
    fault = faults.FAULTS[name]
    command = [sys.executable, "-m", "tests.sim.knowledge", "--fault", name, "--start", str(fault.found_by), "--brief"]
    done = subprocess.run(
        [*command, "--seeds", str(SEEDS_MAX - fault.found_by)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 1, f"{name} was not found: {done.stdout} {done.stderr}"
    assert done.stdout.startswith("FAILED after"), done.stdout + done.stderr
    assert any(f": {broken}: " in done.stdout for broken in fault.breaks), done.stdout
