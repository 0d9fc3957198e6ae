"""The knowledge log: merging entries, what two nodes exchange, reading, and how fast something new is everywhere.

``python -m benchmarks.knowledge [--json] [--quick]``. Needs one core. Merging includes reading the segments and, where it says so, checking
each signature (Ed25519). Beside it, the same rows into a dict of Python and into SQLite's memory, by the same core. What spreads is
simulated: 200 nodes, messages take 0.2 to 0.5 ms, which is not measured but assumed.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections.abc import Callable
from random import Random
from typing import Any

from nacl.signing import SigningKey, VerifyKey

from kernels.plain import encode_plain
from swarm.protocol.knowledge.allowance import Allowance
from swarm.protocol.knowledge.entries import Entry, Op, Segment, seal
from swarm.protocol.knowledge.keeper import KeeperConfig
from swarm.protocol.knowledge.replicas import Replication
from swarm.protocol.knowledge.rules import Outcome, Quota
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import time_of
from swarm.protocol.knowledge.sync import Exchange
from swarm.protocol.knowledge.views import Views
from tests.sim.knowledge.node import Disk, KnowledgeNode, name_of
from tests.sim.network import Network, Weather
from tests.sim.simulator import Simulator

WALL_MS = 1_700_000_000_000
LIFE = time_of(WALL_MS)
UNLIMITED = Quota(1 << 60)
UNBOUNDED = Allowance(1 << 60, 1 << 60)
"""One author says what a fleet would."""
TEXT = "x" * 48
DIFFERENCES = 100


def trusted(author: bytes, message: bytes, signed: bytes) -> Outcome | None:
    """Checks nothing."""
    return None


def unsigned(message: bytes) -> bytes:
    """No signature."""
    return bytes(64)


def made(entries: int, a_segment: int, sign: Callable[[bytes], bytes] = unsigned) -> list[Segment]:
    """So many facts, of about 100 bytes each, by one author, one a millisecond."""
    found = []
    for first in range(0, entries, a_segment):
        rows = [
            Entry(LIFE + (n << 16), "facts", f"fact/{n:08}", Op.PUT, {"seen": n, "text": TEXT})
            for n in range(first, min(entries, first + a_segment))
        ]
        found.append(seal(name_of(0), LIFE, 0, first, rows, sign))
    return found


def shard(verify: Any = trusted) -> Shard:
    """An empty one."""
    return Shard(0, 1, verify, UNLIMITED, allowance=UNBOUNDED)


def merged_per_s(segments: list[Segment], verify: Any = trusted) -> tuple[float, Shard]:
    """Entries a second from the bytes of segments into a shard, in a random order."""
    payloads = [segment.raw for segment in segments]
    Random(1).shuffle(payloads)
    one = shard(verify)
    began = time.process_time()
    for payload in payloads:
        outcome, _ = one.take(payload, WALL_MS + (1 << 32))
        assert outcome is Outcome.NEW
    return one.entries / (time.process_time() - began), one


def peers_per_s(segments: list[Segment]) -> dict[str, float]:
    """The same rows, last stamp wins, into a dict and into SQLite in memory, a transaction a segment. Read from the same bytes."""
    rates = {}
    began = time.process_time()
    count, known = 0, dict[str, tuple[int, Any]]()
    for segment in segments:
        for row in segment.rows():
            before = known.get(row[2])
            if before is None or before[0] < row[0]:
                known[row[2]] = row[0], row[4]
            count += 1
    rates["dict"] = count / (time.process_time() - began)
    base = sqlite3.connect(":memory:", isolation_level=None)
    base.execute("create table facts (key text primary key, time integer, value blob) without rowid")
    began = time.process_time()
    for segment in segments:
        base.execute("begin")
        base.executemany(
            "insert into facts values (?, ?, ?) on conflict (key) do update set time = excluded.time, value = excluded.value"
            " where excluded.time > time",
            [(row[2], row[0], encode_plain(row[4])) for row in segment.rows()],
        )
        base.execute("commit")
    rates["SQLite"] = count / (time.process_time() - began)
    return rates


def exchanged(segments: list[Segment]) -> dict[str, float]:
    """Two nodes with the same entries and `DIFFERENCES` more, half of them on either side, each an entry of its own segment and author,
    of stamps at random among the others."""
    one, other = shard(), shard()
    for segment in segments:
        one.take(segment.raw, WALL_MS + (1 << 32))
        other.take(segment.raw, WALL_MS + (1 << 32))
    rng = Random(2)
    new_bytes = 0
    for n in range(DIFFERENCES):
        at = LIFE + (int(rng.random() * one.entries) << 16)
        entry = Entry(at + 1, "facts", f"new/{n}", Op.PUT, {"seen": n, "text": TEXT})
        segment = seal(name_of(1000 + n), LIFE, 0, 0, [entry], unsigned)
        (one if n % 2 else other).take(segment.raw, WALL_MS + (1 << 32))
        new_bytes += len(segment.raw)
    cold_s = -time.process_time()
    assert one.digest != other.digest
    cold_s += time.process_time()
    a, b = Exchange(one, rng.randbytes(32)), Exchange(other)
    began = time.process_time()
    message, messages, sides = a.begin(), 1, [b, a]
    while message is not None:
        message = sides[0].receive(message, WALL_MS + (1 << 32))
        messages += message is not None
        sides.reverse()
    took_s = time.process_time() - began
    assert one.digest == other.digest and a.new + b.new == DIFFERENCES
    return {
        "segments": len(segments), "entries": one.entries, "differences": DIFFERENCES, "messages": messages,
        "bytes": a.sent_bytes + b.sent_bytes, "bytes_of_differences": new_bytes, "ms": 1000 * took_s, "first_digest_ms": 1000 * cold_s,
    }  # fmt: skip


def reading(one: Shard) -> dict[str, float]:
    """Gets by key, ranges of 100, and how long the first ordered view takes."""
    rng = Random(3)
    keys = [f"fact/{int(rng.random() * one.entries):08}" for _ in range(100_000)]
    began = time.process_time()
    for key in keys:
        assert one.get("facts", key) is not None
    gets = len(keys) / (time.process_time() - began)
    views = Views({0: one})
    began = time.process_time()
    views.refresh()
    first_s = time.process_time() - began
    began = time.process_time()
    found = 0
    for key in keys[:2000]:
        for at, _ in enumerate(views.between("facts", key)):
            found += 1
            if at == 99:
                break
    return {"gets_per_s": gets, "ranges_of_100_per_s": 2000 / (time.process_time() - began), "first_view_s": first_s}


def spread(nodes: int = 200, seeds: int = 5, loss: float = 0.01) -> dict[str, float]:
    """How long until every node has what one says, in simulated seconds, by steps of 2 ms: gossip, and anti-entropy for whom gossip missed."""
    worst, missed, messages = 0.0, 0, 0
    for seed in range(seeds):
        network = Network(Random(seed), Weather(loss=loss))
        sim = Simulator(network)
        there = []
        for number in range(nodes):
            node = KnowledgeNode(
                number, 0.0, Disk(), Random(1000 * seed + number), _clock(sim), KeeperConfig(),
                Replication(whole_nodes_max=nodes), 1, UNLIMITED, set(),
            )  # fmt: skip
            there.append(node)
        for node in there:
            node.keeper.members(0.0, [each.id for each in there])
            sim.start(node.id, node)
        sim.run(5.0)
        speaker, sent, began = there[seed], network.sent, sim.now
        speaker.knowledge.put("facts", "k", {"text": TEXT}, speaker.wall_ms)
        speaker.keeper.said(began)
        sim.settle(speaker.id)
        lacking = there
        while lacking:
            sim.run(sim.now + 0.002)
            assert sim.now < began + 60, "it does not spread"
            lacking = [node for node in lacking if node.knowledge.get("facts", "k") is None]
            if sim.now - began > 1.0:
                missed += len(lacking)
                break
        worst = max(worst, sim.now - began)
        messages += network.sent - sent
        while lacking:
            sim.run(sim.now + 0.1)
            lacking = [node for node in lacking if node.knowledge.get("facts", "k") is None]
            worst = max(worst, sim.now - began)
    return {"nodes": nodes, "seeds": seeds, "worst_s": worst, "missed_by_gossip": missed, "messages": messages / seeds}


def _clock(sim: Simulator) -> Callable[[], float]:
    return lambda: 1.7e9 + sim.now


def signed_segments(entries: int, a_segment: int) -> tuple[list[Segment], Any]:
    """Segments under real signatures, and what checks them."""
    key = SigningKey(bytes(32))
    public: VerifyKey = key.verify_key

    def verify(author: bytes, message: bytes, signature: bytes) -> Outcome | None:
        public.verify(message, signature)
        return None

    return made(entries, a_segment, lambda message: key.sign(message).signature), verify


def measure(quick: bool = False) -> dict[str, Any]:
    """All figures."""
    entries = 100_000 if quick else 1_000_000
    figures: dict[str, Any] = {"entries": entries, "merge": {}}
    for a_segment in (1, 10, 100, 1000):
        count = min(entries, 100_000)
        segments, verify = signed_segments(count if a_segment > 1 else count // 10, a_segment)
        signed_per_s, _ = merged_per_s(segments, verify)
        bare_per_s, _ = merged_per_s(segments)
        figures["merge"][str(a_segment)] = {"signed_per_s": signed_per_s, "per_s": bare_per_s}
    segments = made(entries, 100)
    rate, one = merged_per_s(segments)
    figures["merge"]["all"] = {"per_s": rate}
    figures["peers"] = peers_per_s(segments[:1000])
    figures["read"] = reading(one)
    del one
    figures["exchange"] = [exchanged(segments), exchanged(made(entries, 1))]
    figures["spread"] = spread(seeds=2 if quick else 5)
    return figures


def rows(line: Callable[[str, str, str], None]) -> None:
    """The lines of `make bench`."""
    figures = measure(quick=True)
    hundred, peers, exchange = figures["merge"]["100"], figures["peers"], figures["exchange"][1]
    line(
        "knowledge: merge, 100 entries a signed segment",
        f"{hundred['signed_per_s']:,.0f}/s",
        f"the same into a dict {peers['dict']:,.0f}/s, SQLite in memory {peers['SQLite']:,.0f}/s",
    )
    line(
        f"  {exchange['entries']:,.0f} entries, {exchange['differences']} differ: exchanged",
        f"{exchange['bytes'] / 1000:.0f} kB",
        f"of which the differences {exchange['bytes_of_differences'] / 1000:.0f} kB; {exchange['messages']} messages",
    )
    far = figures["spread"]
    line(
        f"  known to {far['nodes']} nodes (simulated, 1 % loss)", f"{far['worst_s']:.2f} s", f"worst of {far['seeds']}"
    )


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the entries, fewer seeds")
    arguments = parser.parse_args()
    figures = measure(arguments.quick)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for a_segment, rates in figures["merge"].items():
        signed = f"{rates['signed_per_s']:12,.0f} with signatures" if "signed_per_s" in rates else ""
        what = f"{figures['entries']:,} entries" if a_segment == "all" else f"{a_segment:>4} entries a segment"
        print(f"merge, {what:22} {rates['per_s']:12,.0f} entries/s {signed}")
    for name, rate in figures["peers"].items():
        print(f"the same rows into {name:11} {rate:12,.0f} entries/s")
    read = figures["read"]
    print(
        f"get by key {read['gets_per_s']:,.0f}/s, ranges of 100 keys {read['ranges_of_100_per_s']:,.0f}/s, "
        f"first ordered view {read['first_view_s']:.2f} s"
    )
    for found in figures["exchange"]:
        print(
            f"exchange, {found['entries']:,} entries in {found['segments']:,} segments, {found['differences']} differ: {found['bytes']:,} bytes "
            f"in {found['messages']} messages, {found['bytes_of_differences']:,} of them the differences; {found['ms']:.1f} ms, "
            f"hashing at first {found['first_digest_ms']:.0f} ms"
        )
    far = figures["spread"]
    print(
        f"known to {far['nodes']} nodes, simulated: {far['worst_s']:.3f} s worst of {far['seeds']}, {far['messages']:.0f} messages, "
        f"{far['missed_by_gossip']} nodes missed by gossip"
    )


if __name__ == "__main__":
    main()
