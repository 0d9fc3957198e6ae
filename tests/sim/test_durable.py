"""Owners of durable tasks under every fault of a ledger, and that the simulator finds faults that are planted in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.durable import faults
from tests.sim.durable.runs import run

ROOT = Path(__file__).parents[2]
SEEDS = 8
"""In CI. `make sim SEEDS=…` runs more, and `python -m tests.sim.durable --seeds 10000` many."""
SEEDS_MAX = 1000
"""Within so many seeds each planted fault is found."""


@pytest.mark.parametrize("first", range(0, SEEDS, 4))
def test_a_handful_of_seeds(first: int) -> None:
    for seed in range(first, first + 4):
        assert run(seed).events > 0


def test_one_seed_is_one_run() -> None:
    assert run(3).trace == run(3).trace != run(2).trace


@pytest.mark.parametrize("name", sorted(faults.FAULTS))
def test_a_planted_fault_is_found(name: str) -> None:
    """From the seed on that found it when it was planted; a change of the protocol moves that, and then it takes longer."""
    fault = faults.FAULTS[name]
    assert fault.found_by < SEEDS_MAX
    command = [sys.executable, "-m", "tests.sim.durable", "--fault", name, "--start", str(fault.found_by), "--brief"]
    done = subprocess.run(
        [*command, "--seeds", str(SEEDS_MAX - fault.found_by)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 1, f"{name} was not found: {done.stdout} {done.stderr}"
    assert done.stdout.startswith("FAILED after"), done.stdout + done.stderr
    assert any(f": {broken}: " in done.stdout for broken in fault.breaks), done.stdout
