"""The timer wheel gives what sorting gives."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernels.reference import wheel as reference
from kernels.wheel import Wheel

QUICK = settings(max_examples=100, deadline=None)
END = 2**64 - 1
# Near and far, where slots and levels of the wheel begin and end, and at the end of time.
DELAYS = (
    st.integers(0, 2_000)
    | st.integers(0, 2**64)
    | st.builds(lambda bits, by: max(0, 2**bits + by), st.integers(0, 64), st.integers(-2, 2))
)
IDS = st.integers(0, 12) | st.integers(0, 3000)


def take(wheel, now_ns, most=10_000):
    out = array("I", bytes(4 * most))
    return list(out[: wheel.expired(now_ns, out)])


class Both(RuleBasedStateMachine):
    """The kernel and its twin, asked the same."""

    @initialize(
        ids=st.sampled_from([1, 16, 5000]),
        start=st.sampled_from([0, 511, 2**33 - 700, 2**63, END - 5_000]),
        grain=st.sampled_from([1, 1, 2, 6, 1000, 2**20]),
    )
    def begin(self, ids, start, grain):
        self.kernel, self.twin = Wheel(ids, grain), reference.Wheel(ids, grain)
        self.grain = grain
        self.now = start
        assert take(self.kernel, start) == take(self.twin, start) == []

    def whole(self, at):
        return at if at == END else at - at % self.grain

    @rule(id=IDS, delay=DELAYS)
    def arm(self, id, delay):
        at = self.whole(min(self.now + delay * self.grain, END))
        self.kernel.arm(id, at)
        self.twin.arm(id, at)

    @rule(id=IDS, before=st.integers(0, 10_000))
    def arm_too_late(self, id, before):
        at = self.whole(max(0, self.now - before))
        self.kernel.arm(id, at)
        self.twin.arm(id, at)

    @rule(ids=st.lists(IDS, max_size=80), delay=DELAYS, spread=st.sampled_from([0, 1, 100, 10_000, 10**7]))
    def arm_many(self, ids, delay, spread):
        draw = random.Random(len(ids))
        times = [self.whole(min(self.now + delay + draw.randint(0, spread), END)) for _ in ids]
        self.kernel.rearm(array("I", ids), array("Q", times))
        self.twin.rearm(ids, times)

    @rule(id=IDS)
    def disarm(self, id):
        assert self.kernel.disarm(id) == self.twin.disarm(id)

    @rule(by=DELAYS, most=st.sampled_from([0, 1, 3, 10_000]))
    def later(self, by, most):
        self.now = min(self.now + by, END)
        assert take(self.kernel, self.now, most) == take(self.twin, self.now, most)

    @rule(most=st.sampled_from([1, 10_000]))
    def at_the_next(self, most):
        due = self.twin.next_due()
        if due is not None:
            self.now = max(self.now, due)
            got = take(self.kernel, self.now, most)
            assert got == take(self.twin, self.now, most)
            assert got

    @rule(before=st.integers(1, 10_000))
    def time_does_not_run_backwards(self, before):
        now = max(0, self.now - before)
        assert take(self.kernel, now, 2) == take(self.twin, now, 2)

    @rule()
    def next_due(self):
        assert self.kernel.next_due() == self.twin.next_due()

    @rule(id=IDS)
    def waits_until(self, id):
        assert self.kernel.waits_until(id) == self.twin.waits_until(id)

    @invariant()
    def as_many_wait(self):
        if hasattr(self, "kernel"):
            assert len(self.kernel) == self.kernel.count == len(self.twin)

    def teardown(self):
        if hasattr(self, "kernel"):
            assert take(self.kernel, END) == take(self.twin, END)
            assert self.kernel.next_due() is None


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@QUICK
@given(st.integers(0, 2**32), st.sampled_from([0, 100, 10**4, 10**6, 10**9, 10**13]), st.booleans())
def test_many_at_once_come_out_sorted(seed, spread, one_by_one):
    draw = random.Random(seed)
    ids = draw.sample(range(4_000), 900)
    times = [draw.randint(0, spread) for _ in ids]
    wheel = Wheel()
    wheel.rearm(array("I", ids), array("Q", times))
    got = []
    if one_by_one:
        while (due := wheel.next_due()) is not None:
            got += [(due, id) for id in take(wheel, due)]
    else:
        assert take(wheel, spread) == sorted(ids)
        return
    assert got == sorted(zip(times, ids))


@pytest.mark.parametrize("step_ns", [1_000, 65_536, 10**6])
def test_rates_from_1_hz_to_1_mhz_fire_as_often_as_they_should(step_ns):
    rates = [1, 3, 50, 999, 1_000, 44_100, 1_000_000]
    periods = [10**9 // rate for rate in rates]
    wheel = Wheel()
    wheel.rearm(array("I", range(len(rates))), array("Q", periods))
    fired = [0] * len(rates)
    at = list(periods)
    for now in range(step_ns, 10**7 + 1, step_ns):
        while ids := take(wheel, now, 4):
            for id in ids:
                fired[id] += 1
                at[id] += periods[id]
            wheel.rearm(array("I", ids), array("Q", [at[id] for id in ids]))
    # An instant that has passed counts as now, but what was missed is not lost.
    assert fired == [(10**7 // step_ns * step_ns) // period for period in periods]


def test_moving_and_cancelling_for_ever_takes_no_room():
    wheel = Wheel(16)
    for id in range(4):
        wheel.arm(id, 10**12)
    before = None
    for i in range(60_000):
        wheel.arm(i % 4, 10**12 + i * 977 % 10**11)
        if i % 3 == 0:
            wheel.disarm(i % 4)
            wheel.arm(i % 4, 10**12)  # where a key of it lies still
        if i == 20_000:
            before = wheel.footprint
    assert wheel.footprint < before + 10_000
    assert len(wheel) == 4
    assert sorted(take(wheel, END)) == [0, 1, 2, 3]


@QUICK
@given(st.integers(0, 2**32), st.sampled_from([100, 10**4, 10**7, 10**11, 2**63]))
def test_what_was_moved_often_is_where_it_was_moved_to_last(seed, spread):
    draw = random.Random(seed)
    kernel, twin = Wheel(), reference.Wheel()
    for _ in range(3):
        now = draw.randint(0, spread)
        assert take(kernel, now) == take(twin, now)
        ids = [draw.randint(0, 50) for _ in range(3_000)]
        times = [draw.randint(0, 2 * spread) for _ in ids]
        kernel.rearm(array("I", ids), array("Q", times))
        twin.rearm(ids, times)
        for id in range(0, 50, 3):
            assert kernel.disarm(id) == twin.disarm(id)
            kernel.arm(id, times[id])  # the slot may have a key for this instant still
            twin.arm(id, times[id])
    while (due := twin.next_due()) is not None:
        assert kernel.next_due() == due
        assert take(kernel, due, 1) == take(twin, due, 1)
    assert (kernel.next_due(), len(kernel)) == (None, 0)


def test_the_same_for_ids_of_the_open_slot():
    wheel = Wheel(16)
    wheel.arm(0, 100)
    wheel.arm(1, 500)
    assert take(wheel, 100) == [0]
    for i in range(50_000):
        wheel.arm(2, 200 + i % 7)
    assert wheel.footprint < 2_000_000
    assert take(wheel, 499) == [2]
    assert take(wheel, 500) == [1]


def test_an_id_that_is_armed_anew_for_now_is_due_again():
    wheel = Wheel()
    wheel.arm(7, 1_000)
    for _ in range(5_000):
        assert take(wheel, 1_000) == [7]
        wheel.arm(7, 0)
        assert wheel.waits_until(7) == wheel.next_due() == 1_000
    assert wheel.footprint < 1_000_000


def test_what_is_added_for_now_after_a_long_time_asleep():
    wheel = Wheel()
    for id, at in ((0, 0), (1, 2**17 + 2**9), (2, 0)):
        wheel.arm(id, at)
    assert take(wheel, 2**33, 3) == [0, 1, 2]  # and no slot was looked for since
    wheel.arm(3, 0)
    assert wheel.next_due() == 2**33
    assert take(wheel, 2**33) == [3]


def test_never():
    wheel = Wheel()
    wheel.arm(1, 5)
    wheel.arm(1, END)
    assert (len(wheel), wheel.next_due(), take(wheel, 10**9)) == (0, None, [])
    wheel.arm(2, END - 1)
    assert take(wheel, END - 2) == []
    assert take(wheel, END - 1) == [2]


def test_ids_grow_past_what_was_said():
    wheel = Wheel(1)
    wheel.arm(0, 10)
    wheel.arm(5_000_000, 5)
    assert take(wheel, 10) == [0, 5_000_000]
    assert wheel.disarm(4_000_000_000) is False


def test_what_cannot_be():
    wheel = Wheel()
    with pytest.raises(ValueError, match="grain"):
        Wheel(1, 0)
    coarse = Wheel(8, 1000)
    for call in (lambda: coarse.arm(1, 1500), lambda: coarse.rearm(array("I", [1, 2]), array("Q", [1000, 1001]))):
        with pytest.raises(ValueError, match=r"no multiple of the wheel's grain, 1000 ns"):
            call()
    assert len(coarse) == 0
    for ids in (0, -1, 2**32 + 1):
        with pytest.raises(ValueError, match="ids"):
            Wheel(ids)
    with pytest.raises(ValueError, match="2 ids and 1 instants"):
        wheel.rearm(array("I", [1, 2]), array("Q", [1]))
    with pytest.raises(ValueError, match="Buffer"):
        wheel.rearm(array("Q", [1]), array("Q", [1]))
    with pytest.raises(ValueError, match="Buffer"):
        wheel.expired(1, array("B", [1]))
    with pytest.raises((ValueError, BufferError, TypeError)):
        wheel.expired(1, bytes(8))
    for id, at in ((-1, 0), (2**32, 0), (0, -1), (0, 2**64)):
        with pytest.raises(OverflowError):
            wheel.arm(id, at)
    wheel.rearm(array("I"), array("Q"))
    assert (len(wheel), wheel.expired(END, array("I"))) == (0, 0)
