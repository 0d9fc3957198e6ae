"""What the kernels cost, in ns an operation: best of interleaved rounds. Run: python -m benchmarks.kernels"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from concurrent.futures import Future

from kernels.batch import CallBuilder, Calls, OutcomeBuilder, Outcomes, decode_call, decode_plain, settle
from kernels.clock import boottime_ns
from kernels.histogram import Histogram
from kernels.rings import Ring
from kernels.runqueue import RunQueue
from kernels.slots import SlotPage
from kernels.tasks import TaskColumns

N = 5_000
ROUNDS = 25


class LeanFuture(Future[object]):
    """Shaped as the client's: nothing in the instance before somebody waits."""

    _state = "PENDING"
    _result = None
    _exception = None

    def __init__(self) -> None:
        pass

    def _finish(self, value: object) -> None:
        self._result = value


def outcomes_of(n: int) -> bytes:
    builder = OutcomeBuilder()
    for i in range(n):
        builder.add_plain(i, 3, None)
    return builder.take()


def call_overhead() -> None:
    nothing = [].__len__
    for _ in range(N):
        nothing()


def add_plain() -> None:
    builder = CallBuilder()
    add = builder.add_plain
    for _ in range(N):
        add((), None)


def add_plain_args() -> None:
    builder = CallBuilder()
    add = builder.add_plain
    args = (12, "scene", 1.5)
    for _ in range(N):
        add(args, None)


def add_payload() -> None:
    add = CallBuilder().add
    payload = b"M\x91\x90"
    for _ in range(N):
        add(payload)


def outcome_plain() -> None:
    add = OutcomeBuilder().add_plain
    for i in range(N):
        add(i, 3, None)


def decode() -> None:
    payload = b"M\x91\x93\x0c\xa5scene\x01"
    for _ in range(N):
        decode_plain(payload)


OUTCOMES = outcomes_of(N)
CALLS = b"\x03\0\0\0" * N + b"M\x91\x90" * N


def call_by_view() -> None:
    calls = Calls(CALLS, N)
    for i in range(N):
        decode_call(calls.payload(i))


def call_in_place() -> None:
    call = Calls(CALLS, N).call
    for i in range(N):
        call(i)


def open_calls() -> None:
    Calls(CALLS, N)


def open_outcomes() -> None:
    Outcomes(OUTCOMES, N)


def take_outcomes() -> None:
    outcomes_of(N)


def columns_take_settle() -> None:
    view = Outcomes(OUTCOMES, N)
    record = TaskColumns(N)
    while record.take(512, 1):
        pass
    record.settle(view, 1)


def settle_setup() -> tuple[Outcomes, list[LeanFuture | None]]:
    return Outcomes(OUTCOMES, N), [LeanFuture() for _ in range(N)]


def queue_cycle() -> None:
    queue = RunQueue()
    for i in range(N):
        queue.push(i, i & 3, 0, i, 1)
    for _ in range(N):
        queue.pop(N, 1)


def claim_begin_end() -> None:
    page, _ = PAGE
    page.offer(0, N)
    claim, begin, end = page.claim, page.begin, page.end
    for _ in range(N):
        begin(0, claim(0), 5)
        end()


def clock() -> None:
    for _ in range(N):
        boottime_ns()


def histogram_record() -> None:
    record = Histogram().record
    for i in range(N):
        record(i)


def histogram_many() -> None:
    Histogram().record_many(Outcomes(OUTCOMES, N).run_times_us())


def ring_cycle() -> None:
    ring = Ring.create(bytearray(1 << 16))
    put, get = ring.put, ring.get
    for _ in range(N):
        put(b"0123456789abcdef")
        get()


PAGE = SlotPage.create()
CASES: dict[str, Callable[[], None]] = {
    "empty method call in a loop (to subtract)": call_overhead,
    "CallBuilder.add_plain((), None)": add_plain,
    "CallBuilder.add_plain((12, 'scene', 1.5))": add_plain_args,
    "CallBuilder.add(bytes)": add_payload,
    "OutcomeBuilder.add_plain(i, us, None)": outcome_plain,
    "OutcomeBuilder: add_plain and take, a task": take_outcomes,
    "decode_plain of a call of 3": decode,
    "Calls.payload + decode_call, no arguments": call_by_view,
    "Calls.call, no arguments": call_in_place,
    "Calls(...), a task": open_calls,
    "Outcomes(...), a task": open_outcomes,
    "Outcomes + TaskColumns take + settle, a task": columns_take_settle,
    "RunQueue push + pop, a run": queue_cycle,
    "SlotPage claim + begin + end": claim_begin_end,
    "boottime_ns": clock,
    "Histogram.record": histogram_record,
    "Histogram.record_many, a value": histogram_many,
    "Ring put + get, 16 bytes": ring_cycle,
}


def full_queues(waiting: int = 1_000_000, cycles: int = 200_000, rounds: int = 3) -> None:
    """A push and a pop while many wait: ours, through Python, beside `heapq` with tuples that say the same."""
    rng = random.Random(1)
    count = waiting + rounds * cycles
    classes, nices = rng.choices((0, 1, 1, 2, 3), k=count), rng.choices((0, 0, 0, 5, -3), k=count)
    queue, heap = RunQueue(1 << 60), []
    for i in range(waiting):
        queue.push(i, classes[i], nices[i], i, 1)
        heap.append((-classes[i], nices[i], i, i, 1))
    heapq.heapify(heap)
    best = [float("inf"), float("inf"), float("inf")]
    for first in range(waiting, count, cycles):
        began = time.perf_counter_ns()
        for i in range(first, first + cycles):
            queue.push(i, classes[i], nices[i], i, 1)
            queue.pop(i, 1)
        between = time.perf_counter_ns()
        for i in range(first, first + cycles):
            heapq.heappush(heap, (-classes[i], nices[i], i, i, 1))
            heapq.heappop(heap)
        ended = time.perf_counter_ns()
        for i in range(first, first + cycles):  # what calls of Python's cost, with a queue of nothing
            queue.waiting(classes[i])
            queue.waiting(nices[i] & 1)
        calls = time.perf_counter_ns() - ended
        best = [
            min(before, now / cycles)
            for before, now in zip(best, (between - began, ended - between, calls), strict=True)
        ]
    print(f"{'RunQueue push + pop, 1 M waiting':<48}{best[0]:8.1f} ns")
    print(f"{'heapq with tuples, the same':<48}{best[1]:8.1f} ns {best[1] / best[0]:6.1f} x")
    print(f"{'two calls that only look something up':<48}{best[2]:8.1f} ns")


def main() -> None:
    """Print a table of ns an operation."""
    best = {name: float("inf") for name in CASES}
    settling = "settle, a future"
    best[settling] = float("inf")
    for _ in range(ROUNDS):
        for name, case in CASES.items():
            started = time.perf_counter_ns()
            case()
            best[name] = min(best[name], (time.perf_counter_ns() - started) / N)
        view, futures = settle_setup()
        kept = list(futures)
        started = time.perf_counter_ns()
        settle(view, futures, lambda index, status, payload: None)
        best[settling] = min(best[settling], (time.perf_counter_ns() - started) / N)
        del kept
    for name, cost in best.items():
        print(f"{name:<48}{cost:8.1f} ns")
    full_queues()


if __name__ == "__main__":
    main()
