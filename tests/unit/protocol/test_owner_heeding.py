"""An owner that learns: what follows from a failure for the tasks that come after it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from kernels.batch import OutcomeBuilder
from swarm.protocol.lessons.heeding import Mode
from swarm.protocol.lessons.records import DOUBTED_USES, PROBE_USES
from swarm.protocol.owner.batches import Batch, Learn, ToExecutor
from swarm.protocol.owner.heeding import SAID_AT_ONCE
from swarm.protocol.owner.teaching import read_value
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status
from tests.unit.protocol.owner import ELM, OAK, Owner, key_of, spec_of

NO_MODULE = {
    "type": "builtins:ModuleNotFoundError", "mro": ["builtins:ModuleNotFoundError", "builtins:ImportError"],
    "message": "No module named 'planted'", "traceback": "",
}  # fmt: skip
TOO_MANY = {
    "type": "http:HTTPError",
    "mro": [],
    "message": "HTTP 429 Too Many Requests, Retry-After: 30",
    "traceback": "",
}
MINE = {"type": "builtins:ValueError", "mro": ["builtins:ValueError"], "message": "not a number", "traceback": ""}


def owner_of(mode: Mode | None, *, slots: float = 0.0, nodes: tuple[bytes, ...] = (OAK, ELM)) -> Owner:
    owner = Owner(slots=slots)
    owner.it.heeding.mode = mode
    for node in nodes:
        name = node.rstrip(b"\0").decode()
        capacity = Capacity({"cpu": 2.0}, frozenset({f"node:{name}"}))
        owner.it.executor_seen(owner.now, node, name, capacity, {"free": 2.0, "wait": 0})
        owner.it.executor_linked(owner.now, node)
    owner.take()
    return owner


def fails(owner: Owner, dispatch: ToExecutor, how: dict[str, Any], status: int = Status.FAILED) -> None:
    builder = OutcomeBuilder()
    for index in range(dispatch.first, dispatch.first + dispatch.count):
        builder.add(index, status, 1000, b"F" + msgpack.packb(how))
    owner.it.outcomes(owner.now, dispatch.executor, dispatch.dispatch, dispatch.count, builder.take(), None)
    owner.take()


def said(owner: Owner) -> list[Learn]:
    found = [one for one in owner.others if isinstance(one, Learn)]
    owner.others = []
    return found


def at_oak(owner: Owner, number: int, **options: Any) -> tuple[Batch, ToExecutor]:
    """A batch of one that is out at oak."""
    batch = owner.submit(number, spec=spec_of(labels=("node:oak",), **options))
    assert batch is not None
    (out,) = owner.taken()
    assert out.executor == OAK
    return batch, out


def taught(mode: Mode) -> tuple[Owner, Learn]:
    """An owner that has learned that oak lacks a module."""
    owner = owner_of(mode)
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    assert owner.ended(1) == {0: Status.FAILED}, "it was to run there and nowhere else"
    (learn,) = said(owner)
    return owner, learn


def where(owner: Owner, number: int, count: int = 1) -> set[bytes]:
    """To whom so many tasks go, all of which end well."""
    batch = owner.submit(number, count)
    assert batch is not None
    found: set[bytes] = set()
    while outs := owner.taken():
        found |= {out.executor for out in outs}
        for out in outs:
            owner.fine(out)
    return found


def test_a_failure_is_said_once_and_read_back() -> None:
    _, learn = taught(Mode.ADVISE)
    known = read_value(learn.value)
    assert (known.lesson.family, known.lesson.ties) == ("missing-module", (("node", "oak"),))
    assert learn.key.startswith(known.lesson.key) and len(known.lesson.calls) == 1


def test_obeyed_it_keeps_tasks_away_and_forgotten_it_does_not() -> None:
    owner, learn = taught(Mode.OBEY)
    assert where(owner, 2, 50) == {ELM}
    assert where(owner, 3) == {ELM}
    assert owner.it.heeding.heeded >= 51
    owner.it.heeding.told(owner.now, [(learn.key, None)])
    assert where(owner, 4, 4) == {OAK, ELM}
    assert owner.it._placing.heeding is None, "without lessons nothing is asked"


def test_another_callable_is_not_touched() -> None:
    owner, _ = taught(Mode.OBEY)
    batch = owner.submit(2, 4, spec=spec_of().__class__("call", ("name", "m:g", "g"), "g"))
    assert batch is not None and {out.executor for out in owner.taken()} == {OAK, ELM}


def test_advised_it_changes_nothing_but_is_told_and_what_goes_well_ends_it() -> None:
    owner, learn = taught(Mode.ADVISE)
    assert where(owner, 2, 4) == {OAK, ELM}
    trace = [(what, detail) for _, what, _, _, _, detail in owner.it.batches[key_of(2)].trace]
    assert any(what == "was told of lessons" and "planted" in detail[0] for what, detail in trace)
    (refuted,) = said(owner)
    assert refuted.key == learn.key and read_value(refuted.value).record.dead


def test_what_failed_there_is_tried_elsewhere() -> None:
    owner = owner_of(Mode.OBEY)
    owner.submit(1, 4)
    first = owner.taken()
    bad = next(out for out in first if out.executor == OAK)
    fails(owner, bad, NO_MODULE)
    for out in first:
        if out.executor == ELM:
            owner.fine(out)
    owner.wait(1)
    again = owner.taken()
    assert sum(out.count for out in again) == bad.count and {out.executor for out in again} == {ELM}
    for out in again:
        owner.fine(out)
    assert owner.ended(1) == {index: Status.OK for index in range(4)}


@pytest.mark.parametrize(("how", "options"), [(MINE, {}), (NO_MODULE, {"rerun": False})])
def test_what_may_not_or_need_not_be_tried_again_is_not(how: dict[str, Any], options: dict[str, Any]) -> None:
    owner = owner_of(Mode.OBEY)
    owner.submit(1, 1, spec=spec_of(**options))
    owner.it.grant_start(owner.now, key_of(1), [(0, 1)])
    owner.take()
    (out,) = owner.taken()
    fails(owner, out, how)
    owner.wait(5)
    assert owner.taken() == [] and owner.ended(1) == {0: Status.FAILED}
    assert len(said(owner)) == (how is NO_MODULE)


def test_where_nobody_is_left_it_is_refused_with_the_reason() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK,))
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    assert owner.ended(1) == {0: Status.FAILED}, "the failure itself, since there is nowhere else"
    batch = owner.submit(2, 3)
    assert batch is not None and owner.taken() == []
    assert owner.ended(2) == {index: Status.REFUSED for index in range(3)}
    outcome = batch.outcome(0)
    assert outcome is not None and b"planted" in bytes(outcome[1]) and b"swarm lesson" in bytes(outcome[1])


@pytest.mark.parametrize(("name", "learns"), [("bash", False), ("/bin/sh", False), ("ffmpeg", True)])
def test_a_shell_is_not_blamed_for_a_program_that_is_missing(name: str, learns: bool) -> None:
    owner = owner_of(Mode.OBEY)
    spec = Spec("command", None, name, retries=1)
    owner.submit(1, 1, spec=spec)
    (out,) = owner.taken()
    fails(owner, out, {"message": f"{name} exited with 127", "hint": "", "facts": {"exit": 127}}, Status.RETRY)
    assert len(said(owner)) == learns
    owner.wait(5)
    (again,) = owner.taken()
    assert (again.executor != out.executor) or not learns


def test_a_rate_limit_is_waited_for() -> None:
    owner = owner_of(Mode.OBEY)
    owner.submit(1)
    fails(owner, owner.taken()[0], TOO_MANY)
    owner.submit(2)
    owner.wait(25)
    assert owner.taken() == []
    owner.wait(300)
    out = owner.taken()
    for one in out:
        owner.fine(one)
    owner.wait(300)
    for one in owner.taken():
        owner.fine(one)
    assert owner.ended(1) == owner.ended(2) == {0: Status.OK}


def test_what_has_not_begun_there_comes_back() -> None:
    owner = owner_of(Mode.OBEY)
    at_oak(owner, 1)
    _, second = at_oak(owner, 2)
    first = next(iter(sorted(owner.it.dispatches)))
    builder = OutcomeBuilder()
    builder.add(0, Status.FAILED, 1000, b"F" + msgpack.packb(NO_MODULE))
    owner.it.outcomes(owner.now, OAK, first, 1, builder.take(), None)
    owner.take()
    asked = [one.header for one in owner.told if one.to == OAK and "r" in one.header]
    assert [one["d"] for one in asked] == [second.dispatch] and not asked[0]["k"]


@pytest.mark.parametrize("count", [1, 2])
def test_now_and_then_one_task_goes_there_and_a_wrong_lesson_dies(count: int) -> None:
    owner, learn = taught(Mode.OBEY)
    seen: list[int] = []
    for number in range(2, 2 + 3 * (PROBE_USES + DOUBTED_USES)):
        owner.submit(number, count)
        while outs := owner.taken():
            for out in outs:
                if out.executor == OAK:
                    assert out.count == 1 or owner.it.heeding.known[learn.key].record.dead
                    seen.append(number)
                owner.fine(out)
    assert seen and seen[0] >= PROBE_USES // 2
    assert owner.it.heeding.known[learn.key].record.dead and owner.it.heeding.probes >= 1


def test_where_only_the_probe_may_tell_the_others_wait_for_it() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK,))
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    number = 2
    while not owner.dispatched:
        owner.submit(number, 3)
        assert number < 4 * PROBE_USES
        number += 1
    (probe,) = owner.taken()
    assert probe.count == 1
    owner.fine(probe)
    for out in owner.taken():
        owner.fine(out)
    assert owner.ended(number - 1) == {index: Status.OK for index in range(3)}


def test_what_may_not_be_repeated_is_no_probe() -> None:
    owner, _ = taught(Mode.OBEY)
    for number in range(2, 2 + 2 * PROBE_USES):
        owner.submit(number, 2, spec=spec_of(rerun=False))
        assert owner.taken() == [], "its client has not granted that it begins"
        owner.it.grant_start(owner.now, key_of(number), [(0, 2)])
        owner.take()
        for out in owner.taken():
            assert out.executor == ELM
            owner.fine(out)


def test_a_flood_of_failures_says_little() -> None:
    owner = owner_of(Mode.ADVISE)
    for number in range(300):
        _, out = at_oak(owner, number + 1)
        fails(owner, out, NO_MODULE)
    assert 0 < len(said(owner)) <= SAID_AT_ONCE


def test_off_nothing_is_learned() -> None:
    owner = owner_of(None)
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    assert said(owner) == [] and owner.it.heeding.known == {}


@pytest.mark.parametrize("value", [7, {}, {"lesson": {}}, {"lesson": None, "record": []}])
def test_what_is_no_lesson_is_left_out(value: Any) -> None:
    owner = owner_of(Mode.OBEY)
    owner.it.heeding.told(owner.now, [("key", value)])
    owner.take()
    assert owner.it.heeding.known == {} and [one.name for one in owner.facts][-1] == "lesson.refused"


def test_what_a_task_says_is_a_lesson() -> None:
    owner = owner_of(Mode.OBEY)
    _, out = at_oak(owner, 1)
    fields = {"cause": "no licence for job 17", "here": True, "wait_s": 0.0, "require": "", "ask": "who has one?"}
    owner.it.event(owner.now, OAK, out.dispatch, 0, "lesson", fields, b"")
    owner.take()
    (learn,) = said(owner)
    lesson = read_value(learn.value).lesson
    assert (lesson.family, lesson.cause, lesson.ties) == ("reflected", "no licence for job 17", (("node", "oak"),))
    owner.it.event(owner.now, OAK, out.dispatch, 0, "lesson", fields | {"cause": "no licence for job 18"}, b"")
    owner.take()
    assert {one.key for one in said(owner)} == {learn.key}, "another number is the same lesson"
    assert where(owner, 2, 20) == {ELM}


@pytest.mark.parametrize(
    "wrong",
    [7, {}, {"cause": "c"}, {"cause": "c", "here": False, "wait_s": float("nan"), "require": "", "ask": ""},
     {"cause": "c\x1b[2J", "here": True, "wait_s": 0.0, "require": "", "ask": ""}],
)  # fmt: skip
def test_what_a_task_says_that_is_no_lesson_is_left_out(wrong: Any) -> None:
    owner = owner_of(Mode.OBEY)
    _, out = at_oak(owner, 1)
    owner.it.event(owner.now, OAK, out.dispatch, 0, "lesson", wrong, b"")
    owner.take()
    assert said(owner) == [] and owner.it.heeding.known == {}
