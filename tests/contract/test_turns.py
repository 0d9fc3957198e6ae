"""A link that has much to say is heard in turns, by who wants that: others are heard between, what matters first, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from conftest import World, until

from nodes.node import Node
from transport import bounds
from transport.links import LinkSettings, Sorter

Run = Callable[..., Any]
MakeWorld = Callable[[], AbstractAsyncContextManager[World]]
SENT = 200 * bounds.TURN_COUNT_MAX
CHUNK_S = bounds.TURN_S / 2


class Sorts:
    """Has messages that begin with "!" go first."""

    def __init__(self) -> None:
        self.most = 0

    def link_waits(self, link: Any, before: deque[bytes], messages: list[bytes]) -> None:
        both = [*before, *messages]
        before.clear()
        before.extend([one for one in both if one[:1] == b"!"] + [one for one in both if one[:1] != b"!"])
        self.most = max(self.most, len(before))


class Slow:
    """A clock by which handing over a few messages takes half a turn, and the loop's iterations."""

    def __init__(self) -> None:
        self.now = 0.0
        self.iteration = 0
        self.handed: Counter[int] = Counter()

    def clock(self) -> float:
        return self.now

    def takes(self, link: Any, messages: list[bytes]) -> None:
        assert len(messages) <= bounds.TURN_COUNT_MAX
        self.now += CHUNK_S
        self.handed[self.iteration] += 1

    def count(self) -> None:
        self.iteration += 1
        asyncio.get_running_loop().call_soon(self.count)


def test_a_node_is_one_that_wants_that() -> None:
    assert issubclass(Node, Sorter)


def test_much_from_one_link_is_taken_in_turns_and_in_order(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            slow = Slow()
            far, near, out, _ = await w.pair(clock=slow.clock)
            far.links.switch.sorter = Sorts()
            far.seen.on_messages = slow.takes
            slow.count()
            sent = [b"%d" % number for number in range(SENT)]
            for message in sent:
                out.send(message)
            await until(lambda: len(far.seen.messages) == SENT)
            assert far.seen.messages == sent
            # Two chunks fill a turn; a link of one reach may begin one with a message by itself, and in each of two callbacks.
            assert max(slow.handed.values()) <= 6 and len(slow.handed) > SENT // bounds.TURN_COUNT_MAX // 6
            assert not near.seen.down

    run(main())


def test_others_are_heard_meanwhile(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            slow = Slow()
            far, _, out, _ = await w.pair(clock=slow.clock)
            far.links.switch.sorter = Sorts()
            other = await w.dial(w.peer("carl"), far)
            await until(lambda: len(far.seen.links) == 2)
            heard_at: list[int] = []

            def takes(link: Any, messages: list[bytes]) -> None:
                slow.takes(link, messages)
                if link is not far.seen.links[0]:
                    heard_at.append(len(far.seen.messages))
                elif len(far.seen.messages) == bounds.TURN_COUNT_MAX or not other_sent:
                    other_sent.append(1)
                    other.send(b"me too")
                    other.flush()
                elif not heard_at:
                    time.sleep(0.02)  # it is on its way through a thread of ZeroMQ, which has to get the processor

            other_sent: list[int] = []
            far.seen.on_messages = takes
            for number in range(SENT):
                out.send(b"%d" % number)
            await until(lambda: len(far.seen.messages) >= SENT + 1)
            assert heard_at[0] < SENT // 2

    run(main())


def test_what_matters_goes_before_what_waits(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            slow = Slow()
            far, _, out, _ = await w.pair(clock=slow.clock)
            far.links.switch.sorter = Sorts()
            far.seen.on_messages = slow.takes
            for number in range(SENT):
                out.send(b"%d" % number)
            out.send(b"!now")
            await until(lambda: len(far.seen.messages) == SENT + 1)
            assert far.seen.messages.index(b"!now") < SENT
            assert [one for one in far.seen.messages if one != b"!now"] == [b"%d" % number for number in range(SENT)]

    run(main())


def test_what_waits_is_within_the_window_since_it_is_not_consumed(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            slow = Slow()
            settings = LinkSettings(window_count=256)
            far, _, out, _ = await w.pair(clock=slow.clock, settings=settings)
            far.links.switch.sorter = sorts = Sorts()
            far.seen.on_messages = slow.takes
            for number in range(SENT):
                out.send(b"%d" % number)
            await until(lambda: len(far.seen.messages) == SENT)
            assert bounds.TURN_COUNT_MAX < sorts.most <= settings.window_count

    run(main())


def test_what_came_before_the_end_is_heard_before_it(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            slow = Slow()
            far, _, out, _ = await w.pair(clock=slow.clock)
            far.links.switch.sorter = Sorts()
            far.seen.on_messages = slow.takes
            for number in range(bounds.TURN_COUNT_MAX * 40):
                out.send(b"%d" % number)
            out.close("enough")
            await until(lambda: far.seen.down)
            assert far.seen.messages == [b"%d" % number for number in range(bounds.TURN_COUNT_MAX * 40)]

    run(main())


def test_one_that_closes_the_link_hears_no_more(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            far, near, out, _ = await w.pair()
            far.links.switch.sorter = Sorts()
            far.seen.on_messages = lambda link, messages: link.close("stop")
            for number in range(SENT):
                out.send(b"%d" % number)
            await until(lambda: far.seen.down and near.seen.down)
            assert len(far.seen.batches) == 1

    run(main())
