"""Urgent work and workers that have something in hand of which nothing runs: slices handed over and not begun, or just between two tasks."""

from __future__ import annotations

from swarm.protocol.executor.effects import HandSlice, ResumeWorker, SuspendWorker
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import Executor

LOW, STANDARD, HIGH, CRITICAL = Priority


def stood(node: Executor) -> list[int]:
    """Workers that stand still."""
    return [worker.number for worker in node.it.workers.values() if worker.state == "suspended"]


def signalled(node: Executor) -> list[int]:
    """Workers that were ever stopped."""
    return [one.worker for one in node.others if isinstance(one, SuspendWorker)]


def quick(node: Executor, number: int, count: int, **options: int) -> HandSlice:
    """A dispatch of tasks that are known to be short, so that several make a slice; the slice."""
    node.dispatch(number, 1, **options)
    (first,) = node.slices()
    node.report(first, {node.claim(first): Status.OK}, run_us=100)
    node.done(first)
    node.dispatch(number + 100, count, **options)
    (part,) = node.slices()
    assert part.count == count > 1
    return part


def test_who_has_begun_nothing_gives_up_its_slot_without_being_stopped() -> None:
    node = Executor(1.0, spare_workers=0)
    node.dispatch(1, priority=LOW)
    (low,) = node.slices()
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    assert urgent.worker == low.worker, "it has nothing else to do, and no other process is there"
    assert not signalled(node) and node.it.account.used["cpu"] == 1.0
    page = node.pages[low.worker]
    assert page is not None and page.claim(low.slot) < 0, "the LOW task was taken back"
    node.done(low)
    assert not node.slices(), "the slot is the urgent task's"
    node.run(urgent)
    (again,) = node.slices()
    node.run(again)
    assert node.ended(1) == node.ended(9) == {0: Status.OK}
    assert node.it.idle and not any(node.it.account.used.values())


def test_where_a_process_is_idle_it_runs_there() -> None:
    node = Executor(1.0)
    node.dispatch(1, priority=LOW)
    (low,) = node.slices()
    node.wait(1.0)
    assert len(node.pages) == 2, "one is ready for urgent work that may come"
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    assert urgent.worker != low.worker and not signalled(node)
    node.done(low)
    node.run(urgent)
    node.run_all()
    assert node.ended(1) == node.ended(9) == {0: Status.OK}
    assert node.it.idle and not any(node.it.account.used.values())


def test_of_equals_the_one_that_has_begun_nothing_makes_way() -> None:
    node = Executor(2.0)
    for number in (1, 2):
        node.dispatch(number, priority=LOW)
    one, other = node.slices()
    node.claim(one)
    node.wait(1.0)
    node.dispatch(9, priority=CRITICAL)
    assert len(node.slices()) == 1 and not signalled(node)
    assert node.it.account.used["cpu"] == 2.0, "what runs goes on beside it"
    node.dispatch(10, priority=CRITICAL)
    assert signalled(node) == [one.worker] and other.worker not in stood(node)


def test_who_is_between_two_tasks_is_stopped_as_one_that_runs() -> None:
    node = Executor(1.0)
    part = quick(node, 1, 8, priority=LOW)
    node.wait(1.0)
    page = node.pages[part.worker]
    assert page is not None and page.claim(part.slot) == 0  # and does not say yet that it begins it
    assert page.current() is None
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    assert stood(node) == signalled(node) == [part.worker] != [urgent.worker]
    assert page.progress(part.slot) == (1, 1), "what it had not taken goes to others"
    node.run(urgent)
    assert [one.worker for one in node.others if isinstance(one, ResumeWorker)] == [part.worker]
    node.report(part, {0: Status.OK}, run_us=100)
    node.done(part)
    node.run_all()
    assert node.ended(101) == dict.fromkeys(range(8), Status.OK)
    assert node.it.idle and not any(node.it.account.used.values())


def test_behind_urgent_work_nothing_goes_while_others_stand_still_for_it() -> None:
    node = Executor(1.0)
    low = quick(node, 1, 2, priority=LOW)
    node.claim(low)
    node.wait(1.0)
    node.dispatch(300, 50, priority=LOW)
    node.slices()  # one more slice, ahead of time
    node.dispatch(9, priority=CRITICAL)
    (urgent,) = node.slices()
    node.claim(urgent)
    assert stood(node) == [low.worker]
    node.wait(1.0)
    assert not node.slices(), "the slot goes back to who made way"
    node.report(urgent, {0: Status.OK}, run_us=100)
    node.done(urgent)
    assert not stood(node)
    assert not any(part.worker == urgent.worker for part in node.slices())


def test_work_goes_to_a_process_whose_share_of_the_processors_need_not_be_changed() -> None:
    node = Executor(3.0)
    node.dispatch(1, priority=LOW)
    (low,) = node.slices()
    node.run(low)
    assert low.low
    for number, priority in ((2, CRITICAL), (3, LOW), (4, STANDARD), (5, LOW)):
        node.dispatch(number, priority=priority)
        found = node.slices()
        if number == 5:
            assert not found, "three slots"
            break
        assert (found[0].worker == low.worker) == (priority == LOW), number


def test_who_gave_up_its_slot_and_does_not_know_yet_is_there_for_the_next_urgent_task() -> None:
    node = Executor(1.0, ready=False, spare_workers=0)
    node.it.worker_ready(node.now, 1)
    node.dispatch(1, priority=LOW)
    node.dispatch(9, priority=CRITICAL)
    low, urgent = node.slices()
    node.report(urgent, {node.claim(urgent): Status.OK})
    node.done(urgent)  # of the LOW one it says nothing yet
    node.dispatch(10, priority=CRITICAL)
    assert [part.worker for part in node.slices()] == [low.worker]


def test_no_more_is_put_into_the_hands_of_one_that_says_nothing_than_its_page_has_room_for() -> None:
    node = Executor(1.0, ready=False, spare_workers=0)
    node.it.worker_ready(node.now, 1)
    for number in range(1, 40):
        node.dispatch(number, priority=LOW)
        node.dispatch(100 + number, priority=HIGH)
        node.it.recall(node.now, b"oak" + bytes(13), 100 + number, None, True)
        node.take()
    assert max(part.slot for part in node.slices()) < 16
