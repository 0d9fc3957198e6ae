"""The session and a node that is full: what is given up while the node has not taken it ends, and is not taken later."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol import ids
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.session import Ended, Session
from swarm.protocol.states import Status

SESSION = b"session!"
REFUSAL: dict[str, Any] = {"b": ids.batch_key(SESSION, 1), "reason": "full", "after": 1.0}


def refused(session: Session, now: float = 10.0) -> list[Any]:
    session.on_message(now, Kind.REFUSED, REFUSAL, memoryview(b""))
    return session.take_effects()


@pytest.fixture
def session() -> Session:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 3, b"columns", [])
    session.take_effects()
    return session


def test_a_cancel_after_the_refusal_ends_the_tasks_here(session: Session) -> None:
    assert refused(session) == []
    session.cancel(1, [(0, 2)])
    (ended,) = session.take_effects()
    assert isinstance(ended, Ended)
    assert (ended.indices, ended.status, ended.last) == ((0, 1), Status.CANCELLED, False)
    session.on_timer(11.0)
    (submit,) = session.take_effects()
    assert submit.kind == Kind.SUBMIT
    assert submit.header["k"] == [[0, 2]]


def test_a_cancel_that_crossed_the_refusal_ends_the_tasks_here(session: Session) -> None:
    session.cancel(1)
    (cancel,) = session.take_effects()
    assert isinstance(cancel, Tell)
    assert cancel.kind == Kind.CANCEL
    (ended,) = refused(session)
    assert (ended.indices, ended.status, ended.last) == ((0, 1, 2), Status.CANCELLED, True)
    session.on_timer(11.0)
    assert session.take_effects() == []
    assert (session.tasks, session.bytes) == (0, 0)


def test_a_chain_is_kept_as_long_as_its_last_task_is_open() -> None:
    from kernels.batch import OutcomeBuilder

    session = Session(SESSION)
    session.link_up(b"oak")
    for number in range(1, 5):
        deps = [ids.task_id(ids.batch_key(SESSION, number - 1), 0)] if number > 1 else []
        session.submit(number, b"spec", True, 1, b"columns", deps)
    for number in range(1, 4):
        builder = OutcomeBuilder()
        builder.add_plain(0, 1, number)
        header = {"b": ids.batch_key(SESSION, number), "n": 1}
        session.on_message(0.0, Kind.OUTCOMES, header, memoryview(builder.take()))
    session.link_down()
    session.take_effects()
    session.link_up(b"elm")
    handed = [int.from_bytes(one.header["b"][8:], "big") for one in session.take_effects()]
    assert handed == [1, 2, 3, 4]
    builder = OutcomeBuilder()
    builder.add_plain(0, 1, 4)
    session.on_message(0.0, Kind.OUTCOMES, {"b": ids.batch_key(SESSION, 4), "n": 1}, memoryview(builder.take()))
    session.link_down()
    session.take_effects()
    session.link_up(b"fir")
    assert session.take_effects() == []
