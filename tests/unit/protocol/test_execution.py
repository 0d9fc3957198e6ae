"""The executor by itself: runs, slices, workers that die, hang and wait, and what no owner or worker should ever say."""

from __future__ import annotations

from typing import Any

import pytest

from kernels.batch import OutcomeBuilder, Outcomes
from swarm.protocol.executor.crew import START_FAILURES_MAX, WORKERS_EXTRA_MAX
from swarm.protocol.executor.effects import HandInput, HandSpec
from swarm.protocol.messages import Kind
from swarm.protocol.states import Status
from tests.unit.protocol.executor import ELM, ME, OAK, Executor, key_of

# --- runs and slices --------------------------------------------------------------------------------------------------


def test_a_run_is_handed_to_workers_and_reported_as_it_came() -> None:
    node = Executor(slots=2)
    node.dispatch(7, 2, attempts=3, extra={"deps": [b"M\x02"]})
    first, second = node.slices()
    assert {first.worker, second.worker} == {1, 2}
    assert [(one.start, one.count) for one in (first, second)] == [(0, 1), (1, 1)]
    assert first.extra == {"batch": key_of(7), "token": 7, "attempt": 4, "deps": [b"M\x02"]}
    assert bytes(first.payloads) == b"M\x01"
    assert [type(one) for one in node.others] == [HandSpec, HandSpec]
    node.run(first)
    node.run(second, Status.FAILED)
    assert node.ended(7) == {0: Status.OK, 1: Status.FAILED}
    node.at_rest()


def test_a_worker_hears_of_a_spec_once() -> None:
    node = Executor(slots=1)
    for number in range(3):
        node.dispatch(number)
        node.run(node.slices()[0])
    assert len(node.others) == 1


def test_indices_are_those_of_the_batch_not_of_the_run() -> None:
    node = Executor(slots=1)
    node.dispatch(7, 2, first=1000)
    (part,) = node.slices()
    assert part.start == 1000
    node.run(part)
    (part,) = node.slices()
    node.run(part)
    assert node.ended(7) == {1000: Status.OK, 1001: Status.OK}


def test_short_tasks_come_in_longer_slices_and_a_second_one_ahead() -> None:
    node = Executor(slots=1)
    node.dispatch(1, 1)
    node.run(node.slices()[0], run_us=10)
    node.dispatch(2, 1200)
    first, second = node.slices()
    assert first.count > 100
    assert (first.worker, second.worker) == (1, 1)
    assert first.slot != second.slot
    node.run(first, run_us=10)
    node.run(second, run_us=10)
    node.run_all()
    assert len(node.ended(2)) == 1200
    node.at_rest()


@pytest.mark.parametrize("options", [{"rerun": False}, {"stream": True}, {"python": "guest"}])
def test_some_tasks_are_handed_over_one_by_one_however_short(options: dict[str, Any]) -> None:
    node = Executor(slots=1)
    node.dispatch(1, 1, **options)
    node.run(node.slices()[0], run_us=10)
    node.dispatch(2, 3, **options)
    (part,) = node.slices()
    assert part.count == 1


def test_the_start_of_what_may_not_be_repeated_is_told() -> None:
    node = Executor(slots=1)
    node.dispatch(1, rerun=False)
    (event,) = [one.header for one in node.told if one.kind == Kind.EVENT]
    assert (event["d"], event["i"], event["e"]) == (1, 0, "started")


def test_urgent_work_goes_first_and_older_work_of_one_class() -> None:
    node = Executor(slots=1)
    node.dispatch(1)
    (part,) = node.slices()
    node.claim(part)
    node.dispatch(2, priority=0)
    node.dispatch(3, priority=1)
    node.dispatch(4, priority=2)
    order = []
    for _ in range(3):
        node.report(part, {part.start: Status.OK})
        node.done(part)
        (part,) = node.slices()
        node.claim(part)
        order.append(part.extra["token"])
    assert order == [4, 3, 2]


