"""What a node reads ahead of its workers, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgpack
import pytest

from kernels.batch import CallBuilder, Calls
from nodes import prefetch
from nodes.blobs import ID_BYTES
from nodes.prefetch import Prefetch
from swarm.errors import SwarmError
from swarm.protocol.spec import Spec

MIB = 1 << 20
OWNER = b"o" * 16
CALL = Spec("call", ("name", "m:f", "f"), "f")
COMMAND = Spec("command", None, "cat")


def blob(number: int) -> bytes:
    return bytes([number]) * ID_BYTES


def needs(*refs: tuple[int, int]) -> bytes:
    """A payload that refers to blobs (number, bytes)."""
    return b"B" + bytes(msgpack.packb([b"pickle", [[blob(number), size, 0] for number, size in refs]]))


def calls(*payloads: bytes) -> Calls:
    builder = CallBuilder()
    for payload in payloads:
        builder.add(payload)
    return Calls(builder.take(), len(payloads))


PLAIN = b"M" + bytes(msgpack.packb([[1]]))


class World:
    """A node as the reader sees it."""

    def __init__(self, bytes_max: int = 40 * MIB) -> None:
        self.here: set[bytes] = set()
        self.asked: list[tuple[int, bytes | None]] = []
        self.waiting = {(OWNER, 1), (OWNER, 2)}
        self.fails: set[int] = set()
        self.hangs = False
        self.ranks: list[Callable[[], int]] = []
        self.classes = {(OWNER, 1): 0, (OWNER, 2): 6}
        self.reader = Prefetch(
            self.fetch, self.here.__contains__, lambda owner, number: (owner, number) in self.waiting, bytes_max,
            asyncio.get_running_loop(), lambda owner, number: self.classes[owner, number],
        )  # fmt: skip

    async def fetch(self, blob_id: bytes, first: bytes | None = None, rank: Callable[[], int] = lambda: 0) -> None:
        self.asked.append((blob_id[0], first))
        self.ranks.append(rank)
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if blob_id[0] in self.fails:
            raise SwarmError("nobody has it")
        self.here.add(blob_id)

    def queued(self, *payloads: bytes, spec: Spec = CALL, extra: dict[str, Any] | None = None, number: int = 1) -> None:
        self.reader.queued(OWNER, number, spec, calls(*payloads), extra or {})

    @property
    def brought(self) -> list[int]:
        return [number for number, _ in self.asked]


async def turns(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to pass")


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LOOK_EVERY_S", 0.01)


def test_what_a_run_refers_to_is_brought_in_its_order_from_its_owner() -> None:
    async def test() -> None:
        world = World()
        world.here.add(blob(2))
        world.queued(needs((1, 10)), PLAIN, needs((2, 10), (3, 10)), needs((1, 10)), needs((4, 10)))
        await turns(lambda: len(world.asked) == 3)
        assert world.asked == [(1, OWNER), (3, OWNER), (4, OWNER)]
        await world.reader.close()

    run(test)


def test_each_is_as_urgent_as_its_run_is_by_then() -> None:
    async def test() -> None:
        world = World()
        world.queued(needs((1, 10)))
        world.queued(needs((2, 10)), number=2)
        await turns(lambda: len(world.asked) == 2)
        assert [rank() for rank in world.ranks] == [0, 6]
        world.classes[OWNER, 1] = 4
        assert [rank() for rank in world.ranks] == [4, 6]
        await world.reader.close()

    run(test)


def test_urgent_runs_are_read_beside_as_many_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "RUNS_MAX", 1)

    async def test() -> None:
        world = World()
        world.hangs = True
        world.queued(needs((1, 10)))
        world.queued(needs((2, 10)), number=2)
        world.queued(needs((3, 10)), number=2, spec=Spec("call", ("name", "m:f", "f"), "f", priority=2))
        await turns(lambda: len(world.asked) == 2)
        assert world.brought == [1, 3]
        await world.reader.close()

    run(test)


def test_a_run_of_plain_payloads_is_not_read() -> None:
    async def test() -> None:
        world = World()
        world.queued(*[PLAIN] * 1000)
        world.queued()
        assert not world.reader._readers

    run(test)


def test_it_stays_a_bounded_number_of_bytes_ahead() -> None:
    async def test() -> None:
        world = World(bytes_max=40 * MIB)  # so 10 MiB
        world.queued(*[needs((number, 4 * MIB)) for number in range(6)], needs((9, 11 * MIB)))
        await turns(lambda: len(world.asked) == 2)
        await asyncio.sleep(0.05)
        assert world.brought == [0, 1]
        world.reader.opened(blob(0))
        await turns(lambda: len(world.asked) == 3)
        world.reader.opened(blob(7))  # one that nobody brought
        await asyncio.sleep(0.05)
        assert world.brought == [0, 1, 2]
        for number in range(6):
            await turns(lambda number=number: number in world.brought)
            world.reader.opened(blob(number))
        await turns(lambda: not world.reader._readers)
        assert world.brought == list(range(6))  # what is larger than all that may be ahead is not
        assert world.reader._ahead_bytes == 0

    run(test)


def test_what_is_over_is_not_read_on_and_gives_its_room_to_others() -> None:
    async def test() -> None:
        world = World()
        world.queued(*[needs((number, 4 * MIB)) for number in range(6)])
        world.queued(*[needs((number, 4 * MIB)) for number in range(6, 9)], number=2)
        await turns(lambda: len(world.asked) == 2)
        world.waiting.discard((OWNER, 1))
        await turns(lambda: {6, 7} <= set(world.brought))
        assert {2, 3, 4, 5}.isdisjoint(world.brought)
        await world.reader.close()
        assert world.reader._ahead_bytes == 0

    run(test)


def test_a_blob_that_nobody_has_is_left_to_its_task() -> None:
    async def test() -> None:
        world = World()
        world.fails.add(1)
        world.queued(needs((1, 10)), needs((2, 10)))
        world.queued(needs((3, 10)), number=2)
        await turns(lambda: 3 in world.brought)
        world.reader.opened(blob(3))
        await turns(lambda: not world.reader._readers)
        assert world.reader._ahead_bytes == 0

    run(test)


def test_inputs_of_commands_and_results_of_dependencies_count_too() -> None:
    async def test() -> None:
        world = World()
        details = {"in": [["name", blob(1), 10, 0o600]], "out": []}
        world.queued(b"M" + bytes(msgpack.packb([["cat", "name"], details])), spec=COMMAND)
        world.queued(PLAIN, extra={"deps": [needs((2, 10))]}, number=2)
        await turns(lambda: sorted(world.brought) == [1, 2])
        await world.reader.close()

    run(test)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"B",
        b"B\xc1",
        b"R\x00",
        b"M",
        b"M\x91\x01",
        b"M" + bytes(msgpack.packb([["x"], {"in": [1, [2], ["n", 3, 4, 5]]}])),
    ],
)
def test_what_is_malformed_is_left_to_its_worker(payload: bytes) -> None:
    async def test() -> None:
        world = World()
        for spec in (CALL, COMMAND):
            world.queued(payload, spec=spec)
        world.queued(PLAIN, extra={"deps": 7})
        await turns(lambda: not world.reader._readers)
        assert world.asked == []

    run(test)


def test_so_many_runs_at_a_time() -> None:
    async def test() -> None:
        world = World()
        world.hangs = True
        for _ in range(prefetch.RUNS_MAX + 10):
            world.queued(needs((1, 10)))
        assert len(world.reader._readers) == prefetch.RUNS_MAX
        await asyncio.sleep(0)
        await world.reader.close()
        assert not world.reader._readers

    run(test)
