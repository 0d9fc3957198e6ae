"""Standard input of a command in a worker: each byte once, told when it was taken, and never with a hole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from nodes.worker import channel as wire
from swarm.payload import encode_plain
from tests.unit.worker.driver import TIMEOUT_S, Driver, said
from transport.bounds import INPUT_REPORT_BYTES, OUTPUT_WINDOW_BYTES


def call(*argv: str, stdin: bool = True) -> bytes:
    payload = encode_plain([list(argv), {"stdin": stdin}])
    assert payload is not None
    return payload


def give(worker: Driver, run: int, offset: int, data: bytes) -> None:
    worker.send(wire.pack(wire.INPUT, bytes(4) + offset.to_bytes(8, "little") + data, run=run))


def ended(worker: Driver, run: int) -> Any:
    (outcome,) = worker.outcomes(run).values()
    return said(*outcome)


def output(worker: Driver) -> bytes:
    return b"".join(data[1] for _, _, name, data in worker.events if name == "out")


def test_what_comes_twice_is_given_once(worker: Driver) -> None:
    run = worker.run(worker.spec(), [call("cat")])
    for offset, data in ((0, b"abc"), (0, b"abc"), (1, b"bcde"), (3, b"d"), (5, b"f"), (6, b"")):
        give(worker, run, offset, data)
    assert ended(worker, run)["exit"] == 0
    assert output(worker) == b"abcdef"


def test_a_hole_ends_the_command_and_says_so(worker: Driver) -> None:
    run = worker.run(worker.spec(), [call("sh", "-c", "cat; sleep 60")])
    give(worker, run, 0, b"abc")
    began = time.monotonic()
    give(worker, run, 4, b"e")
    status, told = ended(worker, run)
    assert status != 0 and "lost" in told.message and "--in" in told.hint
    assert time.monotonic() - began < 30, "it did not wait for the command"


def test_it_tells_what_was_taken_and_not_what_waits(worker: Driver) -> None:
    run = worker.run(worker.spec(), [call("sh", "-c", f"head -c {2 * INPUT_REPORT_BYTES} >/dev/null; kill -STOP $$")])
    for offset in range(0, 4 * INPUT_REPORT_BYTES, 65536):
        give(worker, run, offset, bytes(65536))
    took = []
    while not took or took[-1] < 2 * INPUT_REPORT_BYTES:
        frame = worker.frame()
        index, name, value = msgpack.unpackb(frame.body) if frame.kind == wire.EVENT else (0, "", None)
        if name == "took":
            took.append(value)
    assert took == sorted(took)
    assert took[-1] <= 2 * INPUT_REPORT_BYTES + 1024 * 1024, "what it read, and what the pipe holds"
    worker.send(wire.pack(wire.SIGNAL, bytes(4) + (9).to_bytes(4, "little"), run=run))
    assert ended(worker, run)["signal"] == 9


def test_a_command_that_reads_no_more_is_told_of_once(worker: Driver, tmp_path: Path) -> None:
    given = tmp_path / "given"
    script = f"exec <&-; while [ ! -e {given} ]; do sleep 0.05; done; echo over"
    worker.on_event = lambda run, index, name, value: given.touch() if name == "took" else None
    run = worker.run(worker.spec(), [call("sh", "-c", script)])
    for offset in range(0, 20 * 65536, 65536):
        give(worker, run, offset, bytes(65536))
        time.sleep(0.01)
    assert ended(worker, run)["exit"] == 0
    assert [value for _, _, name, value in worker.events if name == "took"] == [None]
    assert output(worker) == b"over\n"


def test_a_command_without_input_takes_none(worker: Driver) -> None:
    run = worker.run(worker.spec(), [call("sleep", "0.3", stdin=False)])
    give(worker, run, 0, b"for nobody")
    assert ended(worker, run)["exit"] == 0
    assert [value for _, _, name, value in worker.events if name == "took"] in ([None], [])


def test_output_waits_for_who_consumes_it_and_comes_whole_and_once(worker: Driver) -> None:
    size = 3 * OUTPUT_WINDOW_BYTES
    script = (
        f"i=0; while [ $i -lt {size // 65536} ]; do head -c 65536 /dev/zero | tr '\\0' $((i % 10)); i=$((i + 1)); done"
    )
    run = worker.run(worker.spec(), [call("sh", "-c", script)])
    chunks: list[tuple[int, bytes]] = []
    repeated = 0
    # A file of the same bytes, to compare with.
    whole = b"".join(bytes([48 + i % 10]) * 65536 for i in range(size // 65536))
    came = 0

    def hear(offset: int, flags: int = 0) -> None:
        worker.send(wire.pack(wire.HEARD, bytes(4) + offset.to_bytes(8, "little"), flags=flags, run=run))

    while came < OUTPUT_WINDOW_BYTES:
        offset, data = event(worker)
        assert offset == came
        chunks.append((offset, data))
        came += len(data)
    worker.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        worker.frame()
    worker.socket.settimeout(TIMEOUT_S)
    hear(1000)
    hear(came - 100_000, wire.AGAIN)
    while repeated < 100_000:
        offset, data = event(worker)
        assert whole[offset : offset + len(data)] == data
        repeated += len(data) if offset + len(data) <= came else 0
    hear(came)
    while came < size:
        offset, data = event(worker)
        if offset == came:
            chunks.append((offset, data))
            came += len(data)
            hear(came)
    assert b"".join(data for _, data in chunks) == whole
    assert ended(worker, run)["written"] == size


def event(worker: Driver) -> Any:
    """The next output: [offset, bytes]."""
    while True:
        frame = worker.frame()
        if frame.kind == wire.EVENT:
            _, name, value = msgpack.unpackb(frame.body)
            if name == "out":
                return value
