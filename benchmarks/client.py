"""What the client costs: a call where it is made, an outcome where it is settled, and both through a real node.

``python -m benchmarks.client`` measures the client alone. With a fleet in this home it also measures the way through a
node: throughput with 5,000 in flight, and the round trip of one task.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from kernels.batch import OutcomeBuilder, Outcomes, settle
from swarm.client.engine import Engine
from swarm.client.futures import Future
from swarm.client.sync import Fleet, connect
from swarm.errors import FleetNotFound
from swarm.paths import Home

ROUNDS = 7
CALLS = 20_000
IN_FLIGHT = 5_000


def nothing(x: int = 0) -> int:
    return x


class Idle:
    """A loop that never comes to take anything: what is left is the caller's own cost."""

    def call_soon_threadsafe(self, *_: Any) -> None: ...


def median_us(measure: Callable[[], float]) -> str:
    """Median and spread of several rounds, in µs."""
    found = sorted(measure() * 1e6 for _ in range(ROUNDS))
    return f"{statistics.median(found):8.2f} µs   ({found[0]:.2f} to {found[-1]:.2f})"


def submit_once() -> float:
    """Seconds for one `submit` with one plain argument, its future included."""
    engine = Engine(Home.resolve())
    engine._loop = Idle()  # type: ignore[assignment]
    fleet = Fleet(engine)
    fleet.submit(nothing, 0)
    began = time.perf_counter()
    futures = [fleet.submit(nothing, x) for x in range(CALLS)]
    return (time.perf_counter() - began) / len(futures)


def settle_once() -> float:
    """Seconds for one outcome, from the columns to the future."""
    builder = OutcomeBuilder()
    for index in range(CALLS):
        builder.add_plain(index, 5, index)
    columns = builder.take()
    futures: list[Any] = [Future(None, index) for index in range(CALLS)]  # type: ignore[arg-type]
    kept = list(futures)
    began = time.perf_counter()
    settle(Outcomes(columns, CALLS), futures, lambda *_: None)
    return (time.perf_counter() - began) / len(kept)


def in_flight(fleet: Fleet) -> float:
    """Tasks a second, with many under way."""
    began = time.perf_counter()
    under: deque[Future] = deque()
    for x in range(10 * CALLS):
        under.append(fleet.submit(nothing, x))
        if len(under) >= IN_FLIGHT:
            under.popleft().result()
    while under:
        under.popleft().result()
    return 10 * CALLS / (time.perf_counter() - began)


def mapped(fleet: Fleet) -> float:
    """Items a second through `map`."""
    began = time.perf_counter()
    total = sum(1 for _ in fleet.map(nothing, range(10 * CALLS)))
    return total / (time.perf_counter() - began)


def round_trips(fleet: Fleet) -> list[float]:
    """Seconds of round trips, sorted."""
    found = []
    for x in range(3000):
        began = time.perf_counter()
        fleet.submit(nothing, x).result()
        found.append(time.perf_counter() - began)
    return sorted(found[500:])


def main() -> None:
    print("submit, one call      ", median_us(submit_once))
    print("settle, one outcome   ", median_us(settle_once))
    try:
        fleet = connect(timeout_s=1.0)
    except FleetNotFound:
        print("no fleet here: `swarm node`, then again, for the way through a node")
        return
    with fleet:
        times = round_trips(fleet)
        print(
            f"round trip             {times[len(times) // 2] * 1e6:8.0f} µs   (p99 {times[-len(times) // 100] * 1e6:.0f})"
        )
        rates = [in_flight(fleet) for _ in range(3)]
        print(f"{IN_FLIGHT} in flight      {statistics.median(rates):10,.0f} tasks/s")
        rates = [mapped(fleet) for _ in range(3)]
        print(f"map                 {statistics.median(rates):10,.0f} items/s")


if __name__ == "__main__":
    main()
