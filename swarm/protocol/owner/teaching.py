"""What an owner is taught by, and what it says: names of callables, values of the log, what failures and tasks tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgpack

from swarm.protocol.lessons.advice import DELAY_MS_MAX, Advice, Ask, Avoid, Require, RetryAfter
from swarm.protocol.lessons.families import Diagnosis, reflected
from swarm.protocol.lessons.fingerprints import Failed
from swarm.protocol.lessons.heeding import Environment, Known, Lesson, LessonError
from swarm.protocol.lessons.names import call_named, call_of_fn
from swarm.protocol.lessons.records import Record
from swarm.protocol.placement import Executor
from swarm.protocol.resources import INTERPRETER_LABEL, PACKAGES_LABEL
from swarm.protocol.spec import Spec

STARTERS: Final = frozenset(
    ("ash", "bash", "dash", "env", "fish", "ksh", "nice", "nohup", "sh", "sudo", "timeout", "xargs", "zsh")
)
"""Programs that start others, and pass on that they are not there."""


class Rate:
    """So many a second, and so many at once."""

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left, self._at = at_once, 0.0

    def take(self, now: float) -> bool:
        """Whether there may be one more now."""
        self._left = min(self._at_once, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def call_of(spec: Spec) -> bytes:
    """What names a callable or command to lessons."""
    return call_named(spec.name) if spec.fn is None else call_of_fn(spec.fn)


def key_of(lesson: Lesson) -> str:
    """Under which a lesson is in the log: pattern, environment, callable."""
    return f"{lesson.key}.{'-'.join(call.hex() for call in lesson.calls) or 'all'}"


def value_of(known: Known) -> dict[str, Any]:
    """A lesson and its record as a value of the log."""
    return {"lesson": known.lesson.plain(), "record": known.record.plain()}


def read_value(value: Any) -> Known:
    """From a value of the log. LessonError, AdviceError or RecordError for anything else."""
    if not isinstance(value, Mapping):
        raise LessonError("a lesson is not a map")
    return Known(Lesson.read(value.get("lesson")), Record.read(value.get("record")))


def environment_of(it: Executor, spec: Spec) -> Environment:
    """What of a machine lessons about this task may be tied to. What a guest's interpreter has is not known."""
    labels = it.capacity.labels
    if spec.python:
        return Environment(it.name, labels=labels)
    return Environment(it.name, _said(labels, INTERPRETER_LABEL), _said(labels, PACKAGES_LABEL), labels)


def _said(labels: frozenset[str], prefix: str) -> str:
    return next((label[len(prefix) :] for label in labels if label.startswith(prefix)), "")


def is_of_a_shell(spec: Spec, diagnosis: Diagnosis) -> bool:
    """Whether a program is missing of which is only known that it is not this command: other uses of a shell may go well there."""
    unknown = spec.kind == "command" and diagnosis.family == "missing-command" and diagnosis.subject == "?"
    return unknown and spec.name.rpartition("/")[2] in STARTERS


def said_by_task(value: Any, node: str) -> Diagnosis:
    """What a task has found out (`swarm.lesson`). LessonError or AdviceError for what is none."""
    match value:
        case {
            "cause": str(cause),
            "here": bool(here),
            "wait_s": float(wait_s),
            "require": str(require),
            "ask": str(ask),
        }:
            pass
        case _:
            raise LessonError("what a task said is no lesson")
    if not 0 <= wait_s * 1000 <= DELAY_MS_MAX:
        raise LessonError("a wait is out of its bounds")
    advice: list[Advice] = [Avoid("node", node)] if here else []
    if wait_s and not here:
        advice.append(RetryAfter(max(1, int(wait_s * 1000))))
    if require and not here:
        advice.append(Require(require))
    if ask:
        advice.append(Ask(ask))
    if not advice:
        raise LessonError("it advises nothing")
    return reflected(Failed(message=cause), cause, tuple(advice), ("node",) if here else ())


def said_before(heard: Record, had: Record) -> bool:
    """Whether a record that was heard is an earlier one of that which is known: the log echoes what this owner said."""
    return (heard.successes + heard.failures + heard.probes) < (had.successes + had.failures + had.probes)


def fields_of(payload: memoryview) -> dict[str, Any]:
    """What a failure tells of itself; nothing where it is malformed."""
    if len(payload) < 2 or payload[0] not in b"FL":
        return {}
    try:
        fields = msgpack.unpackb(payload[1:])
    except Exception:
        return {}
    return fields if isinstance(fields, dict) else {}
