"""A blob that several wait for is as urgent as it is to whom it is most urgent, and only while he waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nodes.workshop import NotHere, Workshop


def test_a_blob_is_as_urgent_as_the_most_urgent_of_those_who_wait_for_it() -> None:
    async def scenario() -> None:
        here: set[bytes] = set()
        asked: list[Callable[[], int]] = []
        gate = asyncio.Event()

        async def fetch(link: Any, blob_id: bytes, rank: Callable[[], int]) -> bool:
            asked.append(rank)
            await gate.wait()
            return blob_id in here

        shop = Workshop.__new__(Workshop)
        shop._fetching, shop._wanted, shop.kept = {}, {}, None
        shop._loop = asyncio.get_running_loop()
        shop.store = SimpleNamespace(open=lambda blob_id: ("path", 1) if gate.is_set() and blob_id in here else None)  # type: ignore[assignment]
        shop.lane = SimpleNamespace(fetch=fetch)  # type: ignore[assignment]
        shop.from_log = lambda blob_id: False  # type: ignore[method-assign]
        shop._holders = lambda: [SimpleNamespace(identity=SimpleNamespace(id=b"oak"))]  # type: ignore[method-assign,list-item]
        low = asyncio.create_task(shop.fetch(b"blob"))
        await asyncio.sleep(0)
        (rank,) = asked
        assert rank() == 0
        urgent = asyncio.create_task(shop.fetch(b"blob", rank=lambda: 7))
        await asyncio.sleep(0)
        assert rank() == 7 and len(asked) == 1, "it is brought once"
        urgent.cancel()
        await asyncio.gather(urgent, return_exceptions=True)
        assert rank() == 0, "nobody urgent waits any more"
        here.add(b"blob")
        gate.set()
        assert await low == ("path", 1) and shop._wanted == {} == shop._fetching
        here.clear()
        try:
            await shop.fetch(b"other", rank=lambda: 3)
        except NotHere:
            assert shop._wanted == {}
        else:
            raise AssertionError("nobody has it")

    asyncio.run(asyncio.wait_for(scenario(), 30))