def test_needs_are_counted_and_given_back() -> None:
    node = Executor(slots=4)
    node.dispatch(1, 3, needs={"cpu": 1.0, "memory": 60.0})
    (part,) = node.slices()
    assert node.it.account.used == {"cpu": 1.0, "memory": 60.0}
    assert node.it.load()["free"] == 3.0
    node.run(part)
    (part,) = node.slices()
    node.exited(part.worker)  # before it began: its task runs again
    node.run_all()
    assert node.ended(1) == dict.fromkeys(range(3), Status.OK)
    node.at_rest()


def test_the_same_dispatch_again_is_taken_once() -> None:
    node = Executor(slots=1)
    node.dispatch(1, 2)
    node.dispatch(1, 2)
    assert node.it.others(b"") == 2
    node.dispatch(1, 2, owner=ELM)  # of another owner: another one
    assert node.it.others(b"") == 4
    assert (node.it.others(OAK), node.it.others(ELM), node.it.load(OAK)["others"]) == (2, 2, 2)
    assert node.it.held(OAK) == {1: [(0, 2)]}


def test_what_can_never_fit_goes_back_at_once() -> None:
    node = Executor(slots=2)
    node.dispatch(1, 2, first=5, needs={"cpu": 3.0})
    node.dispatch(2, labels=("arm",))
    node.dispatch(3, python="pypy")
    assert node.ended(1) == {5: Status.RETURNED, 6: Status.RETURNED}
    assert node.ended(2) == node.ended(3) == {0: Status.RETURNED}
    node.at_rest()


@pytest.mark.parametrize(
    "given",
    [
        {"batch": b"short"}, {"first": -1}, {"first": 2**32}, {"attempts": -1}, {"attempts": 2**63},
        {"dispatch": -1}, {"dispatch": 2**64}, {"extra": [1]}, {"count": 0},
    ],
)  # fmt: skip
def test_a_run_that_no_owner_would_send_is_an_error_and_leaves_nothing_behind(given: dict[str, Any]) -> None:
    from kernels.batch import CallBuilder, Calls
    from tests.unit.protocol.executor import spec_of

    node = Executor(slots=1)
    count = given.pop("count", 1)
    builder = CallBuilder()
    for _ in range(count):
        builder.add(b"M\x01")
    spec = spec_of()
    options: dict[str, Any] = {"dispatch": 1, "batch": key_of(1), "first": 0, "attempts": 0} | given
    with pytest.raises(ValueError):
        node.it.dispatch(
            node.now, OAK, spec=spec, raw=spec.encode(), granted=True, calls=Calls(builder.take(), count), **options
        )
    node.take()
    node.at_rest()
    node.dispatch(2)
    node.run(node.slices()[0])
    assert node.ended(2) == {0: Status.OK}


# --- recalling --------------------------------------------------------------------------------------------------------


def running(node: Executor, count: int = 4, **options: Any) -> Any:
    """A slice of some quick tasks, of which the first runs."""
    node.dispatch(900, 1, **options)
    node.run(node.slices()[0], run_us=10)
    node.dispatch(1, count, **options)
    parts = node.slices()
    assert parts[0].count > 1
    assert node.claim(parts[0]) == 0
    return parts[0]


def test_what_has_not_begun_goes_back_when_it_is_recalled() -> None:
    node = Executor(slots=1)
    part = running(node, 4)
    node.it.recall(node.now, OAK, 1, [(1, 3)], kill=False)
    node.take()
    assert node.ended(1) == {1: Status.RETURNED, 2: Status.RETURNED}
    assert not node.stopped
    node.report(part, {0: Status.OK})
    node.done(part)
    node.run_all()
    assert node.ended(1) == {0: Status.OK, 1: Status.RETURNED, 2: Status.RETURNED, 3: Status.OK}
    node.at_rest()


