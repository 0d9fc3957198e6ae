"""A link that is congested: what is urgent goes all the same, before what its own client has waiting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from swarm import CRITICAL, LOW
from swarm.protocol.spec import parse_spec
from tests.unit.client.fake_node import World
from transport.channel import Channel


class Congestion:
    """The client's link is congested once this many batches have reached the node."""

    after = 1 << 30


@pytest.fixture
def congestion(monkeypatch: pytest.MonkeyPatch) -> Congestion:
    it = Congestion()
    sent: list[int] = [0]
    send = Channel.send

    def counted(self: Channel, *parts: Any) -> None:
        sent[0] += self.dialled and bytes(parts[0][:1]) == b"\x01"
        send(self, *parts)

    monkeypatch.setattr(Channel, "send", counted)
    monkeypatch.setattr(Channel, "congested", property(lambda self: self.dialled and sent[0] >= it.after))
    return it


@pytest.fixture
def world(congestion: Congestion) -> Iterator[World]:
    with World() as made:
        yield made


def double(x: int) -> int:
    return 2 * x


def classes(world: World) -> list[int]:
    return [parse_spec(header["s"]).priority for header in world.nodes[0].submitted]


def freed(world: World, congestion: Congestion) -> None:
    congestion.after = 1 << 30
    world.do(lambda: world.engine.link_writable(world.engine.link))  # type: ignore[arg-type]


def test_what_is_urgent_goes_although_the_link_is_congested(world: World, congestion: Congestion) -> None:
    congestion.after = 0
    low = [world.fleet.submit(double, x, priority=LOW) for x in range(3)]
    urgent = world.fleet.submit(double, 21, priority=CRITICAL)
    assert urgent.result(60) == 42, "with its code"
    again = world.fleet.submit(double, 4, priority=CRITICAL)
    assert again.result(60) == 8, "also while others wait that are known to"
    assert classes(world) == [CRITICAL, CRITICAL] and not any(one.done() for one in low)
    assert world.engine.unfinished == 3
    freed(world, congestion)
    assert [one.result(60) for one in low] == [0, 2, 4] and world.engine.unfinished == 0


def test_no_more_is_handed_over_at_once_than_the_link_takes(world: World, congestion: Congestion) -> None:
    congestion.after = 2

    def submit() -> list[Any]:
        # In the client's own thread, so that all of it is there when it is handed over.
        low = [world.fleet.submit(double, x, priority=LOW, timeout_s=100 + x) for x in range(4)]
        return [*low, world.fleet.submit(double, 9, priority=CRITICAL)]

    *low, urgent = world.do(submit)
    assert urgent.result(60) == 18 and low[0].result(60) == 0
    assert classes(world) == [CRITICAL, LOW] and world.engine.unfinished == 3
    assert low[2].cancel()
    more = world.fleet.submit(double, 5, priority=CRITICAL)
    assert more.result(60) == 10
    freed(world, congestion)
    assert low[1].result(60) == 2 and low[3].result(60) == 6
    world.eventually(lambda: world.engine.unfinished == 0)
    assert [header["r"] for header in world.nodes[0].cancelled] == [[[0, 1]]], "it was told after what it cancels"
    assert low[2].cancelled()


def test_what_waits_for_another_task_does_not_overtake_it(world: World, congestion: Congestion) -> None:
    congestion.after = 0
    first = world.fleet.submit(double, 1, priority=LOW)
    then = world.fleet.submit(double, first, priority=CRITICAL)
    urgent = world.fleet.submit(double, 3, priority=CRITICAL)
    assert urgent.result(60) == 6 and not then.done()
    freed(world, congestion)
    assert then.result(60) == 4
    assert classes(world) == [CRITICAL, LOW, CRITICAL]


def test_all_is_handed_over_before_what_has_not_begun_is_cancelled(world: World, congestion: Congestion) -> None:
    world.nodes[0].answers = lambda header: "hold"
    congestion.after = 0
    low = [world.fleet.submit(double, x, priority=LOW) for x in range(3)]
    world.engine.cancel_pending()
    world.eventually(lambda: world.nodes[0].cancelled)
    assert classes(world) == [LOW] and world.engine.batches.tasks == 0
    world.eventually(lambda: all(one.done() for one in low))
