"""100,000 boids (Reynolds, "Flocks, herds, and schools", SIGGRAPH 1987), ticked by one native call a pass.

    python examples/nano/flocking.py --picture flock.png
    python examples/nano/flocking.py --boids 5000 --steps 300 --frames 60 --picture flock.png     # an animated PNG
    swarm nano run examples/nano/flocking.py --seconds 2s --live

Each boid keeps away from those that are too near, turns as its neighbours fly, and towards where they are. Neighbours are
found by a uniform grid, whose cells are as wide as a boid sees, so nine cells hold them all. A batch tick gets the whole
flock at once: it copies it in the order of cells, then works each boid out from the copy, so that none sees another in a
state that is half new, and the sums are made in one order everywhere. Without a C compiler the same is done by NumPy, all
against all, with fewer boids.
"""

from __future__ import annotations

import argparse
import colorsys
import math
from typing import Any

import numpy as np
import pictures
import ticks

from swarm import nano

SEES = 1.0
"""How far a boid sees; the unit of length."""
NEIGHBOURS = 10.0
"""That a boid has on the average at the beginning, when all are spread evenly."""
RATE_HZ = 100.0
LAW = {"TOO_NEAR": 0.4, "APART": 0.05, "ALIGN": 0.08, "TOGETHER": 0.02, "SLOWEST": 0.03, "FASTEST": 0.08}
"""Weights a step, and speeds in lengths a step."""

SOURCE = r"""
#include <math.h>
#include <stdlib.h>
#include "nano.h"

/* BOIDS, CELLS (a side of the world, which is a torus, in cells of width 1) and the weights are given by -D. */
struct boid { double x, y, vx, vy; };
static struct boid seen[BOIDS];
static uint32_t begins[CELLS * CELLS + 1], cell_of[BOIDS], row_of[BOIDS];

int flock(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = cols[0], *y = cols[1], *vx = cols[2], *vy = cols[3];
    (void)now_ns, (void)ctx;
    if (idx != NULL || n != BOIDS)
        return NANO_FAILED; /* a part of the flock does not see the rest */

    /* A counting sort by cell, stable, so that neighbours are summed in one order whatever came before. */
    memset(begins, 0, sizeof begins);
    for (size_t i = 0; i < n; i++) {
        cell_of[i] = (uint32_t)y[i] * CELLS + (uint32_t)x[i];
        begins[cell_of[i] + 1]++;
    }
    for (size_t c = 0; c < CELLS * CELLS; c++)
        begins[c + 1] += begins[c];
    for (size_t i = n; i-- > 0;) {
        uint32_t at = --begins[cell_of[i] + 1];
        row_of[at] = (uint32_t)i;
        seen[at] = (struct boid){x[i], y[i], vx[i], vy[i]};
    }
    /* begins[c + 1] is now where cell c begins, and where it ends stands behind it */
    for (size_t at = 0; at < n; at++) {
        const struct boid me = seen[at];
        const int cx = (int)me.x, cy = (int)me.y;
        double near = -1, sx = 0, sy = 0, ax = -me.vx, ay = -me.vy, wx = 0, wy = 0; /* it sees itself, too */
        for (int dy = -1; dy <= 1; dy++)
            for (int dx = -1; dx <= 1; dx++) {
                /* beyond the edge the world begins anew: what is seen there is moved by a side */
                const int gx = cx + dx < 0 ? CELLS : cx + dx >= CELLS ? -CELLS : 0;
                const int gy = cy + dy < 0 ? CELLS : cy + dy >= CELLS ? -CELLS : 0;
                const size_t c = (size_t)(cy + dy + gy) * CELLS + (size_t)(cx + dx + gx);
                const size_t end = c + 2 <= CELLS * CELLS ? begins[c + 2] : n;
                for (size_t j = begins[c + 1]; j < end; j++) {
                    const double ex = seen[j].x - gx - me.x, ey = seen[j].y - gy - me.y, d2 = ex * ex + ey * ey;
                    const double in = d2 < 1.0, crowded = d2 < TOO_NEAR * TOO_NEAR;
                    near += in;
                    ax += in * seen[j].vx;
                    ay += in * seen[j].vy;
                    sx += in * ex;
                    sy += in * ey;
                    wx -= crowded * ex;
                    wy -= crowded * ey;
                }
            }
        double ux = me.vx, uy = me.vy;
        if (near > 0) {
            ux += ALIGN * (ax / near - me.vx) + TOGETHER * FASTEST * (sx / near) + APART * wx;
            uy += ALIGN * (ay / near - me.vy) + TOGETHER * FASTEST * (sy / near) + APART * wy;
        }
        const double speed = sqrt(ux * ux + uy * uy);
        const double wanted = speed < SLOWEST ? SLOWEST : speed > FASTEST ? FASTEST : speed;
        if (speed > 0) {
            ux *= wanted / speed;
            uy *= wanted / speed;
        }
        const size_t i = row_of[at];
        double nx = me.x + ux, ny = me.y + uy;
        nx = nx < 0 ? nx + CELLS : nx;
        ny = ny < 0 ? ny + CELLS : ny;
        x[i] = nx >= CELLS ? nx - CELLS : nx;
        y[i] = ny >= CELLS ? ny - CELLS : ny;
        vx[i] = ux;
        vy[i] = uy;
    }
    return NANO_WORKED;
}
"""