def test_what_runs_is_ended_when_it_is_recalled_with_kill() -> None:
    node = Executor(slots=1)
    part = running(node, 3)
    node.it.recall(node.now, OAK, 1, None, kill=True)
    node.take()
    assert [(one.worker, one.how) for one in node.stopped] == [(part.worker, "kill")]
    assert node.ended(1) == {1: Status.RETURNED, 2: Status.RETURNED}
    node.exited(part.worker, "signal 9")
    assert node.ended(1)[0] == Status.CANCELLED
    node.at_rest()
    ready = [one for one in node.it.workers.values() if one.state == "ready"]
    assert len(ready) == 1


def test_a_kill_spares_a_worker_that_runs_something_else() -> None:
    node = Executor(slots=1)
    part = running(node, 3)
    node.it.recall(node.now, OAK, 1, [(2, 3)], kill=True)
    node.take()
    assert not node.stopped
    assert node.ended(1) == {2: Status.RETURNED}
    node.report(part, {0: Status.OK})
    node.done(part)
    assert node.ended(1)[0] == Status.OK


def test_recalls_of_what_is_not_here_or_not_theirs_change_nothing() -> None:
    node = Executor(slots=1)
    running(node, 3)
    for owner, dispatch, ranges in (
        (ELM, 1, None),
        (OAK, 99, None),
        (OAK, 1, [(50, 2**32)]),
        (OAK, 1, []),
        (OAK, 1, [(3, 1)]),
    ):
        node.it.recall(node.now, owner, dispatch, ranges, kill=True)
    node.take()
    assert node.ended(1) == {}
    assert not node.stopped


def test_what_an_owner_that_is_lost_had_here_is_dropped_and_what_runs_is_ended() -> None:
    node = Executor(slots=1)
    part = running(node, 3)
    node.dispatch(2, 1, owner=ELM)
    node.it.owner_lost(node.now, OAK)
    node.take()
    assert [one.how for one in node.stopped] == ["kill"]
    assert node.it.others(b"") == 1
    node.exited(part.worker, "signal 9")
    assert node.ended(1) == {}
    *_, rest = node.slices()
    node.run(rest)
    assert node.ended(2, ELM) == {0: Status.OK}
    node.at_rest()


def test_an_owner_that_is_back_has_ended_what_it_gave_up_meanwhile_and_nothing_else() -> None:
    node = Executor(slots=1)
    dropped = running(node, 3)
    node.dispatch(2, 1)
    node.dispatch(3, 1, owner=ELM)
    node.dispatch(4, 1, extra={"token": [3, 4]})
    node.it.keep_only(node.now, OAK, {2})
    node.take()
    assert [(one.worker, one.how) for one in node.stopped] == [(dropped.worker, "kill")]
    assert sorted(node.it.held(OAK)) == [2, 4] and sorted(node.it.held(ELM)) == [3]
    node.slices()  # what the doomed worker was handed beforehand
    node.exited(dropped.worker, "signal 9")
    assert node.ended(1) == {}
    parts = node.slices()
    while parts:
        node.run(parts.pop(0))
        parts += node.slices()
    assert node.ended(2) == node.ended(3, ELM) == node.ended(4) == {0: Status.OK}


def test_what_an_owner_that_is_back_hands_over_may_overtake_what_it_says_of_its_return() -> None:
    node = Executor(slots=1)
    running(node, 3)
    node.dispatch(5, 1)
    node.it.keep_only(node.now, OAK, (), 4)
    node.take()
    assert [one.how for one in node.stopped] == ["kill"] and sorted(node.it.held(OAK)) == [5]
    node.it.keep_only(node.now, OAK, (), 5)
    assert sorted(node.it.held(OAK)) == []


def test_the_slice_of_an_owner_that_was_lost_ends_without_being_queued_again() -> None:
    node = Executor(slots=1)
    part = running(node, 3)
    page = node.pages[part.worker]
    assert page is not None
    page.end()  # between two tasks: nothing runs that would have to be ended
    node.it.owner_lost(node.now, OAK)
    node.take()
    assert not node.stopped
    node.done(part)
    assert node.slices() == []
    node.at_rest()
    node.dispatch(2)
    node.run(node.slices()[0])
    assert node.ended(2) == {0: Status.OK}


