"""Consensus under every fault, and that the simulator finds faults that are planted in it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Snapshot, Vote
from tests.sim.raft import faults
from tests.sim.raft.disk import Disk, Shelf
from tests.sim.raft.plan import FAULTS, Step, draw
from tests.sim.raft.runs import run
from tests.sim.raft.truth import Broken, Truth
from tests.sim.raft.world import World

ROOT = Path(__file__).parents[2]
SEEDS = 40
"""Of each size, in CI. `make sim SEEDS=…` runs more, and `python -m tests.sim.raft --seeds 10000` many."""
SEEDS_MAX = 1000
"""Within so many seeds each planted fault is found."""


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
@pytest.mark.parametrize("members", [3, 5])
def test_a_handful_of_seeds(members: int, first: int) -> None:
    for seed in range(first, first + 10):
        assert run(seed, members).events > 0


def test_one_seed_is_one_run_under_any_hash_seed() -> None:
    script = "from tests.sim.raft.runs import run; print([run(seed).trace for seed in (1, 2, 3)])"
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
    assert len(printed) == 1 and printed != {"[0, 0, 0]\n"}


def planted(name: str, first: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.sim.raft", "--fault", name, "--start", str(first)]
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
    story = planted("vote-log", faults.FAULTS["vote-log"].found_by)
    lines = story.splitlines()
    kept, steps = lines[1].split(" of ")[0], lines[1].split(" of ")[1].split(" ")[0]
    assert 3 * int(kept) <= int(steps)
    assert any("VOTE t" in line for line in lines) and any(" leads g0 in term " in line for line in lines)
    assert "leader-completeness" in lines[-1]


# --- what the checkers and the disk are made of


def broken_by(name: str) -> object:
    return pytest.raises(Broken, match=f"^{name}: ")


def data(term: int, text: bytes = b"x") -> Entry:
    return Entry(term, 1, text)


def test_the_checkers_see_what_they_are_for() -> None:
    truth = Truth(b"g")
    truth.applies(0, 1, data(1))
    with broken_by("state-machine-safety"):
        truth.applies(1, 1, data(2))
    with broken_by("order"):
        truth.applies(1, 3, data(1))
    truth.leads(0, 1, Snapshot(), [data(1)])
    with broken_by("election-safety"):
        truth.leads(1, 1, Snapshot(), [data(1)])
    with broken_by("leader-completeness"):
        truth.leads(1, 2, Snapshot(), [])
    truth.leads(1, 3, Snapshot(1, 1), [])
    truth.writes(0, Write(b"g", None, None, False, False, 1, [data(1)]), 0)
    with broken_by("log-matching"):
        truth.writes(1, Write(b"g", None, None, False, False, 1, [data(1, b"y")]), 0)
    with broken_by("leader-append-only"):
        truth.kept(0, 1, None, 1)
    with broken_by("durability"):
        truth.commits(0, 1, 1, [0, 1, 2])
    with broken_by("linearizable-reads"):
        truth.reads_at(0, 0, 1)
    with broken_by("acknowledged"):
        truth.acknowledges(0, 1, 9)


def test_a_crash_leaves_a_beginning_of_what_was_not_synced_and_all_of_what_was() -> None:
    lengths, votes = set(), set()
    for seed in range(200):
        disk = Disk(Random(seed))
        shelf = disk.shelf(b"g")
        first = Write(b"g", Vote(1), None, False, False, 1, [data(1), data(1)])
        second = Write(b"g", Vote(2), None, False, False, 2, [data(2), data(2), data(2)])
        disk.pending.append((1, [first]))
        disk.begin(0.0)
        assert disk.done() == (1, [first], [])
        disk.pending.append((2, [second]))
        disk.crash()
        found = disk.shelf(b"g").recover()
        assert not found.damaged and shelf.entries[0] == data(1)
        terms = tuple(entry.term for entry in found.entries)
        assert terms in {(1, 1), (1, 2), (1, 2, 2), (1, 2, 2, 2)}
        assert found.vote.term == 2 or terms == (1, 1)
        lengths.add(terms)
        votes.add(found.vote.term)
    assert len(lengths) == 4 and votes == {1, 2}


def test_rot_is_found_at_the_next_start_and_what_was_written_over_it_is_whole() -> None:
    shelf = Shelf(entries=[data(1), data(1), data(1)])
    shelf.rotten = 2
    assert shelf.holds(1, 1) and not shelf.holds(2, 1)
    shelf.write(Write(b"g", None, None, False, False, 2, [data(2)]))
    assert not shelf.recover().damaged
    shelf.rotten = 1
    found = shelf.recover()
    assert found.damaged and found.entries == ()
    assert shelf.recover().damaged  # until the repair is written
    shelf.write(Write(b"g", None, None, False, True, 0, ()))
    assert not shelf.recover().damaged


def test_a_full_disk_takes_votes_and_no_entries_and_nothing_after_them() -> None:
    disk = Disk(Random(0))
    disk.full = True
    vote = Write(b"a", Vote(1), None, False, False, 0, ())
    entries = Write(b"b", None, None, False, False, 1, [data(1)])
    later = Write(b"b", Vote(3), None, False, False, 0, ())
    disk.pending.extend([(1, [vote, entries]), (2, [later])])
    disk.syncing = 1
    assert disk.done() == (1, [vote], [b"b"])
    assert list(disk.pending) == [(2, [])]
    assert disk.shelf(b"b").entries == []


def test_every_kind_of_step_can_be_taken() -> None:
    plan = replace(draw(4), steps=[], meddles=False)
    names = sorted(set(FAULTS))
    world = World(replace(plan, steps=[Step(0.5 + 0.25 * n, name, (0.3, 0.5, 0.7)) for n, name in enumerate(names)]))
    world.run()
    assert world.truths[b"g0"].last > 0
