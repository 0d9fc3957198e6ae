"""The session by itself: against a model of nodes that come, go, lose messages and repeat themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import OutcomeBuilder
from swarm.protocol import ids
from swarm.protocol.messages import Kind, MessageError
from swarm.protocol.outbound import Tell
from swarm.protocol.session import (
    SOFT_REFUSALS_MAX,
    UNSURE_REFUSALS_MAX,
    Accepted,
    Delivered,
    Ended,
    Moving,
    Session,
)
from swarm.protocol.states import Status

SESSION = b"session!"


def told(session: Session) -> list[Tell]:
    return [effect for effect in session.take_effects() if isinstance(effect, Tell)]


def outcomes(session: Session, number: int, rows: list[int]) -> None:
    builder = OutcomeBuilder()
    for row in rows:
        builder.add_plain(row, 1, row)
    header = {"b": ids.batch_key(SESSION, number), "n": len(rows)}
    session.on_message(0.0, Kind.OUTCOMES, header, memoryview(builder.take()))


def test_nothing_is_sent_before_there_is_a_node_and_everything_then() -> None:
    session = Session(SESSION)
    session.submit(1, b"spec", True, 3, b"columns", [])
    assert not session.take_effects()
    session.link_up(b"oak")
    (submit,) = told(session)
    assert submit.kind == Kind.SUBMIT
    assert submit.header == {"b": ids.batch_key(SESSION, 1), "n": 3, "s": b"spec"}
    assert submit.parts == (b"columns",)
    assert (session.tasks, session.bytes) == (3, 7)
    outcomes(session, 1, [2, 0, 1])
    (delivered,) = session.take_effects()
    assert isinstance(delivered, Delivered)
    assert (delivered.fresh, delivered.last) == (3, True)
    assert (session.tasks, session.bytes, list(session.unfinished)) == (0, 0, [])


def test_an_outcome_counts_once() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 2, b"", [])
    session.take_effects()
    outcomes(session, 1, [0])
    outcomes(session, 1, [0])
    outcomes(session, 1, [0, 1])
    outcomes(session, 1, [0, 1])
    fresh = [effect.fresh for effect in session.take_effects() if isinstance(effect, Delivered)]
    assert fresh == [1, 0, 1]


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"b": b"other123" + bytes(4), "n": 1}, b""),
        ({"b": ids.batch_key(SESSION, 1), "n": 1}, b"short"),
        ({"b": ids.batch_key(SESSION, 1)}, b""),
        ({"n": 1}, b""),
    ],
)
def test_what_breaks_the_protocol_is_an_error(header: dict[str, Any], body: bytes) -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 2, b"", [])
    with pytest.raises((MessageError, ValueError)):
        session.on_message(0.0, Kind.OUTCOMES, header, memoryview(body))


def test_a_full_node_is_asked_again_when_it_says_and_another_ever_later() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 1, b"", [])
    session.take_effects()
    refusal = {"b": ids.batch_key(SESSION, 1), "reason": "full", "after": 1.0}
    session.on_message(10.0, Kind.REFUSED, refusal, memoryview(b""))
    assert session.next_deadline() == 11.0
    session.on_timer(10.5)
    assert not session.take_effects()
    session.on_timer(11.0)
    assert [one.kind for one in told(session)] == [Kind.SUBMIT]
    session.on_message(11.0, Kind.REFUSED, refusal, memoryview(b""))
    assert session.next_deadline() == session.full_until == 12.0
    session.on_timer(12.0)
    refusal["reason"] = "unknown"
    session.on_message(12.0, Kind.REFUSED, refusal, memoryview(b""))
    assert session.next_deadline() == 15.0 and session.full_until == 12.0


def test_a_draining_node_is_said_to_be_left() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", False, 1, b"", [])
    session.on_message(0.0, Kind.GOODBYE, {"reason": "draining"}, memoryview(b""))
    assert Moving("draining", False) in session.take_effects()
    assert session.may_move
    session.on_message(0.0, Kind.ASK_START, {"b": ids.batch_key(SESSION, 1), "r": [[0, 1]]}, memoryview(b""))
    assert not session.may_move
    outcomes(session, 1, [0])
    assert session.may_move


def test_only_what_has_not_ended_may_start() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", False, 6, b"", [])
    outcomes(session, 1, [1])
    session.cancel(1, [(4, 5)])
    session.take_effects()
    session.on_message(0.0, Kind.ASK_START, {"b": ids.batch_key(SESSION, 1), "r": [[0, 99]]}, memoryview(b""))
    (grant,) = told(session)
    assert grant.header["r"] == [[0, 1], [2, 4], [5, 6]]


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_has_ended_well_is_not_given_up_where_it_is_made_again(when: str) -> None:
    """Its batch was given up, and it had ended, or ended all the same: who waits for it still gets it of another node."""
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 3, b"", [])
    session.submit(2, b"spec", True, 1, b"", [ids.task_id(ids.batch_key(SESSION, 1), 1)])
    if when == "before":
        session.cancel(1)
    outcomes(session, 1, [1])
    if when == "after":
        session.cancel(1)
    cancelled = OutcomeBuilder()
    for row in (0, 2):
        cancelled.add(row, Status.CANCELLED, 0, b"F")
    header = {"b": ids.batch_key(SESSION, 1), "n": 2}
    session.on_message(0.0, Kind.OUTCOMES, header, memoryview(cancelled.take()))
    session.link_down()
    session.take_effects()
    session.link_up(b"elm")
    again = told(session)
    assert [(tell.kind, tell.header["b"][-1]) for tell in again] == [(Kind.SUBMIT, 1), (Kind.SUBMIT, 2)], (
        "and no CANCEL"
    )
    assert again[0].header["k"] == [[0, 1], [2, 3]]


def test_cancelling_without_killing_leaves_it_to_the_node_what_has_begun() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 2, b"", [])
    session.take_effects()
    session.cancel(1, kill=False)
    (cancel,) = told(session)
    assert cancel.header == {"b": ids.batch_key(SESSION, 1), "r": None, "k": False}
    session.link_down()
    session.link_up(b"elm")
    assert [one.kind for one in told(session)] == [Kind.SUBMIT]


class Model:
    """Nodes as a client sees them, and what ran on them."""

    def __init__(self) -> None:
        self.session = Session(SESSION)
        self.node: str | None = None
        self.known: dict[tuple[str, int], dict[str, Any]] = {}
        self.granted: dict[tuple[str, int], set[int]] = {}
        self.ended: dict[tuple[int, int], int] = {}
        self.started: dict[tuple[int, int], list[str]] = {}
        self.counts: dict[int, int] = {}
        self.rerun: dict[int, bool] = {}

    def absorb(self) -> None:
        for effect in self.session.take_effects():
            if isinstance(effect, Tell):
                self._told(effect)
            elif isinstance(effect, Ended):
                for row in effect.indices:
                    self._end(effect.batch, row, effect.status)
            elif isinstance(effect, Delivered):
                for row in effect.outcomes.indices():
                    if (effect.batch, row) not in self.ended:
                        self._end(effect.batch, row, Status.OK)

    def _told(self, tell: Tell) -> None:
        assert self.node is not None, "told nobody"
        number = int.from_bytes(tell.header["b"][8:], "big")
        if tell.kind == Kind.SUBMIT and (self.node, number) not in self.known:
            skip = {row for start, stop in tell.header.get("k") or () for row in range(start, stop)}
            rows = set(range(tell.header["n"])) - skip
            self.known[self.node, number] = {"rows": rows}
            self.granted[self.node, number] = rows if self.rerun[number] else set()
        elif tell.kind == Kind.GRANT_START:
            allowed = {row for start, stop in tell.header["r"] for row in range(start, stop)}
            self.granted[self.node, number] |= allowed & self.known[self.node, number]["rows"]

    def _end(self, number: int, row: int, status: int) -> None:
        assert (number, row) not in self.ended, "a task has one outcome"
        self.ended[number, row] = status

    def run(self, number: int, row: int) -> None:
        """The node runs a task that it may run, and it takes effect."""
        assert self.node is not None
        if row in self.granted.get((self.node, number), ()):
            begun = self.started.setdefault((number, row), [])
            begun.append(self.node)
            if not self.rerun[number]:
                assert len(set(begun)) == 1, "what may not be repeated began on two nodes"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("ask"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("run"), st.integers(1, 6), st.integers(0, 3)),
        st.tuples(st.just("report"), st.integers(1, 6), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(1, 6), st.integers(0, 3)),
        st.tuples(st.just("up"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("down"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_each_task_has_one_outcome_and_what_may_not_be_repeated_begins_on_one_node(script: list[Any]) -> None:
    model = Model()
    session = model.session
    generation = 0
    for what, one, two in script:
        if what == "submit":
            number = len(model.counts) + 1
            model.counts[number], model.rerun[number] = one, two
            session.submit(number, b"spec", two, one, b"c", [])
        elif what == "up" and model.node is None:
            # A node that was left forgets this client's tasks; its next life is another process.
            model.node = f"{one}{generation}"
            session.link_up(model.node.encode())
        elif what == "down" and model.node is not None:
            session.link_down()
            model.node, generation = None, generation + 1
        elif model.node is None and what == "cancel" and one in model.counts and two < model.counts[one]:
            session.cancel(one, [(two, two + 1)])
        elif model.node is not None and (model.node, one) in model.known:
            if what == "ask":
                header = {"b": ids.batch_key(SESSION, one), "r": [[0, model.counts[one]]]}
                session.on_message(0.0, Kind.ASK_START, header, memoryview(b""))
            elif what == "run":
                model.run(one, two)
            elif what == "report" and model.node in model.started.get((one, two), ()):
                outcomes(session, one, [two])
            elif what == "cancel" and two < model.counts[one]:
                session.cancel(one, [(two, two + 1)])
        model.absorb()
    # At last there is a node that does its work: everything ends.
    if model.node is not None:
        session.link_down()
    model.node = "last"
    session.link_up(b"last")
    model.absorb()
    for number, count in model.counts.items():
        if ("last", number) in model.known:
            header = {"b": ids.batch_key(SESSION, number), "r": [[0, count]]}
            session.on_message(0.0, Kind.ASK_START, header, memoryview(b""))
            model.absorb()
            rows = sorted(model.granted["last", number])
            for row in rows:
                model.run(number, row)
            if rows:
                outcomes(session, number, rows)
                model.absorb()
    assert set(model.ended) == {(number, row) for number, count in model.counts.items() for row in range(count)}
    assert (session.tasks, session.bytes, session.may_move) == (0, 0, True)
    for task, status in model.ended.items():
        if status == Status.LOST:
            assert not model.rerun[task[0]]


def refused(session: Session, key: bytes, **more: Any) -> None:
    header = {"b": key, "reason": "unknown", "message": "", "hint": "", "after": 0.25, **more}
    session.on_message(0.0, Kind.REFUSED, header, memoryview(b""))
    deadline = session.next_deadline()
    if deadline is not None:
        session.on_timer(deadline)


def test_what_nobody_asked_to_be_kept_runs_without_when_nobody_leads_its_log_and_none_can_have_it() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    key = ids.batch_key(SESSION, 1)
    session.submit(1, b"spec", True, 2, b"columns", [], durability=2, soft=True, key=key)
    (submit,) = told(session)
    assert (submit.header["D"], submit.header["F"]) == (2, True)
    for _ in range(SOFT_REFUSALS_MAX):
        refused(session, key, t=False)
        (submit,) = told(session)
        assert submit.header["D"] == 2
    refused(session, key, t=False)
    accepted, submit = session.take_effects()
    assert isinstance(accepted, Accepted) and accepted.copies == 0
    assert isinstance(submit, Tell) and "D" not in submit.header and submit.header["b"] == key


def test_what_may_be_in_a_log_waits_for_who_leads_it_though_nobody_asked_for_that() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    key = ids.batch_key(SESSION, 1)
    session.submit(1, b"spec", True, 2, b"columns", [], durability=2, soft=True, key=key)
    session.link_down()  # before an answer
    session.link_up(b"elm")
    session.take_effects()
    for _ in range(UNSURE_REFUSALS_MAX):
        refused(session, key, t=False)
        (submit,) = told(session)
        assert submit.header["D"] == 2
    refused(session, key, t=False)
    (submit,) = told(session)
    assert "D" not in submit.header and submit.header["w"] == 1, "long enough for another node to take over"


def test_what_may_have_begun_and_may_not_be_repeated_waits_for_who_leads_its_log() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    key = ids.batch_key(SESSION, 1)
    session.submit(1, b"spec", False, 2, b"columns", [], durability=2, soft=True, key=key)
    session.link_down()
    session.link_up(b"elm")
    session.take_effects()
    for _ in range(3 * UNSURE_REFUSALS_MAX):
        refused(session, key, t=False)
        (submit,) = told(session)
        assert submit.header["D"] == 2


def test_what_an_owner_runs_without_keeping_it_is_handed_over_afresh_elsewhere() -> None:
    session = Session(SESSION)
    session.link_up(b"oak")
    key = ids.batch_key(SESSION, 1)
    session.submit(1, b"spec", True, 2, b"columns", [], durability=2, soft=True, key=key)
    header = {"b": key, "copies": 0, "hosts": 0, "e": 0, "r": 0.0}
    session.on_message(0.0, Kind.ACCEPTED, header, memoryview(b""))
    session.take_effects()
    session.link_down()
    session.link_up(b"elm")
    (submit,) = told(session)
    assert "D" not in submit.header and submit.header["w"] == 1


@pytest.mark.parametrize("kill", [True, False])
def test_what_is_made_again_for_others_is_not_given_up_with_what_has_not_ended(kill: bool) -> None:
    """A result of the first node went with it, and who waits for it needs it at the second."""
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", True, 3, b"columns", [])
    session.submit(2, b"spec", True, 1, b"", [ids.batch_key(SESSION, 1) + bytes(4)])
    outcomes(session, 1, [0])
    session.link_down()
    session.link_up(b"elm")
    session.take_effects()
    session.cancel(1, kill=kill)
    (cancel,) = [one for one in told(session) if one.kind == Kind.CANCEL]
    assert cancel.header["r"] == [[1, 3]] and cancel.header.get("k", True) is kill
    session.cancel(2, kill=kill)
    assert [one.header["r"] for one in told(session)] == [None], "nobody waits for this one: all of it"