# --- workers that die -------------------------------------------------------------------------------------------------


def test_the_task_that_ran_is_blamed_for_the_death_and_the_rest_runs_again_here() -> None:
    node = Executor(slots=1)
    part = running(node, 4)
    page = node.pages[part.worker]
    assert page is not None
    node.report(part, {0: Status.OK})
    assert node.claim(part) == 1
    node.exited(part.worker)
    assert node.ended(1) == {0: Status.OK, 1: Status.CRASHED}
    node.run_all()
    assert node.ended(1) == {0: Status.OK, 1: Status.CRASHED, 2: Status.OK, 3: Status.OK}
    node.at_rest()


def test_a_task_whose_report_died_with_the_worker_is_lost_not_blamed() -> None:
    node = Executor(slots=1)
    part = running(node, 4)
    assert node.claim(part) == 1  # the first one has ended; its outcome was not flushed
    node.exited(part.worker)
    assert node.ended(1) == {0: Status.LOST, 1: Status.CRASHED}


def test_the_death_of_a_guest_is_blamed_on_its_task() -> None:
    node = Executor(slots=1)
    node.dispatch(1, python="guest")
    (part,) = node.slices()
    node.exited(part.worker)
    assert node.ended(1) == {0: Status.CRASHED}


def test_a_worker_that_dies_idle_is_replaced() -> None:
    node = Executor(slots=2)
    node.exited(1, "exit 1")
    assert sorted(node.it.workers) == [2, 3]
    (fact,) = [one for one in node.facts if one.name == "worker.exited"]
    assert fact.labels == {"expected": "false"}


def test_workers_that_do_not_start_are_tried_again_ever_later() -> None:
    node = Executor(slots=1, ready=False)
    waits = []
    for _ in range(5):
        (worker,) = node.it.workers
        node.exited(worker, "exit 1")
        assert not node.it.workers
        at = node.it.next_deadline()
        assert at is not None
        waits.append(at - node.now)
        node.wait(waits[-1] + 0.001)
    assert waits == sorted(waits)
    assert waits[0] < 1 < waits[-1]
    node.dispatch(1)
    node.it.worker_ready(node.now, next(iter(node.it.workers)))
    node.take()
    node.run(node.slices()[0])
    assert node.ended(1) == {0: Status.OK}


def test_tasks_of_an_interpreter_that_does_not_start_are_refused() -> None:
    node = Executor(slots=1, ready=False)
    node.dispatch(1, 2, python="guest")
    for _ in range(START_FAILURES_MAX):
        guests = [one.number for one in node.it.workers.values() if one.python]
        if guests:
            node.exited(guests[0], "exit 127")
    assert node.ended(1) == {0: Status.REFUSED, 1: Status.REFUSED}
    assert node.it.idle


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", [None, "guest"])
def test_a_task_that_runs_for_too_long_is_ended(python: str | None) -> None:
    node = Executor(slots=1)
    node.dispatch(1, 2, timeout_s=1.0, python=python)
    (part,) = node.slices()
    node.claim(part)
    node.wait(0.9)
    assert not node.stopped
    node.wait(0.2)
    assert [one.worker for one in node.stopped] == [part.worker]
    node.exited(part.worker, "signal 9")
    assert node.ended(1) == {0: Status.TIMEOUT}
    (part,) = node.slices()
    node.run(part)
    assert node.ended(1) == {0: Status.TIMEOUT, 1: Status.OK}
    node.at_rest()


def test_a_timeout_counts_from_when_the_task_begins() -> None:
    node = Executor(slots=1)
    node.dispatch(1, timeout_s=1.0)
    (part,) = node.slices()
    node.wait(5.0)  # the worker is busy loading what the task needs
    node.claim(part)
    node.wait(0.9)
    assert not node.stopped
    node.wait(0.2)
    assert node.stopped


