"""Decay of ten million weights: the kernel, NumPy over the same columns, and what reading and writing as many bytes takes.

Run: python -m benchmarks.decay. Of each weight 8 bytes are read (strength, cycle of last use) and 4 written; the stream copies 6 of each 12, so
it moves as much. Rounds are interleaved; the best of each stands beside its median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from kernels import decay

ROWS = 10_000_000
ROUNDS = 15
CYCLE = 1_000


def rows(line: Callable[[str, str, str], None], count: int = ROWS) -> None:
    """Prints a few lines by `line(what, value, ratio)`."""
    import numpy as np

    random = np.random.default_rng(1)
    strength = random.random(count, dtype=np.float32)
    used = random.integers(0, CYCLE, count, dtype=np.uint32)
    out, theirs = np.empty(count, np.float32), np.empty(count, np.float32)
    source, target = np.ones(6 * count, np.uint8), np.ones(6 * count, np.uint8)

    def by_numpy() -> None:
        np.multiply(strength, np.exp2((used.astype(np.float32) - np.float32(CYCLE)) / decay.HALF_LIFE), out=theirs)

    ways: dict[str, Callable[[], None]] = {
        "kernel": lambda: decay.weigh(strength, used, CYCLE, out),
        "numpy": by_numpy,
        "stream": lambda: np.copyto(target, source),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name].append((time.perf_counter() - began) * 1e3)
    if not np.allclose(out, theirs, rtol=1e-5):
        raise AssertionError("the kernel and NumPy do not agree")
    best = {name: min(each) for name, each in took.items()}
    middle = {name: statistics.median(each) for name, each in took.items()}
    for name, what in (
        ("kernel", f"decay of {count:,} weights by {decay.LEVEL} (reach 10 ms)"),
        ("numpy", "the same in NumPy"),
        ("stream", "a copy of as many bytes"),
    ):
        ratio = "best / median" if name == "stream" else f"{best[name] / best['stream']:.2f} x the copy"
        line(what, f"{best[name]:.1f} / {middle[name]:.1f} ms", ratio)


if __name__ == "__main__":
    rows(lambda what, value, ratio: print(f"{what:<58} {value:>16} {ratio:>24}"))