class Boid(nano.Kind, capacity=1 << 20):
    """Where it is, and its step."""

    x: nano.f64
    y: nano.f64
    vx: nano.f64
    vy: nano.f64


def side_of(boids: int) -> int:
    """The side of a world in which so many boids have NEIGHBOURS."""
    return max(4, round(math.sqrt(boids * math.pi * SEES**2 / NEIGHBOURS)))


def over_numpy(side: int) -> Any:
    """The tick without a compiler: every boid against every other, in blocks that fit the cache."""

    def tick(columns: list[np.ndarray], now_ns: int, ctx: Any) -> None:
        x, y, vx, vy = columns
        n = len(x)
        new = np.empty((2, n))
        for begin in range(0, n, 256):
            some = slice(begin, min(n, begin + 256))
            ex = (x[None, :] - x[some, None] + side / 2) % side - side / 2
            ey = (y[None, :] - y[some, None] + side / 2) % side - side / 2
            d2 = ex * ex + ey * ey
            seen = d2 < 1.0
            seen[np.arange(len(d2)), np.arange(begin, begin + len(d2))] = False
            count = seen.sum(axis=1)
            near = seen & (d2 < LAW["TOO_NEAR"] ** 2)
            for out, e, v in ((0, ex, vx), (1, ey, vy)):
                mean = np.maximum(count, 1)
                turn = LAW["ALIGN"] * ((seen @ v) / mean - v[some]) - LAW["APART"] * (e * near).sum(axis=1)
                turn += LAW["TOGETHER"] * LAW["FASTEST"] * (e * seen).sum(axis=1) / mean
                new[out, some] = v[some] + np.where(count > 0, turn, 0.0)
        speed = np.hypot(*new)
        new *= np.divide(np.clip(speed, LAW["SLOWEST"], LAW["FASTEST"]), speed, out=np.ones(n), where=speed > 0)
        vx[:], vy[:] = new
        x[:] = (x + vx) % side
        y[:] = (y + vy) % side

    return ticks.over_arrays(Boid, tick)


