"""Five machines, twelve planted families of faults, and calls that meet them: with lessons and without.

``python -m tests.unit.protocol.lessons.fleet [CALLS]`` prints what came of it. No clock and no chance: one run is like the other.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swarm.protocol.lessons.families import Circumstances, harvest
from swarm.protocol.lessons.fingerprints import Failed, digest_of
from swarm.protocol.lessons.heeding import (
    Environment,
    Known,
    Mode,
    at_retry,
    choose,
    evidence,
    forgettable,
    learned,
    lesson_of,
    prepare,
)  # fmt: skip
from swarm.protocol.lessons.records import Evidence

HOUR_MS = 3_600_000
MACHINES = {
    machine.node: machine
    for machine in (
        Environment("oak", "cpython-3.11", "aa"),
        Environment("elm", "cpython-3.11", "aa"),
        Environment("fir", "cpython-3.11", "bb"),
        Environment("ash", "cpython-3.12", "cc"),
        Environment("yew", "cpython-3.11", "bb"),
    )
}


@dataclass
class Attempt:
    """What an attempt is made with."""

    node: str
    now_ms: int
    needs: dict[str, float]
    timeout_s: float
    number: int


Fault = Callable[[Attempt], Failed | None]


def error(kind: str, message: str, trace: str = "") -> Failed:
    return Failed(f"builtins:{kind}", (f"builtins:{kind}",), message, trace)


class Service:
    """Takes so many calls a minute, but none in the first nine minutes of each hour; it says how long to wait."""

    def __init__(self, calls: int) -> None:
        self.calls, self.minute, self.count = calls, -1, 0

    def __call__(self, attempt: Attempt) -> Failed | None:
        minute, past_ms = divmod(attempt.now_ms, 60_000)
        if minute != self.minute:
            self.minute, self.count = minute, 0
        self.count += 1
        if self.count <= self.calls and minute % 60 >= 9:
            return None
        left_s = max(9 - minute % 60, 1) * 60 - past_ms // 1000
        return error(
            "Exception", f"429 Too Many Requests for https://api.example/{attempt.number}, Retry-After: {left_s}"
        )


def faults() -> dict[str, Fault]:
    """A callable for each family. Numbers and names in the messages are other ones each time, as data is."""
    return {
        "missing-module": lambda a: error("ModuleNotFoundError", "No module named 'bpy'") if a.node in ("oak", "elm") else None,
        "missing-command": lambda a: Failed(exit_status=127, stderr=f"sh: {a.number}: ffmpeg: not found\n") if a.node in ("elm", "ash") else None,
        "out-of-memory": lambda a: error("MemoryError", f"Unable to allocate {a.number} bytes") if a.needs.get("memory", 0) < 5e9 else None,
        "timeout": lambda a: Failed(status="timeout", message=f"ran longer than its limit of {a.timeout_s} s") if a.timeout_s < 45 else None,
        "refused-connection": lambda a: error("ConnectionRefusedError", "[Errno 111] Connection refused") if a.node == "fir" else None,
        "rate-limit": Service(20),
        "full-disk": lambda a: error("OSError", f"[Errno 28] No space left on device: '/tmp/{a.number}'") if a.node == "yew" and a.now_ms < 3 * HOUR_MS else None,
        "wrong-interpreter": lambda a: Failed(status="refused", message="f was made by Python 3.11, and this guest is Python 3.12") if a.node == "ash" else None,
        "segfault": lambda a: Failed(status="crashed", signal=11) if a.node in ("fir", "yew") else None,
        "poison-task": lambda a: Failed(status="quarantined", signal=6),
        "no-permission": lambda a: error("PermissionError", f"[Errno 13] Permission denied: '/data/in/{a.number}.csv'") if a.node == "oak" else None,
        "service-down": lambda a: error("Exception", "503 Server Error: Service Unavailable for url: https://db.example/x") if HOUR_MS <= a.now_ms < HOUR_MS + 600_000 else None,
    }  # fmt: skip


@dataclass
class Report:
    """What came of it."""

    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Attempts that failed, by callable."""
    repeats: Counter[str] = field(default_factory=Counter)
    """Those of them that a living lesson had been against."""
    done: int = 0
    refused: int = 0
    avoided: int = 0
    """Machines that were avoided, over all placements."""
    falsely: Counter[str] = field(default_factory=Counter)
    """Those of them on which the call would have gone well."""
    probes: int = 0
    left: int = 0
    """Lessons at the end."""


