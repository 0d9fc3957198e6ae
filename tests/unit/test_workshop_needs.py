"""What a durable batch needs is brought before it is taken; whatever goes wrong with that, the batch goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.workshop import NotHere, Workshop
from tests.unit.protocol.owner import columns_of, spec_of


@pytest.mark.parametrize(
    "error", [NotHere("no node has it"), OSError(28, "No space left on device"), ValueError("no such transfer")]
)
def test_a_batch_goes_on_though_what_it_needs_cannot_be_brought(error: Exception) -> None:
    async def fail(id: bytes) -> None:
        await asyncio.sleep(0)
        raise error

    async def hand_over() -> list[str]:
        done: list[str] = []
        workshop: Any = object.__new__(Workshop)
        workshop.__dict__.update(
            _loop=asyncio.get_running_loop(), _tasks=set(), _fetch_code=fail, fetch=fail,
            _needs=lambda spec, calls: {b"one": 0, b"two": 0}, _is_here=lambda id: False,
            _fabric=SimpleNamespace(turn=lambda: done.append("turn")),
        )  # fmt: skip
        raw, columns = spec_of().encode(), memoryview(columns_of(1))
        workshop.with_needs(raw, 1, columns, lambda: done.append("taken"))
        await asyncio.gather(*workshop._tasks)
        return done

    assert asyncio.run(hand_over()) == ["taken", "turn"]
