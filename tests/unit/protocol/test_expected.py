"""What is told of how long tasks take: who is first by it, what is thought of them, and that what is seen counts more."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.fair import LEAD, FairQueue, Shares
from swarm.protocol.runtimes import KEPT_MAX, Runtimes
from swarm.protocol.spec import EXPECTED_S_MAX, SpecError, kind_of, parse_spec
from tests.unit.protocol.owner import OAK, Owner, spec_of
from tests.unit.protocol.test_fair import LOW, push, served

SECOND = 1_000_000_000


def test_it_travels_with_the_spec_and_kinds_differ_in_all_else() -> None:
    told = [spec_of(expected_s=seconds, needs={"cpu": 2.0}).encode() for seconds in (1.0, 2.5)]
    assert [parse_spec(raw).expected_s for raw in told] == [1.0, 2.5]
    plain, other = spec_of(needs={"cpu": 2.0}).encode(), spec_of(needs={"cpu": 1.0}, expected_s=1.0).encode()
    assert parse_spec(plain).expected_s is None and b"expected" not in plain
    assert kind_of(plain) == plain, "nothing is different where nothing is told"
    assert len({kind_of(raw) for raw in told}) == 1
    assert len({kind_of(raw) for raw in (*told, plain, other)}) == 3


@pytest.mark.parametrize("value", [0, -1.0, "5", True, 2 * EXPECTED_S_MAX, float("nan"), float("inf"), [1]])
def test_what_is_no_time_is_refused(value: object) -> None:
    fields = msgpack.unpackb(spec_of().encode())
    with pytest.raises(SpecError, match="expected_s"):
        parse_spec(msgpack.packb(fields | {"expected_s": value}))


def test_what_is_told_counts_until_something_is_seen() -> None:
    it = Runtimes()
    it.told(b"k", None)
    assert it.mean_s(b"k") is None
    it.told(b"k", 4.0)
    assert it.mean_s(b"k") == 4.0 and it.count_within(b"k", 0.01, 100) == 1
    for _ in range(40):
        it.observe(b"k", 1_000, 1)
    it.told(b"k", 4.0)
    assert it.mean_s(b"k") == pytest.approx(0.001, rel=0.1), "it was told wrong"
    for number in range(KEPT_MAX + 10):
        it.told(b"%d" % number, 1.0)
    assert it.mean_s(b"k") is None and it.mean_s(b"%d" % (KEPT_MAX + 9)) == 1.0


def test_of_one_job_the_longest_is_first() -> None:
    queue = FairQueue(Shares())
    keys = {seconds: push(queue, "ann", 2, job="map", expected_s=seconds) for seconds in (3.0, 1.0, 7.0)}
    other = push(queue, "ann", 6, job="another")
    found = [key for key in served(queue, 12) if key != other]
    assert found == [keys[7.0]] * 2 + [keys[3.0]] * 2 + [keys[1.0]] * 2
    again, last = push(queue, "ann", 1, job="map", expected_s=1.0), push(queue, "ann", 1, job="map", expected_s=2.0)
    assert served(queue, 2) == [last, again]
    assert queue.tasks == 0 and not queue._of and not queue._turns


def test_it_takes_nothing_from_other_jobs_users_and_classes() -> None:
    queue = FairQueue(Shares())
    short, long = push(queue, "ann", 90, expected_s=1.0), push(queue, "ann", 90, expected_s=1000.0)
    bob, low = push(queue, "bob", 90), push(queue, "ann", 90, LOW, expected_s=1e6)
    found = served(queue, 80)
    assert found.count(bob) == 40 and found.count(short) == found.count(long) == 20 and low not in found


def test_nothing_waits_forever_behind_longer_ones_that_keep_coming() -> None:
    queue = FairQueue(Shares())
    short = push(queue, "ann", 1, job="map", since=0, expected_s=1.0)
    for at in range(1000):
        push(queue, "ann", 1, job="map", since=at * SECOND, expected_s=11.0)
        (key,) = served(queue, 1)
        if key == short:
            break
    assert at == LEAD * (11 - 1)


def test_what_comes_again_after_a_loss_is_first() -> None:
    queue = FairQueue(Shares())
    lost = push(queue, "ann", 1, job="map", since=5, expected_s=1.0)
    assert served(queue, 1) == [lost]
    long = push(queue, "ann", 1, job="map", since=10, expected_s=100.0)
    queue.push(lost, 1, 0, 5, 1, "ann", "map", None, 1.0)
    assert served(queue, 2) == [lost, long]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_or_invented(data: st.DataObject) -> None:
    queue, left = FairQueue(Shares()), {}
    for at in range(40):
        kind = data.draw(st.sampled_from(("push", "take", "remove")))
        if kind == "push":
            expected_s = data.draw(st.sampled_from((0.5, 1.0, 20.0)))
            tasks = data.draw(st.integers(1, 4))
            key = push(queue, "ann", tasks, since=at * SECOND, job="map", expected_s=expected_s)
            left[key] = [tasks, at - LEAD * expected_s]
        elif left and kind == "take":
            head = queue.peek(at * SECOND)
            assert head is not None and head[1] == left[head[0]][0]
            assert left[head[0]][1] == min(turn for _, turn in left.values())
            queue.take_from(head[0], 1, 1.0)
            left[head[0]][0] -= 1
            if not left[head[0]][0]:
                del left[head[0]]
        elif left and kind == "remove":
            key = data.draw(st.sampled_from(sorted(left)))
            assert queue.remove(key) == left.pop(key)[0]
        assert queue.tasks == sum(tasks for tasks, _ in left.values())
    while (head := queue.peek(0)) is not None:
        assert head[1] == left.pop(head[0])[0]
        queue.remove(head[0])
    assert not left and not queue._of


def test_an_owner_places_the_longest_first_and_one_a_slot() -> None:
    owner = Owner(slots=0)
    for number, seconds in enumerate((0.5, 60.0, 5.0)):
        owner.submit(number, 1, spec=spec_of(expected_s=seconds))
    owner.executor(OAK, "oak", 2)
    owner.take()
    assert [dispatch.spec.expected_s for dispatch in owner.taken()] == [60.0, 5.0]
