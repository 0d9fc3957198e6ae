"""Market data, strategy, risk, orders: four stages joined by topics, and a critic that watches the risk of the whole.

    python examples/nano/trading.py --seconds 1 --seed 7

Each microsecond every symbol has a quote, drawn by (seed, symbol, pass). The stages read with `delay=0`, so that a quote is a
signal, a checked order and in the journal within one pass. All is integer arithmetic, so the same seed gives the same orders, native or in
Python, on any machine. The instant of the quote (of the clock on the wall, ns) travels along and is subtracted at the end: this
alone differs from run to run, and no decision depends on it.

The critic is a Python object that looks at the columns of the risk stage every millisecond: while the sum of positions is
large it halves what a symbol may hold, by a message to the risk stage, and lets it grow back when the sum is small.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import time
from typing import Any

import numpy as np
import ticks

from swarm import nano

SYMBOLS = 4
QUOTES_HZ = 1e6
CRITIC_HZ = 1e3
LAW = {"FAST": 4, "SLOW": 7, "EDGE": 40, "LOT": 10, "LIMIT": 200, "LEAST": 25, "PAUSE": 8}
"""Shifts of the two moving averages; how far they must part (1/256 of a price step); the size of an order; what a symbol may
hold, at most and after all halvings; passes between two orders of a symbol."""
CALM, ALARMED = 60, 90
"""Per cent of what all symbols may hold at first: below the one the critic gives way, above the other it tightens."""

SOURCE = r"""
#include <time.h>
#include "nano.h"

struct quote { uint64_t born_ns; uint64_t born_pass; int64_t price; };
struct order { uint64_t born_ns; uint64_t born_pass; int64_t price; int64_t lots; };
struct limit { int64_t most; };
struct entry { uint64_t pass, born_pass, took_ns; int64_t symbol, price, lots; };

static uint64_t wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#define ROW(k) (idx ? idx[k] : (k))                             /* as the columns count here */
#define NAME(k) (idx ? idx[k] : ctx->first + (uint32_t)(k))     /* as messages name it */

/* price */
int feed(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    int64_t *price = cols[0];
    const uint64_t born_ns = wall_ns();
    (void)now_ns;
    for (size_t k = 0; k < n; k++) {
        const uint64_t bits = nano_random(ctx, NAME(k), 0);
        price[ROW(k)] += (int64_t)(bits % 3) - 1; /* a fair walk */
        if (price[ROW(k)] < 1)
            price[ROW(k)] = 1;
        const struct quote said = {born_ns, ctx->pass, price[ROW(k)]};
        nano_publish(ctx, 0, NAME(k), &said, sizeof said);
    }
    return NANO_WORKED;
}

/* fast, slow (price steps * 65,536), next (pass from which on it may order again). All symbols are one cohort. */
int strategy(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    int64_t *fast = cols[0], *slow = cols[1], *next = cols[2];
    int outcome = NANO_IDLE;
    (void)now_ns, (void)idx;
    for (uint64_t m = 0; m < ctx->inbox_count[0]; m++) {
        const nano_line *line = &ctx->inbox[0][m];
        const uint32_t i = line->row;
        struct quote quote;
        memcpy(&quote, line->payload, sizeof quote);
        if (i >= n)
            return NANO_FAILED;
        fast[i] += ((quote.price << 16) - fast[i]) >> FAST;
        slow[i] += ((quote.price << 16) - slow[i]) >> SLOW;
        const int64_t apart = (fast[i] - slow[i]) >> 8;
        if ((apart > EDGE || apart < -EDGE) && (int64_t)ctx->pass >= next[i]) {
            const struct order wanted = {quote.born_ns, quote.born_pass, quote.price, apart > 0 ? LOT : -LOT};
            nano_publish(ctx, 0, i, &wanted, sizeof wanted);
            next[i] = (int64_t)ctx->pass + PAUSE;
            outcome = NANO_WORKED;
        }
    }
    return outcome;
}

