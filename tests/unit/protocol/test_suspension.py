"""Urgent work takes slots from less urgent work by suspension, and gives them back."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol.executor.effects import HandSlice, ResumeWorker, SuspendWorker
from swarm.protocol.executor.suspension import IMMUNE_S_MAX, immune_for_s, level, yields
from swarm.protocol.messages import Kind
from swarm.protocol.placement import Executor as Seen
from swarm.protocol.placement import judge, rank
from swarm.protocol.ranking import Rankings
from swarm.protocol.resources import PLAIN, Capacity, Shape, shape_of
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import ELM, OAK, Executor, spec_of

LOW, STANDARD, HIGH, CRITICAL = Priority


def busy(slots: int = 2, priority: int = LOW, **options: Any) -> tuple[Executor, list[HandSlice]]:
    """An executor whose slots are all taken, for long enough that it has a spare worker; and what runs."""
    node = Executor(float(slots))
    for number in range(1, slots + 1):
        node.dispatch(number, priority=priority, **options)
    parts = node.slices()
    for part in parts:
        node.claim(part)
        node.now += 0.01
    node.wait(1.0)
    assert len(parts) == slots and not node.it.account.free_cpu
    assert len(node.pages) == slots + 1, "one worker is ready for urgent work that may come"
    return node, parts


def stood(node: Executor) -> list[int]:
    """Workers that stand still."""
    return [worker.number for worker in node.it.workers.values() if worker.state == "suspended"]


def events(node: Executor, name: str) -> list[tuple[int, Any]]:
    """(dispatch, value) of what owners were told."""
    return [
        (one.header["d"], one.header["v"]) for one in node.told if one.kind == Kind.EVENT and one.header["e"] == name
    ]


def test_critical_work_begins_at_once_and_what_it_displaced_goes_on() -> None:
    node, parts = busy()
    node.dispatch(9, owner=ELM, priority=CRITICAL)
    (urgent,) = node.slices()
    (stopped,) = [one.worker for one in node.others if isinstance(one, SuspendWorker)]
    assert stopped == parts[1].worker, "the one that began last"
    assert stood(node) == [stopped] and urgent.worker not in (parts[0].worker, stopped)
    assert events(node, "suspended") == [(2, {"by": b"session!\0\0\0\x09", "name": "f"})]
    node.wait(0.5)
    node.run(urgent)
    assert [one.worker for one in node.others if isinstance(one, ResumeWorker)] == [stopped] and not stood(node)
    assert events(node, "resumed") == [(2, 0.5)]
    for part in parts:
        node.report(part, {part.start: Status.OK})
        node.done(part)
    assert node.ended(1) == node.ended(2) == {0: Status.OK} == node.ended(9, ELM)
    assert node.it.idle and not any(node.it.account.used.values())


@pytest.mark.parametrize(
    ("running", "urgent", "takes"),
    [
        (LOW, STANDARD, False), (LOW, HIGH, True), (LOW, CRITICAL, True), (STANDARD, HIGH, False),
        (STANDARD, CRITICAL, True), (HIGH, CRITICAL, True), (HIGH, HIGH, False), (CRITICAL, CRITICAL, False),
    ],
)  # fmt: skip
def test_who_takes_from_whom(running: int, urgent: int, takes: bool) -> None:
    assert yields(running, urgent) == takes
    if running == CRITICAL:
        return
    node, _ = busy(1, running)
    node.dispatch(9, priority=urgent)
    assert bool(stood(node)) == takes == bool(node.slices())


def test_the_lowest_class_is_taken_from_and_no_more_than_is_needed() -> None:
    node = Executor(3.0)
    for number, priority in enumerate((STANDARD, LOW, HIGH), 1):
        node.dispatch(number, priority=priority)
    parts = node.slices()
    for part in parts:
        node.claim(part)
    node.wait(1.0)
    node.dispatch(9, priority=CRITICAL)
    assert stood(node) == [parts[1].worker]
    node.dispatch(10, priority=CRITICAL, needs={"cpu": 2.0})
    assert sorted(stood(node)) == sorted(part.worker for part in parts), "two slots more"
    assert len(node.slices()) == 2


def test_nobody_is_stopped_for_what_does_not_fit_then() -> None:
    node, _ = busy(needs={"cpu": 1.0, "memory": 40.0})
    node.dispatch(9, priority=CRITICAL, needs={"cpu": 1.0, "memory": 30.0})
    assert not stood(node) and not node.slices(), "a stopped process keeps its memory"
    node.dispatch(10, priority=CRITICAL, needs={"cpu": 1.0, "memory": 20.0})
    assert len(stood(node)) == 1 and [part.run for part in node.slices()] == [4]


def test_a_resource_that_is_declared_releasable_is_given_up() -> None:
    node = Executor(2.0, releasable=frozenset(("cpu", "memory")))
    for number in (1, 2):
        node.dispatch(number, priority=LOW, needs={"cpu": 1.0, "memory": 40.0})
    for part in node.slices():
        node.claim(part)
    node.wait(1.0)
    node.dispatch(9, priority=CRITICAL, needs={"cpu": 1.0, "memory": 30.0})
    assert len(stood(node)) == 1 and len(node.slices()) == 1
    assert node.it.account.used == {"cpu": 2.0, "memory": 70.0}


def test_nobody_is_stopped_before_a_process_is_there_for_the_urgent_task() -> None:
    node = Executor(1.0, ready=False)
    node.it.worker_ready(node.now, 1)
    node.dispatch(1, priority=LOW)
    (part,) = node.slices()
    node.claim(part)
    node.dispatch(9, priority=CRITICAL)
    assert not stood(node) and not node.slices()
    assert set(node.pages) == {1, 2}, "a process is started"
    node.it.worker_ready(node.now, 2)
    node.take()
    assert stood(node) == [1] and [one.worker for one in node.slices()] == [2]


def test_a_timeout_counts_running_time_only() -> None:
    node, parts = busy(1, timeout_s=10.0)
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.claim(urgent)
    node.wait(60.0)
    assert not node.stopped
    node.report(urgent, {0: Status.OK})
    node.done(urgent)
    node.wait(8.5)
    assert not node.stopped, "it ran for a second before"
    node.wait(1.0)
    assert [one.worker for one in node.stopped] == [parts[0].worker]
    node.exited(parts[0].worker)
    assert node.ended(1) == {0: Status.TIMEOUT}


def test_a_task_that_stands_still_can_be_cancelled() -> None:
    node, parts = busy(1)
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.it.recall(node.now, OAK, 1, None, True)
    node.take()
    assert [one.worker for one in node.stopped] == [parts[0].worker] and not stood(node)
    node.exited(parts[0].worker, "signal 9")
    assert node.ended(1) == {0: Status.CANCELLED}
    node.run(urgent)
    assert node.ended(9) == {0: Status.OK} and not any(node.it.account.used.values())


def test_a_worker_that_dies_while_it_stands_still_counts_as_any_that_dies() -> None:
    node, parts = busy(1)
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.exited(parts[0].worker, "signal 9")
    assert node.ended(1) == {0: Status.CRASHED}
    node.run(urgent)
    assert not any(node.it.account.used.values()) and node.it.idle


def test_who_was_through_just_before_it_was_stopped_is_not_kept() -> None:
    node, parts = busy(1)
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.report(parts[0], {0: Status.OK})
    node.done(parts[0])
    assert not stood(node) and any(isinstance(one, ResumeWorker) for one in node.others)
    node.run(urgent)
    assert node.it.idle and not any(node.it.account.used.values())


def test_what_stands_still_goes_before_what_has_not_begun_and_rises_with_time() -> None:
    node, parts = busy(1)
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.claim(urgent)
    node.dispatch(2, priority=LOW)
    node.dispatch(3, priority=STANDARD)
    node.report(urgent, {0: Status.OK})
    node.done(urgent)
    (standard,) = node.slices()
    assert standard.run == 4 and stood(node) == [parts[0].worker], "STANDARD goes before it"
    node.claim(standard)
    node.wait(11.0)
    node.dispatch(4, priority=STANDARD)
    node.report(standard, {0: Status.OK})
    node.done(standard)
    assert not stood(node) and not node.slices(), "it is as good as STANDARD by now, and was there before"
    assert [level(LOW, 0.0, at) for at in (0.0, 9.9, 10.0, 20.0, 99.0)] == [LOW, LOW, STANDARD, HIGH, HIGH]
    assert level(CRITICAL, 0.0, 99.0) == CRITICAL


def test_who_stood_still_for_longer_than_it_ran_is_left_alone_for_as_long() -> None:
    node, parts = busy(1)
    for number in range(10, 13):
        node.dispatch(number, priority=CRITICAL)
        (urgent,) = node.slices()
        node.claim(urgent)
        node.wait(2.0)
        node.report(urgent, {0: Status.OK})
        node.done(urgent)
    node.dispatch(20, priority=CRITICAL)
    assert not node.slices(), "it ran for one second, and stood for six"
    node.wait(4.0)
    node.dispatch(21, priority=LOW)  # anything that has it look
    assert not node.slices()
    node.wait(1.1)
    node.dispatch(22, priority=LOW)
    assert [one.run for one in node.slices()] == [5] and stood(node) == [parts[0].worker]
    assert immune_for_s(2, 0.0, 9.0) == 0.0 and immune_for_s(3, 0.0, 1e9) == IMMUNE_S_MAX


def test_the_load_tells_whose_slots_could_be_had() -> None:
    node, _ = busy(2)
    assert node.it.load(OAK)["low"] == [2.0, 0.0, 0.0]
    node.dispatch(9, priority=CRITICAL)
    assert node.it.load()["low"] == [1.0, 0.0, 0.0]
    node.dispatch(10, priority=CRITICAL, needs={"cpu": 2.0})
    assert "low" not in node.it.load(), "who waits here already needs it"
    assert "low" not in Executor(2.0).it.load()


def seen(id: bytes, low: list[float] | None, ours: int = 2) -> Seen:
    """An executor with two slots, as an owner sees it."""
    it = Seen(id, id.decode().strip("\0"), Capacity({"cpu": 2.0}), linked=True)
    it.sent(PLAIN, ours)
    it.heard({"free": 2.0 - ours, "others": 0.0, **({} if low is None else {"low": low})})
    return it


def test_placement_prefers_free_slots_then_takes_those_of_lower_work() -> None:
    full, free = seen(b"a", [2.0, 0.0, 0.0]), seen(b"b", None, 1)
    assert judge(full, PLAIN, None).room == 0 and judge(full, PLAIN, None, STANDARD).room == 0
    verdict = judge(full, PLAIN, None, CRITICAL)
    assert (verdict.room, verdict.displaces) == (2, True)
    assert [one.name for one in rank([full, free], PLAIN, None, CRITICAL)] == ["b", "a"]
    assert judge(seen(b"c", [0.0, 2.0, 0.0]), PLAIN, None, HIGH).room == 0
    full.displaced(PLAIN, CRITICAL, 1)
    assert judge(full, PLAIN, None, CRITICAL).room == 1, "no slot is given away twice"
    wide = shape_of(spec_of(needs={"cpu": 2.0}))
    assert judge(full, wide, None, CRITICAL).room == 0
    full.draining = True
    assert judge(full, PLAIN, None, CRITICAL).room == 0


@pytest.mark.parametrize(
    "said", [float("inf"), float("nan"), -float("inf"), 1 << 64, -1, -0.5, True, "many", None, [1.0]]
)
@pytest.mark.parametrize("what", ["free", "wait", "blocked", "off", "others", "low", "urgent"])
def test_a_load_that_no_node_has_is_taken_within_bounds(what: str, said: Any) -> None:
    """A peer may say anything: whoever is ranked beside it is still ranked, and nothing overflows."""
    it, other = seen(b"a", None), seen(b"b", None)
    rankings = Rankings({b"a": it, b"b": other})
    it.heard({"free": 1.0, "wait": 0, "others": 0.0, what: said})
    it.heard({"free": 0.0, "wait": 0, "others": 2.0, "low": [1.0], what: [said] if what == "low" else said})
    for shape in (PLAIN, Shape("", (("cpu", 0.0),), ())):
        for mean_s in (None, 0.001, 5.0):
            for priority in (LOW, CRITICAL):
                expected = rank([it, other], shape, mean_s, priority)
                assert rankings.of(shape, priority).verdicts(mean_s) == expected
                assert all(0 <= verdict.room < 1 << 40 for verdict in expected)


@pytest.mark.parametrize("low", [None, 3, "ab", [-1.0], [float("nan")], [True, 1], [1.0, "x"]])
def test_a_load_that_is_malformed_gives_nothing(low: Any) -> None:
    it = seen(b"a", None)
    it.heard({"others": 0, "low": low})
    assert judge(it, PLAIN, None, CRITICAL).room == 0


def test_a_report_that_is_older_than_what_was_sent_gives_no_slot_away_twice() -> None:
    it = seen(b"a", [2.0, 0.0, 0.0])
    it.sent(PLAIN, 1, CRITICAL)
    it.heard({"others": 0, "low": [2.0, 0.0, 0.0]})
    assert judge(it, PLAIN, None, CRITICAL).room == 1, "it did not know of ours"
    it.heard({"others": 0, "low": [1.0, 0.0, 0.0], "urgent": 1})
    assert judge(it, PLAIN, None, CRITICAL).room == 1, "it has ours, and one more makes way"
    it.heard({"low": [2.0, 0.0, 0.0]})
    assert judge(it, PLAIN, None, CRITICAL).room == 1, "gossip is older than the link"
    it.back(PLAIN, 1, CRITICAL)
    it.linked = False
    it.heard({"low": [2.0, 0.0, 0.0]})
    assert judge(it, PLAIN, None, CRITICAL).room == 2


def test_what_waits_runs_and_stands_still_is_counted_by_class() -> None:
    node, _ = busy(2, LOW)
    node.dispatch(8, 3, priority=STANDARD)
    node.dispatch(9, priority=CRITICAL)
    node.take()
    assert node.it.classes() == [(0, 1, 1), (3, 0, 0), (0, 0, 0), (0, 1, 0)]


def test_what_waited_is_told_by_its_class() -> None:
    node, _ = busy()
    node.dispatch(8, priority=STANDARD)
    node.dispatch(9, priority=CRITICAL)
    handed = [fact for fact in node.facts if fact.name == "slice.handed"]
    assert [fact.labels["class"] for fact in handed] == ["low", "low", "critical"]
    node.wait(1.0)
    node.it.reprioritize(node.now, OAK, 8, None, CRITICAL, 0)
    node.take()
    assert [fact.labels["class"] for fact in node.facts if fact.name == "slice.handed"][3:] == ["critical"]
