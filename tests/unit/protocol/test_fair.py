"""Shares of users and of batches in a class, and earliest deadlines in them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.fair import TURNS_KEPT_MAX, USERS_KEPT_MAX, FairQueue, Shares
from swarm.protocol.states import Priority

LOW, STANDARD, HIGH, CRITICAL = Priority
KEY = iter(range(1, 1 << 62))


def push(queue: FairQueue, user: str, tasks: int = 1, priority: int = STANDARD, **more: Any) -> int:
    """Queue a batch; by itself, unless a job is named."""
    key = next(KEY)
    queue.push(key, priority, more.pop("nice", 0), more.pop("since", 0), tasks, user, more.pop("job", key), **more)
    return key


def served(queue: FairQueue, count: int, seconds: float = 1.0, now: int = 0) -> list[int]:
    """Whose task is taken, one after the other."""
    found = []
    for _ in range(count):
        head = queue.peek(now)
        if head is None:
            break
        assert queue.take_from(head[0], 1, seconds) == 1
        found.append(head[0])
    return found


def test_who_floods_gets_half_where_two_want_something() -> None:
    queue = FairQueue(Shares())
    flood = {push(queue, "ann") for _ in range(500)} | {push(queue, "ann", 500)}
    served(queue, 20)
    few = push(queue, "bob", 20)
    assert served(queue, 4).count(few) >= 2, "at once, although others have waited for longer"
    assert sum(key in flood for key in served(queue, 30)) in range(13, 18)


def test_weights_decide_on_the_shares() -> None:
    queue = FairQueue(Shares({"ann": 3.0}))
    ann, bob = push(queue, "ann", 900), push(queue, "bob", 900)
    found = Counter(served(queue, 400))
    assert found[ann] / found[bob] == pytest.approx(3, rel=0.05)


def test_batches_of_a_user_share_his_time_not_his_turns() -> None:
    queue = FairQueue(Shares())
    long, short, other = push(queue, "ann", 900), push(queue, "ann", 900), push(queue, "bob", 900)
    had: Counter[int] = Counter()
    for _ in range(600):
        head = queue.peek(0)
        assert head is not None
        seconds = 10.0 if head[0] == long else 1.0
        queue.take_from(head[0], 1, seconds)
        had[head[0]] += int(seconds)
    assert had[long] / had[short] == pytest.approx(1, rel=0.25)
    assert (had[long] + had[short]) / had[other] == pytest.approx(1, rel=0.15)


def test_nice_makes_a_share_smaller_and_takes_nothing_from_other_users() -> None:
    queue = FairQueue(Shares())
    usual, nice, other = push(queue, "ann", 9000), push(queue, "ann", 9000, nice=5), push(queue, "bob", 9000)
    found = Counter(served(queue, 3000, 0.5))
    assert found[usual] / found[nice] == pytest.approx(1.25**5, rel=0.25)
    assert found[other] == pytest.approx(1500, rel=0.1)


def test_who_wanted_nothing_for_a_while_has_saved_nothing_up() -> None:
    queue = FairQueue(Shares())
    ann, bob = push(queue, "ann", 1000), push(queue, "bob", 1)
    served(queue, 500)
    bob = push(queue, "bob", 500)
    assert served(queue, 40).count(bob) in range(19, 23)
    assert ann != bob


def test_the_earliest_deadline_goes_first_in_its_users_turns() -> None:
    queue = FairQueue(Shares())
    usual = push(queue, "ann", 100)
    late, early = push(queue, "ann", 3, deadline=99.0), push(queue, "ann", 3, deadline=5.0)
    other = push(queue, "bob", 100)
    lower = push(queue, "ann", 3, LOW, deadline=1.0)
    found = served(queue, 24)
    assert [key for key in found if key != other] == [early] * 3 + [late] * 3 + [usual] * 6
    assert found.count(other) == 12 and lower not in found


def test_what_is_one_job_goes_in_the_order_in_which_it_came() -> None:
    queue = FairQueue(Shares())
    first, second, third = (push(queue, "ann", 2, job="map", since=at) for at in (10, 20, 30))
    other = push(queue, "ann", 6, job="another")
    again = push(queue, "ann", 1, job="map", since=5)
    found = [key for key in served(queue, 20) if key != other]
    assert found == [again, first, first, second, second, third, third]
    assert queue.tasks == 0 and len(queue._flows) == 1 and not queue._of and not queue._turns


def test_shares_are_of_one_class_and_age_goes_on() -> None:
    queue = FairQueue(Shares())
    low = push(queue, "bob", 5, LOW)
    high = push(queue, "ann", 500, HIGH)
    assert served(queue, 5) == [high] * 5
    assert served(queue, 2, now=20_000_000_001).count(low) == 2, "it has risen twice, and had nothing"


def test_users_who_owe_nothing_are_forgotten() -> None:
    shares = Shares()
    for number in range(USERS_KEPT_MAX + 10):
        shares.serve(f"user {number}", 2 * number, [1])
    assert len(shares._ends) <= USERS_KEPT_MAX + 1


def test_of_many_users_those_of_whom_nothing_waits_are_forgotten() -> None:
    queue = FairQueue(Shares())
    for number in range(100):
        key = push(queue, f"user {number}")
        if number % 3:
            assert queue.remove(key) == 1
    assert len(queue._of_user) <= 34 + TURNS_KEPT_MAX and queue.tasks == 34
    assert len(served(queue, 99)) == 34 and len(queue._flows) <= TURNS_KEPT_MAX + 1


users = st.sampled_from(["ann", "bob", "cid"])


@given(
    st.lists(st.tuples(users, st.integers(1, 10)), min_size=3, max_size=8),
    st.dictionaries(users, st.sampled_from([0.5, 1.0, 4.0])),
    st.integers(20, 150),
)
@settings(max_examples=60, deadline=None)
def test_nobody_who_wants_more_is_behind_another_by_more_than_the_longest_pieces(
    batches: list[tuple[str, int]], weights: dict[str, float], turns: int
) -> None:
    """The bound of Goyal, Vin and Cheng, theorem 1."""
    queue = FairQueue(Shares(weights))
    of, seconds = {}, {}
    for user, cost in batches:
        key = push(queue, user, 1000)
        of[key], seconds[key] = user, cost
    had: Counter[str] = Counter()
    for _ in range(turns):
        head = queue.peek(0)
        assert head is not None
        queue.take_from(head[0], 1, seconds[head[0]])
        had[of[head[0]]] += seconds[head[0]]
    longest = {
        user: max(seconds[key] for key in of if of[key] == user) / weights.get(user, 1.0) for user in of.values()
    }
    for user in longest:
        for other in longest:
            ahead = had[user] / weights.get(user, 1.0) - had[other] / weights.get(other, 1.0)
            assert ahead <= longest[user] + longest[other] + 1e-6, (had, weights)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost_or_invented(data: st.DataObject) -> None:
    queue = FairQueue(Shares({"ann": 2.0}))
    there: dict[int, tuple[int, int]] = {}
    """Key -> [class, tasks]."""
    for step in range(data.draw(st.integers(1, 40))):
        what = data.draw(st.sampled_from(["push", "push", "grow", "take", "take any", "remove"]))
        if what == "push":
            tasks, priority = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))
            deadline = data.draw(st.sampled_from([None, None, 3.0, 1.0]))
            job, since = data.draw(st.integers(0, 1)), step * data.draw(st.integers(0, 1))
            key = push(
                queue, data.draw(users), tasks, priority, job=(job, priority, deadline), since=since, deadline=deadline
            )
            there[key] = (priority, tasks)
        elif what == "grow" and there:
            key = data.draw(st.sampled_from(sorted(there)))
            queue.push(key, there[key][0], 0, step, 2)
            there[key] = (there[key][0], there[key][1] + 2)
        elif what == "remove" and there:
            key = data.draw(st.sampled_from(sorted(there)))
            assert queue.remove(key) == there.pop(key)[1]
        elif what.startswith("take") and there:
            head = queue.peek(step)
            assert head is not None and there[head[0]][1] == head[1]
            key = head[0] if what == "take" else data.draw(st.sampled_from(sorted(there)))
            priority, tasks = there.pop(key)
            limit, seconds = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([None, 0.01, 7.0]))
            taken = queue.take_from(key, limit, seconds)
            if tasks > taken:
                there[key] = (priority, tasks - taken)
        assert queue.tasks == sum(tasks for _, tasks in there.values())
        for priority in range(4):
            assert queue.waiting(priority) == sum(tasks for klass, tasks in there.values() if klass == priority)
    assert queue.remove(0) == 0 == queue.take_from(0, 1)
    assert sorted(served(queue, 10_000)) == sorted(key for key, (_, tasks) in there.items() for _ in range(tasks))
