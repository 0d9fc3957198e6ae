"""The mesh: the longest waiting first; its chunks do not depend on threads; stealing evens out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swarm.nano.topologies.mesh as module
from kernels.passes import TICKS
from swarm import nano
from swarm.nano.numa import Machine
from swarm.nano.topologies import Due, Mesh
from swarm.nano.topologies.mesh import Move, moves, rehearse, skew


def test_the_longest_waiting_first_over_groups():
    topology = Mesh(1)
    topology.bind(["a", "b"], 0)
    topology.begin(100, 35)
    due = [Due("a", 0, 10, 100, 50), Due("b", 1, 2, 20, 10), Due("b", 2, 1, 10, 50)]
    assert [(grant.due.cohort, grant.agents) for grant in topology.order(100, due)] == [(1, 2), (0, 2)]


COSTS = st.lists(st.integers(1, 1_000), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(COSTS, st.integers(1, 9), st.booleans())
def test_no_thread_is_idle_while_a_chunk_waits(costs, threads, told):
    played = rehearse(costs, threads, None if told else [1] * len(costs))
    assert sum(played.busy_ns) == sum(costs)
    assert played.makespan_ns <= sum(costs) / threads + max(costs)  # Graham, 1966
    assert played.makespan_ns >= max(max(costs), sum(costs) / threads)
    if threads == 1:
        assert played.steals == 0


def test_what_was_declared_well_is_not_stolen_and_what_was_not_is():
    even = rehearse([10] * 400, 4)
    assert even.steals == 0
    assert skew(even.busy_ns) == 0.0
    slow_quarter = [40] * 100 + [10] * 300
    told, untold = rehearse(slow_quarter, 4), rehearse(slow_quarter, 4, [10] * 400)
    assert told.steals <= 4
    assert untold.steals > 40
    assert skew(untold.busy_ns) < 0.05


def test_skew():
    assert skew([1, 1, 1]) == 0
    assert skew([3, 0, 0]) == 2
    assert skew([]) == skew([0, 0]) == 0


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("nopqr"), st.dictionaries(st.integers(0, 9), st.integers(0, 100), max_size=7)))
def test_moves_lower_the_skew_and_end(loads):
    found = moves(loads)
    after = {node: sum(cohorts.values()) for node, cohorts in loads.items()}
    assert len({(move.source, move.cohort) for move in found}) == len(found), "a cohort moves once"
    before = dict(after)
    for move in found:
        cost = loads[move.source][move.cohort]
        after[move.source] -= cost
        after[move.target] += cost
    assert sum(after.values()) == sum(before.values())
    assert sum(load**2 for load in after.values()) <= sum(load**2 for load in before.values())
    if found:
        assert skew(after.values()) < skew(before.values()) or max(after.values()) <= max(before.values())
    busiest = max(after.values(), default=0)
    if busiest * len(after) > sum(after.values()) * 1.1:  # stopped early: nothing smaller than the gap can be moved
        assert moves({node: loads[node] for node in loads}) == found
    assert found == moves(dict(reversed(loads.items())))


def test_an_idle_node_takes_half():
    loads = {"oak": {n: 10 for n in range(8)}, "elm": {}}
    assert [(move.source, move.target) for move in moves(loads)] == [("oak", "elm")] * 4
    assert moves({"oak": {0: 10}, "elm": {}}) == [], "what cannot be halved stays"
    assert moves({"oak": {0: 11, 1: 10}, "elm": {0: 10, 1: 10}}) == [], "within a tenth"
    assert moves({"oak": {0: 30, 1: 10}, "elm": {5: 10}}) == [Move(1, "oak", "elm")]


def test_threads_are_pinned_only_where_memory_has_parts(monkeypatch):
    made = []
    monkeypatch.setattr(module, "Crew", lambda threads, **where: made.append((threads, where)))
    Mesh().crew(machine=Machine(((0, (0, 1, 2)),)))
    Mesh().crew(2, Machine(((0, (0, 1, 2)),)))
    Mesh(4).crew(3, Machine(((0, (0, 1, 2)), (1, (5, 6, 7)))))
    assert made == [(3, {}), (2, {}), (4, {"cpus": [0, 1, 5, 6], "nodes": [0, 0, 1, 1]})]


def sysfs(root, nodes):
    """A /sys/devices/system of these nodes."""
    for node, cpus in nodes.items():
        folder = root / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    return root


def allowed(thread_ids):
    return sorted(tuple(sorted(os.sched_getaffinity(thread))) for thread in thread_ids)


def threads():
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are looked at in /proc")
@pytest.mark.parametrize("nodes", [1, 2])
def test_the_threads_of_a_swarm_stay_on_their_node(tmp_path, monkeypatch, nodes):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one processor")
    both = {0: str(cpus[0]), 1: str(cpus[1])} if nodes == 2 else {0: f"{cpus[0]},{cpus[1]}"}
    root = sysfs(tmp_path, both)
    read = Machine.read
    monkeypatch.setattr(Machine, "read", lambda: read(root, allowed=cpus[:2]))

    class Mover(nano.Kind, capacity=4096):
        x: nano.f64
        v: nano.f64

    before = threads()
    flock = nano.NanoSwarm(cores=4, topology=Mesh(4, 1, alone_ns=0))
    agents = flock.spawn(Mover.native_many(TICKS["move_many"]), 4096, rate_hz=1000)
    agents.v[:] = 1.0
    flock.run_for(passes=3)
    mine = threads() - before
    assert len(mine) == 3
    # threads 0 and 1 belong to the first node, of which 0 is the caller and is left alone
    wanted = [tuple(cpus)] * 3 if nodes == 1 else [(cpus[0],), (cpus[1],), (cpus[1],)]
    until = time.monotonic() + 20
    while allowed(mine) != wanted and time.monotonic() < until:
        time.sleep(0.01)  # a thread goes to its place when it first runs
    assert allowed(mine) == wanted
    assert tuple(sorted(os.sched_getaffinity(0))) == tuple(cpus)
    assert len(set(agents.x.tolist())) == 1
    flock.cores = 1
    assert not threads() & mine, "they ended"


def test_the_crew_of_this_machine():
    crew = Mesh(2).crew()
    try:
        assert crew.threads == 2
    finally:
        crew.close()
