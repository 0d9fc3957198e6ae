"""What there is to say of a run, for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from swarm.protocol.ledger.homes import home_tag
from tests.chaos.checker import Violation
from tests.chaos.history import History, Outcome
from tests.chaos.nemesis import Done

SHOWN_MAX = 20
TAG_HEX = 6


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A node was killed: how long until somebody was told an outcome of a task of its log, and whether it was still down."""

    host: str
    killed_s: float
    took_s: float
    by_another: bool


def take_overs(history: History, downs: Iterable[tuple[str, float, float]], ids: dict[str, bytes]) -> list[TakeOver]:
    """For each time that a node was down: the first outcome, told after it was killed, of a task of its log that had a receipt
    and no outcome when it was killed."""
    found = []
    ended = [(min(told.told_s for told in task.outcomes), task) for task in history.tasks.values() if task.outcomes]
    for host, killed_s, started_s in downs:
        tag = home_tag(ids[host]).hex()
        assert len(tag) == TAG_HEX
        after = [
            at_s
            for at_s, task in ended
            # what comes at once was on its way when the node was killed
            if task.id.startswith(tag) and at_s > killed_s + 0.1
            and (receipt := history.receipt(task.id)) is not None and receipt.at_s < killed_s
        ]  # fmt: skip
        if after:
            first_s = min(after)
            found.append(TakeOver(host, killed_s, first_s - killed_s, first_s < started_s))
    return found


def lines(
    history: History, violations: list[Violation], wrong: list[str], faults: list[Done], taken: list[TakeOver]
) -> list[str]:
    """The report."""
    tasks = history.tasks.values()
    outcomes = [told.answer for task in tasks for told in task.outcomes[:1] if isinstance(told.answer, Outcome)]
    kinds = Counter(outcome.error or "value" for outcome in outcomes)
    with_receipt = sum(1 for task in tasks if history.receipt(task.id))
    attempts = sum(len(task.attempts) for task in tasks)
    broke_off = sum(1 for task in tasks for attempt in task.attempts.values() if not attempt.ended)
    again = sum(1 for task in tasks if len(task.attempts) > 1)
    told = Counter(
        "an outcome" if isinstance(one.answer, Outcome) else one.answer for task in tasks for one in task.told
    )
    said = [
        f"tasks      {len(history.tasks):,} handed over in {len({t.id[:24] for t in tasks}):,} batches; {with_receipt:,} with a receipt, "
        f"{len(history.refused)} batches without, {history.not_submitted} calls not taken",
        f"outcomes   {_counts(kinds)}",
        f"attempts   {attempts:,} began, {broke_off:,} of them broke off; {again:,} tasks ran more than once",
        f"asked      {_counts(told)}, by others than who handed over",
        f"receipts   copies on disks: {_counts(Counter(str(r.copies) for r in history.receipts.values()))}",
        f"faults     {len(faults)}: {_counts(Counter(done.kind for done in faults))}",
    ]
    for name, times in (
        ("another led", [one.took_s for one in taken if one.by_another]),
        ("itself again", [one.took_s for one in taken if not one.by_another]),
    ):
        if times:
            times.sort()
            said.append(
                f"take-over  {name}: {len(times)} times; from the kill to the first outcome told: median "
                f"{statistics.median(times):.2f} s, longest {times[-1]:.2f} s"
            )
    said += [f"WRONG      {one}" for one in wrong]
    said += [f"VIOLATION  {one}" for one in violations[:SHOWN_MAX]]
    if len(violations) > SHOWN_MAX:
        rules = _counts(Counter(violation.rule for violation in violations))
        said.append(f"           and more: {rules}")
    lost = _tasks(violations, "lost", "not-told")
    double = _tasks(violations, "two-outcomes", "told-twice")
    said.append(
        f"verdict    {lost} lost, {double} double outcomes, {_tasks(violations, 'stuck')} stuck, "
        f"{_tasks(violations, 'stale-token')} by stale tokens; {len(violations)} violations, {len(wrong)} other wrongs"
    )
    return said


def _tasks(violations: list[Violation], *rules: str) -> int:
    """How many tasks broke one of these rules."""
    return len({violation.task for violation in violations if violation.rule in rules})


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in found.most_common()) or "none"
