"""The ledger under every fault, and that the simulator finds faults that are planted in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.batch import OutcomeBuilder
from swarm.protocol.ledger.records import Ended, Granted, Submitted, Token, pack, pack_entry
from swarm.protocol.raft.entries import Entry
from tests.sim.ledger import faults
from tests.sim.ledger.history import History
from tests.sim.ledger.plan import FAULTS, WORK, draw
from tests.sim.ledger.runs import run
from tests.sim.raft.truth import Broken

ROOT = Path(__file__).parents[2]
SEEDS = 8
"""In CI. `make sim SEEDS=…` runs more, and `python -m tests.sim.ledger --seeds 10000` many."""
SEEDS_MAX = 1000
"""Within so many seeds each planted fault is found."""


@pytest.mark.parametrize("first", range(0, SEEDS, 4))
def test_a_handful_of_seeds(first: int) -> None:
    for seed in range(first, first + 4):
        assert run(seed).events > 0


def test_one_seed_is_one_run_under_any_hash_seed() -> None:
    script = "from tests.sim.ledger.runs import run; print([run(seed).trace for seed in (1,)])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1 and printed != {"[0]\n"}


def planted(name: str, first: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.sim.ledger", "--fault", name, "--start", str(first)]
    done = subprocess.run(
        [*command, "--seeds", str(SEEDS_MAX - first), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 1, f"{name} was not found: {done.stdout} {done.stderr}"
    assert done.stdout.startswith("FAILED after"), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(faults.FAULTS))
def test_a_planted_fault_is_found(name: str) -> None:
    """From the seed on that found it when it was planted; a change of the protocol moves that, and then it takes longer."""
    fault = faults.FAULTS[name]
    assert fault.found_by < SEEDS_MAX
    found = planted(name, fault.found_by, "--brief")
    assert any(f": {name}: " in found for name in fault.breaks), found


def test_a_failure_becomes_a_short_story() -> None:
    story = planted("content-unchecked", faults.FAULTS["content-unchecked"].found_by)
    lines = story.splitlines()
    kept, steps = lines[1].split(" of ")[0], lines[1].split(" of ")[1].split(" ")[0]
    assert 2 * int(kept) <= int(steps)
    assert any(" forge " in line for line in lines) and any(" -> " in line and " APPEND " in line for line in lines)
    assert "content: " in lines[-1]


def test_every_kind_of_step_is_drawn() -> None:
    drawn = {step.name for seed in range(60) for step in draw(seed).steps}
    assert drawn == set(FAULTS) | set(WORK)


# --- what the checkers are made of

GROUP, KEY = b"g", b"k" * 12


def broken_by(name: str) -> object:
    return pytest.raises(Broken, match=f"^{name}: ")


def entry(term: int, *records: object) -> Entry:
    return Entry(term, 1, pack_entry(pack(record) for record in records))  # type: ignore[arg-type]


def ended(token: Token | None, *rows: int) -> Ended:
    builder = OutcomeBuilder()
    for row in rows:
        builder.add(row, 0, 1, b"%d" % row)
    return Ended(KEY, token, len(rows), builder.take(), 1.0)


def test_the_history_sees_what_it_is_for() -> None:
    history = History()
    submitted = Submitted(KEY, "", True, b"", 3, b"", 1.0, 0.0, 2, bytes(32))
    history.committed(GROUP, 1, entry(1, submitted))
    history.committed(GROUP, 2, entry(1, ended(Token(1, 1), 0)))
    history.compare(0, GROUP, 2, {(KEY, 0): b"0"})
    with broken_by("stale-outcome"):
        history.compare(0, GROUP, 2, {})
    with broken_by("stale-outcome"):
        history.compare(0, GROUP, 2, {(KEY, 0): b"other"})
    history.reveal(GROUP, KEY, 0, b"0")
    with broken_by("outcome-changed"):
        history.reveal(GROUP, KEY, 0, b"1")
    with broken_by("revealed-early"):
        history.reveal(GROUP, KEY, 1, b"1")
    history.sent(GROUP, KEY, (1, 3), Token(1, 2))
    history.committed(GROUP, 3, entry(2, Granted(KEY, ((1, 2),), Token(2, 1))))
    history.sent(GROUP, KEY, (1, 2), Token(2, 1))
    with broken_by("two-tokens"):
        history.sent(GROUP, KEY, (1, 2), Token(2, 2))
    with broken_by("two-tokens"):
        history.sent(GROUP, KEY, (2, 3), Token(2, 1))
    history.committed(GROUP, 4, entry(2, ended(Token(1, 1), 1), ended(Token(2, 1), 1), ended(None, 1, 2)))
    assert history.models[GROUP].taken[4] == {(KEY, 1): b"1", (KEY, 2): b"2"}
    history.receipt(GROUP, KEY, b"one")
    with broken_by("content"):
        history.receipt(GROUP, KEY, b"other")
    history.same_state(0, GROUP, 4, b"state")
    with broken_by("determinism"):
        history.same_state(1, GROUP, 4, b"other")
