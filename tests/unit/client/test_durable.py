"""Durable tasks seen from the client: receipts, ids that name their home, and the same batch again after a fail-over."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from kernels.batch import OutcomeBuilder
from swarm.client.receipts import Receipt
from swarm.errors import ConfigError, SwarmError, TaskRefused
from swarm.protocol import ids
from swarm.protocol.ledger.homes import durable_session, home_tag
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.session import Accepted, Delivered, Ended, Session
from swarm.protocol.states import Status
from tests.unit.client.fake_node import World

SESSION = b"session!"
HOME = bytes(range(16))
DURABLE = durable_session(HOME, SESSION[:5])
KEY = ids.batch_key(DURABLE, 1)


def square(x: int) -> int:
    return x * x


def begun(count: int = 2, **options: Any) -> Session:
    """A session whose durable batch is handed over."""
    session = Session(SESSION)
    session.link_up(b"oak")
    session.submit(1, b"spec", options.pop("rerun", True), count, b"columns", [], durability=2, key=KEY)
    return session


def told(session: Session) -> list[tuple[int, dict[str, Any]]]:
    return [(it.kind, it.header) for it in session.take_effects() if isinstance(it, Tell)]


def accept(session: Session, retention_s: float = 60.0) -> None:
    header = {"b": KEY, "copies": 2, "hosts": 2, "e": 7, "r": retention_s}
    session.on_message(0.0, Kind.ACCEPTED, header, memoryview(b""))


def end(session: Session, rows: list[int]) -> None:
    builder = OutcomeBuilder()
    for row in rows:
        builder.add_plain(row, 1, row)
    session.on_message(0.0, Kind.OUTCOMES, {"b": KEY, "n": len(rows)}, memoryview(builder.take()))


def test_a_receipt_is_told_and_outcomes_of_another_session_of_the_client_are_its_own() -> None:
    session = begun()
    assert told(session) == [(Kind.SUBMIT, {"b": KEY, "n": 2, "s": b"spec", "D": 2})]
    accept(session)
    assert session.take_effects() == [Accepted(1, 2, 2, 7, 60.0)]
    end(session, [0, 1])
    (delivered,) = session.take_effects()
    assert isinstance(delivered, Delivered) and delivered.last


@pytest.mark.parametrize("reason", ["disk-full", "durability", "malformed"])
def test_who_cannot_know_a_batch_that_was_accepted_ends_nothing(reason: str) -> None:
    session = begun()
    accept(session)
    session.take_effects()
    session.on_message(10.0, Kind.REFUSED, {"b": KEY, "reason": reason, "message": "no"}, memoryview(b""))
    assert not session.take_effects() and session.next_deadline() == 15.0
    session.on_timer(15.0)
    assert [kind for kind, _ in told(session)] == [Kind.SUBMIT]
    session.on_message(15.0, Kind.REFUSED, {"b": KEY, "reason": "conflict", "message": "no"}, memoryview(b""))
    (ended,) = session.take_effects()
    assert isinstance(ended, Ended) and ended.status is Status.REFUSED, "its id is another batch's"


def test_on_another_node_it_is_the_same_batch_whole_and_nothing_of_it_is_lost() -> None:
    session = begun(3, rerun=False)
    end(session, [1])
    session.cancel(1, [(2, 3)])
    session.take_effects()
    session.link_down()
    session.link_up(b"elm")
    assert told(session) == [
        (Kind.SUBMIT, {"b": KEY, "n": 3, "s": b"spec", "D": 2}),
        (Kind.CANCEL, {"b": KEY, "r": [[2, 3]]}),
    ]
    end(session, [0, 1])
    fresh = [it.fresh for it in session.take_effects() if isinstance(it, Delivered)]
    assert fresh == [1]


def test_a_cancel_while_there_is_no_node_goes_to_the_next_one_and_the_log_says_how_it_ended() -> None:
    session = begun(1)
    told(session)
    session.link_down()
    session.cancel(1)
    assert session.take_effects() == [], "it may have ended, and somebody may know how"
    session.link_up(b"elm")
    again = [(Kind.SUBMIT, {"b": KEY, "n": 1, "s": b"spec", "D": 2}), (Kind.CANCEL, {"b": KEY, "r": [[0, 1]]})]
    assert told(session) == again
    refusal = {"b": KEY, "reason": "unknown", "message": "who leads?", "hint": "wait", "after": 0.25}
    session.on_message(10.0, Kind.REFUSED, refusal, memoryview(b""))
    session.cancel(1)
    assert session.take_effects() == []
    session.on_timer(10.5)
    assert told(session) == again
    end(session, [0])
    (delivered,) = [it for it in session.take_effects() if isinstance(it, Delivered)]
    assert delivered.outcomes.status(0) == Status.OK and delivered.last


def test_a_cancel_of_what_was_handed_to_nobody_yet_ends_it() -> None:
    session = Session(SESSION)
    session.submit(1, b"spec", True, 1, b"columns", [], durability=2, key=KEY)
    session.cancel(1)
    (ended,) = session.take_effects()
    assert isinstance(ended, Ended) and ended.status is Status.CANCELLED
    session.link_up(b"oak")
    assert session.take_effects() == []


def test_unknown_is_asked_again_and_a_cancel_is_not_taken_for_done() -> None:
    session = begun(2)
    session.cancel(1, [(0, 1)])
    session.take_effects()
    refusal = {"b": KEY, "reason": "unknown", "message": "who leads?", "hint": "wait", "after": 0.25}
    session.on_message(10.0, Kind.REFUSED, refusal, memoryview(b""))
    assert session.take_effects() == []
    session.on_timer(10.2)
    assert told(session) == []
    session.on_timer(10.3)
    assert [kind for kind, _ in told(session)] == [Kind.SUBMIT, Kind.CANCEL]


def looks(session: Session, count: int) -> list[int]:
    """At which of so many looks a batch is handed over again."""
    found = []
    for number in range(1, count + 1):
        session.look()
        if Kind.SUBMIT in [kind for kind, _ in told(session)]:
            found.append(number)
    return found


def test_a_batch_of_which_there_is_no_news_is_handed_over_again_and_again_at_longer_and_longer_intervals() -> None:
    session = begun(2)
    told(session)  # is lost on the way to who leads its log, and nobody notices
    assert looks(session, 200) == [2, 4, 8, 16, 32, 64, 128, 192]
    accept(session)
    assert looks(session, 5) == [2, 4], "news begins it anew"
    accept(session)
    assert looks(session, 4) == [3], "the same again is no news: it goes on with the eighth"
    end(session, [0])
    assert looks(session, 3) == [2]
    session.link_down()
    assert looks(session, 9) == []
    session.link_up(b"elm")
    told(session)
    end(session, [1])
    assert looks(session, 9) == []


def test_a_lost_cancel_goes_with_it() -> None:
    session = begun(2)
    session.cancel(1, [(0, 1)])
    told(session)
    session.look()
    session.look()
    assert told(session)[-1] == (Kind.CANCEL, {"b": KEY, "r": [[0, 1]]})


def test_what_is_refused_is_not_looked_after_beside_and_batches_without_durability_are_not_either() -> None:
    session = begun(2)
    session.submit(2, b"spec", True, 1, b"columns", [])
    told(session)
    refusal = {"b": KEY, "reason": "unknown", "message": "who leads?", "hint": "wait", "after": 0.25}
    session.on_message(10.0, Kind.REFUSED, refusal, memoryview(b""))
    assert looks(session, 9) == []


def test_a_node_that_drains_is_asked_again_where_there_is_no_other() -> None:
    session = begun(1)
    told(session)
    refusal = {"b": KEY, "reason": "draining", "message": "this node is stopping", "hint": "", "after": 0.0}
    session.on_message(10.0, Kind.REFUSED, refusal, memoryview(b""))
    session.take_effects()
    session.on_timer(15.0)
    assert [kind for kind, _ in told(session)] == [Kind.SUBMIT]


def test_what_a_batch_waits_for_is_handed_over_again_before_it() -> None:
    session = begun(1)
    second = ids.batch_key(DURABLE, 2)
    session.submit(2, b"spec", True, 1, b"columns", [ids.task_id(KEY, 0)], durability=2, key=second)
    session.take_effects()
    for now, key in ((10.0, KEY), (10.5, KEY), (11.2, KEY), (11.2, second)):
        session.on_timer(now)
        refusal = {"b": key, "reason": "unknown", "message": "who leads?", "hint": "", "after": 0.25}
        session.on_message(now, Kind.REFUSED, refusal, memoryview(b""))
    session.take_effects()
    session.on_timer(11.5)  # the second one's time has come, the first one's not yet
    assert [header["b"] for kind, header in told(session)] == [KEY, second]


def test_a_conflict_ends_it() -> None:
    session = begun(2)
    session.take_effects()
    refusal = {"b": KEY, "reason": "conflict", "message": "other content", "hint": "", "after": None}
    session.on_message(0.0, Kind.REFUSED, refusal, memoryview(b""))
    (ended,) = session.take_effects()
    assert isinstance(ended, Ended) and (ended.status, ended.indices) == (Status.REFUSED, (0, 1))


def test_what_is_kept_until_it_was_delivered_is_acknowledged() -> None:
    session = begun(1)
    accept(session, 0.0)
    end(session, [0])
    assert (Kind.RELEASE, {"b": KEY}) in told(session)


def test_ids_name_the_home_and_receipts_can_be_waited_for_and_awaited() -> None:
    with World("oak") as world:
        (oak,) = world.nodes
        future = world.fleet.submit(square, 3, durability="fleet")
        assert future.result(60) == 9
        assert future.task_id[:3] == home_tag(oak.credentials.id)
        assert oak.submitted[0]["D"] == 2
        with pytest.raises(SwarmError, match="how many disks"):
            future.receipt.result(60)  # a node that keeps no word


def test_a_receipt_is_there_as_soon_as_the_node_says_so() -> None:
    with World("oak") as world:
        (oak,) = world.nodes
        oak.answers = lambda header: "hold"
        futures = [world.fleet.submit(square, x, durability="node") for x in range(3)]
        world.eventually(lambda: sum(header["n"] for header in oak.submitted) == 3)
        for header in oak.submitted:
            world.do(oak.say, Kind.ACCEPTED, {"b": header["b"], "copies": 1, "hosts": 1, "e": 5, "r": 60.0})
        assert [future.receipt.result(60) for future in futures] == [Receipt(1, 1, 5, 60.0)] * 3

        async def wait() -> Receipt:
            return await futures[0].receipt

        assert asyncio.run(wait()).copies == 1
        assert world.engine.wait_accepted(60)


def test_without_durability_a_receipt_says_that_there_is_no_copy() -> None:
    with World("oak") as world:
        future = world.fleet.submit(square, 3)
        assert future.receipt.result(0) == Receipt(0, 0, 0, 0.0)
        assert future.result(60) == 9
        assert "D" not in world.nodes[0].submitted[0]


def test_a_refusal_is_told_by_the_receipt_too() -> None:
    with World("oak") as world:
        world.nodes[0].answers = lambda header: {
            "reason": "disk-full", "message": "not accepted: the disk is full", "hint": "make room", "after": None,
        }  # fmt: skip
        future = world.fleet.submit(square, 3, durability="fleet")
        with pytest.raises(TaskRefused, match="the disk is full"):
            future.receipt.result(60)
        with pytest.raises(TaskRefused, match="the disk is full"):
            future.result(60)


def test_after_a_fail_over_the_same_key_goes_to_the_next_node_and_new_ones_name_it() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        oak.answers = lambda header: "hold"
        future = world.fleet.submit(square, 4, durability="fleet")
        world.eventually(lambda: oak.submitted)
        world.kill("oak")
        assert future.result(60) == 16
        assert elm.submitted[0] == oak.submitted[0]
        later = world.fleet.submit(square, 5, durability="fleet")
        assert later.result(60) == 25 and later.task_id[:3] == home_tag(elm.credentials.id)


def test_what_was_lost_behind_the_node_in_use_is_handed_over_again_though_the_link_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarm.client.engine.NODES_REFRESH_S", 0.02)
    with World("oak") as world:
        (oak,) = world.nodes
        oak.answers = lambda header: "hold" if len(oak.submitted) < 3 else "run"
        assert world.fleet.submit(square, 4, durability="fleet").result(60) == 16


def test_what_waits_for_a_task_goes_into_its_log_and_other_results_are_waited_for_here() -> None:
    with World("oak", "elm") as world:
        oak, elm = world.nodes
        elm.answers = oak.answers = lambda header: "hold"
        first = world.fleet.submit(square, 2, durability="fleet")
        world.eventually(lambda: oak.submitted)
        world.kill("oak")
        world.eventually(lambda: elm.submitted)
        second = world.fleet.submit(square, first, durability="fleet")
        world.eventually(lambda: len(elm.submitted) == 2)
        assert elm.submitted[1]["d"] == [first.task_id]
        assert second.task_id[:8] == first.task_id[:8], "where new tasks go by now nobody knows of it"
        key = elm.submitted[0]["b"]
        threading.Timer(0.2, lambda: world.do(elm.run, *elm.held[key])).start()
        third = world.fleet.submit(square, first)  # not durable, and elm need not know what it waits for
        world.eventually(lambda: len(elm.submitted) == 3)
        assert first.result(60) == 4 and "d" not in elm.submitted[2] and not third.done()


def test_tasks_that_may_not_be_repeated_ask_no_client_and_survive_its_node() -> None:
    with World("oak", "elm") as world:
        oak, _ = world.nodes
        oak.answers = lambda header: "hold"
        oak.on_grant_start = lambda header, body: pytest.fail("the log grants the start")  # type: ignore[method-assign]
        future = world.fleet.submit(square, 4, durability="fleet", rerun=False)
        world.eventually(lambda: oak.submitted)
        world.kill("oak")
        assert future.result(60) == 16


@pytest.mark.parametrize("durability", ["disk", "", 2, "FLEET"])
def test_a_level_that_there_is_not_is_refused_at_once(durability: Any) -> None:
    with World("oak") as world:
        with pytest.raises(ConfigError, match="durability"):
            world.fleet.submit(square, 3, durability=durability)


def test_what_is_of_use_only_while_its_caller_is_there_is_not_kept_for_later() -> None:
    with World("oak") as world:
        with pytest.raises(ConfigError, match="stream"):
            world.fleet.stream(square, 3, durability="fleet")
        with pytest.raises(ConfigError, match="input"):
            world.fleet.submit_command(["cat"], stdin=True, durability="node")


def test_leaving_by_an_exception_cancels_what_is_durable_too_and_detaching_does_not() -> None:
    for leave in ("exception", "detach"):
        with World("oak") as world:
            (oak,) = world.nodes
            oak.answers = lambda header: "hold"
            world.fleet.submit(square, 3, durability="fleet")
            world.eventually(lambda: oak.submitted)
            key = oak.submitted[0]["b"]
            world.do(oak.say, Kind.ACCEPTED, {"b": key, "copies": 2, "hosts": 2, "e": 5, "r": 60.0})
            if leave == "detach":
                world.fleet.detach(5)
                assert oak.cancelled == []
                continue
            with pytest.raises(KeyError), world.fleet:
                raise KeyError("Ctrl-C, say")
            assert [header["b"] for header in oak.cancelled] == [key]


def test_receipts_are_waited_for_only_so_long() -> None:
    with World("oak") as world:
        world.nodes[0].answers = lambda header: "hold"
        world.fleet.submit(square, 3, durability="fleet")
        began = time.monotonic()
        assert not world.engine.wait_accepted(0.05)
        assert time.monotonic() - began < 60