/* held, most, refused */
int risk(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    int64_t *held = cols[0], *most = cols[1], *refused = cols[2];
    (void)now_ns, (void)idx;
    for (uint64_t m = 0; m < ctx->inbox_count[1]; m++) {
        struct limit limit;
        memcpy(&limit, ctx->inbox[1][m].payload, sizeof limit);
        for (size_t i = 0; i < n; i++)
            most[i] = limit.most;
    }
    for (uint64_t m = 0; m < ctx->inbox_count[0]; m++) {
        const nano_line *line = &ctx->inbox[0][m];
        const uint32_t i = line->row;
        struct order order;
        memcpy(&order, line->payload, sizeof order);
        if (i >= n)
            return NANO_FAILED;
        const int64_t then = held[i] + order.lots, size = then < 0 ? -then : then, now = held[i] < 0 ? -held[i] : held[i];
        if (size > most[i] && size > now) { /* what makes a position smaller is always let through */
            refused[i]++;
            continue;
        }
        held[i] = then;
        nano_publish(ctx, 0, i, &order, sizeof order);
    }
    return ctx->inbox_count[0] ? NANO_WORKED : NANO_IDLE;
}

/* count, journal (its address), room; one agent */
int gateway(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    uint64_t *count = cols[0];
    struct entry *journal = *(struct entry **)cols[1];
    const uint64_t room = *(uint64_t *)cols[2];
    (void)now_ns, (void)idx, (void)n;
    if (ctx->inbox_count[0] == 0)
        return NANO_IDLE;
    const uint64_t now = wall_ns();
    for (uint64_t m = 0; m < ctx->inbox_count[0]; m++) {
        const nano_line *line = &ctx->inbox[0][m];
        struct order order;
        memcpy(&order, line->payload, sizeof order);
        if (*count < room)
            journal[*count] = (struct entry){ctx->pass, order.born_pass, now - order.born_ns, line->row, order.price, order.lots};
        ++*count;
    }
    return NANO_WORKED;
}
"""

ENTRY = np.dtype([(name, "<i8") for name in ("pass", "born_pass", "took_ns", "symbol", "price", "lots")])
QUOTE, ORDER, LIMIT = struct.Struct("<QQq"), struct.Struct("<QQqq"), struct.Struct("<q")


class Feed(nano.Kind, capacity=1024):
    """Market data of a symbol."""

    price: nano.i64
    quotes = nano.writes("quotes")

    def tick(self, now_ns, bus):
        self.price = max(1, self.price + bus.random() % 3 - 1)
        bus.publish("quotes", QUOTE.pack(time.monotonic_ns(), now_ns // 1000, self.price))


class Strategy(nano.Kind, capacity=1024):
    """Follows the trend of a symbol: orders when a fast average leaves a slow one."""

    fast: nano.i64
    slow: nano.i64
    next: nano.i64
    quotes = nano.reads("quotes", delay=0)
    wanted = nano.writes("wanted")

    def tick(self, now_ns, bus):
        for message in bus.read("quotes"):
            if message.row != self.row:
                continue
            born_ns, born_pass, price = QUOTE.unpack_from(message.payload)
            self.fast += ((price << 16) - self.fast) >> LAW["FAST"]
            self.slow += ((price << 16) - self.slow) >> LAW["SLOW"]
            apart, number = (self.fast - self.slow) >> 8, now_ns // 1000
            if abs(apart) > LAW["EDGE"] and number >= self.next:
                lots = LAW["LOT"] if apart > 0 else -LAW["LOT"]
                bus.publish("wanted", ORDER.pack(born_ns, born_pass, price, lots))
                self.next = number + LAW["PAUSE"]


class Risk(nano.Kind, capacity=1024):
    """Lets an order of a symbol pass, or refuses it."""

    held: nano.i64
    most: nano.i64
    refused: nano.i64
    wanted = nano.reads("wanted", delay=0)
    limits = nano.reads("limits")
    orders = nano.writes("orders")

    def tick(self, now_ns, bus):
        for message in bus.read("limits"):
            (self.most,) = LIMIT.unpack_from(message.payload)
        for message in bus.read("wanted"):
            if message.row != self.row:
                continue
            lots = ORDER.unpack_from(message.payload)[3]
            then = self.held + lots
            if abs(then) > self.most and abs(then) > abs(self.held):
                self.refused += 1
                continue
            self.held = then
            bus.publish("orders", message.payload)


class Gateway(nano.Kind, capacity=1):
    """Writes orders to a journal outside of its columns, by its address: what is large travels by reference."""

    count: nano.u64
    journal: nano.u64
    room: nano.u64
    orders = nano.reads("orders", delay=0)

    book: Any = None

    def tick(self, now_ns, bus):
        for message in bus.read("orders"):
            born_ns, born_pass, price, lots = ORDER.unpack_from(message.payload)
            if self.count < self.room:
                took = time.monotonic_ns() - born_ns
                Gateway.book[self.count] = (now_ns // 1000, born_pass, took, message.row, price, lots)
            self.count += 1


class Critic(nano.Kind, capacity=1):
    """Watches what all symbols hold together, off the hot path, and tells the risk stage what each may hold."""

    limit: nano.i64
    tightened: nano.u64
    limits = nano.writes("limits")

    watched: Any = None

    def tick(self, now_ns, bus):
        load = 100 * int(np.abs(Critic.watched.held).sum()) // (len(Critic.watched) * LAW["LIMIT"])
        limit = self.limit
        if load > ALARMED:
            limit = max(LAW["LEAST"], limit // 2)
        elif load < CALM:
            limit = min(LAW["LIMIT"], limit * 2)
        if limit == self.limit:
            return nano.IDLE
        self.tightened += limit < self.limit
        self.limit = limit
        bus.publish("limits", LIMIT.pack(limit))
        return None


class Market:
    """The swarm, and the journal that its gateway writes."""

    def __init__(self, seed: int = 7, symbols: int = SYMBOLS, native: bool = True, room: int = 1 << 20) -> None:
        library = ticks.compiled(SOURCE, **LAW) if native else None
        self.flock = nano.NanoSwarm(seed=seed)
        self.journal = np.zeros(room, ENTRY)

        def stage(kind: type[nano.Kind], count: int) -> nano.Agents:
            form = kind if library is None else kind.native_many(getattr(library, kind.__name__.lower()))
            return self.flock.spawn(form, count, rate_hz=QUOTES_HZ, group=kind.__name__)

        self.feed, self.strategy, self.risk = stage(Feed, symbols), stage(Strategy, symbols), stage(Risk, symbols)
        self.gateway = stage(Gateway, 1)
        self.feed.price[:] = 10_000
        self.strategy.fast[:] = self.strategy.slow[:] = 10_000 << 16
        self.risk.most[:] = LAW["LIMIT"]
        self.gateway.journal[:], self.gateway.room[:] = self.journal.ctypes.data, room
        self.critic = self.flock.spawn(Critic, 1, rate_hz=CRITIC_HZ)
        self.critic.limit[:] = LAW["LIMIT"]
        Gateway.book, Critic.watched = self.journal, self.risk

    @property
    def orders(self) -> np.ndarray:
        """What stands in the journal."""
        return self.journal[: min(self.gateway[0].count, len(self.journal))]

    def digest(self) -> str:
        """Of the orders without how long they took: the same for a seed."""
        said = [np.ascontiguousarray(self.orders[name]).tobytes() for name in ENTRY.names if name != "took_ns"]
        return hashlib.sha256(b"".join(said)).hexdigest()[:16]


def population() -> nano.NanoSwarm:
    """For `swarm nano run examples/nano/trading.py`."""
    global _market
    _market = Market()
    return _market.flock


_market: Market | None = None
"""Keeps the journal as long as the script."""


def main(argv: list[str] | None = None) -> None:
    """Trade, and say what came of it."""
    parser = argparse.ArgumentParser(description="a trading pipeline of four stages and a risk critic")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of the market's time: a million quotes a symbol (1)"
    )
    parser.add_argument("--symbols", type=int, default=SYMBOLS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--python", action="store_true", help="do as if there were no C compiler")
    args = parser.parse_args(argv)
    native = not args.python and ticks.compiler() is not None
    if not native:
        print("no C compiler is used: all stages are Python objects, and --seconds is a hundredth of what was said")
    market = Market(args.seed, args.symbols, native)
    report = market.flock.run_for(seconds=args.seconds / (1 if native else 100))
    for kind, row, error in market.flock.failures():
        raise SystemExit(f"{kind.__name__} {row}: {error}")
    counted = {name: topic["published"] for name, topic in report.topics.items()}
    print(
        f"{counted['quotes']:,} quotes, {counted['wanted']:,} signals, {market.risk.refused.sum():,} refused, "
        f"{market.gateway[0].count:,} orders; the critic spoke {counted['limits']:,} times, {market.critic[0].tightened:,} to tighten"
    )
    orders = market.orders
    if len(orders):
        passes, took = orders["pass"] - orders["born_pass"], orders["took_ns"]
        print(
            f"from quote to order: {np.percentile(passes, 50):.0f} (p50), {np.percentile(passes, 99):.0f} (p99) passes; "
            f"{np.percentile(took, 50):,.0f} ns (p50), {np.percentile(took, 99):,.0f} ns (p99)"
        )
    print(f"{report.passes / report.wall_s:,.0f} passes a second; seed {args.seed} gives the orders {market.digest()}")


if __name__ == "__main__":
    main()
