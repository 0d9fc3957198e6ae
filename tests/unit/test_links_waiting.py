"""Waiting for a handshake: neither its result nor a cancellation is lost when they come together."""

from __future__ import annotations

import asyncio
import time

import pytest

from transport.channel import arrived


def test_the_result_or_the_end_of_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[int] = loop.create_future()
        loop.call_later(0.01, waiter.set_result, 5)
        assert await arrived(waiter, 30) == 5
        with pytest.raises(TimeoutError):
            await arrived(loop.create_future(), 0.01)
        failed: asyncio.Future[int] = loop.create_future()
        failed.set_exception(LookupError("refused"))
        with pytest.raises(LookupError):
            await arrived(failed, 30)

    asyncio.run(main())


def test_a_cancellation_in_the_turn_of_the_result_is_not_dropped() -> None:
    async def main() -> None:
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(arrived(waiter, 30))
        await asyncio.sleep(0)
        waiter.set_result(5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())


def test_a_result_in_the_turn_in_which_time_is_over_counts() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[int] = loop.create_future()
        waiting = asyncio.ensure_future(arrived(waiter, 0.02))
        await asyncio.sleep(0)
        loop.call_later(0.005, waiter.set_result, 5)
        time.sleep(0.05)  # the loop comes back when both timers are due, and runs them in one turn
        assert await waiting == 5

    asyncio.run(main())
