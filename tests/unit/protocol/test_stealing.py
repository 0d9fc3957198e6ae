"""Stealing by its parts: what a busy node tells, what an idle one takes, and what an owner lets go."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from swarm.protocol.messages import Kind
from swarm.protocol.placement import Executor as Seen
from swarm.protocol.resources import PLAIN, Capacity
from swarm.protocol.states import Priority, Status
from swarm.protocol.stealing import (
    AGAIN_S,
    BLOBS_MAX,
    IDLE_S,
    PROMISED_S,
    TASKS_MAX,
    WAYS_S,
    Lot,
    Promises,
    Thief,
    lots,
    pays,
    read_lot,
    transfer_s,
)
from tests.unit.protocol.executor import Executor
from tests.unit.protocol.executor import key_of as run_key
from tests.unit.protocol.owner import ELM, ME, OAK, Owner, key_of, report_of, spec_of

LOT = Lot(7, OAK, 3, 10, 20, wait_s=1.0, run_s=0.1, nbytes=100)


def told(node: Executor, slots: float = 2.0, promises: Promises | None = None, **options: Any) -> list[Lot]:
    given: dict[str, Any] = {"fits": lambda shape: True, "blobs_of": lambda spec, calls: {}} | options
    return lots(node.it, promises or Promises(Random(1)), node.now, slots, **given)


def stuck(slots: int = 2, waiting: int = 100, **options: Any) -> Executor:
    """A node that was sent many short tasks, of which the first turn out to be long."""
    node = Executor(float(slots))
    node.dispatch(1, 20)
    while parts := node.slices():
        for part in parts:
            node.run(part, run_us=100)
    node.dispatch(2, waiting, **options)
    for part in node.slices()[:slots]:
        node.claim(part)
    node.wait(0.5)  # what lies behind them in workers' hands is taken back
    return node


# --- the busy node ----------------------------------------------------------------------------------------------------


def test_what_would_begin_last_is_told_with_its_wait() -> None:
    node = stuck()
    (lot,) = told(node)
    assert (lot.owner, lot.dispatch, lot.stop) == (OAK, 2, 100)
    assert lot.stop - lot.start == 49, "half of the 98 that wait, for half of the slots"
    assert 0.4 < lot.wait_s < 0.7, "as long again as those in front have run"
    assert lot.run_s == pytest.approx(1e-4) and lot.nbytes == 2 * 49


def test_a_lot_is_promised_to_one_at_a_time() -> None:
    node, promises = stuck(), Promises(Random(1))
    (first,), (second,) = told(node, promises=promises), told(node, promises=promises)
    assert second.stop <= first.start and first.nonce != second.nonce
    node.wait(PROMISED_S)
    (third,) = told(node, promises=promises)
    assert (third.start, third.stop) == (first.start, first.stop)


def test_of_long_tasks_as_many_are_told_as_begin_at_once() -> None:
    node = Executor(1.0)
    node.dispatch(1)
    node.run(node.slices()[0], run_us=2_000_000)
    node.dispatch(2, 50)
    node.claim(node.slices()[0])
    node.wait(1.0)
    (lot,) = told(node, 3.0)
    assert (lot.start, lot.stop) == (47, 50)
    assert lot.wait_s == pytest.approx(1.0 + 46 * 2.0)
    assert told(node, 0.5) == []


def test_what_is_less_urgent_goes_first_and_what_does_not_fit_stays() -> None:
    node = Executor(1.0)
    node.dispatch(1, 3, priority=Priority.HIGH)
    node.claim(node.slices()[0])
    node.dispatch(2, 1, priority=Priority.LOW)
    node.dispatch(3, 1, needs={"memory": 10})
    node.wait(1.0)
    assert [lot.dispatch for lot in told(node, 2.0)] == [2, 3]
    assert [lot.dispatch for lot in told(node, 2.0, fits=lambda shape: shape == PLAIN)] == [2, 1]


def test_behind_a_call_that_the_node_does_not_see_the_wait_is_as_long_as_nothing_has_moved() -> None:
    # A client that was granted the slot sends its calls to the worker itself, so that there is no page to tell what it runs.
    node = Executor(1.0)
    node.dispatch(1, 20)
    while parts := node.slices():
        for part in parts:
            node.run(part, run_us=100)
    assert node.it.grant(b"client") is not None
    node.dispatch(2, 30)
    assert not node.slices()
    node.wait(0.005)
    assert max(lot.wait_s for lot in told(node, 5.0)) < 2 * WAYS_S, "it may end at any moment"
    node.wait(3.0)
    (lot,) = told(node, 5.0)
    assert lot.wait_s > 3.0 and pays(lot, lambda blob: True)


def test_behind_a_worker_that_does_not_begin_the_wait_is_as_long_as_nothing_has_moved() -> None:
    node = Executor(1.0)
    node.dispatch(1, 20)
    while parts := node.slices():
        for part in parts:
            node.run(part, run_us=100)
    node.dispatch(2, 5000)
    assert node.slices()
    node.wait(3.0)
    (lot,) = told(node, 5.0)
    assert lot.wait_s > 3.0 and pays(lot, lambda blob: True)


def test_nothing_is_told_where_nothing_waits_and_blobs_are_bounded() -> None:
    assert told(Executor(2.0)) == []
    blobs = {bytes([number]) * 32: 1000 for number in range(BLOBS_MAX + 3)}
    (lot,) = told(stuck(), blobs_of=lambda spec, calls: blobs)
    assert len(lot.blobs) == BLOBS_MAX and lot.nbytes == 2 * 49 + 3000
    assert read_lot(lot.encode()) == lot


# --- the idle node ----------------------------------------------------------------------------------------------------


def test_it_pays_where_the_wait_is_longer_than_the_way_and_what_is_here_costs_nothing() -> None:
    assert transfer_s(LOT, lambda blob: False) == pytest.approx(WAYS_S + 1e-6)
    heavy = Lot(7, OAK, 3, 10, 20, 1.0, 0.1, 100, ((b"a" * 32, 80_000_000),))
    assert pays(LOT, lambda blob: False)
    assert not pays(heavy, lambda blob: False) and pays(heavy, lambda blob: True)
    assert not pays(Lot(7, OAK, 3, 10, 20, WAYS_S, 0.1, 0), lambda blob: True)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, -1), (0, "7"), (1, 3), (3, True), (4, 10), (4, 11 + TASKS_MAX), (5, -1.0), (6, None), (7, 1 << 64), (8, {}), (8, [[b"x"]])],
)  # fmt: skip
def test_a_malformed_lot_is_refused(at: int, value: Any) -> None:
    said = LOT.encode()
    said[at] = value
    with pytest.raises(ValueError, match="lot"):
        read_lot(said)


def seen(name: str, waiting: int, slots: float = 2.0) -> Seen:
    return Seen(name.encode(), name, Capacity({"cpu": slots}), waiting=waiting)


def test_the_more_loaded_of_two_is_asked_once_the_slot_has_been_free_for_a_moment() -> None:
    thief, nodes = Thief(Random(1)), [seen("ash", 10), seen("elm", 30, 8.0), seen("oak", 0)]
    thief.turn(5.0, True)
    assert thief.next_deadline() == 5.0 + IDLE_S
    assert thief.ask(5.001, nodes) is None
    it = thief.ask(5.0 + IDLE_S, nodes)
    assert it is nodes[0], "ten for two slots is more than thirty for eight"
    thief.turn(5.1, True)
    assert thief.next_deadline() is None, "one at a time"
    thief.answered(5.2, 0)
    assert thief.next_deadline() == pytest.approx(5.2 + 2 * AGAIN_S)
    thief.turn(5.21, False)
    assert thief.next_deadline() is None, "busy again"
    thief.turn(5.22, True)
    assert thief.next_deadline() == pytest.approx(5.2 + 2 * AGAIN_S), "and not asked for before that"
    assert thief.ask(6.0, [seen("oak", 0)]) is None and thief.next_deadline() is None


def test_all_loaded_nodes_are_asked_in_time_and_the_most_loaded_most() -> None:
    thief, nodes = Thief(Random(1)), [seen(str(number), 10 + number) for number in range(8)]
    asked = [0] * 8
    for round in range(400):
        thief.turn(float(round), True)
        it = thief.ask(round + 0.5, nodes)
        assert it is not None
        asked[nodes.index(it)] += 1
        thief.answered(round + 0.5, 1)
    assert asked[0] == 0 and sorted(asked) == asked and asked[7] > 70


# --- the owner --------------------------------------------------------------------------------------------------------


def loaded() -> tuple[Owner, Any]:
    """An owner whose batch of ten is out at elm, and oak is idle."""
    owner = Owner(slots=1.0)
    owner.executor(ELM, "elm", 10.0)
    owner.submit(1, 10, spec_of(needs={"cpu": 1, "x": 1}))
    owner.executor(ELM, "elm", 10.0, x=10.0)
    (out,) = owner.taken()
    assert (out.executor, out.count) == (ELM, 10)
    owner.executor(OAK, "oak", 10.0, x=10.0)
    return owner, out


def approve(owner: Owner, number: int, start: int, stop: int, nonce: int = 1, thief: bytes = OAK) -> str:
    why = owner.it.approve(owner.now, thief, nonce, ELM, number, start, stop, 0.5)
    owner.take()
    return why


def test_what_comes_back_unbegun_goes_to_who_asked_under_a_new_number() -> None:
    owner, out = loaded()
    assert approve(owner, out.dispatch, 4, 10) == ""
    assert owner.messages(Kind.RECALL, ELM) == [{"d": out.dispatch, "r": [[4, 10]], "k": False}]
    owner.report(out, {index: Status.RETURNED for index in (5, 6, 7, 9)})
    moved = owner.taken()
    assert [(one.executor, one.first, one.count, one.attempts) for one in moved] == [(OAK, 5, 3, 1), (OAK, 9, 1, 1)]
    assert all(one.dispatch > out.dispatch for one in moved)
    assert [fact.value for fact in owner.facts if fact.name == "steal.moved"] == [4]
    batch = owner.it.batches[key_of(1)]
    _, what, start, stop, node, detail = batch.trace[-1]
    assert (what, start, stop, node) == ("stolen", 9, 10, "oak") and detail.startswith("it waited on elm"), detail
    owner.report(out, {index: Status.OK for index in range(10)})
    assert sorted(owner.ended(1)) == [0, 1, 2, 3, 4, 8], "those that began where they were; the others' token is stale"
    for one in moved:
        owner.fine(one)
    assert owner.ended(1) == dict.fromkeys(range(10), Status.OK)
    assert all(not it.ours and not it.inflight and not it.dispatches for it in owner.it.executors.values())


def test_a_lot_is_approved_once() -> None:
    owner, out = loaded()
    assert approve(owner, out.dispatch, 4, 6) == ""
    assert "before" in approve(owner, out.dispatch, 4, 6)
    assert "first" in approve(owner, out.dispatch, 5, 8, nonce=2)
    assert approve(owner, out.dispatch, 6, 8, nonce=3) == ""


@pytest.mark.parametrize("what", ["number", "range", "thief", "same", "draining", "suspect", "misfit"])
def test_what_cannot_be_is_refused(what: str) -> None:
    owner, out = loaded()
    thief, number, stop = OAK, out.dispatch, 6
    match what:
        case "number":
            number += 1
        case "range":
            stop = 11
        case "thief":
            thief = b"who" + bytes(13)
        case "same":
            thief = ELM
        case "draining":
            owner.it.executor_load(owner.now, OAK, {"drain": True})
        case "suspect":
            owner.it.executor_suspected(OAK)
        case "misfit":
            thief = ME
    assert approve(owner, number, 4, stop, thief=thief)
    assert not owner.messages(Kind.RECALL, ELM)


def test_what_comes_back_too_late_or_for_who_is_gone_is_placed_as_usual() -> None:
    for late in (True, False):
        owner, out = loaded()
        assert approve(owner, out.dispatch, 4, 10) == ""
        if late:
            owner.wait(2.0)
        else:
            owner.it.executor_lost(owner.now, OAK, "dead")
        owner.report(out, {4: Status.RETURNED})
        (again,) = owner.taken()
        assert again.first == 4 and "stolen" not in [entry[1] for entry in owner.it.batches[key_of(1)].trace]


def test_what_was_cancelled_meanwhile_goes_nowhere() -> None:
    owner, out = loaded()
    assert approve(owner, out.dispatch, 4, 10) == ""
    owner.it.cancel(owner.now, key_of(1), [(4, 7)])
    owner.report(out, {index: Status.RETURNED for index in range(4, 10)})
    assert [(one.first, one.count) for one in owner.taken()] == [(7, 3)]
    assert owner.ended(1) == dict.fromkeys((4, 5, 6), Status.CANCELLED)


def test_tasks_that_go_on_from_a_state_take_it_along_a_few_at_a_time() -> None:
    owner = Owner(slots=1.0)
    owner.executor(ELM, "elm", 40.0, x=40.0)
    batch = owner.submit(1, 40, spec_of(needs={"cpu": 1, "x": 1}, checkpoint=True))
    assert batch is not None
    (out,) = owner.taken()
    owner.executor(OAK, "oak", 40.0, x=40.0)
    batch.saved[25] = (1, b"state")
    assert approve(owner, out.dispatch, 0, 40) == ""
    owner.report(out, dict.fromkeys(range(40), Status.RETURNED))
    moved = owner.taken()
    assert [(one.first, one.count) for one in moved] == [(0, 16), (16, 16), (32, 8)]
    assert [one.extra["saved"] for one in moved] == [[], [[25, 1, b"state"]], []]


# --- time that does not count -----------------------------------------------------------------------------------------


def test_standing_still_is_no_run_time() -> None:
    node = Executor(1.0)
    node.dispatch(1)
    (low,) = node.slices()
    node.claim(low)
    node.wait(1.0)
    node.dispatch(2, owner=ELM, priority=Priority.CRITICAL)
    (urgent,) = node.slices()
    node.claim(urgent)
    node.wait(60.0)
    node.report(urgent, {0: Status.OK}, 60_000_000)
    node.done(urgent)
    node.wait(1.0)
    node.report(low, {0: Status.OK}, 62_000_000)
    raw = spec_of().encode()
    assert node.it.runtimes.mean_s(raw) == pytest.approx(2.0)
    (header,) = [one.header for one in node.told if one.kind == Kind.OUTCOMES and one.to == OAK]
    assert header["s"] == 60_000_000 and header["b"] == run_key(1)
    owner = Owner()
    owner.submit(1)
    (out,) = owner.taken()
    count, body = report_of({0: Status.OK}, 62_000_000)
    owner.it.outcomes(owner.now, ME, out.dispatch, count, body, None, header["s"])
    assert owner.it.runtimes.mean_s(raw) == pytest.approx(2.0)
