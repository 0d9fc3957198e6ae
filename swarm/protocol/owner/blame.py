"""Blame: whether it was the machine or what a task was given, where a failure does not tell.

A missing module is a matter of the machine. That a file is not there, or that a call ends its worker, may be one of the machine, or of the
arguments: then the first failure is held against the machine, and when the same task fails in the same way on another one, it was the
task, and what was said of both is taken back. If it goes well on a third after all, it was the machines.

A task that ends its workers is told apart by its arguments: the same call is not run again. When several different calls of one callable
end theirs, and none went well in between, it is the callable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from blake3 import blake3

from kernels.tasks import TaskColumns
from swarm.protocol.lessons.families import OF_DATA, Diagnosis
from swarm.protocol.lessons.fingerprints import DIGEST_BYTES
from swarm.protocol.lessons.heeding import Known, Lesson
from swarm.protocol.lessons.records import Evidence
from swarm.protocol.owner.batches import Batch, Dispatch

SUSPECTS_MAX: Final = 4096
"""Tasks of which it is not known yet whether they, or their machines, are to blame."""
POISONS_OF_A_CALLABLE: Final = 3
"""So many different calls of one callable, that ended their workers, and none that went well: it is the callable."""
CALLABLES_MAX: Final = 4096
ARGUMENTS: Final = "arguments "
"""With their digest behind it, the subject of a lesson about one call."""


@dataclass(slots=True)
class Suspect:
    """A task that failed, and what was said of the machines where it did."""

    pattern: bytes
    lessons: dict[str, Lesson]
    """By their keys."""
    cleared: bool = False
    """Whether it was taken back."""


Learned = Callable[[float, str, Known], None]


class Blame:
    """What one owner thinks of who is to blame."""

    def __init__(self, known: Mapping[str, Known], learned: Learned) -> None:
        self._known = known
        self._learned = learned
        self._suspects: OrderedDict[tuple[int, int], Suspect] = OrderedDict()
        self._poisons: OrderedDict[bytes, set[str]] = OrderedDict()

    def is_of_task(
        self, now: float, batch: Batch, index: int, node: str, diagnosis: Diagnosis, key: str, lesson: Lesson, now_ms: int
    ) -> bool:  # fmt: skip
        """A task failed on a node, of which `lesson` would tell. Whether it is the task rather, since it failed like that elsewhere."""
        if diagnosis.family not in OF_DATA or not lesson.ties:
            return False
        suspect = self._suspects.get((batch.number, index))
        if suspect is None or suspect.pattern != lesson.pattern:
            self._suspects[batch.number, index] = Suspect(lesson.pattern, {key: lesson})
            while len(self._suspects) > SUSPECTS_MAX:
                self._suspects.popitem(last=False)
            batch.untied.setdefault(f"@{index}", ())
            return False
        others = [one for one in suspect.lessons if one != key]
        suspect.lessons[key] = lesson
        if not others:
            return False
        if not suspect.cleared:
            suspect.cleared = True
            batch.log(
                now, "lessons are taken back", index, index + 1, node, "it failed in the same way on another machine"
            )
        self._take_back(now, suspect, now_ms)
        return True

    def _take_back(self, now: float, suspect: Suspect, now_ms: int) -> None:
        """What was said of machines because of a task alone holds no longer."""
        for one in suspect.lessons:
            known = self._known.get(one)
            if known is not None and not known.record.dead and known.record.successes == 0:
                self._learned(now, one, replace(known, record=known.record.after(Evidence.REFUTED, now_ms)))

    def has_told(self, batch: Batch, index: int, key: str) -> bool:
        """Whether this lesson is of this very task: that it fails again says nothing more."""
        suspect = self._suspects.get((batch.number, index))
        return suspect is not None and key in suspect.lessons

    def went_well(self, batch: Batch, dispatch: Dispatch) -> list[Lesson]:
        """Tasks of a dispatch went well. Lessons that were taken back for one of them, which were right then."""
        found: list[Lesson] = []
        marks = [mark for mark in batch.untied if mark.startswith("@")]
        for mark in marks:
            index = int(mark[1:])
            if not dispatch.start <= index < dispatch.stop or batch.columns.state(index) != TaskColumns.DONE:
                continue
            batch.untied.pop(mark)
            suspect = self._suspects.pop((batch.number, index), None)
            if suspect is not None and suspect.cleared:
                found += suspect.lessons.values()
        return found

    def over(self, batch: Batch, index: int) -> None:
        """A task has failed for good."""
        if self._suspects.pop((batch.number, index), None) is not None:
            batch.untied.pop(f"@{index}", None)

    # --- what ends its workers ----------------------------------------------------------------------------------------

    def has_failed_on_several(self, batch: Batch, index: int) -> bool:
        """Whether a task failed in the same way on more than one machine."""
        suspect = self._suspects.get((batch.number, index))
        return suspect is not None and len(suspect.lessons) > 1

    def poisoned(self, call: bytes, batch: Batch, index: int, diagnosis: Diagnosis) -> Diagnosis:
        """What is learned of a task that ended its workers: about this call, or about its callable."""
        subject = arguments_of(batch, index)
        self.heard(call, subject)
        if len(self._poisons[call]) >= POISONS_OF_A_CALLABLE:
            return diagnosis
        return replace(diagnosis, subject=subject, cause=f"{diagnosis.cause}, with these arguments")

    def heard(self, call: bytes, subject: str) -> None:
        """One call of a callable ends its workers."""
        subjects = self._poisons.setdefault(call, set())
        if len(subjects) < POISONS_OF_A_CALLABLE:
            subjects.add(subject)
        self._poisons.move_to_end(call)
        while len(self._poisons) > CALLABLES_MAX:
            self._poisons.popitem(last=False)

    def well(self, call: bytes) -> None:
        """A callable went well."""
        self._poisons.pop(call, None)


def is_of_arguments(lesson: Lesson) -> bool:
    """Whether a lesson is about one call of a callable."""
    return lesson.family == "poison-task" and lesson.subject.startswith(ARGUMENTS)


def arguments_of(batch: Batch, index: int) -> str:
    """The subject of a lesson about this very call: the same for the same arguments."""
    return ARGUMENTS + blake3(batch.calls.payload(index)).digest(length=DIGEST_BYTES).hex()