def test_a_short_timeout_counts_after_and_beside_a_long_one() -> None:
    node = Executor(slots=2)
    for slow in (1, 2):
        node.dispatch(slow, timeout_s=60.0)
        (long,) = node.slices()
        node.claim(long)
        node.wait(0.5)  # it was looked at, and has a minute
        if slow == 1:
            node.report(long, {0: Status.OK})
            node.done(long)
        node.dispatch(10 + slow, timeout_s=0.2)
        (short,) = node.slices()
        node.claim(short)
        node.wait(0.15)
        assert not node.stopped
        node.wait(0.1)
        assert [one.worker for one in node.stopped] == [short.worker]
        node.stopped.clear()
        node.exited(short.worker, "signal 9")
        assert node.ended(10 + slow) == {0: Status.TIMEOUT}


def test_what_a_worker_has_in_hand_besides_has_its_own_timeout() -> None:
    node = Executor(slots=1)
    for number, timeout_s in enumerate((60.0, 0.2)):
        node.dispatch(number, 100, timeout_s=timeout_s)
        while parts := node.slices():
            for part in parts:
                node.run(part, run_us=100)
    node.dispatch(2, timeout_s=60.0)
    node.dispatch(3, timeout_s=0.2)
    long, short = node.slices()  # both are quick, as far as is known
    assert long.worker == short.worker
    node.claim(long)
    node.wait(0.015)  # it was looked at, and has a minute
    node.report(long, {0: Status.OK})
    node.done(long)
    node.claim(short)
    node.wait(0.15)
    assert not node.stopped
    node.wait(0.3)
    assert [one.worker for one in node.stopped] == [short.worker]


@pytest.mark.parametrize(("options", "tasks"), [({"recycle_tasks": 2}, 2), ({"recycle_age_s": 30.0}, 1)])
def test_workers_are_replaced_by_count_and_by_age(options: dict[str, Any], tasks: int) -> None:
    node = Executor(slots=1, **options)
    node.wait(31.0)
    for number in range(tasks):
        node.dispatch(number)
        node.run(node.slices()[0])
    assert [(one.worker, one.how) for one in node.stopped] == [(1, "finish")]
    assert [one.number for one in node.it.workers.values() if one.state == "ready"] == [2]
    node.exited(1, "exit 0")
    assert sorted(node.it.workers) == [2]


def test_an_idle_worker_that_has_grown_is_replaced_and_a_busy_one_is_not() -> None:
    node = Executor(slots=1, worker_memory_bytes_max=1000)
    node.it.worker_memory(node.now, 1, 1000)
    node.dispatch(1)
    node.it.worker_memory(node.now, 1, 5000)
    node.take()
    assert not node.stopped
    node.run(node.slices()[0])
    node.it.worker_memory(node.now, 1, 5000)
    node.take()
    assert [(one.worker, one.how) for one in node.stopped] == [(1, "finish")]


# --- tasks that wait for tasks ----------------------------------------------------------------------------------------


def test_the_slot_of_a_task_that_waits_is_lent_and_its_slice_given_to_others() -> None:
    node = Executor(slots=1)
    part = running(node, 3)
    node.it.worker_blocked(node.now, part.worker)
    node.take()
    assert node.it.load()["blocked"] == 1
    rest = node.slices()
    assert rest and all(one.worker != part.worker for one in rest)
    for one in rest:
        node.run(one)
    node.it.worker_unblocked(node.now, part.worker)
    node.take()
    assert node.it.load()["blocked"] == 0
    node.report(part, {0: Status.OK})
    node.done(part)
    assert node.ended(1) == dict.fromkeys(range(3), Status.OK)
    node.at_rest()


def test_there_is_a_bound_on_the_workers_of_tasks_that_wait() -> None:
    node = Executor(slots=1)
    for number in range(WORKERS_EXTRA_MAX + 10):
        node.dispatch(number)
        for part in node.slices():
            node.claim(part)
            node.it.worker_blocked(node.now, part.worker)
            node.take()
    assert len(node.it.workers) == 1 + WORKERS_EXTRA_MAX
    assert node.it.waiting == 10 - 1