def run(calls: int, lessons: bool, sound: int = 8) -> Report:
    """So many calls, one a second, in turn of twelve faulty callables and some `sound` ones."""
    report, planted = Report(calls=calls), faults()
    names = [*planted, *(f"sound-{number}" for number in range(sound))]
    table: dict[str, Known] = {}
    queue = [(number * 1000, number, 0) for number in range(calls)]
    heapq.heapify(queue)
    while queue:
        now_ms, number, given_attempts = heapq.heappop(queue)
        name = names[number % len(names)]
        call, fault = digest_of("call", name), planted.get(name, lambda attempt: None)
        draw = int.from_bytes(digest_of("draw", str(number), str(given_attempts))[:4], "big")
        if not lessons:
            node = list(MACHINES)[draw % len(MACHINES)]
            failed = fault(Attempt(node, now_ms, {}, 10.0, number))
            report.failures[name] += failed is not None
            report.done += failed is None
            continue
        before = prepare(table, Mode.OBEY, call, now_ms)
        if before.refusal:
            report.refused += 1
            continue
        if before.not_before_ms > now_ms:
            heapq.heappush(queue, (before.not_before_ms, number, given_attempts))
            continue
        choice = choose(table, Mode.OBEY, call, MACHINES.values(), now_ms)
        if not choice.order:
            if choice.refusal:
                report.refused += 1
            else:
                heapq.heappush(queue, (choice.again_ms, number, given_attempts))
            continue
        needs, timeout_s = dict(before.needs), max(10.0, before.changes.get("timeout_s", 0.0))
        for node, verdict in choice.verdicts.items():
            if verdict.avoid:
                report.avoided += 1
                if not isinstance(fault, Service):  # asking it would count as a call
                    report.falsely[name] += fault(Attempt(node, now_ms, needs, timeout_s, number)) is None
        first = choice.order[0]
        machine = first if choice.verdicts[first.node].probed else choice.order[draw % len(choice.order)]
        verdict = choice.verdicts[machine.node]
        heeded = {*before.used, *(key for one in choice.verdicts.values() for key in one.used)}
        for key in {*before.probed, *verdict.probed}:
            report.probes += 1
            _note(table, key, Evidence.PROBED, now_ms)
        failed = fault(Attempt(machine.node, now_ms, needs, timeout_s, number))
        where = Circumstances(machine.node, machine.interpreter, machine.packages, needs, timeout_s)
        diagnosis = None if failed is None else harvest(failed, where)
        for key, what in evidence(
            table, call, machine, heeded, diagnosis, failed is None, needs=needs, changes={"timeout_s": timeout_s}
        ):  # fmt: skip
            report.repeats[name] += what is Evidence.CONFIRMED
            _note(table, key, what, now_ms)
        if failed is None:
            report.done += 1
            continue
        report.failures[name] += 1
        assert diagnosis is not None and diagnosis.family == name, (name, failed, diagnosis)
        lesson = lesson_of(diagnosis, call, machine, now_ms)
        table[lesson.key] = learned(table.get(lesson.key), lesson, now_ms)
        after = at_retry(diagnosis, Mode.OBEY, rerun=True, retries_left=0, given=given_attempts)
        if after.again:
            heapq.heappush(queue, (now_ms + max(after.delay_ms, 1), number, given_attempts + 1))
        for key in [key for key, known in table.items() if forgettable(known, now_ms)]:
            del table[key]
    report.left = len(table)
    return report


def _note(table: dict[str, Known], key: str, what: Evidence, now_ms: int) -> None:
    table[key] = Known(table[key].lesson, table[key].record.after(what, now_ms))


def lines(calls: int) -> Iterable[str]:
    without, with_lessons = run(calls, False), run(calls, True)
    yield f"{calls} calls, five machines        failures without    with    of these repeats    avoided wrongly"
    for name in faults():
        yield f"  {name:<28} {without.failures[name]:>10} {with_lessons.failures[name]:>12} {with_lessons.repeats[name]:>12} {with_lessons.falsely[name]:>16}"
    yield f"  {'all':<28} {without.failures.total():>10} {with_lessons.failures.total():>12} {with_lessons.repeats.total():>12} {with_lessons.falsely.total():>16} of {with_lessons.avoided}"
    yield f"  done {without.done} without, {with_lessons.done} with, {with_lessons.refused} refused; {with_lessons.probes} probes"


if __name__ == "__main__":
    for line in lines(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000):
        print(line)
