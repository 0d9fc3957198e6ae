"""Judges a history: whether every promise was kept.

For each task: one outcome, the same for everybody and for ever; none lost that has a receipt; none stuck when the faults are
over; what the outcome names has run; and no attempt with a greater token had begun, for it would have taken the
smaller one's right to record an outcome. What has no receipt may have ended either way, but for all who ask in the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.history import BATCH_HEX, History, Outcome, Task

KINDS = frozenset({"TaskQuarantined"})
"""Errors that a task with a receipt may end with: its worker was killed three times over."""
COPIES_MIN = 2


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    rule: str
    task: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: task {self.task}: {self.text}"


def check(history: History) -> list[Violation]:
    """All that is wrong, in the order of the tasks' ids."""
    found = [violation for _, task in sorted(history.tasks.items()) for violation in _check_task(history, task)]
    for batch, receipt in sorted(history.receipts.items()):
        if receipt.copies < COPIES_MIN or receipt.hosts < COPIES_MIN:
            text = f"a receipt for {receipt.copies} copies on {receipt.hosts} hosts"
            found.append(Violation("few-copies", batch.ljust(BATCH_HEX + 8, "0"), text))
    return found


def _check_task(history: History, task: Task) -> Iterator[Violation]:
    receipt = history.receipt(task.id)
    if not task.submitted_s:
        yield Violation("unknown-task", task.id, "nobody has submitted it, and it ran or ended")
        return
    answers = [*task.outcomes, *(told for told in task.told if isinstance(told.answer, Outcome))]
    answers.sort(key=lambda told: told.told_s)
    outcomes = [told.answer for told in answers if isinstance(told.answer, Outcome)]
    if len(task.outcomes) > 1:
        yield Violation("told-twice", task.id, f"its client was told {len(task.outcomes)} outcomes")
    for told in answers:
        if told.answer != outcomes[0]:
            first, other = answers[0], f"{told.host} said {told.answer.shown}"  # type: ignore[union-attr]
            yield Violation("two-outcomes", task.id, f"{first.host} said {outcomes[0].shown}, {other}")
            break
    if not task.outcomes:
        yield Violation("stuck", task.id, f"{task.host}'s client never heard its outcome{_ends(task)}")
    yield from _check_told(history, task, outcomes)
    if outcomes:
        yield from _check_attempts(task, outcomes[0], receipt is not None)
    runs = [attempt.token for attempt in task.attempts.values()]
    if len(set(runs)) < len(runs):
        twice = sorted(token for token in set(runs) if runs.count(token) > 1)
        yield Violation("token-twice", task.id, f"two attempts ran with one token: {twice}")


def _check_told(history: History, task: Task, outcomes: list[Outcome]) -> Iterator[Violation]:
    """What others were told who asked: what is known to one is not unknown to the next."""
    receipt = history.receipt(task.id)
    known = [told.told_s for told in (*task.outcomes, *task.told) if isinstance(told.answer, Outcome)]
    known_s = min(known, default=float("inf"))
    for told in task.told:
        if told.answer == "none" and receipt is not None and told.asked_s > receipt.at_s:
            yield Violation("lost", task.id, f"{told.host} says that there is no such task, and it has a receipt")
            break
        if told.answer == "pending" and told.asked_s > known_s:
            yield Violation("forgotten", task.id, f"{told.host} says that it has not ended, and its outcome was known")
            break
    if history.asked_last and receipt is not None:
        last = max(task.told, key=lambda told: told.asked_s, default=None)
        if last is None or not isinstance(last.answer, Outcome):
            answer = "nobody" if last is None else f"{last.host}: {last.answer}"
            yield Violation("not-told", task.id, f"asked for from another host in the end, said {answer}{_ends(task)}")


def _check_attempts(task: Task, outcome: Outcome, receipt: bool) -> Iterator[Violation]:
    if outcome.value is None:
        if receipt and outcome.error not in KINDS:
            yield Violation("failed", task.id, f"it ended as {outcome.shown}")
        return
    mark = str(outcome.value[2])
    ran = task.attempts.get(mark)
    if ran is None or not ran.ended or ran.token != outcome.token:
        yield Violation("never-ran", task.id, f"no attempt ran to its end that could have said {outcome.shown}")
    greater = [attempt for attempt in task.attempts.values() if attempt.token > outcome.token]
    if greater:
        other = greater[0]
        text = (
            f"{outcome.token} recorded an outcome, and {other.token} had begun on {other.node} at {other.began_s:.3f}"
        )
        yield Violation("stale-token", task.id, text)


def _ends(task: Task) -> str:
    ran = sorted(task.attempts.values(), key=lambda attempt: attempt.began_s)
    said = ", ".join(f"{a.token} on {a.node}{'' if a.ended else ' (broke off)'}" for a in ran)
    return f"; attempts: {said or 'none'}"
