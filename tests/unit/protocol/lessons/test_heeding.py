"""What placement and retry make of lessons."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from kernels.plain import encode_plain
from swarm.protocol.lessons.advice import AdviceError, Ask, Avoid, Change, Quarantine, Require, RetryAfter
from swarm.protocol.lessons.families import Circumstances, Diagnosis, harvest
from swarm.protocol.lessons.fingerprints import Failed
from swarm.protocol.lessons.heeding import (
    CALLS_MAX,
    LESSON_RETRIES_MAX,
    Environment,
    Known,
    Lesson,
    LessonError,
    Mode,
    at_retry,
    choose,
    evidence,
    explained,
    forgettable,
    learned,
    lesson_of,
    prepare,
    weigh,
)  # fmt: skip
from swarm.protocol.lessons.records import Evidence, Record

CALL, OTHER = b"c" * 16, b"o" * 16
OAK = Environment("oak", "cpython-3.11", "aa", frozenset({"rack:1"}))
ELM = Environment("elm", "cpython-3.11", "aa")
FIR = Environment("fir", "cpython-3.11", "bb")
FLEET = (OAK, ELM, FIR)
NO_MODULE = Failed(
    "builtins:ModuleNotFoundError", ("builtins:ModuleNotFoundError", "builtins:ImportError"), "No module named 'bpy'"
)
FULL = Failed("builtins:OSError", message="[Errno 28] No space left on device")
MEMORY = Failed("builtins:MemoryError")
BUSY = Failed("requests:HTTPError", message="429 Too Many Requests for https://api.example/x, Retry-After: 10")
DAY_MS = 86_400_000


def seen(
    failed: Failed,
    where: Environment = OAK,
    now_ms: int = 1000,
    call: bytes = CALL,
    table: dict[str, Known] | None = None,
    **more: Any,
) -> dict[str, Known]:
    """The table after a failure."""
    diagnosis = harvest(failed, Circumstances(where.node, where.interpreter, where.packages, **more))
    assert diagnosis is not None
    table = dict(table or {})
    lesson = lesson_of(diagnosis, call, where, now_ms)
    table[lesson.key] = learned(table.get(lesson.key), lesson, now_ms)
    return table


def test_machines_that_are_set_up_alike_are_avoided_and_others_are_not() -> None:
    table = seen(NO_MODULE)
    choice = choose(table, Mode.OBEY, CALL, FLEET, 2000)
    assert [machine.node for machine in choice.order] == ["fir"]
    assert (
        choice.verdicts["elm"].avoid
        and "bpy" in choice.verdicts["elm"].why[0]
        and "not installed" in choice.verdicts["elm"].why[0]
    )
    assert len(choose(table, Mode.OBEY, OTHER, FLEET, 2000).order) == 3, "another callable never met it"
    mended = Environment("oak", "cpython-3.11", "cc")
    assert not weigh(table, Mode.OBEY, CALL, mended, 2000).avoid, "what gets the module has other packages"


def test_advice_is_only_a_preference() -> None:
    choice = choose(seen(NO_MODULE), Mode.ADVISE, CALL, FLEET, 2000)
    assert [machine.node for machine in choice.order] == ["fir", "elm", "oak"] and not choice.verdicts["oak"].avoid


def test_when_nobody_is_left_it_waits_for_what_passes_and_refuses_with_the_explanation_what_does_not() -> None:
    table = seen(FULL, OAK, table=seen(FULL, ELM))
    choice = choose(table, Mode.OBEY, CALL, (OAK, ELM), 2000)
    assert not choice.order and choice.again_ms == 1000 + 600_000 and not choice.refusal
    table = seen(NO_MODULE, OAK, table=seen(NO_MODULE, FIR))
    choice = choose(table, Mode.OBEY, CALL, FLEET, 2000)
    assert not choice.order and not choice.again_ms
    assert all(word in choice.refusal for word in ("no machine is left", "oak", "elm", "fir", "bpy"))
    assert choose(table, Mode.OBEY, CALL, (), 2000).refusal == "", "that nobody fits is not for lessons to say"


def test_more_is_asked_for_until_it_suffices() -> None:
    table = seen(MEMORY, needs={"memory": 2e9})
    assert prepare(table, Mode.OBEY, CALL, 2000).needs == {"memory": 4e9}
    table = seen(MEMORY, ELM, table=table, needs={"memory": 4e9})
    table = seen(MEMORY, FIR, table=table, needs={"memory": 1e9})
    assert prepare(table, Mode.OBEY, CALL, 2000).needs == {"memory": 8e9}, "never less than before"
    advised = prepare(table, Mode.ADVISE, CALL, 2000)
    assert not advised.needs and not advised.used and "out-of-memory" in advised.why[0]
    assert prepare(table, Mode.OBEY, OTHER, 2000).needs == {}


def test_waiting_begins_at_the_failure_and_doubles_when_it_was_not_enough() -> None:
    table = seen(BUSY, now_ms=1000)
    assert prepare(table, Mode.OBEY, CALL, 2000).not_before_ms == 11_000
    table = seen(BUSY, ELM, now_ms=5000, table=table)
    assert prepare(table, Mode.OBEY, CALL, 6000).not_before_ms == 15_000, "that one was under way already"
    later = prepare(table, Mode.OBEY, CALL, 16_000)
    assert later.not_before_ms == 0 and later.probed == tuple(table), "one tries"
    (key,) = table
    table[key] = Known(table[key].lesson, table[key].record.after(Evidence.PROBED, 16_000))
    assert prepare(table, Mode.OBEY, CALL, 16_001).not_before_ms == 26_000, "the others wait for what becomes of it"
    failed = seen(BUSY, ELM, now_ms=17_000, table=table)
    assert prepare(failed, Mode.OBEY, CALL, 18_000).not_before_ms == 37_000
    well = {key: Known(table[key].lesson, Record(evidence=4.0, evidence_ms=1).after(Evidence.REFUTED, 17_000))}
    assert not well[key].record.dead and prepare(well, Mode.OBEY, CALL, 17_001).not_before_ms == 0, (
        "it is over, for all"
    )
    well = seen(BUSY, ELM, now_ms=900_000, table=well)
    assert prepare(well, Mode.OBEY, CALL, 900_001).not_before_ms == 910_000, "and began again, another day"


def test_poison_is_quarantined_and_asked_about() -> None:
    table = seen(Failed(status="quarantined"))
    given = prepare(table, Mode.OBEY, CALL, 2000)
    assert "poison-task" in given.refusal and given.questions
    assert prepare(table, Mode.OBEY, CALL, 2000 + DAY_MS).refusal == ""
    assert prepare(table, Mode.ADVISE, CALL, 2000).refusal == "" and prepare(table, Mode.ADVISE, CALL, 2000).questions


def test_evidence_is_of_what_was_not_heeded() -> None:
    table = seen(NO_MODULE)
    (key,) = table
    diagnosis = harvest(NO_MODULE, Circumstances("oak", "cpython-3.11", "aa"))
    assert evidence(table, CALL, FIR, [key], None, True) == [(key, Evidence.USED)]
    assert evidence(table, CALL, OAK, [], diagnosis, False) == [(key, Evidence.CONFIRMED)]
    assert evidence(table, CALL, OAK, [], None, False) == [], "it failed of something else"
    assert evidence(table, CALL, OAK, [], None, True) == [(key, Evidence.REFUTED)]
    assert evidence(table, CALL, FIR, [], None, True) == [] == evidence(table, OTHER, OAK, [], None, True)
    memory = seen(MEMORY, needs={"memory": 2e9})
    (key,) = memory
    assert evidence(memory, CALL, FIR, [], None, True, needs={"memory": 4e9}) == [], "it had as much anyway"
    assert evidence(memory, CALL, FIR, [], None, True, needs={"memory": 3e9}) == [(key, Evidence.REFUTED)]
    busy = seen(BUSY, now_ms=1000)
    assert [what for _, what in evidence(busy, CALL, FIR, [], None, True)] == [Evidence.PASSED], "it is over for now"


def test_a_dead_lesson_is_not_heeded_until_it_is_learned_again() -> None:
    table = seen(NO_MODULE)
    (key,) = table
    dead = table[key].record.after(Evidence.REFUTED, 5000)
    table[key] = Known(table[key].lesson, dead)
    assert dead.dead and len(choose(table, Mode.OBEY, CALL, FLEET, 6000).order) == 3 and forgettable(table[key], 6000)
    table = seen(NO_MODULE, now_ms=7000, table=table)
    assert not table[key].record.dead and len(choose(table, Mode.OBEY, CALL, FLEET, 8000).order) == 1


def test_a_machine_is_probed_when_all_that_is_said_against_it_is_due() -> None:
    table = seen(FULL, OAK, table=seen(NO_MODULE, OAK))
    later = 1000 + 800_000  # the disk may have been cleared, the module has not come
    assert weigh(table, Mode.OBEY, CALL, OAK, later).avoid
    table = seen(FULL, OAK)
    verdict = weigh(table, Mode.OBEY, CALL, OAK, later)
    assert not verdict.avoid and verdict.probed == tuple(table)
    assert choose(table, Mode.OBEY, CALL, FLEET, later).order[0] is OAK, "it goes there, or it would never be tried"
    assert not forgettable(table[verdict.probed[0]], later) and forgettable(
        table[verdict.probed[0]], 1000 + 600_000 * 9
    )


def test_retries() -> None:
    def after(
        failed: Failed, mode: Mode = Mode.OBEY, rerun: bool = True, left: int = 0, given: int = 0, **more: Any
    ) -> Any:
        diagnosis = harvest(failed, Circumstances("oak", "cpython-3.11", "aa", **more))
        return at_retry(diagnosis, mode, rerun=rerun, retries_left=left, given=given)

    again = after(NO_MODULE)
    assert again.again and again.avoid == (Avoid("packages", "aa"),) and "bpy" in again.why
    assert after(BUSY).delay_ms == 10_000 and after(MEMORY, needs={"memory": 2e9}).needs == {"memory": 4e9}
    assert after(Failed(status="timeout"), timeout_s=5.0).changes == {"timeout_s": 10.0}
    assert not after(NO_MODULE, rerun=False).again and "repeated" in after(NO_MODULE, rerun=False).why
    assert not after(NO_MODULE, mode=Mode.ADVISE).again and after(NO_MODULE, mode=Mode.ADVISE, left=1).again
    stopped = after(NO_MODULE, given=LESSON_RETRIES_MAX)
    assert not stopped.again and "tried 3 times more" in stopped.why
    assert not after(Failed(status="quarantined")).again
    assert not after(Failed("builtins:ValueError")).again and after(Failed("builtins:ValueError"), left=1).again


def test_lessons_travel() -> None:
    (known,) = seen(FULL, OAK).values()
    lesson = known.lesson
    fields = lesson.plain()
    assert Lesson.read(msgpack.unpackb(msgpack.packb(fields))) == lesson and encode_plain(fields) is not None
    assert lesson.key == Lesson.read(fields).key and lesson.key.startswith(lesson.pattern.hex())
    for key, bad in (
        ("pattern", b"x"), ("family", "x"), ("subject", "x" * 121), ("subject", "a\nb"), ("cause", 5), ("calls", [b"x"]), ("calls", [CALL] * (CALLS_MAX + 1)),
        ("ties", [["node"]]), ("ties", [["host", "x"]]), ("ties", [["node", "oak"]] * 5), ("lasting_ms", 0), ("lasting_ms", 1.5), ("seen_ms", -1),
    ):  # fmt: skip
        with pytest.raises(LessonError):
            Lesson.read(fields | {key: bad})
    with pytest.raises(AdviceError):
        Lesson.read(fields | {"advice": [[9]]})
    with pytest.raises(LessonError):
        Lesson.read([])


def test_by_hand_and_by_label() -> None:
    ties = (("label", "rack:1"),)
    diagnosis = Diagnosis(
        "reflected", "x", "the switch of this rack drops frames", (Avoid("label", "rack:1"),), ("label",), DAY_MS
    )
    lesson = Lesson(diagnosis.pattern, "reflected", "x", diagnosis.cause, (), ties, diagnosis.advice, DAY_MS, 1000)
    table = {lesson.key: Known(lesson, Record(evidence_ms=1000))}
    assert [machine.node for machine in choose(table, Mode.OBEY, OTHER, FLEET, 2000).order] == ["elm", "fir"], (
        "any call is meant"
    )
    assert "rack:1" in explained(table[lesson.key]) and "75%" not in explained(table[lesson.key])
    everything = Lesson(
        diagnosis.pattern,
        "reflected",
        "x",
        "c",
        (),
        (),
        (Require("gpu"), Require("memory", 2.0), Change("retries", 2.0), RetryAfter(50), Quarantine(0), Ask("why?")),
        DAY_MS,
        2000,
    )
    given = prepare({"k": Known(everything, Record(evidence_ms=1000))}, Mode.OBEY, CALL, 2001)
    assert (given.labels, given.needs, given.changes, given.not_before_ms, given.refusal, given.questions) == (
        ("gpu",),
        {"memory": 2.0},
        {"retries": 2.0},
        2050,
        "",
        ("why?",),
    )
