"""Credit: nothing is on the wire beyond the window, congestion clears, and a liar is found out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.flow import CreditViolated, Flow
from transport.links import reconnect_delays


class Rng:
    def __init__(self, part: float) -> None:
        self.part = part

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.part


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["queue", "send", "ack"]), st.integers(0, 400)), max_size=200))
def test_whatever_happens_the_books_balance(steps: list[tuple[str, int]]) -> None:
    flow = Flow(1000, 10, 3000, 40)
    waiting: list[int] = []
    wire: list[int] = []
    for step, size in steps:
        if step == "queue":
            fits = sum(waiting) + sum(wire) + size <= 3000 and len(waiting) + len(wire) < 40
            assert flow.queue(size) == fits
            if fits:
                waiting.append(size)
        elif step == "send" and waiting:
            room_bytes, room_count = flow.room()
            if not wire or (waiting[0] <= room_bytes and room_count > 0):
                wire.append(waiting.pop(0))
                flow.sent(wire[-1], 1)
        elif step == "ack" and wire:
            was = flow.congested
            done = wire.pop(0)
            cleared = flow.acknowledged(flow.acked_bytes + done, flow.acked_count + 1)
            assert cleared == (was and not flow.congested)
        assert flow.outstanding_bytes == sum(waiting) + sum(wire)
        assert flow.outstanding_count == len(waiting) + len(wire)
        assert flow.queued_bytes == sum(waiting)
        assert sum(wire) <= 1000 or len(wire) == 1
        assert len(wire) <= 10
        if flow.outstanding_bytes > 1000 or flow.outstanding_count > 10:
            assert flow.congested
        if flow.outstanding_bytes == 0:
            assert not flow.congested


def test_congestion_is_set_above_the_window_and_cleared_at_half() -> None:
    flow = Flow(1000, 100, 10_000, 1000)
    assert flow.queue(1000)
    assert not flow.congested
    assert flow.queue(1)
    assert flow.congested
    flow.sent(1001, 2)
    assert not flow.acknowledged(500, 1)
    assert flow.congested
    assert flow.acknowledged(501, 1)
    assert not flow.congested
    assert not flow.acknowledged(1001, 2), "it clears once"


def test_old_credit_changes_nothing_and_invented_credit_is_a_violation() -> None:
    flow = Flow(1000, 100, 10_000, 1000)
    flow.queue(10)
    flow.sent(10, 1)
    flow.acknowledged(10, 1)
    flow.acknowledged(3, 0)
    assert (flow.acked_bytes, flow.acked_count) == (10, 1)
    for lie in ((11, 1), (10, 2)):
        with pytest.raises(CreditViolated):
            flow.acknowledged(*lie)


def test_credit_is_due_after_an_eighth_of_the_window() -> None:
    flow = Flow(800, 80, 10_000, 1000)
    assert not flow.consumed(99, 1)
    assert flow.owes
    assert flow.consumed(1, 1)
    flow.returned()
    assert not flow.owes
    assert not flow.consumed(0, 9)
    assert flow.consumed(0, 1)


def test_delays_grow_to_a_limit_and_are_jittered() -> None:
    most = [delay for delay, _ in zip(reconnect_delays(Rng(1.0), 0.1, 5.0), range(8))]
    least = [delay for delay, _ in zip(reconnect_delays(Rng(0.0), 0.1, 5.0), range(8))]
    assert most == sorted(most)
    assert most[-1] == 5.0
    assert least == [0.1] * 8