def test_a_worker_that_is_ended_while_its_task_waits_gives_back_what_it_took_once() -> None:
    node = Executor(slots=2)
    node.dispatch(1)
    (part,) = node.slices()
    node.claim(part)
    node.it.worker_blocked(node.now, part.worker)
    node.it.recall(node.now, OAK, 1, None, kill=True)
    node.take()
    node.exited(part.worker, "signal 9")
    assert node.ended(1) == {0: Status.CANCELLED}
    node.at_rest()
    assert node.it.load()["free"] == 2.0


# --- draining ---------------------------------------------------------------------------------------------------------


def test_what_has_not_begun_goes_back_when_the_node_drains_and_what_runs_may_end() -> None:
    node = Executor(slots=1)
    part = running(node, 3)
    node.dispatch(2, 2)
    node.it.drain(node.now)
    node.take()
    assert node.ended(1) == {1: Status.RETURNED, 2: Status.RETURNED}
    assert node.ended(2) == {0: Status.RETURNED, 1: Status.RETURNED}
    node.dispatch(3)
    assert node.ended(3) == {0: Status.RETURNED}
    assert node.it.load()["drain"] is True
    node.report(part, {0: Status.OK})
    node.done(part)
    for ahead in node.slices():
        node.done(ahead)
    assert node.ended(1)[0] == Status.OK
    node.at_rest()


# --- events, input ----------------------------------------------------------------------------------------------------


def test_events_go_to_the_owner_and_input_to_the_worker() -> None:
    node = Executor(slots=1)
    node.dispatch(1)
    (part,) = node.slices()
    node.it.worker_event(part.worker, part.run, 0, "item", 3, b"bulk")
    node.it.worker_event(part.worker, 999, 0, "item", 3, b"bulk")
    node.it.worker_event(77, part.run, 0, "item", 3, b"bulk")
    node.it.give_input(OAK, key_of(1), 0, "in", None, b"text")
    node.it.give_input(ELM, key_of(1), 0, "in", None, b"text")
    node.it.give_input(OAK, key_of(1), 5, "in", None, b"text")
    node.take()
    (event,) = [one for one in node.told if one.kind == Kind.EVENT]
    assert (event.to, event.header["d"], event.header["e"], event.header["v"], event.parts) == (
        OAK,
        1,
        "item",
        3,
        (b"bulk",),
    )
    given = [one for one in node.others if isinstance(one, HandInput)]
    assert [(one.worker, one.index, one.what, one.body) for one in given] == [(part.worker, 0, "in", b"text")]


# --- what no worker should say ----------------------------------------------------------------------------------------


def test_outcomes_of_what_a_worker_does_not_have_are_ignored() -> None:
    node = Executor(slots=2)
    node.dispatch(1, 2)
    first, second = node.slices()
    builder = OutcomeBuilder()
    builder.add(second.start, Status.OK, 1, b"M\x01")
    body = builder.take()
    for worker, run in ((first.worker, first.run), (99, first.run), (first.worker, 99)):
        node.it.worker_outcomes(node.now, worker, run, Outcomes(body, 1), body)
    node.take()
    assert node.ended(1) == {}
    node.run(first)
    node.report(first, {first.start: Status.FAILED})  # again, after its slice
    node.run(second)
    assert node.ended(1) == {0: Status.OK, 1: Status.OK}
    node.at_rest()


def test_words_about_workers_that_nobody_knows_change_nothing() -> None:
    node = Executor(slots=1)
    node.it.worker_started(99, None)
    node.it.worker_ready(node.now, 99)
    node.it.worker_ready(node.now, 1)  # is ready already
    node.it.worker_exited(node.now, 99, "exit 0")
    node.it.worker_blocked(node.now, 99)
    node.it.worker_unblocked(node.now, 1)  # is not blocked
    node.it.worker_memory(node.now, 99, 10**12)
    node.it.worker_slice_done(node.now, 1, 3)
    node.it.worker_slice_done(node.now, 99, 0)
    node.it.owner_lost(node.now, ME)
    node.it.on_timer(node.now + 1e6)
    assert node.it.take_effects() == []
    node.at_rest()
