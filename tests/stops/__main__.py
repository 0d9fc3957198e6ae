"""``make stops N=100``: nodes are started, given work of every kind and stopped at random moments; nothing may be left.

The last line says how many of how many were clean; the exit status is 0 when all were. A stop that was not is printed
with its kind and seed, by which ``--one KIND --seed S`` repeats it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.stops.one import KINDS, run, run_here


def main() -> int:
    """Perform the stops; 0 when all were clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.stops", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="how many stops")
    parser.add_argument("--seed", type=int, default=0, help="of the first; each next one has the next")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--one", choices=KINDS, help="only this kind, once, in this process")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these kinds")
    given = parser.parse_args()
    if given.one:
        run_here(given.one, given.seed)
    kinds = given.kind or KINDS
    clean, times, early = 0, [], 0
    with ThreadPoolExecutor(given.jobs) as pool:
        seeds = range(given.seed, given.seed + given.count)
        for stop in pool.map(lambda seed: run(kinds[seed % len(kinds)], seed), seeds):
            clean += not stop.wrong
            early += stop.before_program
            times.append(stop.took_s)
            verdict = "clean" if not stop.wrong else "WRONG"
            print(
                f"{verdict}  {stop.kind:<13} seed {stop.seed:<4} {stop.signal:<8} after {stop.after_s:6.3f} s, "
                f"ended {stop.took_s:6.3f} s later",
                flush=True,
            )
            for line in stop.wrong:
                print("       " + line.replace("\n", "\n       "), flush=True)
    times.sort()
    print(
        f"{clean} of {given.count} stops clean; from signal to end: median {statistics.median(times):.2f} s, "
        f"p95 {times[int(len(times) * 0.95)]:.2f} s, longest {times[-1]:.2f} s; "
        f"{early} were signalled before the program had begun"
    )
    return 0 if clean == given.count else 1


if __name__ == "__main__":
    sys.exit(main())
