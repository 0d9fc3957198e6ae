"""A million sensors at 100 Hz, in ten batches a pass apart, and a handful of Python agents that listen to their alarms.

    python examples/nano/sensors.py --seconds 1

A sensor is 12 bytes of its own; what an agent costs beside that is printed. Its noise comes from a generator in its own
state (Marsaglia, "Xorshift RNGs", 2003), which is a third of the cost of a counter-based draw, and as repeatable.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import numpy as np
import ticks

from swarm import nano

BATCHES = 10
REGIONS = 5
RATE_HZ = 100.0
ALARM = 6.0
SOURCE = r"""
#include "nano.h"

int sense(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    float *restrict level = cols[0], *restrict peak = cols[1];
    uint32_t *restrict noise = cols[2];
    (void)now_ns;
    for (size_t k = 0; k < n; k++) {
        const size_t i = idx ? idx[k] : k;
        uint32_t bits = noise[i];
        bits ^= bits << 13;
        bits ^= bits >> 17;
        bits ^= bits << 5;
        noise[i] = bits;
        /* it wanders, and is drawn back: an autoregressive process of order 1 */
        level[i] = 0.99f * level[i] + ((float)(int32_t)bits * 0x1p-31f);
        if (level[i] > peak[i])
            peak[i] = level[i];
    }
    /* Alarms in a loop of their own: the one above has no calls, and so is made of vectors. */
    for (size_t k = 0; k < n; k++) {
        const size_t i = idx ? idx[k] : k;
        if (level[i] > ALARM) {
            nano_publish(ctx, 0, idx ? idx[k] : ctx->first + (uint32_t)k, &level[i], sizeof level[i]);
            level[i] = 0.0f; /* somebody saw to it */
        }
    }
    return NANO_WORKED;
}
"""


class Sensor(nano.Kind, capacity=4_000_000):
    """What it reads, the most it ever read, and the state of its noise."""

    level: nano.f32
    peak: nano.f32
    noise: nano.u32
    alarms = nano.writes("alarms")


class Listener(nano.Kind, capacity=64):
    """Counts the alarms of one region, and keeps the highest."""

    first: nano.u32
    end: nano.u32
    heard: nano.u64
    highest: nano.f32
    alarms = nano.reads("alarms")

    def tick(self, now_ns, bus):
        lines = bus.lines("alarms")
        if not len(lines):
            return nano.IDLE
        mine = lines[(lines["row"] >= self.first) & (lines["row"] < self.end)]
        if not len(mine):
            return nano.IDLE
        levels = np.frombuffer(mine["payload"].tobytes(), "<f4")[::14]  # the first 4 of 56 bytes
        self.heard += len(mine)
        self.highest = max(self.highest, float(levels.max()))
        return None


def sense_of_numpy(columns: list[np.ndarray], now_ns: int, ctx: Any) -> None:
    """The same tick without a compiler."""
    level, peak, noise = columns
    noise ^= noise << np.uint32(13)
    noise ^= noise >> np.uint32(17)
    noise ^= noise << np.uint32(5)
    level *= np.float32(0.99)
    level += noise.view(np.int32).astype(np.float32) * np.float32(2.0**-31)
    np.maximum(peak, level, out=peak)
    loud = np.flatnonzero(level > np.float32(ALARM))
    for i in loud.tolist():
        ctx.publish(ctx, 0, ctx.first + i, level[i].tobytes(), 4)
    level[loud] = 0.0


def __getattr__(name: str) -> Any:
    """`sensors.sense`, made when it is asked for: by that name a saved population finds its tick again (PEP 562)."""
    if name != "sense":
        raise AttributeError(name)
    library = ticks.compiled(SOURCE, ALARM=ALARM)
    made = library.sense if library is not None else ticks.over_arrays(Sensor, sense_of_numpy)
    globals()[name] = made
    return made


def population(sensors: int = 1_000_000, native: bool = True, time: str = "virtual") -> nano.NanoSwarm:
    """Sensors in batches, each beginning a tenth of a period after the other, and a listener a region."""
    sense = sys.modules[__name__].sense if native else ticks.over_arrays(Sensor, sense_of_numpy)
    tick = Sensor.native_many(sense)
    flock = nano.NanoSwarm(time=time)
    each, begun = sensors // BATCHES, 0
    for batch in range(BATCHES):
        count = each if batch < BATCHES - 1 else sensors - begun
        them = flock.spawn(tick, count, rate_hz=RATE_HZ, start_ns=round(batch * 1e9 / RATE_HZ / BATCHES))
        them.noise[:] = (np.arange(begun, begun + count, dtype=np.uint64) * 0x9E3779B97F4A7C15 >> 32) | 1
        begun += count
    # alarms are there for one pass, so who listens ticks in each: ten times as often as a sensor
    listeners = flock.spawn(Listener, REGIONS, rate_hz=RATE_HZ * BATCHES)
    bounds = np.linspace(0, sensors, REGIONS + 1).astype(np.uint32)
    listeners.first[:], listeners.end[:] = bounds[:-1], bounds[1:]
    return flock


def resident() -> int:
    """Bytes of memory that this process has; see proc_pid_statm(5). 0 where that cannot be told."""
    try:
        with open("/proc/self/statm", encoding="ascii") as said:
            return int(said.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main(argv: list[str] | None = None) -> None:
    """Listen, and say what it took."""
    parser = argparse.ArgumentParser(description="a million sensors at 100 Hz")
    parser.add_argument("--sensors", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of the population's time (1)")
    parser.add_argument("--real", action="store_true", help="in real time")
    parser.add_argument("--python", action="store_true", help="do as if there were no C compiler")
    args = parser.parse_args(argv)
    native = not args.python and ticks.compiler() is not None
    if not native:
        print("no C compiler is used: NumPy ticks the batches")
    population(BATCHES, native).run_for(passes=1)  # what is loaded on first use is no agent's memory
    before = resident()
    flock = population(args.sensors, native, "real" if args.real else "virtual")
    began = time.process_time()
    report = flock.run_for(seconds=args.seconds)
    took = time.process_time() - began
    listeners = flock.cohorts[-1]
    used, own = (
        (resident() - before) / args.sensors,
        sum(np.dtype(each.code).itemsize for each in Sensor.fields.values()),
    )
    sensed = sum(line.ticks for line in report.cohorts[:-1])
    print(
        f"{args.sensors:,} sensors at {RATE_HZ:.0f} Hz for {report.seconds:g} s: {sensed:,} ticks, "
        f"{sum(line.busy_ns for line in report.cohorts[:-1]) / max(1, sensed):.2f} ns each; {took / report.seconds:.0%} of a core"
    )
    print(f"memory: {used:.0f} bytes a sensor, {own} of them its fields")
    alarms = report.topics["alarms"]
    print(f"alarms: {alarms['published']:,} published, {alarms['dropped']:,} dropped")
    for listener in listeners:
        print(
            f"  sensors {listener.first:,} to {listener.end - 1:,}: {listener.heard:,} heard, highest {listener.highest:.3f}"
        )


if __name__ == "__main__":
    main()
