"""Chunks in a home worker: many calls in one task, and what is said of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.chunks import pack
from swarm.payload import decode_value
from swarm.payload_failure import Failure, Notice, decode_failure
from swarm.protocol.states import Status
from tests.unit.worker.driver import Driver


def packed(items: list[Any], width: int = 1) -> bytes:
    payload, count, left = pack(items, width, 1_000_000, 1 << 19)
    assert count == len(items) and not left
    return payload


def chunk(worker: Driver, fn: Any, *calls: Any, **options: Any) -> list[Any]:
    """What is said of each chunk: [values, failure, seconds], or (status, what it says)."""
    return worker.values(worker.spec(fn, chunked=True, **options), list(calls))


def test_calls_of_a_chunk_have_their_results_in_order(worker: Driver) -> None:
    first, second = chunk(worker, "sample_tasks:twice", packed(list(range(1000))), packed([(1, 2), (3, 4)], 2))
    assert first[:2] == [[2 * x for x in range(1000)], None]
    assert 0 <= first[2] < 20
    assert second[:2] == [[4, 10], None]


def test_items_that_are_not_plain_come_as_a_list(worker: Driver) -> None:
    assert chunk(worker, lambda x: x.imag, ([1j, 2.5], 1))[0][:2] == [[1.0, 0.0], None]
    assert chunk(worker, lambda x, y: x * y, ([(1j, 2), (3, 4)], 2))[0][:2] == [[2j, 12], None]


@pytest.mark.parametrize("error", ["ZeroDivisionError", "SystemExit", "KeyboardInterrupt", "RecursionError"])
def test_what_one_raises_is_told_behind_the_results_before_it(worker: Driver, error: str) -> None:
    def fails(x: int) -> int:
        if x == 3:
            raise {"ZeroDivisionError": ZeroDivisionError, "RecursionError": RecursionError}.get(
                error, SystemExit if error == "SystemExit" else KeyboardInterrupt
            )("three")
        print("called", x, flush=True)
        return -x

    values, failure, _ = chunk(worker, fails, packed(list(range(6))))[0]
    assert values == [0, -1, -2]
    told = decode_failure(failure)
    assert isinstance(told, Failure)
    assert (told.type, told.message, told.node, told.attempt) == (f"builtins:{error}", "three", "oak", 1)
    assert "in fails" in told.traceback
    assert "kernels" not in told.traceback and "nodes/worker" not in told.traceback
    assert chunk(worker, "sample_tasks:twice", packed([4]))[0][0] == [8], "the worker goes on"


def test_where_tries_are_repeated_a_failure_is_the_chunks(worker: Driver) -> None:
    status, told = chunk(worker, lambda x: 1 // x, packed([2, 0]), retries=2)[0]
    assert status == Status.RETRY and told.type == "builtins:ZeroDivisionError"


def test_a_result_that_cannot_be_sent_is_its_items_alone(worker: Driver) -> None:
    def gives(x: int) -> Any:
        import threading

        return threading.Lock() if x == 2 else (x,) if x else (i for i in ())

    values, failure, _ = chunk(worker, gives, packed([1, 3, 2, 4]))[0]
    assert values == [(1,), (3,)]
    told = decode_failure(failure)
    assert isinstance(told, Notice) and "lock" in told.message and told.facts["error"] == "NotPicklable"
    values, failure, _ = chunk(worker, gives, packed([1, 0]))[0]
    told = decode_failure(failure)
    assert values == [(1,)] and isinstance(told, Notice) and "stream=True" in told.hint


def test_results_that_are_large_together(worker: Driver, tmp_path: Path) -> None:
    # More than a task's plain result may have, less than a message: still in line, without asking for room.
    values, failure, _ = chunk(worker, lambda x: 2 * x, packed(["x" * 100] * 2000))[0]
    assert values == ["x" * 200] * 2000 and failure is None
    assert all(method == "code.get" for method, _ in worker.requests)
    sizes: dict[bytes, int] = {}

    def alloc(size: int, run: int, index: int) -> dict[str, Any]:
        name = len(sizes).to_bytes(32, "big")
        sizes[name] = size
        (tmp_path / name.hex()).write_bytes(bytes(size))
        return {"id": name, "path": str(tmp_path / name.hex()), "offset": 0, "flags": 1}

    class Source:
        def open(self, ref: Any) -> memoryview:
            return memoryview((tmp_path / ref.id.hex()).read_bytes())

    worker.answers["segment.alloc"], worker.answers["segment.seal"] = alloc, lambda name: {"id": name, "flags": 1}
    spec = worker.spec(lambda x: __import__("numpy").full(20_000, x), chunked=True)
    found = worker.outcomes(worker.run(spec, [packed([1.0, 2.0])]))
    values, failure, _ = decode_value(found[0][1], Source(), trusted=True)
    assert failure is None and [float(np.sum(value)) for value in values] == [20_000.0, 40_000.0]
    assert sorted(sizes.values()) == [160_000, 160_000]


def test_coroutines_of_a_chunk_run_side_by_side(worker: Driver) -> None:
    async def meets(x: int) -> int:
        import asyncio

        gate = meets.__dict__.setdefault("gate", asyncio.Event())
        if x == 2:
            gate.set()
        await gate.wait()
        if x == 5:
            raise ValueError("five")
        return x

    assert chunk(worker, meets, packed([0, 1, 2]))[0][:2] == [[0, 1, 2], None]
    values, failure, _ = chunk(worker, meets, packed([3, 4, 5, 6]))[0]
    told = decode_failure(failure)
    assert values == [3, 4] and isinstance(told, Failure) and told.message == "five"


def test_an_ordinary_function_may_return_coroutines(worker: Driver) -> None:
    async def half(x: int) -> float:
        return 1 / x

    assert chunk(worker, lambda x: half(x), packed([2, 4]))[0][:2] == [[0.5, 0.25], None]


def test_what_is_no_chunk_is_the_tasks_failure(worker: Driver) -> None:
    from swarm.payload import encode_call

    good = packed([1, 2], 1)
    cut = good[:4] + (1).to_bytes(4, "big") + b"\xcd\x01"
    short, none, other = chunk(worker, "sample_tasks:twice", cut, encode_call((1,)), encode_call((7, 1)))
    for values, failure, _ in (short, none, other):
        told = decode_failure(failure)
        assert values == [] and isinstance(told, Failure)
    assert chunk(worker, "sample_tasks:twice", good)[0][0] == [2, 4]


def test_the_task_of_a_chunk_is_known_to_its_calls(worker: Driver) -> None:
    def who(x: int) -> Iterator[Any]:
        import swarm

        task = swarm.current_task()
        assert task is not None
        return [x, task.id, task.name]  # type: ignore[return-value]

    values, failure, _ = chunk(worker, who, packed([1, 2]), name="census")[0]
    assert failure is None
    assert values == [[x, b"B" * 12 + bytes(4), "census"] for x in (1, 2)]
