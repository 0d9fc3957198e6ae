"""Machines with several nodes of memory, as their sysfs tells it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ConfigError
from swarm.nano.numa import Machine, Seat, cpu_list


def sysfs(root, nodes, siblings=()):
    for node, cpus in nodes.items():
        folder = root / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    (root / "node" / "online").write_text("0-1\n")
    for cores in siblings:
        for cpu in cpu_list(cores):
            folder = root / "cpu" / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(cores + "\n")
    return root


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", set()),
        ("0\n", {0}),
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("0-8:2/4\n", {0, 1, 4, 5, 8}),
        ("garbage", set()),
        ("3-", set()),
    ],
)
def test_lists_of_processors(text, cpus):
    assert cpu_list(text) == cpus


def test_two_nodes_with_shared_cores_and_one_of_memory_alone(tmp_path):
    root = sysfs(tmp_path, {0: "0-1,4-5", 1: "2-3,6-7", 2: ""}, ["0,4", "1,5", "2,6", "3,7"])
    machine = Machine.read(root, range(8))
    assert machine.nodes == ((0, (0, 1, 4, 5)), (1, (2, 3, 6, 7)))
    assert machine.cpus == 8
    assert machine.plan(3) == (Seat(0, 0), Seat(1, 0), Seat(4, 0))
    assert machine.plan(4, "spread") == (Seat(0, 0), Seat(1, 0), Seat(2, 1), Seat(3, 1))
    assert [seat.node for seat in machine.plan(6)] == [0, 0, 0, 1, 1, 1]
    assert [seat.cpu for seat in machine.plan(10)] == [0, 1, 4, 5, 0, 2, 3, 6, 7, 2]


def test_only_what_is_allowed_counts(tmp_path):
    root = sysfs(tmp_path, {0: "0-3", 1: "4-7"})
    machine = Machine.read(root, {2, 5, 6, 9})
    assert machine.nodes == ((0, (2, 9)), (1, (5, 6))), "what no node names is put to the first"
    assert Machine.read(root, {5}).nodes == ((1, (5,)),)


@pytest.mark.parametrize("nodes", [{}, {0: "no list"}])
def test_a_machine_that_tells_nothing_is_one_node(tmp_path, nodes):
    assert Machine.read(sysfs(tmp_path, nodes) if nodes else tmp_path, {0, 3}).nodes == ((0, (0, 3)),)


def test_this_machine():
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    machine = Machine.read()
    assert {cpu for _, cpus in machine.nodes for cpu in cpus} == allowed
    assert {seat.cpu for seat in machine.plan(machine.cpus)} == allowed


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.integers(1, 60), st.sampled_from(["compact", "spread"]))
def test_a_plan_seats_everybody_evenly(sizes, threads, placement):
    nodes, first = [], 0
    for node, size in enumerate(sizes):
        nodes.append((node, tuple(range(first, first + size))))
        first += size
    machine = Machine(tuple(nodes))
    plan = machine.plan(threads, placement)
    assert len(plan) == threads
    assert all(seat.cpu in dict(nodes)[seat.node] for seat in plan)
    order = [seat.node for seat in plan]
    assert order == sorted(order), "threads of a node are neighbours"
    crowd = [sum(seat.cpu == cpu for seat in plan) for cpu in range(first)]
    if threads <= first:
        assert max(crowd) == 1, "no processor is shared while another is free"
    if placement == "compact" and threads <= max(sizes):
        assert len(set(order)) == 1


def test_plans_that_make_no_sense():
    machine = Machine(((0, (0,)),))
    with pytest.raises(ConfigError):
        machine.plan(0)
    with pytest.raises(ConfigError):
        machine.plan(1, "near")  # type: ignore[arg-type]
