"""Lessons, and what follows from them: where a call is not placed, what it is given, how long it waits, what a retry does.

All functions are pure: lessons and records in, verdicts out, each with the words that explain it. In mode ``advise`` a lesson only makes a
machine less welcome, and what it would add or refuse is told and not done; in mode ``obey`` it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, TypeGuard

from swarm.protocol.lessons.advice import (
    DELAY_MS_MAX,
    NAME_CHARACTERS_MAX,
    TIES,
    Advice,
    Ask,
    Avoid,
    Change,
    Quarantine,
    Require,
    RetryAfter,
    plain,
    read,
)  # fmt: skip
from swarm.protocol.lessons.families import FAMILIES, OF_DATA, SUBJECT_CHARACTERS_MAX, Diagnosis
from swarm.protocol.lessons.fingerprints import DIGEST_BYTES, digest_of
from swarm.protocol.lessons.records import PROBE_LEASE_MS, Evidence, Record

CALLS_MAX: Final = 64
"""Callables of which a lesson remembers that they met it, the latest ones."""
CAUSE_CHARACTERS_MAX: Final = 500
LASTING_MS_MAX: Final = 366 * 86_400_000
"""How long at most a lesson is said to be likely to hold."""
WAITS_BELOW_MS: Final = 3_600_000
"""When every machine is avoided: what lasts less than this is waited for, what lasts longer is a refusal."""
HALF_OPEN_MIN_MS: Final = 1_000
"""So long at least the first one after a wait is given before another one tries."""
PACE_FIRST: Final = 16
PACE_MORE: Final = 8
PACE_DOUBLINGS_MAX: Final = 4
"""After a wait those that follow are a sixteenth of it apart, twice as far for each confirmation of the lesson up to so many, and each
that goes well makes them closer."""
CLOSED_AFTER: Final = 16
"""Waits without a failure, after which nothing is held back any more."""
LESSON_RETRIES_MAX: Final = 3
"""Attempts that a call is given because of lessons, beyond those that it asked for."""
BACKOFF_MAX_MS: Final = 900_000


class Mode(Enum):
    """What placement and retry do with lessons."""

    ADVISE = "advise"
    OBEY = "obey"


class LessonError(ValueError):
    """A lesson that is malformed; the text says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What of a machine lessons may be tied to. `packages` is a digest in hex of what is installed, "" where it is not known."""

    node: str
    interpreter: str = ""
    packages: str = ""
    labels: frozenset[str] = frozenset()

    def value(self, tie: str) -> str:
        """What the machine is, as far as one of TIES goes."""
        return {"node": self.node, "interpreter": self.interpreter, "packages": self.packages}.get(tie, "")


@dataclass(frozen=True, slots=True)
class Lesson:
    """Pattern, cause, advice, and where it was seen. `pattern` is 16 bytes, each of `calls` the digest of a callable or command.

    `ties` are (tie, value) of the machine that it depends on, sorted; () when it is the same everywhere.
    """

    pattern: bytes
    family: str
    subject: str
    cause: str
    calls: tuple[bytes, ...]
    ties: tuple[tuple[str, str], ...]
    advice: tuple[Advice, ...]
    lasting_ms: int
    seen_ms: int
    """When it happened for the last time."""

    @property
    def digest(self) -> bytes:
        """16 bytes: of the pattern and the environment."""
        return digest_of("lesson", self.pattern.hex(), *(part for tie in self.ties for part in tie))

    @property
    def key(self) -> str:
        """Under which it is kept: its pattern and its environment."""
        return f"{self.pattern.hex()}.{digest_of('environment', *(part for tie in self.ties for part in tie)).hex()}"

    def concerns(self, call: bytes, environment: Environment | None = None) -> bool:
        """Whether it is about a callable, and (if one is given) about a machine."""
        if self.calls and call not in self.calls:
            return False
        if environment is None:
            return True
        return all(
            value in environment.labels if tie == "label" else environment.value(tie) == value
            for tie, value in self.ties
        )

    def plain(self) -> dict[str, Any]:
        """As plain values, for an entry of the kind "lessons"."""
        return {
            "pattern": self.pattern, "family": self.family, "subject": self.subject, "cause": self.cause, "calls": list(self.calls),
            "ties": [list(tie) for tie in self.ties], "advice": plain(self.advice), "lasting_ms": self.lasting_ms, "seen_ms": self.seen_ms,
        }  # fmt: skip

    @classmethod
    def read(cls, fields: Any) -> Lesson:
        """From plain values. LessonError or AdviceError for what is not exactly that; unknown keys are ignored."""
        if not isinstance(fields, Mapping):
            raise LessonError("a lesson is not a map")
        pattern, calls, ties = fields.get("pattern"), fields.get("calls"), fields.get("ties")
        if not _is_digest(pattern):
            raise LessonError(f"a lesson's pattern is not {DIGEST_BYTES} bytes")
        if fields.get("family") not in FAMILIES:
            raise LessonError(f"{str(fields.get('family'))[:100]!r} is no family of this version")
        if not _is_text(fields.get("subject"), SUBJECT_CHARACTERS_MAX) or not _is_text(
            fields.get("cause"), CAUSE_CHARACTERS_MAX
        ):
            raise LessonError("a lesson's subject or cause is not a short text")
        if not isinstance(calls, list | tuple) or len(calls) > CALLS_MAX or not all(map(_is_digest, calls)):
            raise LessonError(f"a lesson's calls are not at most {CALLS_MAX} digests")
        if not isinstance(ties, list | tuple) or len(ties) > len(TIES) or not all(map(_is_tie, ties)):
            raise LessonError("a lesson's ties are not pairs of a tie and its value")
        lasting_ms, seen_ms = fields.get("lasting_ms"), fields.get("seen_ms")
        if (
            type(lasting_ms) is not int
            or type(seen_ms) is not int
            or not 0 < lasting_ms <= LASTING_MS_MAX
            or not 0 <= seen_ms < 1 << 53
        ):
            raise LessonError("a lesson's times are not whole milliseconds")
        return cls(
            pattern, fields["family"], fields["subject"], fields["cause"], tuple(calls), tuple(sorted((tie[0], tie[1]) for tie in ties)),
            read(fields.get("advice")), lasting_ms, seen_ms,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """A lesson with its record."""

    lesson: Lesson
    record: Record


Table = Mapping[str, Known]
"""Lessons by their keys. Functions go through them in the order of the keys."""


def lesson_of(diagnosis: Diagnosis, call: bytes, environment: Environment, now_ms: int) -> Lesson:
    """The lesson of one failure."""
    ties = tuple(sorted((tie, environment.value(tie)) for tie in diagnosis.ties))
    return Lesson(
        diagnosis.pattern, diagnosis.family, diagnosis.subject, diagnosis.cause, (call,), ties, diagnosis.advice, diagnosis.lasting_ms, now_ms
    )  # fmt: skip


def learned(known: Known | None, lesson: Lesson, now_ms: int) -> Known:
    """What is known after a lesson was learned, maybe not for the first time: it holds for one more call, asks for as much as any of
    both did, and one that had died is alive again."""
    if known is None:
        return Known(lesson, Record(evidence_ms=now_ms))
    old = known.lesson
    calls = tuple(dict.fromkeys((*(call for call in old.calls if call not in lesson.calls), *lesson.calls)))[
        -CALLS_MAX:
    ]
    advice = _stronger(old.advice, lesson.advice, now_ms - old.seen_ms, passed=known.record.doubted)
    had = known.record
    # That it happened is evidence of today, how ever strong; what had died begins anew.
    record = replace(
        had, evidence_ms=max(now_ms, had.evidence_ms), uses_then=had.uses, evidence=0.0 if had.dead else had.evidence,
        doubted=False,
    )  # fmt: skip
    return Known(replace(lesson, calls=calls, advice=advice, seen_ms=max(now_ms, old.seen_ms)), record)


def _stronger(old: Sequence[Advice], new: Sequence[Advice], gap_ms: int, *, passed: bool) -> tuple[Advice, ...]:
    """The advice of a failure that came `gap_ms` after the last one of its kind; `passed`: it had gone well in between."""
    found: list[Advice] = []
    for one in new:
        match one:
            case Require(resource, amount):
                known = [other.amount for other in old if isinstance(other, Require) and other.resource == resource]
                one = Require(resource, max([amount, *known]))
            case Change(parameter, value):
                values = [other.value for other in old if isinstance(other, Change) and other.parameter == parameter]
                one = Change(parameter, max([value, *values]))
            case RetryAfter(delay_ms):
                before = max([other.delay_ms for other in old if isinstance(other, RetryAfter)], default=0)
                if gap_ms < before:
                    delay_ms = max(delay_ms, before)  # of attempts that were under way already
                elif gap_ms < 3 * before and not passed:
                    delay_ms = max(delay_ms, min(2 * before, BACKOFF_MAX_MS))  # although it was waited for so long
                one = RetryAfter(min(delay_ms, DELAY_MS_MAX))
        found.append(one)
    return tuple(found)


# --- placing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given:
    """What lessons add to a call before it is placed.

    `needs` and `changes` are least values. `not_before_ms` is 0 when there is nothing to wait for. `refusal` says why nobody shall run
    it, or "". `used` are keys of lessons that were heeded, `probed` of those that are left out to see whether they still hold.
    """

    needs: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    changes: Mapping[str, float] = field(default_factory=dict)
    not_before_ms: int = 0
    refusal: str = ""
    questions: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    probed: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


def waits(lesson: Lesson) -> bool:
    """Whether all that a lesson says is to wait."""
    return bool(_only_wait_ms(lesson))


def prepare(table: Table, mode: Mode, call: bytes, now_ms: int, *, probes: bool = True) -> Given:
    """What lessons that hold everywhere say about a call. Without `probes` all of it is given, but for what is to be waited for."""
    needs: dict[str, float] = {}
    labels: set[str] = set()
    changes: dict[str, float] = {}
    questions, used, probed, why = [], [], [], []
    not_before_ms, refusal = 0, ""
    for key, known in _about(table, call):
        lesson, record = known.lesson, known.record
        if lesson.ties:
            continue
        delay_ms = _only_wait_ms(lesson)
        if delay_ms and record.doubted and now_ms >= lesson.seen_ms + CLOSED_AFTER * delay_ms:
            continue  # it has gone well for long: the breaker is closed until it does not
        words = explained(known)
        why.append(words)
        questions += [advice.question for advice in lesson.advice if isinstance(advice, Ask)]
        if mode is Mode.ADVISE:
            continue
        if delay_ms:
            until_ms = _admitted_ms(known, delay_ms)
            if now_ms >= until_ms:
                probed.append(key)
            else:
                not_before_ms = max(not_before_ms, until_ms)
                used.append(key)
            continue
        if probes and _may_be_probed(lesson) and record.probe_due(lesson.digest, lesson.lasting_ms, now_ms):
            probed.append(key)
            continue
        for advice in lesson.advice:
            match advice:
                case Require(resource, amount) if amount:
                    needs[resource] = max(needs.get(resource, 0.0), amount)
                case Require(resource):
                    labels.add(resource)
                case Change(parameter, value):
                    changes[parameter] = max(changes.get(parameter, 0.0), value)
                case RetryAfter(delay_ms):  # beside something else that is to be different
                    not_before_ms = max(not_before_ms, lesson.seen_ms + delay_ms)
                case Quarantine(for_ms) if now_ms < lesson.seen_ms + for_ms:
                    refusal = refusal or words
        used.append(key)
    return Given(
        needs, tuple(sorted(labels)), changes, not_before_ms if not_before_ms > now_ms else 0, refusal, tuple(questions), tuple(used),
        tuple(probed), tuple(why),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What lessons say about a call on one machine.

    `avoid`: not there. `dislike` is the strength (log-odds) of the lessons against it, 0 if there is none; among machines that are not
    avoided, less is better. `probed` are lessons against it that are not heeded this time.
    """

    avoid: bool = False
    dislike: float = 0.0
    used: tuple[str, ...] = ()
    probed: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    """Lessons against it that are too little to refuse a call for, where there is no other machine."""


