"""Relief: which tasks an owner has moved without being asked, where to, and which it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol.executor.effects import ResumeWorker, SuspendWorker
from swarm.protocol.executor.memory import LEAVE_S
from swarm.protocol.messages import Kind
from swarm.protocol.owner.batches import MoveOver, OwnershipConfig
from swarm.protocol.owner.relief_bounds import ReliefBounds
from swarm.protocol.ownership import ToExecutor
from swarm.protocol.resources import Capacity
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import Executor
from tests.unit.protocol.owner import ELM, ME, OAK, Owner, key_of, spec_of

BOUNDS = ReliefBounds()
SAVABLE = spec_of(checkpoint=True)


def loaded(owner: Owner, node: bytes, **load: Any) -> None:
    """An executor says how busy it is, over its link."""
    it = owner.it.executors[node]
    owner.it.executor_load(owner.now, node, {"free": max(0.0, it.slots - it.ours), "wait": 0, "others": 0} | load)
    owner.take()


def stands(owner: Owner, one: ToExecutor, name: str = "suspended") -> None:
    value = {"by": key_of(9), "name": "replan"} if name == "suspended" else 1.0
    owner.it.event(owner.now, one.executor, one.dispatch, one.first, name, value, b"")
    owner.take()


def asked(owner: Owner, node: bytes) -> list[bool]:
    return [one["c"] for one in owner.messages(Kind.RECALL, node) if "c" in one]


def on(owner: Owner, number: int, spec: Any = SAVABLE) -> ToExecutor:
    """A task of one batch, wherever it was placed."""
    owner.submit(number, 1, spec)
    (one,) = owner.taken()
    return one


def standing(spec: Any = SAVABLE) -> tuple[Owner, ToExecutor]:
    """A task that stands still here, and nobody else."""
    owner = Owner(slots=1.0)
    one = on(owner, 1, spec)
    stands(owner, one)
    return owner, one


def words_of(owner: Owner, number: int, what: str = "moved") -> list[str]:
    return [str(event[5]) for event in owner.it.batches[key_of(number)].trace if event[1] == what]


def moves(owner: Owner) -> list[tuple[str, str]]:
    return [(one.labels["why"], one.labels["result"]) for one in owner.facts if one.name == "move.over"]


# --- preemption -------------------------------------------------------------------------------------------------------


def test_what_stands_still_for_long_goes_on_where_a_slot_is_free_and_not_before() -> None:
    owner, one = standing()
    owner.executor(OAK, "oak", slots=1.0)
    owner.wait(BOUNDS.stood_s - 0.1)
    assert not asked(owner, ME)
    owner.wait(0.2)
    assert asked(owner, ME) == [True]
    assert owner.it.executors[OAK].ours == 1, "the slot is kept"
    owner.report(one, {0: Status.SAVED})
    (again,) = owner.taken()
    assert again.executor == OAK and again.dispatch > one.dispatch and again.extra["saved"]
    (words,) = words_of(owner, 1)
    assert "from me" in words and "stood still for" in words and "replan is more urgent" in words
    assert moves(owner) == [("preemption", "moved")]
    assert not any(isinstance(it, MoveOver) for it in owner.others), "nobody asked"


def test_one_that_goes_on_in_time_is_not_moved() -> None:
    owner, one = standing()
    owner.executor(OAK, "oak", slots=1.0)
    owner.wait(BOUNDS.stood_s / 2)
    stands(owner, one, "resumed")
    owner.wait(10 * BOUNDS.stood_s)
    assert not asked(owner, ME)


def test_it_takes_the_first_slot_that_becomes_free_before_what_has_not_begun() -> None:
    owner, one = standing()
    owner.executor(OAK, "oak", slots=1.0)
    busy = on(owner, 2)
    assert busy.executor == OAK
    owner.submit(3, 1)
    owner.wait(BOUNDS.stood_s + 0.15)
    assert not asked(owner, ME) and not owner.taken()
    owner.fine(busy)
    assert asked(owner, ME) == [True] and not owner.taken(), "of the same class, what stood still goes first"


def test_what_waits_and_is_of_a_higher_class_goes_first() -> None:
    owner, one = standing()
    owner.executor(OAK, "oak", slots=1.0)
    busy = on(owner, 2)
    owner.submit(3, 1, spec_of(priority=2))
    owner.wait(BOUNDS.stood_s + 0.1)
    owner.fine(busy)
    assert not asked(owner, ME) and [it.executor for it in owner.taken()] == [OAK]


@pytest.mark.parametrize("why", ["labels", "no-checkpoint", "link", "drains", "suspect", "over", "waits", "cancelled"])
def test_it_stays_where_nothing_fits(why: str) -> None:
    options: dict[str, Any] = {"labels": ("fast",)} if why == "labels" else {}
    owner = Owner(slots=1.0)
    if why == "labels":
        owner.it.executors[ME].capacity = Capacity({"cpu": 1.0}, labels=frozenset(("fast",)))
    one = on(owner, 1, spec_of(checkpoint=why != "no-checkpoint", **options))
    owner.executor(OAK, "oak", slots=1.0, linked=why != "link")
    stands(owner, one)
    loaded(owner, OAK, drain=why == "drains", **({"over": 1.0} if why == "over" else {"wait": int(why == "waits")}))
    if why == "suspect":
        owner.it.executor_suspected(OAK)
    if why == "cancelled":
        owner.it.cancel(owner.now, key_of(1), None, kill=False)
        owner.take()
    owner.wait(3 * BOUNDS.stood_s)
    assert not asked(owner, ME)


def test_what_moves_cost_is_measured_and_a_wait_has_to_pay_for_it() -> None:
    owner, one = standing()
    owner.executor(OAK, "oak", slots=1.0)
    owner.wait(BOUNDS.stood_s + 0.1)
    owner.wait(3.0)  # it takes so long to come to a safe point
    owner.report(one, {0: Status.SAVED})
    (again,) = owner.taken()
    owner.fine(again)
    other = on(owner, 2)
    stands(owner, other)
    before = owner.now
    while len(asked(owner, ME)) < 2 and owner.now < before + 60:
        owner.wait(0.5)
    waited_s = owner.now - before
    assert BOUNDS.pays_factor * 2 * 3.0 <= waited_s < 20, waited_s


def test_one_that_could_not_leave_is_left_alone_for_longer_each_time() -> None:
    owner, one = standing()
    owner.executor(OAK, "oak", slots=1.0)
    tried = []
    for _ in range(600):
        owner.wait(1.0)
        told = asked(owner, ME)
        if told.count(False) > len(tried):
            tried.append(owner.now)
            stands(owner, one)  # its node has suspended it again
    assert set(moves(owner)) == {("preemption", "late")} and owner.it.executors[OAK].ours == 0
    gaps = [round(b - a) for a, b in zip(tried, tried[1:])]
    assert len(gaps) >= 3 and gaps[0] >= BOUNDS.again_s and all(b > 1.7 * a for a, b in zip(gaps, gaps[1:])), gaps


def test_what_somebody_put_somewhere_stays_there() -> None:
    owner = Owner(slots=1.0)
    owner.executor(OAK, "oak", slots=1.0)
    owner.executor(ELM, "elm", slots=1.0)
    one = on(owner, 1)
    owner.it.move(owner.now, key_of(1), 0, OAK, 10.0, by="ann")
    owner.take()
    owner.report(one, {0: Status.SAVED})
    (there,) = owner.taken()
    assert "asked for by ann" in words_of(owner, 1)[0]
    owner.wait(BOUNDS.again_s_max)
    stands(owner, there)
    owner.wait(5 * BOUNDS.stood_s)
    assert there.executor == OAK and not asked(owner, OAK)


def test_nothing_is_moved_where_that_is_switched_off() -> None:
    owner = Owner(slots=1.0, config=OwnershipConfig(relief=None))
    one = on(owner, 1)
    owner.executor(OAK, "oak", slots=1.0)
    stands(owner, one)
    loaded(owner, ME, off=1.0, over=1.0)
    owner.wait(100.0)
    assert not asked(owner, ME) and owner.it.next_deadline() is None
    owner.it.move(owner.now, key_of(1), 0, OAK, 10.0)
    owner.take()
    assert asked(owner, ME) == [True], "by hand it is, all the same"


# --- balance ----------------------------------------------------------------------------------------------------------


def at_oak(count: int, slots: float = 4.0, elm: float = 4.0, spec: Any = SAVABLE) -> tuple[Owner, list[ToExecutor]]:
    """Tasks at oak, and elm beside it."""
    owner = Owner(slots=0.0)
    owner.executor(OAK, "oak", slots=slots)
    for number in range(count):
        owner.submit(number + 1, 1, spec)
    there = owner.taken()
    assert [one.executor for one in there] == [OAK] * count
    owner.executor(ELM, "elm", slots=elm)
    return owner, there


def hot(owner: Owner, offers: float, runs: int) -> None:
    slots = owner.it.executors[OAK].slots
    loaded(owner, OAK, free=max(0.0, offers - runs), off=slots - offers, **(
        {"over": runs - offers} if runs > offers else {}
    ))  # fmt: skip


def test_a_node_that_offers_fewer_slots_than_it_runs_is_relieved_one_task_at_a_time() -> None:
    owner, there = at_oak(4)
    owner.wait(BOUNDS.ran_s)
    assert not asked(owner, OAK), "all is well"
    hot(owner, 2.0, 4)
    owner.wait(BOUNDS.over_s - 1.5)
    assert not asked(owner, OAK), "it may be over in a moment"
    owner.wait(4.0)
    assert asked(owner, OAK) == [True]
    (leaving,) = [one for one in there if owner.it._moving.is_moving(owner.it.batches[one.batch], 0)]
    owner.report(leaving, {0: Status.SAVED}, free=0.0, off=2.0, over=1.0, others=0)
    (moved,) = owner.taken()
    assert moved.executor == ELM and moves(owner) == [("slots", "moved")]
    assert "oak offers 2 slots now, and ran 4" in owner.it.batches[moved.batch].trace[-2][5]
    owner.wait(2.0)
    assert asked(owner, OAK) == [True, True], "one more"
    hot(owner, 2.0, 2)
    owner.wait(100.0)
    assert len([said for said in asked(owner, OAK) if said]) == 2


def test_one_whose_attempt_ended_while_it_was_to_leave_is_left_alone_too() -> None:
    owner, there = at_oak(2, spec=spec_of(checkpoint=True, retries=1, backoff_s=(5.0, 2.0, 60.0)))
    owner.wait(BOUNDS.ran_s)
    hot(owner, 1.0, 2)
    owner.wait(BOUNDS.over_s + BOUNDS.look_s + 0.5)
    (leaving,) = [one for one in there if owner.it._moving.is_moving(owner.it.batches[one.batch], 0)]
    owner.report(leaving, {0: Status.RETRY})
    assert moves(owner) == [("slots", "ended")], "it is tried again in a while"
    record = owner.it._relief._records[leaving.batch, 0]
    assert record.count == 1 and record.until == owner.now + BOUNDS.again_s
    owner.wait(8.0)
    (again,) = [one for one in owner.taken() if one.batch == leaving.batch]
    owner.fine(again)
    owner.wait(2 * BOUNDS.look_s)
    assert (leaving.batch, 0) not in owner.it._relief._records, "it is over"


def test_a_node_that_a_task_of_another_owner_is_leaving_is_not_relieved_meanwhile() -> None:
    owner, _ = at_oak(4)
    owner.wait(BOUNDS.ran_s)
    loaded(owner, OAK, free=0.0, off=2.0, over=2.0, leaving=1)
    owner.wait(2 * BOUNDS.over_s)
    owner.it.executor_load(owner.now, OAK, {"free": 0.0, "wait": 0, "off": 2.0})  # gossip
    owner.wait(2 * BOUNDS.over_s)
    assert not asked(owner, OAK), "what comes of it is seen first"
    hot(owner, 2.0, 4)
    owner.wait(2.0)
    assert asked(owner, OAK) == [True]


def test_a_node_tells_owners_that_tasks_of_others_are_leaving() -> None:
    node = Executor(slots=2)
    node.dispatch(1, 2, owner=b"a" * 16, checkpoint=True)
    first, second = node.slices()
    for part in (first, second):
        node.claim(part)
    assert "leaving" not in node.it.load(b"b" * 16)
    node.it.recall(node.now, b"a" * 16, 1, [(0, 2)], False, True)
    node.take()
    assert node.it.load(b"b" * 16)["leaving"] == 2 and "leaving" not in node.it.load(b"a" * 16), "its own it knows"
    node.it.recall(node.now, b"a" * 16, 1, [(second.start, second.start + 1)], False, False)
    assert node.it.load(b"b" * 16)["leaving"] == 1, "one is to stay"
    node.report(first, {first.start: Status.SAVED})
    assert "leaving" not in node.it.load(b"b" * 16)


def test_what_has_only_begun_or_has_no_room_elsewhere_stays_on_a_hot_node() -> None:
    owner, there = at_oak(2, slots=2.0, elm=1.0)
    owner.submit(9, 1)
    assert [one.executor for one in owner.taken()] == [ELM]
    hot(owner, 1.0, 2)
    owner.wait(60.0)
    assert not asked(owner, OAK), "elm is full"


def test_nothing_goes_back_to_a_node_that_something_has_just_left() -> None:
    owner, there = at_oak(1, slots=2.0)
    hot(owner, 0.0, 1)
    owner.wait(BOUNDS.ran_s + BOUNDS.over_s + 1)
    owner.report(there[0], {0: Status.SAVED}, free=2.0, others=0)
    (moved,) = owner.taken()
    assert moved.executor == ELM
    loaded(owner, ELM, free=0.0, off=4.0, over=1.0)
    owner.wait(BOUNDS.rest_s - 8)
    assert not asked(owner, ELM)


@pytest.mark.parametrize(("speed", "moved"), [(1.4, False), (2.0, True)])
def test_a_task_goes_to_an_idle_node_that_is_markedly_faster(speed: float, moved: bool) -> None:
    owner, there = at_oak(1)
    owner.it.executors[ELM].pace.speed = speed
    owner.wait(max(BOUNDS.ran_s, 2 * BOUNDS.pays_factor * BOUNDS.cost_guess_s) + 0.2)
    assert asked(owner, OAK) == ([True] if moved else [])
    if moved:
        owner.report(there[0], {0: Status.SAVED})
        (again,) = owner.taken()
        assert again.executor == ELM and "elm was idle, and is 2.0 times as fast" in words_of(owner, 1)[0]
        owner.it.executors[ELM].pace.speed = 0.5
        owner.wait(BOUNDS.again_s - 2)
        assert not asked(owner, ELM), "a task does not go to and fro"


@pytest.mark.parametrize("waits", ["nothing", "short", "unknown", "long", "urgent"])
def test_what_runs_long_on_a_slow_node_has_the_next_slot_of_a_faster_one(waits: str) -> None:
    owner, (there,) = at_oak(1, slots=1.0, elm=1.0)
    busy = on(owner, 2)
    assert busy.executor == ELM
    owner.it.executors[ELM].pace.speed = 2.0
    if waits in ("short", "long"):
        owner.it._placing.runtimes.observe(there.raw, int((1.0 if waits == "short" else 100.0) * 1e6), 1)
    if waits != "nothing":
        owner.submit(3, 1, spec_of(checkpoint=True, priority=2) if waits == "urgent" else SAVABLE)
    owner.wait(5.05)
    assert not asked(owner, OAK) and not owner.taken(), "elm is full"
    owner.now += BOUNDS.try_s
    owner.fine(busy)
    goes = waits in ("nothing", "short")
    assert asked(owner, OAK) == ([True] if goes else [])
    if waits != "nothing":
        assert [one.executor for one in owner.taken()] == ([] if goes else [ELM])
    if goes:
        owner.report(there, {0: Status.SAVED})
        found = {(one.batch, one.executor) for one in owner.taken()}
        assert found == {(key_of(1), ELM)} | ({(key_of(3), OAK)} if waits == "short" else set()), "they change places"


@pytest.mark.parametrize("there_is", ["sent ahead", "stuck", "others"])
def test_a_fast_node_that_is_full_of_what_was_sent_ahead_has_a_slot_soon(there_is: str) -> None:
    owner, (there,) = at_oak(1, slots=1.0, elm=1.0)
    owner.it.executors[ELM].pace.speed = 4.0
    owner.it._placing.runtimes.observe(there.raw, 2_000, 1)
    owner.wait(1.0 if there_is == "stuck" else 1.3)
    if there_is == "others":
        loaded(owner, ELM, free=0.0, others=1)
    owner.submit(9, 400, SAVABLE)
    assert sum(one.count for one in owner.taken() if one.executor == ELM) > 10 or there_is == "others"
    owner.wait(1.42 - 1.0 if there_is == "stuck" else 0.12)
    assert asked(owner, OAK) == ([True] if there_is == "sent ahead" else [])
    if there_is == "sent ahead":
        owner.report(there, {0: Status.SAVED})
        assert (there.batch, ELM) in {(one.batch, one.executor) for one in owner.taken()}


def test_of_each_slow_node_one_task_goes_at_a_time_that_which_has_run_for_longest() -> None:
    owner, there = at_oak(2, slots=2.0, elm=0.0)
    owner.executor(b"ash" + OAK[3:], "ash", slots=1.0)
    third = on(owner, 9)
    owner.wait(1.0)
    fast = b"fir" + OAK[3:]
    owner.executor(fast, "fir", slots=4.0)
    owner.it.executors[fast].pace.speed = 4.0
    owner.wait(0.5)
    assert asked(owner, OAK) == [True] and asked(owner, third.executor) == [True], "and from both nodes at once"
    owner.report(there[0], {0: Status.SAVED})
    owner.wait(2 * BOUNDS.hasten_s)
    assert asked(owner, OAK) == [True, True]


def test_what_is_nearly_done_is_not_moved_to_a_faster_node() -> None:
    owner, there = at_oak(1)
    owner.it._placing.runtimes.observe(there[0].raw, int((BOUNDS.ran_s + 1.5) * 1e6), 1)
    owner.it.executors[ELM].pace.speed = 2.0
    owner.wait(BOUNDS.ran_s + 1.2)
    assert not asked(owner, OAK)


def test_the_timer_ends_with_the_last_batch_that_could_be_moved() -> None:
    owner, there = at_oak(1)
    assert owner.it.next_deadline() is not None
    owner.fine(there[0])
    owner.wait(3 * BOUNDS.look_s)
    deadline = owner.it.next_deadline()
    assert deadline is None or deadline > owner.now + 60, "only what is kept for its client is looked at again"


# --- the executor -----------------------------------------------------------------------------------------------------


def displaced() -> tuple[Executor, Any, Any]:
    """A node of one slot where a task stands still for another."""
    node = Executor(slots=1, spare_workers=1)
    node.dispatch(1, 1, checkpoint=True, priority=Priority.LOW)
    (part,) = node.slices()
    node.claim(part)
    node.wait(1.0)
    node.dispatch(2, 1, priority=Priority.CRITICAL)
    (urgent,) = node.slices()
    node.claim(urgent)
    assert node.it.suspended == 1
    node.others.clear()
    return node, part, urgent


def recall(node: Executor, save: bool) -> None:
    node.it.recall(node.now, OAK, 1, None, False, save)
    node.take()


@pytest.mark.parametrize("by", ["owner", "time"])
def test_one_that_does_not_come_to_a_safe_point_stands_still_again(by: str) -> None:
    node, _, _ = displaced()
    recall(node, True)
    assert node.it.suspended == 0 and node.it.load()["over"] == 1.0
    if by == "owner":
        recall(node, False)
    else:
        node.wait(LEAVE_S + 0.1)
    assert node.it.suspended == 1 and "over" not in node.it.load()
    kinds = [type(one) for one in node.others if isinstance(one, ResumeWorker | SuspendWorker)]
    assert kinds == [ResumeWorker, SuspendWorker]


def test_one_that_is_to_stay_goes_on_when_there_is_room_by_then() -> None:
    node, _, urgent = displaced()
    recall(node, True)
    node.report(urgent, {0: Status.OK})
    node.done(urgent)
    recall(node, False)
    assert node.it.suspended == 0 and "over" not in node.it.load()


def test_one_that_leaves_is_not_stopped_for_the_next_urgent_task() -> None:
    node, part, urgent = displaced()
    recall(node, True)
    node.report(urgent, {0: Status.OK})
    node.done(urgent)
    node.dispatch(3, 1, priority=Priority.CRITICAL)
    assert node.it.suspended == 0, "it is on its way out, and that is bounded"
    node.report(part, {0: Status.SAVED})
    node.done(part)
    assert len(node.slices()) == 1


def test_the_next_owner_of_a_durable_task_is_told_that_it_stands_still() -> None:
    node = Executor(slots=1, spare_workers=1)
    node.dispatch(1, 1, checkpoint=True, priority=Priority.LOW, extra={"token": [1, 1], "saved": []})
    (part,) = node.slices()
    node.claim(part)
    node.wait(1.0)
    node.dispatch(2, 1, priority=Priority.CRITICAL, extra={"token": [1, 2]})
    assert node.it.suspended == 1
    del node.told[:]
    assert node.it.adopt(OAK, 1, ELM, 77) == [(0, 1)]
    assert not node.it.adopt(OAK, 3, ELM, 78)
    node.take()
    said = [(one.to, one.header["d"], one.header["e"]) for one in node.told if one.kind == Kind.EVENT]
    assert said == [(ELM, 77, "suspended")]
