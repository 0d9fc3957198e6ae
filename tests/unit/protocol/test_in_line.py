"""One line for all that waits: over shapes, over owners, and for what takes several slots."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.executor.suspension import AGEING_S
from swarm.protocol.owner.in_line import LOOK_S
from swarm.protocol.resources import PLAIN, Capacity, ReadyShapes, Shape, shape_of
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import ELM, Executor
from tests.unit.protocol.executor import OAK as OWNER
from tests.unit.protocol.owner import ME, OAK, Owner, spec_of

MEMORY = Shape("", (("cpu", 1.0), ("memory", 5.0)), ())
WIDE = Shape("", (("cpu", 2.0),), ())
SHAPES = (PLAIN, MEMORY, WIDE)

# --- one order over shapes --------------------------------------------------------------------------------------------


def taken(ready: ReadyShapes, now_ns: int = 0, full: tuple[Shape, ...] = (), seconds: float = 1.0) -> list[int]:
    """Keys in the order in which they are taken, task by task, where there is no room for some shapes."""
    found, turns = [], ready.turns(now_ns)
    while (shape := turns.next()) is not None:
        head = ready.head(shape, now_ns)
        assert head is not None
        if shape in full:
            turns.full()
            continue
        ready.take(shape, head[0], 1, seconds)
        found.append(head[0])
    return found


def test_classes_ages_and_shares_count_across_shapes() -> None:
    ready = ReadyShapes()
    ready.push(PLAIN, 1, Priority.STANDARD, 0, 5_000_000_000, 2, "ann", "plain")
    ready.push(MEMORY, 2, Priority.HIGH, 0, 5_000_000_000, 1, "ann", "urgent")
    ready.push(WIDE, 3, Priority.LOW, 0, 0, 1, "bob", "old")
    assert taken(ready, 5_000_000_000) == [2, 1, 1, 3]
    ready.push(PLAIN, 1, Priority.STANDARD, 0, 15_000_000_000, 1, "ann", "plain")
    ready.push(WIDE, 3, Priority.LOW, 0, 0, 1, "bob", "old")
    assert taken(ready, 20_000_000_000) == [3, 1], "it has risen twice"


def test_users_share_over_shapes_and_the_earliest_deadline_goes_first_over_them() -> None:
    ready = ReadyShapes()
    ready.push(PLAIN, 1, Priority.STANDARD, 0, 0, 40, "ann", "plain")
    ready.push(MEMORY, 2, Priority.STANDARD, 0, 0, 40, "ann", "more")
    ready.push(WIDE, 3, Priority.STANDARD, 0, 0, 20, "bob", "wide")
    first = taken(ready)[:20]
    # The wide ones count twice, since each takes two slots.
    assert first.count(3) in (6, 7) and abs(first.count(1) - first.count(2)) <= 1
    ready.push(PLAIN, 4, Priority.STANDARD, 0, 0, 1, "ann", "plain")
    ready.push(WIDE, 5, Priority.STANDARD, 0, 0, 1, "ann", "later", 90.0)
    ready.push(MEMORY, 6, Priority.STANDARD, 0, 0, 1, "ann", "soon", 10.0)
    assert taken(ready) == [6, 5, 4]


def test_what_has_no_room_stops_nobody_else() -> None:
    ready = ReadyShapes()
    for key, shape in enumerate(SHAPES):
        ready.push(shape, key, Priority.STANDARD, 0, 0, 2, "ann", str(key))
    assert sorted(taken(ready, full=(WIDE,))) == [0, 0, 1, 1] and ready.waiting_of(WIDE) == 2
    assert taken(ready) == [2, 2] and ready.tasks == 0 and taken(ready) == []


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_each_turn_is_that_of_the_least_rank(data: st.DataObject) -> None:
    """The heap of what is looked at again only when it comes up, against ranks that are all computed anew."""
    ready, now_ns = ReadyShapes({"ann": 2.0}), 30_000_000_000
    for key in range(data.draw(st.integers(1, 9))):
        shape, user = data.draw(st.sampled_from(SHAPES)), data.draw(st.sampled_from(["ann", "bob"]))
        since, count = data.draw(st.integers(0, 30)) * 1_000_000_000, data.draw(st.integers(1, 4))
        deadline = data.draw(st.sampled_from([None, None, 5.0]))
        ready.push(shape, key, data.draw(st.integers(0, 3)), 0, since, count, user, key, deadline)
    full = set(data.draw(st.lists(st.sampled_from(SHAPES), max_size=2)))
    turns = ready.turns(now_ns)
    left = {shape for shape in SHAPES if ready.waiting_of(shape)}
    while (shape := turns.next()) is not None:
        ranks = {it: ready._queues[it].rank(now_ns) for it in left if ready.waiting_of(it)}
        assert (ranks[shape], shape) == min((rank, it) for it, rank in ranks.items())
        if shape in full:
            turns.full()
            left.discard(shape)
            continue
        head = ready.head(shape, now_ns)
        assert head is not None
        ready.take(shape, head[0], 1, 0.5)
    assert all(not ready.waiting_of(it) for it in SHAPES if it not in full)


# --- a place in line at a node that has no slot free ------------------------------------------------------------------


def owner_beside_others(**more: Any) -> Owner:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak", memory=100.0)
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 9, "others": 11, "yours": [0, 0, 0, 0]} | more)
    return owner


def test_one_task_of_each_class_waits_where_others_have_the_slots() -> None:
    owner = owner_beside_others()
    batch = owner.submit(1, 5)
    assert [(it.executor, it.count) for it in owner.taken()] == [(OAK, 1)], "one, whatever others have sent ahead"
    assert batch is not None
    placed = [entry for entry in batch.trace if entry[1] == "placed"]
    assert placed and "waits there for its turn" in placed[0][5][0][3]
    owner.submit(2, 5, spec_of(priority=Priority.HIGH))
    assert [it.count for it in owner.taken()] == [1], "it does not wait for what is less urgent"
    owner.wait(1.0)
    assert owner.taken() == []
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 9, "others": 11, "yours": [0, 0, 1, 0]})
    owner.wait(2 * LOOK_S)
    assert owner.taken() == [], "the urgent one waits still, and comes first"
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 9, "others": 11, "yours": [0, 0, 0, 0]})
    owner.take()
    owner.wait(2 * LOOK_S)
    assert [it.spec.priority for it in owner.taken()] == [Priority.HIGH], (
        "both were begun: the next, the urgent one first"
    )


def test_what_is_next_waits_where_tasks_of_another_shape_run_and_nothing_goes_past_them() -> None:
    owner = owner_beside_others(others=0, wait=0, free=2.0)
    owner.submit(1, 9)
    assert [it.count for it in owner.taken()] == [2]
    needs = {"memory": 5.0}
    owner.submit(2, 3, spec_of(needs=needs, priority=Priority.LOW))
    owner.wait(1.0)
    assert owner.taken() == [], "the others are before it, and would have the slot"
    owner.submit(3, 3, spec_of(needs=needs, priority=Priority.HIGH))
    assert [(it.count, it.spec.needs, it.spec.priority) for it in owner.taken()] == [(1, needs, Priority.HIGH)]
    owner.wait(1.0)
    assert owner.taken() == [], "no more than one, and of the others none, since slots are all that they wait for"


def test_what_lacks_something_else_stops_nobody_behind_it() -> None:
    owner = owner_beside_others()
    owner.submit(1, 1, spec_of(needs={"memory": 80.0}, priority=Priority.HIGH))
    owner.submit(2, 1, spec_of(needs={"memory": 80.0}, priority=Priority.HIGH, nice=5))
    assert len(owner.taken()) == 1, "one is there, and has the memory"
    owner.submit(3, 2)
    assert [it.count for it in owner.taken()] == [1], "the other waits for memory, and would not take the slot"


def test_where_something_less_urgent_runs_one_waits_for_each_slot() -> None:
    owner = owner_beside_others(low=[1.0, 1.0, 0.0])
    owner.submit(1, 5)
    assert sum(it.count for it in owner.taken()) == 2
    owner.submit(2, 5, spec_of(priority=Priority.LOW))
    assert owner.taken() == [], "there is nothing below it"


def test_of_short_tasks_as_many_wait_as_begin_before_that_is_told() -> None:
    owner = Owner(slots=1)
    owner.submit(1)
    (part,) = owner.taken()
    owner.report(part, {0: Status.OK}, free=1.0)
    owner.it._placing.runtimes.observe(owner.it.batches[part.batch].raw, 10_000_000, 200)
    owner.executor(OAK, "oak", slots=8.0)
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 9, "others": 40, "yours": [0, 0, 0, 0]})
    owner.submit(2, 30)
    assert sum(it.count for it in owner.taken() if it.executor == OAK) == 9


@pytest.mark.parametrize(
    "load", [{"drain": True}, {"yours": None}, {"yours": [0, 0, 0]}, {"yours": ["x", 0, 0, 0]}, {"off": 2.0}]
)  # fmt: skip
def test_nothing_waits_at_a_node_that_drains_offers_nothing_or_does_not_say_what_waits(load: dict[str, Any]) -> None:
    owner = Owner(slots=0)
    owner.executor(OAK, "oak")
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 9, "others": 11, "yours": [0, 0, 0, 0]} | load)
    owner.submit(1, 5)
    owner.wait(1.0)
    assert owner.taken() == []


def test_what_a_node_never_runs_does_not_wait_there() -> None:
    owner = owner_beside_others()
    owner.submit(1, 1, spec_of(labels=["gpu"]))
    owner.submit(2, 1, spec_of(needs={"cpu": 3}))
    assert owner.taken() == []


def test_of_several_nodes_the_one_where_least_waits() -> None:
    owner = owner_beside_others(others=30)
    elm = bytes([7]) * 16
    owner.it.executor_seen(owner.now, elm, "elm", Capacity({"cpu": 2.0}), {"free": 0.0, "wait": 1})
    owner.it.executor_linked(owner.now, elm)
    owner.it.executor_load(owner.now, elm, {"free": 0.0, "wait": 0, "others": 2, "yours": [0, 0, 0, 0]})
    owner.submit(1, 5)
    assert [it.executor for it in owner.taken()] == [elm, OAK]
    assert ME not in {it.executor for it in owner.dispatched}


# --- an executor's own line -------------------------------------------------------------------------------------------


def test_a_node_tells_each_owner_what_of_his_waits() -> None:
    node = Executor(slots=1)
    assert node.it.load(OWNER)["yours"] == [0, 0, 0, 0]
    node.dispatch(1)
    node.dispatch(2, 3, owner=ELM, priority=Priority.LOW)
    node.dispatch(3, 2, owner=OWNER)
    assert node.it.load(OWNER)["yours"] == [0, 2, 0, 0] and node.it.load(ELM)["yours"] == [3, 0, 0, 0]
    node.run_all()
    assert node.it.load(ELM)["yours"] == [0, 0, 0, 0]
    node.at_rest()


def shape_needs(shape: Shape) -> dict[str, float]:
    return dict(shape.needs)


def test_slots_gather_for_what_is_next_and_takes_several() -> None:
    """Short tasks in both slots: nothing is handed out behind the wide one, which begins when they have ended."""
    node = Executor(slots=2)
    for number in range(1, 3):
        node.dispatch(number, 1)
        node.run(node.slices()[0], run_us=2000)
    node.dispatch(3, 1)
    node.dispatch(4, 1)
    first, second = node.slices()
    node.now += 1.0
    node.dispatch(5, 1, owner=ELM, needs=shape_needs(WIDE), priority=Priority.HIGH)
    node.dispatch(6, 4)
    node.run(first, run_us=2000)
    assert node.slices() == [], "one slot is free, and is kept"
    node.run(second, run_us=2000)
    (wide,) = node.slices()
    assert wide.run == node.it.runs[0].number
    node.run(wide)
    node.run_all()
    node.at_rest()


def test_behind_long_tasks_others_pass_until_it_has_waited_for_long() -> None:
    node = Executor(slots=2)
    node.dispatch(1, 2)
    long, other = node.slices()
    node.dispatch(2, 1, owner=ELM, needs=shape_needs(WIDE))
    node.dispatch(3, 2)
    node.run(other, run_us=3_000_000)
    (passing,) = node.slices()
    node.now += AGEING_S
    node.dispatch(4, 2)
    node.run(passing, run_us=3_000_000)
    assert node.slices() == [], "now it has waited for long enough"
    node.dispatch(5, 1, owner=ELM, depth=1, parent=bytes(16), root=bytes(16), priority=Priority.CRITICAL)
    (child,) = node.slices()
    node.run(child)
    assert node.slices() == []
    node.run(long, run_us=3_000_000)
    (wide,) = node.slices()
    node.run(wide)
    node.run_all()
    node.at_rest()


def test_no_slot_is_kept_while_something_waits_that_a_task_has_submitted() -> None:
    """What runs may be waiting for it without a word, and what is wide for what runs."""
    node = Executor(slots=2)
    node.dispatch(1, 1)
    (parent,) = node.slices()
    node.dispatch(2, 1, owner=ELM, needs=shape_needs(WIDE))
    node.now += 2 * AGEING_S
    node.dispatch(3, 1)
    assert node.slices() == []
    node.dispatch(4, 1, depth=1, parent=bytes(16), root=bytes(16))
    node.run_all()
    assert node.ended(4) == {0: Status.OK} and not node.ended(2, ELM)
    node.run(parent)
    node.run_all()
    node.at_rest()


def test_slots_are_not_kept_for_what_lacks_something_else() -> None:
    node = Executor(slots=2)
    node.dispatch(1, 1, needs={"memory": 60.0})
    (holds,) = node.slices()
    node.dispatch(2, 1, needs={"memory": 60.0})
    node.now += 2 * AGEING_S
    node.dispatch(3, 1)
    (beside,) = node.slices()
    assert shape_of(spec_of()) == PLAIN
    for part in (beside, holds):
        node.run(part)
    node.run_all()
    node.at_rest()


# --- for how long it waited -------------------------------------------------------------------------------------------


def test_what_waited_at_its_owner_has_waited_when_it_begins() -> None:
    owner = Owner(slots=1)
    owner.submit(1)
    (first,) = owner.taken()
    owner.submit(2)
    owner.wait(3.5)
    owner.fine(first)
    (second,) = owner.taken()
    assert "waited" not in (first.extra or {}) and second.extra == {"waited": 3.5}
    node = Executor(slots=1)
    node.dispatch(1, extra={"waited": 3.5})
    (part,) = node.slices()
    (fact,) = [one for one in node.facts if one.name == "slice.handed"]
    assert fact.fields["wait_s"] == 3.5 and fact.labels == {"class": "standard"}
    assert "waited" not in part.extra, "it is nothing to the worker"


@pytest.mark.parametrize("said", [-1.0, float("nan"), float("inf"), True, "long", None])
def test_a_wait_that_is_none_is_refused(said: Any) -> None:
    with pytest.raises(ValueError, match="tasks that waited"):
        Executor(slots=1).dispatch(1, extra={"waited": said})
