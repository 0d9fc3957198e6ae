"""A worker whose slot is granted to a client: it serves that one, says what it did, and comes back."""

from __future__ import annotations

import socket
from pathlib import Path

import msgpack
import pytest

from nodes.worker import channel as wire
from swarm.payload import decode_value, encode_call
from swarm.payload_code import encode_code
from swarm.protocol import direct
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status
from tests.unit.worker.driver import Driver

TICKET = bytes(range(direct.TICKET_BYTES))


class Client:
    """The other end of a direct lane."""

    def __init__(self, worker: Driver, path: Path, ticket: bytes = TICKET) -> None:
        self.worker = worker
        grant = {"path": str(path), "ticket": TICKET, "session": b"S" * 8, "granted": True}
        worker.send(wire.pack(wire.GRANT, msgpack.packb(grant)))
        worker.read(wire.GRANT_READY)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.socket.sendall(ticket)
        self.frames = direct.Frames()
        self.waiting: list[tuple[int, int, int, int, memoryview]] = []

    def spec(self, number: int, fn: object) -> None:
        code = encode_code(fn)
        self.worker.code[code.digest] = code.blob
        spec = Spec("call", ("blob", code.digest, code.name), code.name)
        self.socket.sendall(direct.pack(direct.SPEC, spec.encode(), word=number))

    def call(self, number: int, spec: int, *args: object) -> None:
        self.socket.sendall(direct.pack(direct.CALL, encode_call(args, {}), number, spec))

    def read(self) -> tuple[int, int, int, bytes]:
        """(kind, status, number, body) of the next frame; kind 0 at the end."""
        while not self.waiting:
            data = self.socket.recv(1 << 16)
            if not data:
                return 0, 0, 0, b""
            self.waiting += self.frames.feed(data)
        kind, status, number, _, body = self.waiting.pop(0)
        return kind, status, number, bytes(body)


def over(worker: Driver) -> list[list[object]]:
    """The records up to the end of a grant."""
    records: list[list[object]] = []
    while (frame := worker.read(wire.RECORDS, wire.GRANT_OVER)).kind == wire.RECORDS:
        records += msgpack.unpackb(frame.body)
    return records


def test_calls_are_answered_and_recorded_and_the_worker_comes_back(worker: Driver, tmp_path: Path) -> None:
    client = Client(worker, tmp_path / "s")
    client.spec(1, lambda x: x + 1)
    client.call(7, 1, 41)
    # The code is asked of the node, as ever.
    worker.pending += [worker.read(wire.RECORDS)]
    kind, status, number, body = client.read()
    assert (kind, status, number, decode_value(body)) == (direct.OUTCOME, Status.OK, 7, 42)
    client.call(8, 1, "no number")
    kind, status, number, body = client.read()
    assert (kind, status, number) == (direct.OUTCOME, Status.FAILED, 8)
    assert b"TypeError" in body
    client.socket.close()
    records = over(worker)
    assert [(number, status) for number, _, status, *_ in records] == [(7, Status.OK), (8, Status.FAILED)]
    assert worker.values(worker.spec(abs), [(-3,)]) == [3]


class Late:
    """Takes a while to be loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, ("__import__('time').sleep(2)",)


def test_what_its_code_takes_to_load_is_not_what_a_call_takes(worker: Driver, tmp_path: Path) -> None:
    client, late = Client(worker, tmp_path / "s"), Late()
    client.spec(1, lambda: late)
    client.call(7, 1)
    worker.pending += [worker.read(wire.RECORDS)]
    kind, status, *_ = client.read()
    assert (kind, status) == (direct.OUTCOME, Status.OK)
    client.socket.close()
    ((_, _, _, run_us, *_),) = over(worker)
    assert run_us < 2_000_000


def test_a_revoked_slot_comes_back_after_the_call_that_runs(worker: Driver, tmp_path: Path) -> None:
    client = Client(worker, tmp_path / "s")
    client.spec(1, abs)
    client.call(1, 1, -5)
    assert decode_value(client.read()[3]) == 5
    worker.send(wire.pack(wire.REVOKE))
    assert client.read()[0] == direct.BYE
    assert client.read()[0] == 0
    assert len(over(worker)) == 1
    worker.send(wire.pack(wire.REVOKE))  # one that comes too late
    assert worker.values(worker.spec(abs), [(-3,)]) == [3]


def test_what_it_can_not_run_is_given_back_for_the_node_to_say(worker: Driver, tmp_path: Path) -> None:
    client = Client(worker, tmp_path / "s")
    spec = Spec("call", ("name", "nowhere_to_be_found:nothing", "nothing"), "nothing")
    client.socket.sendall(direct.pack(direct.SPEC, spec.encode(), word=1))
    client.call(1, 1)
    assert client.read()[:3] == (direct.OUTCOME, Status.RETURNED, 1)
    client.socket.close()
    assert over(worker) == []


@pytest.mark.parametrize(
    "said",
    [
        direct.pack(direct.CALL, b"M\x91\x90", 1, 9),  # of a spec that was not told
        direct.pack(direct.BYE, b""),
        b"\xff" * 64,
        b"\x00" * 64,
    ],
)
def test_a_client_that_breaks_the_protocol_loses_the_slot(worker: Driver, tmp_path: Path, said: bytes) -> None:
    client = Client(worker, tmp_path / "s")
    client.socket.sendall(said)
    assert over(worker) == []
    assert client.read()[0] in (0, direct.BYE)
    assert worker.values(worker.spec(abs), [(-3,)]) == [3]


def test_who_has_no_ticket_is_not_served(worker: Driver, tmp_path: Path) -> None:
    client = Client(worker, tmp_path / "s", b"\x00" * direct.TICKET_BYTES)
    assert client.read()[0] == 0
    assert over(worker) == []


def test_a_client_that_does_not_come_is_not_waited_for_long(
    worker: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = {"path": str(tmp_path / "s"), "ticket": TICKET, "session": b"S" * 8, "granted": True}
    worker.send(wire.pack(wire.GRANT, msgpack.packb(grant)))
    assert over(worker) == []
    assert not (tmp_path / "s").exists()


def test_a_client_that_does_not_read_does_not_keep_the_slot(worker: Driver, tmp_path: Path) -> None:
    client = Client(worker, tmp_path / "s")
    client.spec(1, bytes)
    for number in range(60):  # far more than the sockets hold
        client.call(number, 1, 60_000)
    worker.pending += [worker.read(wire.RECORDS, wire.GRANT_OVER)]
    assert len(over(worker)) < 60
    assert worker.values(worker.spec(abs), [(-3,)]) == [3]
    client.socket.close()


def test_a_quiet_client_gives_the_slot_up(worker: Driver, tmp_path: Path) -> None:
    client = Client(worker, tmp_path / "s")
    assert client.read()[0] == direct.BYE
    assert over(worker) == []
