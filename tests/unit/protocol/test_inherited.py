"""Children of a task that was given another class while it ran: the node where it runs knows that, and whoever owns them is told."""

from __future__ import annotations

import pytest

from swarm.protocol import ids
from swarm.protocol.messages import Kind
from swarm.protocol.states import Priority
from tests.unit.protocol.executor import Executor
from tests.unit.protocol.executor import key_of as run_key
from tests.unit.protocol.owner import ME, OAK, Owner, key_of, spec_of

PARENT = ids.task_id(key_of(1), 0)
CHILD = spec_of(parent=PARENT, root=PARENT, depth=1, priority=1, inherits=True)


def test_a_child_has_the_class_that_its_parent_was_given_unless_it_said_its_own() -> None:
    owner = Owner(slots=8.0)
    owner.submit(1)
    owner.taken()
    owner.it.reprioritize(owner.now, key_of(1), None, Priority.HIGH, None)
    owner.take()
    batch = owner.submit(2, 1, CHILD)
    assert batch is not None and batch.own == batch.urgency(0) == (Priority.HIGH, 0)
    (handed,) = owner.taken()
    assert handed.urgency == (Priority.HIGH, 0) and handed.extra["priority"] == Priority.HIGH, "its children as well"
    said = owner.submit(3, 1, spec_of(parent=PARENT, root=PARENT, depth=1, priority=1))
    assert said is not None and said.own == (Priority.STANDARD, 0)


def test_where_the_parent_runs_counts_and_what_another_node_says_of_it() -> None:
    owner = Owner(slots=8.0)
    owner.it.class_here = {PARENT: Priority.LOW}.get
    batch = owner.submit(2, 1, CHILD)
    assert batch is not None and batch.own[0] == Priority.LOW
    other = Owner(slots=8.0)
    there = other.submit(2, 1, CHILD, inherited=int(Priority.CRITICAL))
    assert there is not None and there.own[0] == Priority.CRITICAL
    nobody = Owner(slots=8.0)
    alone = nobody.submit(2, 1, CHILD)
    assert alone is not None and alone.own[0] == Priority.STANDARD, "as it was when the parent began"
    odd = nobody.submit(3, 1, spec_of(parent=b"short", priority=1, inherits=True))
    assert odd is not None and odd.own[0] == Priority.STANDARD


@pytest.mark.parametrize("part", [False, True])
def test_an_executor_knows_the_class_that_a_task_was_given_and_not_what_others_lend_it(part: bool) -> None:
    node = Executor(slots=2)
    node.dispatch(7, 2)
    for one in node.slices():
        node.claim(one)
    first, second = (ids.task_id(run_key(7), index) for index in range(2))
    assert [node.it.class_of(task) for task in (first, second)] == [1, 1]
    ranges = [(0, 1)] if part else None
    node.it.reprioritize(node.now, OAK, 7, ranges, Priority.CRITICAL, 0, Priority.LOW)
    assert [node.it.class_of(task) for task in (first, second)] == [Priority.LOW, 1 if part else Priority.LOW]
    node.it.reprioritize(node.now, OAK, 7, None, Priority.HIGH, 0)  # an owner of an earlier release
    assert node.it.class_of(first) == Priority.LOW
    assert node.it.class_of(ids.task_id(run_key(9), 0)) is None


def test_an_owner_tells_executors_both_classes() -> None:
    owner = Owner(slots=1.0)
    owner.submit(1)
    owner.it.parent_waits(owner.now, b"nobody", Priority.HIGH)
    owner.it.awaited(owner.now, PARENT, ids.task_id(key_of(8), 0), Priority.CRITICAL)
    owner.it.reprioritize(owner.now, key_of(1), None, Priority.LOW, None)
    owner.take()
    last = owner.messages(Kind.REPRIORITIZE, ME)[-1]
    assert (last["p"], last["o"]) == (Priority.CRITICAL, Priority.LOW)
