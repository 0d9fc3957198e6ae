"""Heeding: what an owner learns from attempts that failed, and what lessons change of where and when it places tasks.

It looks at failures, and at batches whose tasks become ready while there are lessons about their callable; while there are none, nothing
is asked. In mode ``advise`` it learns and tells; in mode ``obey`` tasks keep away from where they would fail again, wait, are given to
another machine when one failed them, or are refused with the reason. Lessons come and go by `Heeding.told`, from the knowledge log, and
what this owner learns goes there as `Learn`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgpack

from kernels.tasks import TaskColumns
from swarm.protocol.effects import Fact
from swarm.protocol.lessons.advice import DELAY_MS_MAX, Advice, AdviceError, Ask, Avoid, Quarantine, Require, RetryAfter
from swarm.protocol.lessons.families import Circumstances, Diagnosis, harvest, reflected, told_by
from swarm.protocol.lessons.fingerprints import Failed, digest_of
from swarm.protocol.lessons.heeding import (
    Environment,
    Known,
    Lesson,
    LessonError,
    Mode,
    Retry,
    at_retry,
    choose,
    evidence,
    explained,
    learned,
    lesson_of,
    prepare,
)  # fmt: skip
from swarm.protocol.lessons.records import PROBE_LEASE_MS, Evidence, Record, RecordError
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings, Learn
from swarm.protocol.owner.ending import Ending, Said
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.words import said
from swarm.protocol.placement import Executor
from swarm.protocol.resources import NODE_LABEL
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status

HEED = 31
"""The timer of a batch that waits because of a lesson."""
LESSONS_MAX: Final = 10_000
"""Lessons that an owner goes by; of more, the later ones are not heeded."""
LOOKED_AT_PER_S: Final = 200.0
"""Failures that are looked at; of a flood of them one teaches as much as all."""
SAID_PER_S: Final = 2.0
SAID_AT_ONCE: Final = 32.0
"""Entries that an owner writes about lessons."""
STARTERS: Final = frozenset(
    ("ash", "bash", "dash", "env", "fish", "ksh", "nice", "nohup", "sh", "sudo", "timeout", "xargs", "zsh")
)
"""Programs that start others, and pass on that they are not there."""
_TEACHING: Final = frozenset(
    (Status.FAILED, Status.TIMEOUT, Status.CRASHED, Status.REFUSED, Status.QUARANTINED, Status.RETRY)
)


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
    """What names a callable or command to lessons: 16 bytes, the same in every script that calls it by this name."""
    if spec.fn is None:
        return call_named(spec.name)
    how, what, shown = spec.fn
    if how == "name":
        return call_named(str(what))
    if shown and "<" not in shown:
        return call_named(shown)
    return digest_of("call", how, what.hex() if isinstance(what, bytes) else what)


def call_named(name: str) -> bytes:
    """The same of a callable by the name that is shown of it."""
    return digest_of("call", "name", name)


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


class Heeding:
    """The lessons that one owner goes by."""

    def __init__(self, holdings: Holdings, placing: Placing, ending: Ending) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self.mode: Mode | None = None
        """None: nothing is learned, and nothing heeded."""
        self._known: dict[str, Known] = {}
        self._by_call: dict[bytes, set[str]] = {}
        self._general: set[str] = set()
        self._unheeded: dict[int, Batch] = {}
        self._looks = Rate(LOOKED_AT_PER_S, LOOKED_AT_PER_S)
        self._says = Rate(SAID_PER_S, SAID_AT_ONCE)
        self.heeded = 0
        """Tasks that were placed otherwise because of lessons, or not at all."""
        self.probes = 0

    @property
    def known(self) -> Mapping[str, Known]:
        """All lessons, by their keys in the log."""
        return self._known

    # --- what others say ----------------------------------------------------------------------------------------------

    def told(self, now: float, changes: Iterable[tuple[str, Any]]) -> None:
        """What the log says of lessons (key, value) now; the value None: nothing."""
        if self.mode is None:
            return
        calls: set[bytes] = set()
        for key, value in changes:
            if value is None:
                had = self._known.get(key)
                if had is not None:
                    calls.update(had.lesson.calls or (b"",))
                    self._forget(key)
                continue
            try:
                known = read_value(value)
            except (LessonError, AdviceError, RecordError) as error:
                self._holdings.emit(Fact("lesson.refused", {}, {"key": key[:100], "error": str(error)}))
                continue
            had = self._known.get(key)
            if had is not None and _said_before(known.record, had.record):
                continue
            if had is None and len(self._known) >= LESSONS_MAX:
                continue
            if had is not None:
                known = replace(known, record=replace(known.record, uses=max(known.record.uses, had.record.uses)))
            self._keep(key, known)
            calls.update(known.lesson.calls or (b"",))
        self._again(calls)
        if calls:
            self._placing.pump(now)

    def _keep(self, key: str, known: Known) -> None:
        self._known[key] = known
        for call in known.lesson.calls:
            self._by_call.setdefault(call, set()).add(key)
        if not known.lesson.calls:
            self._general.add(key)
        self._placing.heeding = self

    def _forget(self, key: str) -> None:
        known = self._known.pop(key)
        self._general.discard(key)
        for call in known.lesson.calls:
            keys = self._by_call.get(call, set())
            keys.discard(key)
            if not keys:
                self._by_call.pop(call, None)

    def _about(self, call: bytes) -> dict[str, Known]:
        keys = self._by_call.get(call, set()) | self._general
        return {key: self._known[key] for key in sorted(keys)}

    def _again(self, calls: set[bytes]) -> None:
        """What is known of these callables has changed."""
        if not calls:
            return
        for number in sorted(self._holdings.by_number):
            batch = self._holdings.by_number[number]
            if b"" in calls or call_of(batch.spec) in calls:
                self._unheeded[number] = batch

    # --- what fails ---------------------------------------------------------------------------------------------------

    def failed(
        self, now: float, dispatch: Dispatch, index: int, status: int, payload: memoryview, crashes: int
    ) -> Retry | None:
        """An attempt did not end well. What its task is to do about it, where lessons are obeyed and know; else None."""
        if self.mode is None or status not in _TEACHING or not self._looks.take(now):
            return None
        batch, it = dispatch.batch, dispatch.executor
        spec = batch.spec
        where = Circumstances(
            it.name, needs=spec.needs or None, timeout_s=spec.timeout_s, crashes=crashes, crashed_on=0,
        )  # fmt: skip
        diagnosis = harvest(told_by(_fields(payload) | {"status": Status(status).name.lower()}), where)
        if diagnosis is None or _is_of_a_shell(spec, diagnosis):
            return None
        call, environment, now_ms = call_of(spec), _environment(it), int(batch.wall(now) * 1000)
        table = self._about(call)
        for key, found in evidence(table, call, environment, (), diagnosis, False):
            self._learned(now, key, replace(table[key], record=table[key].record.after(found, now_ms)))
        lesson = lesson_of(diagnosis, call, environment, now_ms)
        key = key_of(lesson)
        had = self._known.get(key)
        news = had is None or had.record.dead
        if news:
            self._holdings.emit(
                Fact(
                    "lesson.learned",
                    {"family": lesson.family},
                    {"key": key[:16], "name": spec.name, "cause": lesson.cause},
                )
            )
        self._learned(now, key, learned(had, lesson, now_ms))
        batch.log(now, "taught a lesson", index, index + 1, it.name, [explained(self._known[key])])
        if self.mode is not Mode.OBEY:
            return None
        if news:
            self._recall(call, lesson, dispatch)
            self._again({call})
        return self._retry(batch, index, status, diagnosis, call, now_ms)

    def reflected(self, now: float, dispatch: Dispatch, index: int, value: Any) -> None:
        """A task says what it found out (`swarm.lesson`). What is malformed is left out."""
        if self.mode is None or not self._looks.take(now):
            return
        batch, it = dispatch.batch, dispatch.executor
        call, now_ms = call_of(batch.spec), int(batch.wall(now) * 1000)
        try:
            diagnosis = _said_by_task(value, it.name)
            lesson = Lesson.read(lesson_of(diagnosis, call, _environment(it), now_ms).plain())
        except (LessonError, AdviceError) as error:
            self._holdings.emit(Fact("lesson.refused", {}, {"name": batch.spec.name, "error": str(error)}))
            return
        key = key_of(lesson)
        if key not in self._known:
            self._holdings.emit(
                Fact(
                    "lesson.learned",
                    {"family": lesson.family},
                    {"key": key[:16], "name": batch.spec.name, "cause": lesson.cause},
                )
            )
        self._learned(now, key, learned(self._known.get(key), lesson, now_ms))
        batch.log(now, "told a lesson", index, index + 1, it.name, [explained(self._known[key])])
        self._again({call})

    def _learned(self, now: float, key: str, known: Known) -> None:
        if key not in self._known and len(self._known) >= LESSONS_MAX:
            return
        self._keep(key, known)
        if self._says.take(now):
            self._holdings.emit(Learn(key, value_of(known)))

    def _recall(self, call: bytes, lesson: Lesson, failed: Dispatch) -> None:
        """What has not begun where a lesson says not to run comes back."""
        if not any(isinstance(one, Avoid) for one in lesson.advice):
            return
        for number in sorted(self._placing.dispatches):
            dispatch = self._placing.dispatches[number]
            if (
                dispatch.sent and (dispatch is not failed or dispatch.left > 1) and dispatch.batch.spec.rerun and lesson.concerns(call, _environment(dispatch.executor))
                and call_of(dispatch.batch.spec) == call
            ):  # fmt: skip
                self._placing.recall(dispatch, [(dispatch.start, dispatch.stop)], False)

    def _retry(
        self, batch: Batch, index: int, status: int, diagnosis: Diagnosis, call: bytes, now_ms: int
    ) -> Retry | None:
        """Another attempt, where it would be another: elsewhere, or later."""
        usable = tuple(
            one
            for one in diagnosis.advice
            if isinstance(one, Avoid | RetryAfter | Quarantine) or (isinstance(one, Require) and not one.amount)
        )
        if status not in (Status.FAILED, Status.REFUSED, Status.RETRY) or not usable:
            return None
        tried = batch.retries.get(index, 0)
        left = batch.spec.retries - tried if status == Status.RETRY else 0
        retry = at_retry(
            replace(diagnosis, advice=usable), Mode.OBEY, rerun=batch.spec.rerun, retries_left=left,
            given=max(0, tried - batch.spec.retries),
        )  # fmt: skip
        if not retry.again:
            return None
        machines = [_environment(it) for it in self._fitting(batch)]
        return retry if choose(self._about(call), Mode.OBEY, call, machines, now_ms).order else None

    # --- what goes well -----------------------------------------------------------------------------------------------

    def went_well(self, now: float, dispatch: Dispatch) -> None:
        """Tasks of a batch with lessons that were not heeded everywhere ended well at an executor."""
        batch = dispatch.batch
        now_ms = int(batch.wall(now) * 1000)
        keys = {*batch.untied.pop(dispatch.executor.name, ()), *batch.untied.pop("", ())}
        table = {key: self._known[key] for key in sorted(keys) if key in self._known}
        call = call_of(batch.spec)
        for key, found in evidence(
            table, call, _environment(dispatch.executor), (), None, True, needs=batch.spec.needs
        ):
            self._learned(now, key, replace(table[key], record=table[key].record.after(found, now_ms)))
        if table:
            self._again({call})

    # --- what is ready ------------------------------------------------------------------------------------------------

    def pushed(self, batch: Batch) -> None:
        """Tasks of a batch are ready; whether lessons have something to say is seen before they are placed."""
        self._unheeded[batch.number] = batch

    def heed(self, now: float) -> None:
        """Look at what became ready, or of which something else is known."""
        while self._unheeded:
            number = min(self._unheeded)
            batch = self._unheeded[number]
            if self._holdings.by_number.get(number) is batch:
                self._heed(now, batch)
            self._unheeded.pop(number, None)  # a requeue has pushed it anew
        if not self._known:
            self._placing.heeding = None

    def _heed(self, now: float, batch: Batch) -> None:
        assert self.mode is not None
        call = call_of(batch.spec)
        table = self._about(call)
        if not table:
            if batch.queued is not batch.shape:
                self._placing.requeue(batch, batch.shape)
            batch.lessons = ()
            return
        now_ms = int(batch.wall(now) * 1000)
        given = prepare(table, self.mode, call, now_ms)
        fitting = self._fitting(batch)
        choice = choose(table, self.mode, call, [_environment(it) for it in fitting], now_ms)
        why = tuple(dict.fromkeys((*given.why, *(words for one in choice.verdicts.values() for words in one.why))))
        if why and why != batch.lessons:
            what = "heeds lessons" if self.mode is Mode.OBEY else "was told of lessons"
            batch.log(now, what, 0, batch.calls.count, "", list(why))
        batch.lessons = why
        batch.untied = {}
        if self.mode is Mode.ADVISE:
            for it in fitting:
                against = [
                    key for key, known in table.items()
                    if known.lesson.ties and not known.record.dead and known.lesson.concerns(call, _environment(it))
                ]  # fmt: skip
                if against:
                    batch.untied[it.name] = tuple(against)
            return
        self._obey(now, batch, given, choice, fitting, now_ms)

    def _obey(self, now: float, batch: Batch, given: Any, choice: Any, fitting: list[Executor], now_ms: int) -> None:
        used = {*given.used, *(key for one in choice.verdicts.values() for key in one.used)}
        self._used(used, batch.columns.ready)
        refusal = given.refusal or choice.refusal
        if refusal:
            self._refuse(now, batch, refusal)
            return
        until_ms = max(given.not_before_ms, choice.again_ms)
        if until_ms > now_ms:
            if self._placing.withdraw(batch):
                self._holdings.timers.at(now + (until_ms - now_ms) / 1000, HEED, batch)
                batch.log(
                    now, "waits as a lesson says", 0, batch.calls.count, "", [f"for {(until_ms - now_ms) / 1000:g} s"]
                )
            return
        avoided = {it.name for it in fitting if choice.verdicts[it.name].avoid}
        probing = [it for it in fitting if choice.verdicts[it.name].probed]
        sent = False
        for it in probing:
            # One task goes there, to see whether what is known still holds; the others keep away until that is told.
            sent |= self._probe(now, batch, it, choice.verdicts[it.name].probed, now_ms)
            avoided.add(it.name)
        if given.probed:
            self._probing(now, given.probed, now_ms)
            batch.untied[""] = given.probed
        if avoided and len(avoided) == len(fitting):
            if sent:
                self._holdings.timers.at(now + PROBE_LEASE_MS / 1000, HEED, batch)
            else:
                avoided -= {it.name for it in probing}
        shape = batch.shape.heeding(given.needs, given.labels, [NODE_LABEL + name for name in avoided])
        if shape != batch.queued:
            self._placing.requeue(batch, shape)

    def _probe(self, now: float, batch: Batch, it: Executor, keys: tuple[str, ...], now_ms: int) -> bool:
        rows = (index for start, stop in batch.pending() for index in range(start, stop))
        index = next((index for index in rows if batch.columns.state(index) == TaskColumns.READY), None)
        if (
            index is None
            or it.draining
            or it.suspect
            or not it.linked
            or batch.lanes
            or batch.durable is not None
            or not batch.spec.rerun
        ):
            return False
        self._probing(now, keys, now_ms)
        batch.untied[it.name] = keys
        batch.log(now, "probes a lesson", index, index + 1, it.name, [explained(self._known[key]) for key in keys])
        self._placing.send(now, batch, index, it)
        return True

    def _probing(self, now: float, keys: tuple[str, ...], now_ms: int) -> None:
        self.probes += 1
        self._holdings.emit(Fact("lesson.probed"))
        for key in keys:
            known = self._known[key]
            self._learned(now, key, replace(known, record=known.record.after(Evidence.PROBED, now_ms)))

    def _used(self, keys: set[str], count: int) -> None:
        if not keys or not count:
            return
        self.heeded += count
        self._holdings.emit(Fact("lesson.heeded", {}, {}, count))
        for key in keys:
            known = self._known[key]
            # Told to others with the next evidence: each use by itself would be too much to tell.
            self._known[key] = replace(known, record=replace(known.record, uses=known.record.uses + count))

    def _refuse(self, now: float, batch: Batch, why: str) -> None:
        self._placing.withdraw(batch)
        hint = "`swarm lesson list` shows what is known, `swarm lesson forget KEY` ends it"
        payload = said(f"{batch.spec.name or 'the task'} is not run: {why}", hint, batch.spec)
        ended: Said = [
            (index, Status.REFUSED, payload) for start, stop in batch.pending() for index in range(start, stop)
            if batch.columns.state(index) == TaskColumns.READY
        ]  # fmt: skip
        if ended:
            batch.log(now, "refused", ended[0][0], ended[-1][0] + 1, "", why)
            self._ending.finish(now, batch, ended)

    def over(self, now: float, batch: Batch) -> None:
        """A batch has waited as long as a lesson said."""
        if self._holdings.by_number.get(batch.number) is batch and batch.columns.ready:
            self._placing.withdraw(batch)
            self._placing.push(batch, batch.submitted_at, batch.columns.ready)

    def _fitting(self, batch: Batch) -> list[Executor]:
        executors = self._placing.executors
        return [executors[id] for id in sorted(executors) if not executors[id].fit(batch.shape)[0]]


def _environment(it: Executor) -> Environment:
    return Environment(it.name, labels=it.capacity.labels)


def _is_of_a_shell(spec: Spec, diagnosis: Diagnosis) -> bool:
    """Whether a program is missing of which is only known that it is not this command: other uses of a shell may go well there."""
    unknown = spec.kind == "command" and diagnosis.family == "missing-command" and diagnosis.subject == "?"
    return unknown and spec.name.rpartition("/")[2] in STARTERS


def _said_by_task(value: Any, node: str) -> Diagnosis:
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


def _said_before(heard: Record, had: Record) -> bool:
    """Whether a record that was heard is an earlier one of that which is known: the log echoes what this owner said."""
    return (heard.successes + heard.failures + heard.probes) < (had.successes + had.failures + had.probes)


def _fields(payload: memoryview) -> dict[str, Any]:
    if len(payload) < 2 or payload[0] != ord("F"):
        return {}
    try:
        fields = msgpack.unpackb(payload[1:])
    except Exception:
        return {}
    return fields if isinstance(fields, dict) else {}
