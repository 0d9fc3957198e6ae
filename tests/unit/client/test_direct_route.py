"""Which callables go directly to a worker: what takes long rests, and is tried again; what a worker gives back is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.client.direct import QUICK_US, Lane
from swarm.client.routes import REST_S, REST_S_MAX, Routes
from swarm.protocol import direct as wire
from swarm.protocol.states import Status
from swarm.tasks import TaskOptions


class Granted:
    """A lane whose worker is this test."""

    def __init__(self) -> None:
        self.again: list[int] = []
        here, self.worker = socket.socketpair()
        engine = SimpleNamespace(
            session_id=b"s" * 16, unfinished=0, link=None, closed=False,
            room=SimpleNamespace(thread_id=0, notify=lambda: None),
            batches=SimpleNamespace(number=lambda: 7, again=lambda route, number, payload, future: self.again.append(number)),
        )  # fmt: skip
        self.lane = Lane(engine, wanted=True)  # type: ignore[arg-type]
        engine.lane = self.lane
        self.lane._socket = here
        self.route = Routes().of(abs, TaskOptions())
        self.route.known = True
        assert self.route.quick

    def runs_for(self, us: int, status: Status = Status.OK) -> Any:
        """One call, and what its worker says of it."""
        future = self.lane.call(self.route, (-3,), None)
        if future is not None:
            self.worker.recv(1 << 16)
            body = b"M\x03" if status == Status.OK else b""
            self.worker.sendall(wire.pack(wire.OUTCOME, body, 7, us, int(status)))
            self.lane.poll()
        return future


@pytest.fixture
def granted() -> Iterator[Granted]:
    made = Granted()
    yield made
    made.worker.close()
    made.lane._socket.close()  # type: ignore[union-attr]


def test_what_took_long_once_rests_and_goes_directly_again(granted: Granted, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("swarm.client.direct.time.monotonic", lambda: now)
    assert granted.runs_for(QUICK_US).result(0) == 3
    assert granted.route.quick, "so long is not long"
    granted.runs_for(QUICK_US + 1)
    assert granted.runs_for(5) is None and not granted.route.rested(now), "it goes through the node"
    now += REST_S
    assert granted.runs_for(QUICK_US + 1) is not None
    now += REST_S
    assert not granted.route.rested(now), "the second time it rests longer"
    now += REST_S
    assert granted.route.rested(now) and granted.runs_for(5) is not None
    granted.runs_for(QUICK_US + 1)
    assert granted.route.rested(now + REST_S), "it was quick in between, so what it was before is forgotten"


def test_what_always_takes_long_is_seldom_tried(granted: Granted) -> None:
    now, tried = 0.0, 0
    while now < 24 * 3600:
        now += 1.0
        if granted.route.rested(now):
            granted.route.took_long(now)
            tried += 1
    assert tried <= 24 * 3600 / REST_S_MAX + 10


def test_what_a_worker_gives_back_does_not_go_directly_later(granted: Granted) -> None:
    granted.route.took_long(1.0)
    assert granted.route.rested(1e9)
    granted.runs_for(5, Status.RETURNED)
    assert granted.again == [7] and not granted.route.rested(2e9)
