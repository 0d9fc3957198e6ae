"""Lessons of calls that clients make on a slot of this very node: they pass no owner, and teach and heed all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarm.protocol.lessons.advice import AdviceError
from swarm.protocol.lessons.families import Circumstances, Diagnosis, harvest, told_by
from swarm.protocol.lessons.heeding import Lesson, LessonError, Mode, lesson_of
from swarm.protocol.owner.heeding import Heeding
from swarm.protocol.owner.teaching import call_of, environment_of, fields_of, said_by_task
from swarm.protocol.placement import Executor
from swarm.protocol.spec import Spec


def shut(heeding: Heeding) -> frozenset[bytes] | None:
    """Callables of which there are lessons to be heeded: calls of these go through the owner. None: there are some about all."""
    if heeding.mode is not Mode.OBEY:
        return frozenset()
    living = [known.lesson for known in heeding.known.values() if not known.record.dead]
    if any(not lesson.calls for lesson in living):
        return None
    return frozenset(call for lesson in living for call in lesson.calls)


def taught(
    heeding: Heeding, it: Executor, now: float, wall_s: float, name: str, fn: Sequence[Any], told: memoryview
) -> None:
    """A call on a slot of this node (`it`) has failed (an ``F`` payload), or says what it found out (``L``)."""
    if not heeding.may_look(now):
        return
    spec, now_ms = Spec("call", (str(fn[0]), fn[1], str(fn[2])), name), int(wall_s * 1000)
    environment, fields = environment_of(it, spec), fields_of(told)
    try:
        diagnosis: Diagnosis | None
        if bytes(told[:1]) == b"L":
            diagnosis = said_by_task(fields, it.name)
        else:
            where = Circumstances(it.name, environment.interpreter, environment.packages)
            diagnosis = harvest(told_by(fields | {"status": "failed"}), where)
        if diagnosis is not None:
            lesson = Lesson.read(lesson_of(diagnosis, call_of(spec), environment, now_ms).plain())
            heeding.learn_apart(now, now_ms, name, lesson)
    except (LessonError, AdviceError) as error:
        heeding.refused(name, error)
