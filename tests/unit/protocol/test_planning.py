"""A dry run says what would happen, and changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol import ids
from swarm.protocol.executor.effects import SuspendWorker
from swarm.protocol.planning import begin, runs_there, spread
from swarm.protocol.resources import PLAIN, shape_of
from swarm.protocol.states import Priority
from tests.unit.protocol import executor as executors
from tests.unit.protocol.owner import ELM, ME, OAK, Owner, spec_of
from tests.unit.protocol.test_suspension import busy, stood

LOW, STANDARD, HIGH, CRITICAL = Priority


@settings(max_examples=60, deadline=None)
@given(
    slots=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    before=st.lists(st.tuples(st.integers(1, 5), st.sampled_from([LOW, STANDARD])), max_size=3),
    low=st.lists(st.integers(0, 2), min_size=2, max_size=2),
    count=st.integers(1, 14),
    priority=st.sampled_from(list(Priority)),
)
def test_tasks_go_where_the_plan_said(
    slots: list[int], before: list[tuple[int, int]], low: list[int], count: int, priority: int
) -> None:
    owner = Owner(float(slots[0]))
    for node, name, has, yielding in zip((OAK, ELM), ("oak", "elm"), slots[1:], low):
        owner.executor(node, name, float(has))
        load = {"free": has, "wait": 0, "others": yielding, "low": [float(min(yielding, has)), 0.0, 0.0]}
        owner.it.executor_load(owner.now, node, load)
    for number, (tasks, klass) in enumerate(before, 1):
        owner.submit(number, tasks, spec_of(priority=klass))
    owner.take()
    owner.taken()
    planned = spread(owner.it.executors.values(), PLAIN, priority, count)
    waited = owner.it.waiting
    assert spread(owner.it.executors.values(), PLAIN, priority, count) == planned, "it changes nothing"
    owner.submit(9, count, spec_of(priority=priority))
    sent: dict[bytes, int] = {}
    for dispatch in owner.taken():
        sent[dispatch.executor] = sent.get(dispatch.executor, 0) + dispatch.count
    if waited == 0:
        assert sent == planned.tasks and owner.it.waiting == planned.left
    assert sum(planned.tasks.values()) + planned.left == count


def test_who_does_not_fit_is_told_why_and_gets_nothing() -> None:
    owner = Owner()
    owner.executor(OAK, "oak", gpu=1.0)
    planned = spread(owner.it.executors.values(), shape_of(spec_of(needs={"gpu": 1.0})), STANDARD, 3)
    assert [(one.name, one.fits, one.why) for one in planned.verdicts] == [
        ("oak", True, ""),
        ("me", False, "has no gpu"),
    ]
    assert planned.tasks == {OAK: 1} and planned.left == 2
    planned = spread(owner.it.executors.values(), shape_of(spec_of(labels=("attic",))), CRITICAL, 2)
    assert not planned.tasks and planned.left == 2 and not any(one.fits for one in planned.verdicts)


@pytest.mark.parametrize("priority", [HIGH, CRITICAL])
def test_those_are_displaced_who_were_said_to_be(priority: int) -> None:
    node, parts = busy(3)
    found = begin(node.it, PLAIN, priority, 2, node.now)
    assert found.at_once == 2 and found.next_s == 0.0, "a third would begin at once, too"
    assert not stood(node) and node.it.account.used["cpu"] == 3.0, "nothing has happened"
    said = [worker.number for worker in found.displaced]
    batch, index, name, klass, ran_s = runs_there(found.displaced[0], node.now) or (b"", -1, "", -1, -1.0)
    assert ids.task_id(batch, index) == ids.task_id(executors.key_of(3), 0) and (name, klass) == ("f", LOW)
    assert ran_s == pytest.approx(1.01)
    for number in (8, 9):
        node.dispatch(number, priority=priority)
        node.wait(0.1)
    assert [one.worker for one in node.others if isinstance(one, SuspendWorker)] == said
    assert said == [parts[2].worker, parts[1].worker]


def test_what_takes_nothing_from_others_begins_after_the_averages() -> None:
    node, parts = busy(2)
    assert begin(node.it, PLAIN, STANDARD, 1, node.now).next_s is None, "nobody knows how long these take"
    node.it.runtimes.observe(spec_of(priority=LOW).encode(), 4_000_000, 1)
    found = begin(node.it, PLAIN, STANDARD, 1, node.now)
    assert (found.at_once, found.displaced) == (0, [])
    assert found.next_s == pytest.approx(4.0 - 1.02), "the one that began first ends first"
    node.dispatch(7, priority=STANDARD)
    assert begin(node.it, PLAIN, STANDARD, 1, node.now).next_s == pytest.approx(4.0 - 1.01), "behind what waits"
    assert begin(node.it, PLAIN, HIGH, 1, node.now).at_once == 1, "before what waits"
    node.now += 10.0
    assert begin(node.it, PLAIN, STANDARD, 1, node.now).next_s is None, "they take longer than they use to"


def test_what_stands_still_goes_on_first() -> None:
    node, parts = busy(1, STANDARD)
    node.it.runtimes.observe(spec_of(priority=CRITICAL).encode(), 5_000_000, 1)
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.claim(urgent)
    assert stood(node) and begin(node.it, PLAIN, LOW, 1, node.now).next_s is None
    assert begin(node.it, PLAIN, HIGH, 1, node.now).next_s == pytest.approx(5.0)


def test_memory_is_not_given_up_and_a_node_that_drains_begins_nothing() -> None:
    node, _ = busy(needs={"cpu": 1.0, "memory": 40.0})
    wide = shape_of(spec_of(needs={"memory": 30.0}))
    assert begin(node.it, wide, CRITICAL, 1, node.now).at_once == 0
    assert begin(node.it, shape_of(spec_of(needs={"memory": 20.0})), CRITICAL, 2, node.now).at_once == 1
    node.it.drain(node.now)
    drained = begin(node.it, PLAIN, CRITICAL, 1, node.now)
    assert (drained.at_once, drained.next_s) == (0, None)


def test_this_very_node_is_asked_what_it_has_now() -> None:
    owner = Owner(1.0)
    local = owner.it.executors[ME]
    local.ask_load = lambda: {"free": 0.0, "wait": 0, "others": 1, "low": [1.0, 0.0, 0.0]}
    assert spread([local], PLAIN, CRITICAL, 2).tasks == {ME: 1} and not local.yielding
    assert spread([local], PLAIN, STANDARD, 2).left == 2
