"""A member that lies: it has a certificate, and so may say things; what it says keeps to no rule."""

from __future__ import annotations

from random import Random
from typing import Any

from kernels.plain import encode_plain
from swarm.protocol.knowledge.entries import BODY_AT, Entry, Op, Segment, seal, shard_of
from swarm.protocol.knowledge.keeper import FRAME_BYTES_MAX
from swarm.protocol.knowledge.rules import Quota
from swarm.protocol.knowledge.stamps import time_of
from tests.sim.knowledge.node import name_of, signature

WAYS = ("forged", "broken", "future", "flood", "twice", "turned", "misplaced", "garbage", "lure", "prunes", "hoards")


class Adversary:
    """Answers nothing, and sends what `lie` makes."""

    def __init__(self, number: int, rng: Random, shards: int, quota: Quota) -> None:
        self.id = name_of(number)
        self.rng = rng
        self.shards = shards
        self.quota = quota
        self.lines: dict[int, tuple[int, int]] = {}
        self.never: set[bytes] = set()
        """Ids of segments that nobody may hold, however long it takes."""
        self.contradict: list[tuple[bytes, bytes]] = []
        """Ids of two that nobody may hold both."""
        self._out: list[tuple[Any, Any]] = []

    def receive(self, now: float, source: Any, payload: Any) -> None:
        """Hears nothing."""

    def tick(self, now: float) -> None:
        """Waits for nothing."""

    def next_deadline(self) -> None:
        return None

    def take(self) -> list[tuple[Any, Any]]:
        found, self._out = self._out, []
        return found

    def _segment(self, wall_ms: int, first_offset: int = 0, text: str = "lie", ahead_ms: int = 0) -> Segment:
        key = f"evil/{int(self.rng.random() * 8)}"
        shard = shard_of("facts", key, self.shards)
        time = time_of(wall_ms + ahead_ms, 1 + int(self.rng.random() * 1000))
        life, number = self.lines.setdefault(shard, (time_of(wall_ms), 0))
        entry = Entry(max(time, life), "facts", key, Op.PUT, text)
        return seal(self.id, life, shard, number + first_offset, [entry], self._sign)

    def _sign(self, message: bytes) -> bytes:
        return signature(self.id, message)

    def _tell(self, node: bytes, *payloads: bytes) -> None:
        raw = encode_plain([1, "fresh", list(payloads)], FRAME_BYTES_MAX)
        assert raw is not None
        self._out.append((node, raw))

    def lie(self, way: str, wall_ms: int, nodes: list[bytes]) -> None:
        """One lie to some of these nodes."""
        random = self.rng.random
        one, other = nodes[int(random() * len(nodes))], nodes[int(random() * len(nodes))]
        if way == "forged":
            victim = nodes[int(random() * len(nodes))]
            segment = self._segment(wall_ms)
            forged = seal(victim, segment.life, segment.shard, 1 << 20, segment.entries(), self._sign)
            self.never.add(forged.id)
            self._tell(one, forged.raw)
        elif way == "broken":
            segment = self._segment(wall_ms)
            raw = bytearray(segment.raw)
            raw[int(random() * len(raw))] ^= 1 << int(random() * 8)
            self._tell(one, bytes(raw))
        elif way == "future":
            segment = self._segment(wall_ms, 1 << 16, ahead_ms=10**12)
            self.never.add(segment.id)
            self._tell(one, segment.raw)
        elif way == "flood":
            segment = self._segment(wall_ms, self.quota.burst + int(self.quota.per_s * 3e6))
            self.never.add(segment.id)
            self._tell(one, segment.raw)
        elif way == "misplaced":
            segment = self._segment(wall_ms)
            moved = seal(self.id, segment.life, (segment.shard + 1) % self.shards, 0, segment.entries(), self._sign)
            if self.shards > 1:
                self.never.add(moved.id)
                self._tell(one, moved.raw)
        elif way in ("twice", "turned"):
            self.lines.clear()
            a = self._segment(wall_ms, text="to one")
            self.rng.random()
            key = a.entries()[0].key
            b_time = a.first_time + 1 if way == "twice" else a.first_time - 0
            b_first = a.first if way == "twice" else a.first + 1
            b = seal(self.id, a.life, a.shard, b_first, [Entry(b_time, "facts", key, Op.PUT, "to another")], self._sign)
            self.lines.clear()
            self.contradict.append((a.id, b.id))
            self._tell(one, a.raw)
            self._tell(other, b.raw)
        elif way == "prunes":
            # What others know is said to be pruned, and to weigh less than nothing.
            key, life = f"k{int(random() * 6)}", time_of(wall_ms, 3)
            said = [Entry(life + n, kind, key, Op.PUT, -8.0 * n) for n, kind in enumerate(("pruned", "uses"))]
            self._tell(one, seal(self.id, life, shard_of("facts", key, self.shards), 0, said, self._sign).raw)
        elif way == "hoards":
            # More than anybody may say, at once and one after the other.
            key, life = f"evil/{int(random() * 8)}", time_of(wall_ms, 5)
            shard = shard_of("facts", key, self.shards)
            for n in range(6):
                said = [Entry(life + n, "facts", key, Op.PUT, bytes(60_000))]
                self._tell(one if n % 2 else other, seal(self.id, life, shard, n, said, self._sign).raw)
        elif way == "lure":
            salt = bytes(32)
            children = "".join(sorted("0123456789abcdef"))
            message = encode_plain([1, 0, salt, 0, True, [["", children, bytes(128)]], [["", None]] * 9, []])
            self._out.append((one, encode_plain([1, "sync", 0, salt, message], FRAME_BYTES_MAX)))
        else:
            size = int(random() * 300)
            self._out.append((one, bytes(int(random() * 256) for _ in range(size))))
            self._tell(one, b"\x01\x00" + bytes(BODY_AT), b"\xf0" + bytes(40))