def population(boids: int = 100_000, seed: int = 1987, native: bool = True) -> nano.NanoSwarm:
    """A flock that begins anywhere, in any direction."""
    side = side_of(boids)
    library = ticks.compiled(SOURCE, BOIDS=boids, CELLS=side, **LAW) if native else None
    flock = nano.NanoSwarm(seed=seed)
    tick = Boid.native_many(library.flock if library is not None else over_numpy(side), whole=True)
    them = flock.spawn(tick, boids, rate_hz=RATE_HZ)
    anywhere = np.random.default_rng(seed)
    them.x[:], them.y[:] = anywhere.uniform(0, side, (2, boids))
    angle, speed = anywhere.uniform(0, 2 * math.pi, boids), anywhere.uniform(LAW["SLOWEST"], LAW["FASTEST"], boids)
    them.vx[:], them.vy[:] = speed * np.cos(angle), speed * np.sin(angle)
    return flock


def order(boids: nano.Agents, side: int, blocks: int = 8) -> float:
    """How much neighbours fly the same way: mean over blocks of the world of |mean direction|; 0 is chaos, 1 is one flock."""
    block = np.minimum((boids.x[:] * blocks / side).astype(int), blocks - 1) * blocks
    block += np.minimum((boids.y[:] * blocks / side).astype(int), blocks - 1)
    speed = np.hypot(boids.vx[:], boids.vy[:])
    weights = [np.bincount(block, v[:] / speed, blocks * blocks) for v in (boids.vx, boids.vy)]
    return float(np.hypot(*weights).sum() / len(boids))


COLOURS = 24


def drawn(boids: nano.Agents, side: int, pixels: int) -> np.ndarray:
    """A dot a boid, whose colour is its direction."""
    frame = np.zeros((pixels, pixels), np.uint8)
    turn = (np.arctan2(boids.vy[:], boids.vx[:]) / (2 * math.pi)) % 1.0
    at = [np.minimum((each[:] * (pixels / side)).astype(int), pixels - 1) for each in (boids.y, boids.x)]
    frame[at[0], at[1]] = 1 + (turn * COLOURS).astype(int) % COLOURS
    return frame


def palette() -> np.ndarray:
    """Night, and the wheel of colours."""
    wheel = [colorsys.hsv_to_rgb(number / COLOURS, 0.75, 1.0) for number in range(COLOURS)]
    return (np.array([(0.04, 0.05, 0.09), *wheel]) * 255).round().astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    """Fly, and say how fast."""
    parser = argparse.ArgumentParser(description="100,000 boids")
    parser.add_argument("--boids", type=int, help="how many (100,000; 1,000 without a compiler)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1987)
    parser.add_argument("--picture", metavar="FILE.png")
    parser.add_argument("--pixels", type=int, default=560, help="a side of the picture (560)")
    parser.add_argument("--frames", type=int, default=1, help="of the picture: more than one animates it")
    parser.add_argument("--python", action="store_true", help="do as if there were no C compiler")
    args = parser.parse_args(argv)
    native = not args.python and ticks.compiler() is not None
    boids = args.boids or (100_000 if native else 1_000)
    if not native:
        print("no C compiler is used: NumPy compares all boids with all, so there are fewer")
    flock, side = population(boids, args.seed, native), side_of(boids)
    (them,) = flock.cohorts
    frames, began = [], order(them, side)
    mark, turns = flock.mark(), max(1, args.frames)
    for turn in range(turns):
        flock.run_for(passes=args.steps * (turn + 1) // turns - args.steps * turn // turns)
        if args.picture:
            frames.append(drawn(them, side, args.pixels))
    report = flock.report(mark)
    if report.cohorts[0].failed:
        raise SystemExit("the flock failed")
    print(
        f"{boids:,} boids, {report.passes} steps: {report.cohorts[0].busy_ns / 1e6 / max(1, report.passes):.2f} ms a step, "
        f"{report.cohorts[0].tick_ns.mean:.0f} ns a boid; order {began:.2f} -> {order(them, side):.2f}"
    )
    if args.picture:
        size = pictures.write_png(args.picture, frames, palette())
        print(f"{args.picture}: {len(frames)} frame{'s' * (len(frames) > 1)}, {size:,} bytes")


if __name__ == "__main__":
    main()
