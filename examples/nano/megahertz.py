"""1,000 agents at 1 MHz in real time: reflexes of 1,000 joints, and how much of the time their ticks fill.

    python examples/nano/megahertz.py --seconds 2

A pass is due every microsecond, and the clock is read instead of slept on (`spin_s`), so a core of its own is wanted:
`taskset -c 1 python examples/nano/megahertz.py`. A pass that is late by a period or more leaves out the ticks between,
which are counted as missed. An idle population, one agent that does nothing, is run in turns with the other, since
whatever it misses is the machine's doing: the system, its other programs, and on a virtual machine its neighbours.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import ticks

from swarm import nano

RATE_HZ = 1e6
SPIN_S = 0.001
SOURCE = r"""
#include "nano.h"

/* Where the loader can choose, also for processors with vectors of 32 bytes; there is no contraction, so the same bits. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

/* A spring and a damper draw each joint towards where it is wanted: semi-implicit Euler, a microsecond a step. */
CLONES int reflex(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    float *restrict angle = cols[0], *restrict speed = cols[1];
    const float *restrict wanted = cols[2];
    const float pull = PULL, damp = DAMP; /* in double, half as many would fit a vector */
    (void)now_ns, (void)ctx;
    if (idx == NULL) {
        for (size_t i = 0; i < n; i++) {
            speed[i] += pull * (wanted[i] - angle[i]) - damp * speed[i];
            angle[i] += speed[i];
        }
    } else {
        for (size_t k = 0; k < n; k++) {
            const uint32_t i = idx[k];
            speed[i] += pull * (wanted[i] - angle[i]) - damp * speed[i];
            angle[i] += speed[i];
        }
    }
    return NANO_WORKED;
}

int nothing(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    (void)cols, (void)idx, (void)n, (void)now_ns, (void)ctx;
    return NANO_IDLE;
}
"""
PULL, DAMP = np.float32(4e-8), np.float32(4e-4)
"""rad/us^2 a rad, 1/us: critically damped, and there within 50 ms."""


class Joint(nano.Kind, capacity=1 << 16):
    """Its angle, rad; its speed, rad a microsecond; where it is wanted, rad."""

    angle: nano.f32
    speed: nano.f32
    wanted: nano.f32


class Idle(nano.Kind, capacity=1):
    """Somebody who is due every microsecond and does nothing."""

    n: nano.u8


def reflex_of_numpy(columns: list[np.ndarray], now_ns: int, ctx: Any) -> None:
    """The same tick without a compiler."""
    angle, speed, wanted = columns
    speed += PULL * (wanted - angle) - DAMP * speed
    angle += speed


def population(
    joints: int = 1_000, time: str = "real", native: bool = True, rate_hz: float = RATE_HZ
) -> nano.NanoSwarm:
    """Joints at rest, wanted elsewhere."""
    library = compiled() if native else None
    flock = nano.NanoSwarm(time=time, spin_s=SPIN_S)
    tick = library.reflex if library is not None else ticks.over_arrays(Joint, reflex_of_numpy)
    them = flock.spawn(Joint.native_many(tick), joints, rate_hz=rate_hz)
    them.wanted[:] = np.linspace(-1, 1, joints)
    return flock


def idle(native: bool = True, rate_hz: float = RATE_HZ) -> nano.NanoSwarm:
    """One agent that does nothing."""
    library = compiled() if native else None
    flock = nano.NanoSwarm(time="real", spin_s=SPIN_S)
    nothing = library.nothing if library is not None else ticks.over_arrays(Idle, lambda *_: nano.IDLE)
    flock.spawn(Idle.native_many(nothing), 1, rate_hz=rate_hz)
    return flock


def compiled() -> Any:
    """The library of both ticks, or None."""
    return ticks.compiled(SOURCE, PULL=float(PULL), DAMP=float(DAMP))


def main(argv: list[str] | None = None) -> None:
    """Run both in turns, and say what was kept up."""
    parser = argparse.ArgumentParser(description="1,000 agents at 1 MHz")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--python", action="store_true", help="do as if there were no C compiler")
    args = parser.parse_args(argv)
    native = not args.python and ticks.compiler() is not None
    rate_hz = RATE_HZ if native else 1_000.0
    if not native:
        print("no C compiler is used: NumPy ticks at 1 kHz in place of 1 MHz")
    busy, other = population(args.agents, native=native, rate_hz=rate_hz), idle(native, rate_hz)
    marks, wall, turns = (busy.mark(), other.mark()), 0.0, 10
    for _ in range(turns):
        wall += busy.run_for(seconds=args.seconds / turns).wall_s
        other.run_for(seconds=args.seconds / turns)
    report, baseline = busy.report(marks[0]), other.report(marks[1])
    for name, line in (("joints", report.cohorts[0]), ("idle", baseline.cohorts[0])):
        due = line.ticks + line.missed
        print(
            f"{name:6} {line.agents:,} at {rate_hz:,.0f} Hz: {line.ticks:,} ticks of {due:,} due, missed {line.missed / due:.2%}; "
            f"late by {line.late_ns.quantile(0.5):.0f} ns (p50), {line.late_ns.quantile(0.99):.0f} ns (p99)"
        )
    line = report.cohorts[0]
    print(f"ticks fill {line.busy_ns / 1e9 / wall:.1%} of the time, {line.tick_ns.quantile(0.5):.2f} ns each (p50)")


if __name__ == "__main__":
    main()
