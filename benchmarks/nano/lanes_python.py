"""Messages of 64 bytes from one Python thread to another: arrays through a lane, beside `queue.SimpleQueue`.

Every message is written by one thread and read by the other: a number that stands in it, of which the sum must come out. With the
interpreter's lock only one of the two threads runs at a time, so that both are measured twice: free to run on any CPU, by the wall's
clock, and kept on one, by what they had of it, where the lock changes hands without waking another CPU and lines stay in its cache.
The better one of either side counts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.fleet import line
from benchmarks.nano.rounds import at_least, interleaved
from kernels.lanes import SpscLane

ONES, LINES = 100_000, 1 << 21
MESSAGE = np.dtype([("number", "<u8"), ("rest", "<u8", 7)])
Way = Callable[[], float]


def timed(lines: int, produce: Callable[[], object], consume: Callable[[], None]) -> float:
    """ns a line, from the first to the last, with the consumer in a thread of its own. On one CPU they are those that the two
    had of it: others may want it meanwhile."""
    clock = time.perf_counter_ns if len(os.sched_getaffinity(0)) > 1 else time.process_time_ns
    thread = threading.Thread(target=consume)
    thread.start()
    begin = clock()
    produce()
    thread.join()
    return (clock() - begin) / lines


def simple_queue() -> float:
    """Through queue.SimpleQueue, one by one: always the same message, of which only its length is looked at."""
    between: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    message = bytes(64)

    def consume() -> None:
        for _ in range(ONES):
            between.get()

    return timed(ONES, lambda: [between.put(message) for _ in range(ONES)], consume)


def ring(capacity: int) -> tuple[SpscLane, SpscLane]:
    """Both ends of a new one."""
    memory = bytearray(SpscLane.nbytes(capacity))
    return SpscLane.create(memory), SpscLane(memory)


def summed(ns: float, found: list[int], numbers: np.ndarray) -> float:
    """What was measured, if what was read is what was written."""
    assert sum(found) == LINES // len(numbers) * int(numbers.sum()), "messages were lost"
    return ns


def copied(size: int, capacity: int) -> float:
    """Arrays of so many lines, written anew each time, copied in by put_many, and out by get_many."""
    producer, consumer = ring(capacity)
    numbers, found = np.arange(size, dtype=np.uint64), list[int]()

    def produce() -> None:
        batch = np.zeros(size, MESSAGE)
        for _ in range(LINES // size):
            batch["number"] = numbers
            done = producer.put_many(batch)
            while done < size:
                os.sched_yield()
                done += producer.put_many(batch[done:])

    def consume() -> None:
        into, left = np.zeros(size, MESSAGE), LINES
        while left:
            taken = consumer.get_many(into)
            left -= taken
            if taken:
                found.append(int(into["number"][:taken].sum()))
            else:
                os.sched_yield()

    return summed(timed(LINES, produce, consume), found, numbers)


def in_place(size: int, capacity: int) -> float:
    """The same, written and read where they lie in the ring."""
    producer, consumer = ring(capacity)
    numbers, found = np.arange(size, dtype=np.uint64), list[int]()

    def produce() -> None:
        left, span = LINES, producer.claim(size)
        while left:
            with span as rows:
                if rows:
                    np.frombuffer(rows, MESSAGE)["number"] = numbers[: len(rows)]
                    left -= len(rows)
                else:
                    os.sched_yield()

    def consume() -> None:
        left, span = LINES, consumer.peek(size)
        while left:
            with span as rows:
                if rows:
                    found.append(int(np.frombuffer(rows, MESSAGE)["number"].sum()))
                    left -= len(rows)
                else:
                    os.sched_yield()

    return summed(timed(LINES, produce, consume), found, numbers)


@contextlib.contextmanager
def kept_on(cpus: set[int]) -> Iterator[None]:
    """This thread, and those that it begins, run on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def placed(way: Way, cpus: set[int]) -> Way:
    """The same, on these CPUs."""

    def there() -> float:
        with kept_on(cpus):
            return way()

    return there


def rows(rounds: int = 9) -> None:
    """Print the rows."""
    ours: dict[str, Way] = {
        "copied, arrays of 4,096": lambda: copied(4096, 16384),
        "in place, 8,192 of 8,192": lambda: in_place(8192, 8192),
        "in place, 16,384 of 65,536": lambda: in_place(16384, 65536),
    }
    every = os.sched_getaffinity(0)
    places = {"any CPU": every, "one CPU": {min(every)}}
    ways = {
        (what, where): placed(way, cpus)
        for what, way in {"queue.SimpleQueue": simple_queue, **ours}.items()
        for where, cpus in places.items()
    }
    found = interleaved({", ".join(name): way for name, way in ways.items()}, rounds)
    print("\nFrom Python, threads, millions of lines a second")
    for name, ns in found.items():
        line(f"  {name}", f"{1e3 / ns:.1f}")
    theirs = min(ns for name, ns in found.items() if name.startswith("queue"))
    best = {what: min(ns for name, ns in found.items() if name.startswith(what)) for what in ("copied", "in place")}
    what = "messages from Python in arrays, in place"
    at_least(what, f"{1e3 / best['in place']:.0f} M/s", theirs / best["in place"], 20.0, " SimpleQueue")
    line("  copied in and out", f"{1e3 / best['copied']:.0f} M/s", f"{theirs / best['copied']:.1f} x SimpleQueue")
