"""Heeding: what an owner learns from attempts that failed, and what lessons change of where and when it places tasks.

It looks at failures, and at batches whose tasks become ready while there are lessons about their callable; while there are none, nothing
is asked. In mode ``advise`` it learns and tells; in mode ``obey`` tasks keep away from where they would fail again, wait, are given to
another machine when one failed them, or are refused with the reason. Lessons come and go by `Heeding.told`, from the knowledge log, and
what this owner learns goes there as `Learn`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from kernels.tasks import TaskColumns
from swarm.protocol.effects import Fact
from swarm.protocol.ids import task_id
from swarm.protocol.lessons.advice import AdviceError, Avoid, Change, Quarantine, Require, RetryAfter
from swarm.protocol.lessons.families import Circumstances, Diagnosis, harvest, told_by
from swarm.protocol.lessons.heeding import (
    Choice,
    Given,
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
    waits,
)  # fmt: skip
from swarm.protocol.lessons.records import PROBE_LEASE_MS, Evidence, RecordError
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings, Learn
from swarm.protocol.owner.blame import Blame, arguments_of, is_of_arguments
from swarm.protocol.owner.ending import Ending, Said
from swarm.protocol.owner.given import raised, within, would_help
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.teaching import (
    Rate,
    call_of,
    environment_of,
    fields_of,
    is_of_a_shell,
    key_of,
    read_value,
    said_before,
    said_by_task,
    value_of,
)
from swarm.protocol.owner.words import said
from swarm.protocol.placement import Executor
from swarm.protocol.resources import NODE_LABEL
from swarm.protocol.states import FINAL_BELOW, Status

HEED = 31
"""The timer of a batch that waits because of a lesson."""
LESSONS_MAX: Final = 10_000
"""Lessons that an owner goes by; of more, the later ones are not heeded."""
LOOKED_AT_PER_S: Final = 200.0
"""Failures that are looked at; of a flood of them one teaches as much as all."""
SAID_PER_S: Final = 2.0
SAID_AT_ONCE: Final = 32.0
"""Entries that an owner writes about lessons."""
SAY_AGAIN_S: Final = 0.5
"""When what was too much to say is said."""
MARKS: Final = ("@", "#", "*")
"""With what begins what `Batch.untied` says of single tasks and dispatches."""
_RETRIED: Final = frozenset((Status.FAILED, Status.REFUSED, Status.RETRY, Status.TIMEOUT))
_TEACHING: Final = frozenset(
    (Status.FAILED, Status.TIMEOUT, Status.CRASHED, Status.REFUSED, Status.QUARANTINED, Status.RETRY)
)


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
        self._unsaid: dict[str, None] = {}
        """Lessons of which something is to be said, the first of them first."""
        self._taught_by: dict[str, bytes] = {}
        """The task by which this owner was taught a lesson, the last one."""
        self._blame = Blame(self._known, self._learned)
        self.stirred: Callable[[], None] = lambda: None
        """Told when lessons have come, or changed."""
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
            if had is not None and said_before(known.record, had.record):
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
            if is_of_arguments(known.lesson) and not known.record.dead:
                self._blame.heard(call, known.lesson.subject)
        if not known.lesson.calls:
            self._general.add(key)
        self._placing.heeding = self

    def _forget(self, key: str) -> None:
        known = self._known.pop(key)
        self._taught_by.pop(key, None)
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
        self.stirred()
        for number in sorted(self._holdings.by_number):
            batch = self._holdings.by_number[number]
            if b"" in calls or call_of(batch.spec) in calls:
                self._unheeded[number] = batch

    # --- what fails ---------------------------------------------------------------------------------------------------

    def failed(
        self, now: float, dispatch: Dispatch, index: int, status: int, payload: memoryview, crashes: int
    ) -> Retry | None:
        """An attempt did not end well. What its task is to do about it, where lessons are obeyed and know; else None."""
        if status not in _TEACHING or not self.may_look(now):
            return None
        batch, it = dispatch.batch, dispatch.executor
        spec, had = batch.spec, dispatch.spec
        call, environment, now_ms = call_of(spec), environment_of(it, spec), int(batch.wall(now) * 1000)
        where = Circumstances(
            it.name, environment.interpreter, environment.packages, had.needs or None, had.timeout_s, crashes, 0
        )
        ended = status
        if status == Status.QUARANTINED and not self._is_poison(batch, index):
            ended = Status.CRASHED
        diagnosis = harvest(told_by(fields_of(payload) | {"status": Status(ended).name.lower()}), where)
        if diagnosis is None or is_of_a_shell(spec, diagnosis):
            return None
        if ended == Status.QUARANTINED:
            diagnosis = self._blame.poisoned(call, batch, index, diagnosis)
        table = self._about(call)
        for key, found in evidence(table, call, environment, (), diagnosis, False):
            if not self._blame.has_told(batch, index, key):
                self._learned(now, key, replace(table[key], record=table[key].record.after(found, now_ms)))
        lesson = lesson_of(diagnosis, call, environment, now_ms)
        key = key_of(lesson)
        if self._blame.is_of_task(now, batch, index, it.name, diagnosis, key, lesson, now_ms):
            self._again({call})
            return None  # on yet another machine it would fail as well
        news = self._teach(now, batch, index, it, key, lesson, now_ms)
        retry = None
        if self.mode is Mode.OBEY:
            if news:
                self._recall(call, lesson, dispatch)
            self._again({call})
            retry = self._retry(dispatch, index, status, diagnosis, call, now_ms)
        if retry is None and status < FINAL_BELOW and (status != Status.CRASHED or not spec.rerun):
            self._blame.over(batch, index)
        return retry

    def _is_poison(self, batch: Batch, index: int) -> bool:
        """Whether what ended its workers did so on more than one machine, or there is no other: else it may be the machine."""
        return len(self._placing.executors) == 1 or self._blame.has_failed_on_several(batch, index)

    def learn_apart(self, now: float, now_ms: int, name: str, lesson: Lesson) -> None:
        """A lesson is learned of a call that was no task of this owner's."""
        key = key_of(lesson)
        had = self._known.get(key)
        if had is None or had.record.dead:
            fields = {"key": key[:16], "name": name, "cause": lesson.cause}
            self._holdings.emit(Fact("lesson.learned", {"family": lesson.family}, fields))
        self._learned(now, key, learned(had, lesson, now_ms))
        self._again(set(lesson.calls))

    def may_look(self, now: float) -> bool:
        """Whether one more failure is looked at."""
        return self.mode is not None and self._looks.take(now)

    def refused(self, name: str, error: Exception) -> None:
        """What was said is no lesson."""
        self._holdings.emit(Fact("lesson.refused", {}, {"name": name, "error": str(error)}))

    def _teach(
        self, now: float, batch: Batch, index: int, it: Executor, key: str, lesson: Lesson, now_ms: int, how: str = "taught a lesson"
    ) -> bool:  # fmt: skip
        """A lesson is learned of a task; whether it is new."""
        had = self._known.get(key)
        news = had is None or had.record.dead
        if news:
            fields = {"key": key[:16], "name": batch.spec.name, "cause": lesson.cause}
            self._holdings.emit(Fact("lesson.learned", {"family": lesson.family}, fields))
        self._learned(now, key, learned(had, lesson, now_ms), task_id(batch.key, index))
        if key in self._known:
            batch.log(now, how, index, index + 1, it.name, [explained(self._known[key])])
        return news

    def reflected(self, now: float, dispatch: Dispatch, index: int, value: Any) -> None:
        """A task says what it found out (`swarm.lesson`). What is malformed is left out."""
        if not self.may_look(now):
            return
        batch, it = dispatch.batch, dispatch.executor
        call, now_ms = call_of(batch.spec), int(batch.wall(now) * 1000)
        try:
            diagnosis = said_by_task(value, it.name)
            lesson = Lesson.read(lesson_of(diagnosis, call, environment_of(it, batch.spec), now_ms).plain())
        except (LessonError, AdviceError) as error:
            self.refused(batch.spec.name, error)
            return
        self._teach(now, batch, index, it, key_of(lesson), lesson, now_ms, "told a lesson")
        self._again({call})

    def _learned(self, now: float, key: str, known: Known, task: bytes | None = None) -> None:
        if key not in self._known and len(self._known) >= LESSONS_MAX:
            return
        self._keep(key, known)
        if task is not None:
            self._taught_by[key] = task
        if not self._unsaid and self._says.take(now):
            self._holdings.emit(Learn(key, value_of(known), self._taught_by.get(key)))
            return
        if not self._unsaid:
            self._holdings.timers.at(now + SAY_AGAIN_S, HEED, None)
        self._unsaid[key] = None

    def _say(self, now: float) -> None:
        """What was too much to say at once."""
        while self._unsaid and self._says.take(now):
            key = next(iter(self._unsaid))
            del self._unsaid[key]
            if key in self._known:
                self._holdings.emit(Learn(key, value_of(self._known[key]), self._taught_by.get(key)))
        if self._unsaid:
            self._holdings.timers.at(now + SAY_AGAIN_S, HEED, None)

    def _recall(self, call: bytes, lesson: Lesson, failed: Dispatch) -> None:
        """What has not begun where a lesson says not to run comes back."""
        if not any(isinstance(one, Avoid | Require | Change) for one in lesson.advice):
            return
        for number in sorted(self._placing.dispatches):
            dispatch = self._placing.dispatches[number]
            if (
                dispatch.sent and (dispatch is not failed or dispatch.left > 1) and dispatch.batch.spec.rerun and lesson.concerns(call, environment_of(dispatch.executor, dispatch.batch.spec))
                and call_of(dispatch.batch.spec) == call
            ):  # fmt: skip
                self._placing.recall(dispatch, [(dispatch.start, dispatch.stop)], False)

    def _retry(
        self, dispatch: Dispatch, index: int, status: int, diagnosis: Diagnosis, call: bytes, now_ms: int
    ) -> Retry | None:
        """Another attempt, where it would be another: elsewhere, or later, or with more."""
        batch = dispatch.batch
        spec, fitting = batch.spec, self._fitting(batch)
        usable = tuple(
            one
            for one in diagnosis.advice
            if isinstance(one, Avoid | RetryAfter | Quarantine) or (isinstance(one, Require) and not one.amount)
            or would_help(one, spec, dispatch.spec, fitting)
        )  # fmt: skip
        if status not in _RETRIED or not usable:
            return None
        tried = batch.retries.get(index, 0)
        left = spec.retries - tried if status == Status.RETRY else 0
        retry = at_retry(
            replace(diagnosis, advice=usable), Mode.OBEY, rerun=spec.rerun, retries_left=left,
            given=max(0, tried - spec.retries),
        )  # fmt: skip
        if not retry.again:
            return None
        machines = [environment_of(it, spec) for it in fitting]
        return retry if choose(self._about(call), Mode.OBEY, call, machines, now_ms).order else None

    # --- what goes well -----------------------------------------------------------------------------------------------

    def went_well(self, now: float, dispatch: Dispatch) -> None:
        """Tasks of a batch with lessons that were not heeded everywhere ended well at an executor."""
        batch, it = dispatch.batch, dispatch.executor
        call, now_ms = call_of(batch.spec), int(batch.wall(now) * 1000)
        if "*" in batch.untied:
            self._blame.well(call)
        for lesson in self._blame.went_well(batch, dispatch):
            self._teach(now, batch, dispatch.start, it, key_of(lesson), lesson, now_ms)
        places = (f"#{dispatch.number}", it.name, "")
        keys = {key for place in places for key in batch.untied.pop(place, ())}
        table = {key: self._known[key] for key in sorted(keys) if key in self._known}
        had = dispatch.spec
        changes = {} if had.timeout_s is None else {"timeout_s": had.timeout_s}
        for key, found in evidence(
            table, call, environment_of(it, batch.spec), (), None, True, needs=had.needs, changes=changes
        ):
            self._learned(now, key, replace(table[key], record=table[key].record.after(found, now_ms)))
        if table:
            self._again({call})

    # --- what is ready ------------------------------------------------------------------------------------------------

    def pushed(self, batch: Batch) -> None:
        """Tasks of a batch are ready; whether lessons have something to say is seen before they are placed."""
        self._unheeded[batch.number] = batch

    def machines_changed(self) -> None:
        """What waits may not be for all machines that there are now."""
        self._again(set(self._by_call) | ({b""} if self._general else set()))

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
        self._let_go(batch)  # whether it is to wait on is seen below
        call = call_of(batch.spec)
        table = self._about(call)
        if not table:
            if batch.queued is not batch.shape:
                self._placing.requeue(batch, batch.shape)
            batch.lessons, batch.given = (), None
            return
        now_ms = int(batch.wall(now) * 1000)
        poisons = {key: table.pop(key) for key in list(table) if is_of_arguments(table[key].lesson)}
        if poisons:
            batch.untied["*"] = ()
            if self.mode is Mode.OBEY:
                self._refuse_poisons(now, batch, poisons, now_ms)
        given = prepare(table, self.mode, call, now_ms)
        fitting = self._fitting(batch)
        choice = choose(table, self.mode, call, [environment_of(it, batch.spec) for it in fitting], now_ms)
        why = tuple(dict.fromkeys((*given.why, *(words for one in choice.verdicts.values() for words in one.why))))
        if why and why != batch.lessons:
            what = "heeds lessons" if self.mode is Mode.OBEY else "was told of lessons"
            batch.log(
                now, what, 0, batch.calls.count, "", [*why, *(f"ask: {question}" for question in given.questions)]
            )
        batch.lessons = why
        batch.untied = {place: keys for place, keys in batch.untied.items() if place.startswith(MARKS)}
        if self.mode is Mode.ADVISE:
            for it in fitting:
                environment = environment_of(it, batch.spec)
                against = [
                    key for key, known in table.items()
                    if known.lesson.ties and not known.record.dead and known.lesson.concerns(call, environment)
                ]  # fmt: skip
                if against:
                    batch.untied[it.name] = tuple(against)
            return
        self._obey(now, batch, table, given, choice, fitting, now_ms)

    def _obey(
        self, now: float, batch: Batch, table: dict[str, Known], given: Given, choice: Choice, fitting: list[Executor], now_ms: int
    ) -> None:  # fmt: skip
        self._used({*given.used, *(key for one in choice.verdicts.values() for key in one.used)}, batch.columns.ready)
        refusal = given.refusal or choice.refusal
        if refusal:
            self._refuse(now, batch, refusal)
            return
        until_ms = max(given.not_before_ms, choice.again_ms)
        if until_ms > now_ms:
            if self._placing.withdraw(batch):
                batch.held_back = True
                self._holdings.timers.at(now + (until_ms - now_ms) / 1000, HEED, batch)
                batch.log(
                    now, "waits as a lesson says", 0, batch.calls.count, "", [f"for {(until_ms - now_ms) / 1000:g} s"]
                )
            return
        avoided = {it.name for it in fitting if choice.verdicts[it.name].avoid}
        batch.untied.update({it.name: keys for it in fitting if (keys := choice.verdicts[it.name].unsure)})
        probing = [it for it in fitting if choice.verdicts[it.name].probed]
        # Of what holds everywhere one task goes without it, to see whether it still does; the others are given it.
        doubted = tuple(key for key in given.probed if not waits(table[key].lesson))
        if doubted:
            free = [it for it in fitting if it.name not in avoided and it not in probing]
            batch.given = None
            if free:
                self._probe(now, batch, free[0], doubted, now_ms)
            given = prepare(table, Mode.OBEY, call_of(batch.spec), now_ms, probes=False)
        waited = tuple(key for key in given.probed if waits(table[key].lesson))
        needs = self._give(now, batch, given)
        sent = False
        for it in probing:
            # One task goes there, to see whether what is known still holds; the others keep away until that is told.
            sent |= self._probe(now, batch, it, choice.verdicts[it.name].probed, now_ms)
            avoided.add(it.name)
        if waited:
            self._probing(now, waited, now_ms)
            batch.untied[""] = waited
        if avoided and len(avoided) == len(fitting):
            if sent:
                self._holdings.timers.at(now + PROBE_LEASE_MS / 1000, HEED, batch)
            else:
                avoided -= {it.name for it in probing}
        shape = batch.shape.heeding(needs, given.labels, [NODE_LABEL + name for name in avoided])
        if shape != batch.queued:
            self._placing.requeue(batch, shape)

    def _give(self, now: float, batch: Batch, given: Given) -> dict[str, float]:
        """Have what is ready of a batch go out with what lessons give; what it needs besides what it asked for."""
        needs = within(given.needs, self._fitting(batch))
        made = raised(batch.spec, batch.raw, needs, given.changes)
        if made is not None and (batch.given is None or batch.given[1] != made[1]):
            spec, more = made[0], []
            more += [
                f"{name} {spec.needs[name]:g}" for name in needs if spec.needs.get(name) != batch.spec.needs.get(name)
            ]
            more += [f"timeout_s {spec.timeout_s:g}"] if spec.timeout_s != batch.spec.timeout_s else []
            batch.log(now, "is given more by a lesson", 0, batch.calls.count, "", more)
            self._holdings.emit(Fact("lesson.given", {}, {}, batch.columns.ready))
        batch.given = made
        return needs

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
        batch.log(now, "probes a lesson", index, index + 1, it.name, [explained(self._known[key]) for key in keys])
        batch.untied[f"#{self._placing.send(now, batch, index, it).number}"] = keys
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

    def _refuse(self, now: float, batch: Batch, why: str, only: frozenset[int] | None = None) -> None:
        waiting = self._placing.withdraw(batch)
        hint = "`swarm lesson list` shows what is known, `swarm lesson forget KEY` ends it"
        payload = said(f"{batch.spec.name or 'the task'} is not run: {why}", hint, batch.spec)
        ended: Said = [
            (index, Status.REFUSED, payload) for start, stop in batch.pending() for index in range(start, stop)
            if batch.columns.state(index) == TaskColumns.READY and (only is None or index in only)
        ]  # fmt: skip
        for index, *_ in ended if only is not None else ended[:1]:
            batch.log(now, "refused", index, index + 1 if only is not None else ended[-1][0] + 1, "", why)
        self._ending.finish(now, batch, ended)
        if only is not None and waiting and batch.columns.ready and batch.finished_at is None:
            self._placing.push(batch, batch.submitted_at, batch.columns.ready)

    def _refuse_poisons(self, now: float, batch: Batch, poisons: Mapping[str, Known], now_ms: int) -> None:
        """Calls that ended their workers before are not run again; others of the callable are."""
        shut = {
            known.lesson.subject: key
            for key, known in poisons.items()
            for one in known.lesson.advice
            if not known.record.dead and isinstance(one, Quarantine) and now_ms < known.lesson.seen_ms + one.for_ms
        }
        if not shut:
            return
        found: dict[str, list[int]] = {}
        for start, stop in batch.pending():
            for index in range(start, stop):
                if batch.columns.state(index) == TaskColumns.READY:
                    key = shut.get(arguments_of(batch, index))
                    if key is not None:
                        found.setdefault(key, []).append(index)
        for key, indices in sorted(found.items()):
            self._used({key}, len(indices))
            self._refuse(now, batch, explained(poisons[key]), frozenset(indices))

    def over(self, now: float, batch: Batch | None) -> None:
        """A batch has waited as long as a lesson said; None: there may be something to say."""
        if batch is None:
            self._say(now)
        elif self._holdings.by_number.get(batch.number) is batch:
            self._let_go(batch)

    def _let_go(self, batch: Batch) -> None:
        if batch.held_back:
            batch.held_back = False
            if batch.columns.ready:
                self._placing.withdraw(batch)
                self._placing.push(batch, batch.submitted_at, batch.columns.ready)

    def _fitting(self, batch: Batch) -> list[Executor]:
        executors = self._placing.executors
        return [executors[id] for id in sorted(executors) if not executors[id].fit(batch.shape)[0]]
