"""`make bench-nano`, or some of it: `python -m benchmarks.nano ticks saving`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time

from benchmarks.fleet import line

TOPICS = (
    "ticks",
    "simd",
    "cores",
    "python_agents",
    "lanes",
    "time",
    "rates",
    "memory",
    "jitter",
    "pace",
    "saving",
    "fleet",
)


def run(topic: str) -> None:
    """Print the rows of a topic; what it lacks is said, and the rest goes on."""
    name = f"benchmarks.nano.{topic}"
    if importlib.util.find_spec(name) is None:
        line(f"{topic}: not here", "")
        return
    print(f"\n{topic.replace('_', ' ')}", flush=True)
    began = time.monotonic()
    module = importlib.import_module(name)
    argv, sys.argv = sys.argv, [name]
    try:
        (module.rows if hasattr(module, "rows") else module.main)()
    except Exception as error:
        line(f"{topic}: not measured", "", f"{type(error).__name__}: {error}"[:200])
    finally:
        sys.argv = argv
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def main() -> None:
    """The topics that were named, or all of them."""
    asked = sys.argv[1:]
    for topic in asked:
        if topic not in TOPICS:
            raise SystemExit(f"error: no topic {topic!r}\n\nhint: there are {', '.join(TOPICS)}")
    print("A ratio marked ! has not reached its line. Compare ratios: they are of medians of rounds that alternate.")
    for topic in asked or TOPICS:
        run(topic)


main()