def weigh(table: Table, mode: Mode, call: bytes, environment: Environment, now_ms: int) -> Verdict:
    """Whether a call is placed on a machine. A machine is probed only when everything that is said against it is due to be."""
    against = [
        (key, known)
        for key, known in _about(table, call)
        if known.lesson.ties
        and known.lesson.concerns(call, environment)
        and any(isinstance(one, Avoid) for one in known.lesson.advice)
    ]
    if not against:
        return Verdict()
    keys = tuple(key for key, _ in against)
    dislike = max(known.record.strength for _, known in against)
    why = tuple(explained(known) for _, known in against)
    if mode is Mode.ADVISE:
        return Verdict(dislike=dislike, why=why)
    if all(known.record.probe_due(known.lesson.digest, known.lesson.lasting_ms, now_ms) for _, known in against):
        return Verdict(dislike=dislike, probed=keys, why=why)
    return Verdict(avoid=True, dislike=dislike, used=keys, why=why)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call may go. `order` has the machines that are not avoided, the most welcome first.

    When there is none: `again_ms` says when it is worth asking again, or `refusal` says why it is not.
    """

    order: tuple[Environment, ...]
    verdicts: Mapping[str, Verdict]
    again_ms: int = 0
    refusal: str = ""


def choose(table: Table, mode: Mode, call: bytes, machines: Iterable[Environment], now_ms: int) -> Choice:
    """Among machines that a call fits on, those where lessons have nothing against it. A probe goes first: it is due."""
    machines = sorted(machines, key=lambda machine: machine.node)
    verdicts = {machine.node: weigh(table, mode, call, machine, now_ms) for machine in machines}
    allowed = [machine for machine in machines if not verdicts[machine.node].avoid]
    order = sorted(allowed, key=lambda machine: (not verdicts[machine.node].probed, verdicts[machine.node].dislike))
    if order or not machines:
        return Choice(tuple(order), verdicts)
    unsure = [machine for machine in machines if _is_unsure(table, verdicts[machine.node].used)]
    if unsure:
        for machine in unsure:
            verdict = verdicts[machine.node]
            verdicts[machine.node] = replace(verdict, avoid=False, used=(), unsure=verdict.used)
        return Choice(tuple(sorted(unsure, key=lambda machine: verdicts[machine.node].dislike)), verdicts)
    lessons = {key: table[key].lesson for verdict in verdicts.values() for key in verdict.used}
    soonest = min(table[key].record.evidence_ms + lesson.lasting_ms for key, lesson in lessons.items())
    if min(lesson.lasting_ms for lesson in lessons.values()) < WAITS_BELOW_MS:
        return Choice((), verdicts, again_ms=max(soonest, now_ms + 1000))
    told = "; ".join(f"{node}: {verdicts[node].why[0]}" for node in sorted(verdicts)[:8])
    return Choice((), verdicts, refusal=f"no machine is left for it ({told})")


def _is_unsure(table: Table, keys: Iterable[str]) -> bool:
    """Whether lessons are of one failure each that may be a matter of what the call was given: not enough to run it nowhere."""
    return all(table[key].lesson.family in OF_DATA and not table[key].record.successes for key in keys)


# --- afterwards -------------------------------------------------------------------------------------------------------


def evidence(
    table: Table,
    call: bytes,
    environment: Environment,
    heeded: Iterable[str],
    diagnosis: Diagnosis | None,
    succeeded: bool,
    *,
    needs: Mapping[str, float] | None = None,
    changes: Mapping[str, float] | None = None,
) -> list[tuple[str, Evidence]]:
    """What an attempt says about the lessons that concern it: those that were heeded (their keys) were used; of the others, the same
    failure confirms them, a success refutes them, and any other failure says nothing.

    Nor does a success with what the lesson asks for anyway: `needs` and `changes` are what the attempt had.
    """
    kept = set(heeded)
    found = [(key, Evidence.USED) for key in sorted(kept) if key in table]
    for key, known in _about(table, call):
        if key in kept or not known.lesson.concerns(call, environment):
            continue
        if succeeded and _only_wait_ms(known.lesson):
            found.append((key, Evidence.PASSED))
        elif succeeded:
            if not _is_met(known.lesson, needs or {}, changes or {}):
                found.append((key, Evidence.REFUTED))
        elif diagnosis is not None and diagnosis.pattern == known.lesson.pattern:
            found.append((key, Evidence.CONFIRMED))
    return found


@dataclass(frozen=True, slots=True)
class Retry:
    """What to do with a call whose attempt failed. `again`: another attempt, not before `delay_ms` from now, with these least values
    and not where `avoid` says. `why` explains it, also when there is none."""

    again: bool
    delay_ms: int = 0
    needs: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    changes: Mapping[str, float] = field(default_factory=dict)
    avoid: tuple[Avoid, ...] = ()
    why: str = ""


def at_retry(diagnosis: Diagnosis | None, mode: Mode, *, rerun: bool, retries_left: int, given: int) -> Retry:
    """What follows from a failure for the very call that met it. `given` counts attempts that lessons gave it already.

    A call that may not be repeated is not. One whose own retries are used up gets some from its lesson, if that is
    obeyed and says what would be different the next time.
    """
    if not rerun:
        return Retry(False, why="it may not be repeated")
    if diagnosis is None:
        return Retry(retries_left > 0, why="" if retries_left > 0 else "nothing is known that would help")
    if any(isinstance(one, Quarantine) for one in diagnosis.advice):
        return Retry(False, why=diagnosis.cause)
    helps = [one for one in diagnosis.advice if not isinstance(one, Ask)]
    if mode is Mode.ADVISE or not helps:
        return Retry(retries_left > 0, why=diagnosis.cause)
    if retries_left <= 0 and given >= LESSON_RETRIES_MAX:
        return Retry(False, why=f"{diagnosis.cause}; it was tried {given} times more because of that")
    return Retry(
        True,
        delay_ms=max((one.delay_ms for one in helps if isinstance(one, RetryAfter)), default=0),
        needs={one.resource: one.amount for one in helps if isinstance(one, Require) and one.amount},
        labels=tuple(sorted(one.resource for one in helps if isinstance(one, Require) and not one.amount)),
        changes={one.parameter: one.value for one in helps if isinstance(one, Change)},
        avoid=tuple(one for one in helps if isinstance(one, Avoid)),
        why=diagnosis.cause,
    )


def explained(known: Known) -> str:
    """A lesson in one line, for people."""
    lesson, record = known.lesson, known.record
    seen = record.successes + 1
    times = "once" if seen == 1 else f"{seen} times"
    where = ", ".join(value for _, value in lesson.ties)
    about = f" {lesson.subject}" if lesson.subject else ""
    there = f" on {where}" if where else ""
    return f"lesson {lesson.key[:8]}: {lesson.family}{about}, {lesson.cause}; seen {times}{there}, {record.probability:.0%} likely"


def _about(table: Table, call: bytes) -> list[tuple[str, Known]]:
    return [
        (key, known) for key, known in sorted(table.items()) if not known.record.dead and known.lesson.concerns(call)
    ]


def _only_wait_ms(lesson: Lesson) -> int:
    """How long a lesson says to wait, if that is all that it says, but for a question; else 0."""
    waits = [one.delay_ms for one in lesson.advice if isinstance(one, RetryAfter)]
    rest = [one for one in lesson.advice if not isinstance(one, RetryAfter | Ask)]
    return 0 if rest or not waits or lesson.ties else max(max(waits), 1)


def _admitted_ms(known: Known, delay_ms: int) -> int:
    """When the next call goes ahead of those that wait: none before the wait is over, then one, and the others wait for what becomes of
    it rather than come all at once. As long as it goes well they follow closer and closer, until it does not (additive increase and
    multiplicative decrease, as in V. Jacobson, "Congestion avoidance and control", 1988)."""
    lesson, record = known.lesson, known.record
    opens_ms = lesson.seen_ms + delay_ms
    if not record.probing_ms or record.probing_ms < lesson.seen_ms:
        return opens_ms
    well = record.uses - record.uses_then if record.doubted else 0
    slower = 1 << min(
        max(int(record.evidence), 0), PACE_DOUBLINGS_MAX
    )  # what comes again and again is approached slower
    gap_ms = (
        delay_ms * slower // (PACE_FIRST + PACE_MORE * well)
        if well
        else min(max(delay_ms, HALF_OPEN_MIN_MS), PROBE_LEASE_MS)
    )
    return max(opens_ms, record.probing_ms + max(gap_ms, 1))


def _is_met(lesson: Lesson, needs: Mapping[str, float], changes: Mapping[str, float]) -> bool:
    """Whether an attempt had all that a lesson which holds everywhere asks for."""
    if lesson.ties:
        return False
    for one in lesson.advice:
        match one:
            case Require(resource, amount) if needs.get(resource, 0.0) < amount:
                return False
            case Change(parameter, value) if changes.get(parameter, 0.0) < value:
                return False
    return True


def forgettable(known: Known, now_ms: int) -> bool:
    """Whether a lesson may be dropped: it has died, or nothing was heard of it for long after what it says has probably passed."""
    return (
        known.record.dead or now_ms - max(known.record.evidence_ms, known.lesson.seen_ms) > 8 * known.lesson.lasting_ms
    )


def _may_be_probed(lesson: Lesson) -> bool:
    """What ends workers is not run for trial while its quarantine lasts, nor is asked about."""
    return not any(isinstance(one, Quarantine) for one in lesson.advice)


def _is_digest(value: object) -> TypeGuard[bytes]:
    return type(value) is bytes and len(value) == DIGEST_BYTES


def _is_text(value: object, characters_max: int) -> bool:
    if type(value) is not str or len(value) > characters_max:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return value.isprintable()


def _is_tie(value: object) -> bool:
    match value:
        case [str(tie), str(what)]:
            return tie in TIES and 0 < len(what) <= NAME_CHARACTERS_MAX and _is_text(what, NAME_CHARACTERS_MAX)
    return False
