"""The knowledge of one node as a machine: what came from peers and what time it is, in; what to send, and what to keep, out.

Fresh segments are pushed to a few random holders of their shard, who push on what is news to them (infect and die: Eugster,
Guerraoui, Kermarrec, Massoulié 2004); with ln(n) + `fanout_extra` of them nearly every node has it after a few hops. Every
`sync_every_s` a node tells one other holder the digests of its shards, who begins an exchange (`sync`) of those that differ:
that is what makes all equal in the end, whatever was lost. Messages are lists in plain MessagePack:

    [1, "fresh", [payload…]]   [1, "digests", [[shard, digest (16 bytes)]…]]   [1, "sync", shard, salt, message]
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, log
from typing import Any, Final, Protocol

from kernels.plain import decode_plain, encode_plain
from swarm.protocol.knowledge import bounds
from swarm.protocol.knowledge.entries import FormatError, Segment, read
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.replicas import Replication, holders, weight
from swarm.protocol.knowledge.rules import STRIKE, VIOLATIONS, WAITS, Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import FarFuture, time_of
from swarm.protocol.knowledge.sync import SALT_BYTES, Exchange

VERSION: Final = 1
DIGEST_BYTES: Final = 16
EXCHANGES_MAX: Final = 32
"""At one time: more are not begun, and of those that peers begin the oldest ends."""
STALLED_S: Final = 1.5
"""Of an exchange that somebody waits for: its message was lost, then, or was not read."""
ENDED_MAX: Final = 1024
"""Exchanges of which it is known how they ended."""
WRAP_BYTES: Final = 128
FRAME_BYTES_MAX: Final = bounds.MESSAGE_BYTES_MAX + WRAP_BYTES
REFUSED: Final = VIOLATIONS | {Outcome.QUOTA}
"""What a correct node never has to hand on."""


class Rng(Protocol):
    """Randomness, injected."""

    def random(self) -> float: ...
    def randbytes(self, n: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """How a node spreads and compares. Seconds."""

    gather_s: float = 0.02
    """What is fresh waits so long for more of it."""
    sync_every_s: float = 10.0
    exchange_timeout_s: float = 10.0
    fanout_extra: float = 5.0
    """All are reached but for exp(-exp(-extra)) of the times: with 5.0 that is one message of 150, which then waits for a comparison. With 2.0
    it was one of 8, and lessons came late (`benchmarks/lesson_spread.py`)."""
    expire_every_s: float = 3600.0
    retention_ms: int = bounds.RETENTION_MS


@dataclass(frozen=True, slots=True)
class Violation:
    """A peer broke the protocol."""

    peer: bytes
    why: str


class Keeper:
    """One node's knowledge among its peers. `now` is seconds of a monotonic clock; `wall_ms` gives the wall clock at such an instant."""

    def __init__(
        self,
        now: float,
        knowledge: Knowledge,
        rng: Rng,
        wall_ms: Callable[[float], int],
        config: KeeperConfig | None = None,
        replication: Replication | None = None,
    ) -> None:
        self.knowledge = knowledge
        self.counts: Counter[str] = Counter()
        """What became of payloads that came, by `Outcome`; for metrics."""
        self.withdrawn = False
        """Whether something was taken back of which nothing is written: those who wait for changes have to look."""
        self.violations: list[Violation] = []
        """To be read and cleared by the shell."""
        self._rng = rng
        self._wall = wall_ms
        self._config = config or KeeperConfig()
        self._replication = replication or Replication()
        self._peers: list[bytes] = []
        self._holders: dict[int, list[bytes]] = {}
        self._out: list[tuple[bytes, bytes]] = []
        self._keep: list[tuple[int, bytes]] = []
        self._fresh: dict[int, list[bytes]] = {}
        self._fresh_at: float | None = None
        self._exchanges: OrderedDict[tuple[bytes, int, bytes], tuple[Exchange, float]] = OrderedDict()
        self._ended: OrderedDict[tuple[bytes, int, bytes], None] = OrderedDict()
        self._left_over: OrderedDict[tuple[bytes, int, bytes], None] = OrderedDict()
        """Of these exchanges something waits: for its author's certificate, or for its time."""
        self._sync_at = now + self._config.sync_every_s * rng.random()
        self._expire_at = now + self._config.expire_every_s * rng.random()

    # --- who there is ---------------------------------------------------------------------------------------------------

    def members(self, now: float, nodes: Iterable[bytes]) -> None:
        """These nodes, the own one among them or not, are members now; links to them may be made."""
        me = self.knowledge.author
        known = sorted({*nodes, me})
        self._holders = {
            number: holders(number, known, self._replication) for number in range(self.knowledge.shards_count)
        }
        new = set(known) - set(self._peers)
        self._peers = [node for node in known if node != me]
        if new - {me}:
            # Whoever is new may have what is lacking here, or lack what is here.
            self._sync_at = min(self._sync_at, now + 0.2 * self._rng.random())

    def hurry(self, now: float) -> None:
        """Compares with a peer soon: a link is up, or a certificate has come that was lacking."""
        self._sync_at = min(self._sync_at, now + 0.2 * self._rng.random())

    def holds(self, shard: int) -> bool:
        """Whether this node keeps a shard for others."""
        return not self._holders or self.knowledge.author in self._holders[shard]

    def leads(self, shard: int) -> bool:
        """Whether this node does for a shard what one of its holders has to do: the heaviest of them that is a member now."""
        there = self._holders.get(shard)
        me = self.knowledge.author
        return not there or max(there, key=lambda node: (weight(shard, node), node)) == me

    def holders_of(self, shard: int) -> list[bytes]:
        """Who holds a shard among the members, the heaviest first; this node alone where it knows no others."""
        return self._holders.get(shard) or [self.knowledge.author]

    def has(self, payload: bytes) -> bool:
        """Whether a segment, as it travels, is held here."""
        shard = self.knowledge.shards.get(int.from_bytes(payload[1:3], "big"))
        return shard is not None and shard.has(read(payload).id)

    def revoked(self, author: bytes) -> None:
        """Nothing that an author said counts any more; `Verify` refuses it from now on."""
        for shard in self.knowledge.shards.values():
            shard.drop_author(author)
        self.withdrawn = True

    # --- events ---------------------------------------------------------------------------------------------------------

    def receive(self, now: float, source: bytes, payload: bytes) -> None:
        """A message of a peer. What breaks the protocol is in `violations`."""
        try:
            if len(payload) > FRAME_BYTES_MAX:
                raise FormatError(f"a message of {len(payload)} bytes")
            try:
                parts: Any = decode_plain(payload)
            except (ValueError, RecursionError) as error:
                raise FormatError(str(error)) from None
            match parts:
                case [1, "fresh", list() as payloads]:
                    self._heard(now, payloads)
                case [1, "digests", list() as digests]:
                    self._compare(now, source, digests)
                case [1, "sync", int() as number, bytes() as salt, bytes() as message]:
                    self._exchange(now, source, number, salt, message)
                case _:
                    raise FormatError("not a message about knowledge")
        except FormatError as error:
            self.counts["violation"] += 1
            self.violations.append(Violation(source, str(error)))

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come."""
        if self._fresh_at is not None and now >= self._fresh_at:
            self._push()
        if now >= self._sync_at:
            self._sync_at = now + self._config.sync_every_s * (0.75 + 0.5 * self._rng.random())
            self._give_up(now)
            self._tell_digests(now)
        if now >= self._expire_at:
            self._expire_at = now + self._config.expire_every_s
            horizon = time_of(max(0, self._wall(now) - self._config.retention_ms))
            for number in sorted(self.knowledge.shards):
                shard = self.knowledge.shards[number]
                shard.expire(horizon)
                if not self.holds(number):
                    shard.lapse()

    def next_deadline(self) -> float:
        """When `tick` wants to be called."""
        at = min(self._sync_at, self._expire_at)
        return at if self._fresh_at is None else min(at, self._fresh_at)

    def said(self, now: float) -> None:
        """This node said something (`Knowledge.put` and so on): it is sealed, kept, and spread soon."""
        for segment in self.knowledge.take():
            self._keep.append((segment.shard, segment.raw))
            self._spread(now, segment.shard, segment.raw)

    def take_kept(self) -> list[tuple[int, bytes]]:
        """(shard, payload) of what is news since the last call: to be written to disk before anything of `take` is sent."""
        found, self._keep = self._keep, []
        return found

    def take(self) -> list[tuple[bytes, bytes]]:
        """(node, message) to send since the last call."""
        found, self._out = self._out, []
        return found

    def stock(self, now: float, payloads: Iterable[bytes]) -> Counter[str]:
        """Takes in what was fetched from a snapshot: it is kept, and told to nobody. What became of it, by `Outcome`."""
        became: Counter[str] = Counter()
        for payload in payloads:
            try:
                number = self._number(payload)
            except (FormatError, IndexError):
                became[Outcome.MALFORMED.value] += 1
                continue
            if self.holds(number):
                outcome, segment = self._shard(number).take(payload, self._wall(now))
                self._took(now, outcome, segment, payload, number)
                became[outcome.value] += 1
        return became

    # --- gossip ---------------------------------------------------------------------------------------------------------

    def _spread(self, now: float, shard: int, payload: bytes) -> None:
        self._fresh.setdefault(shard, []).append(payload)
        if self._fresh_at is None:
            self._fresh_at = now + self._config.gather_s

    def _push(self) -> None:
        self._fresh_at = None
        fresh, self._fresh = self._fresh, {}
        batches: dict[bytes, list[bytes]] = {}
        for shard in sorted(fresh):
            for peer in self._some(shard):
                batches.setdefault(peer, []).extend(fresh[shard])
        for peer in sorted(batches):
            size, batch = 0, list[bytes]()
            for payload in batches[peer]:
                if batch and size + len(payload) > bounds.MESSAGE_BYTES_MAX // 2:
                    self._send(peer, [VERSION, "fresh", batch])
                    size, batch = 0, []
                batch.append(payload)
                size += len(payload) + 5
            self._send(peer, [VERSION, "fresh", batch])

    def _some(self, shard: int) -> list[bytes]:
        """Random holders of a shard, enough that all will hear."""
        others = [node for node in self._holders.get(shard, ()) if node != self.knowledge.author]
        fanout = min(len(others), ceil(log(len(others) + 1) + self._config.fanout_extra))
        for at in range(fanout):
            pick = at + int(self._rng.random() * (len(others) - at))
            others[at], others[pick] = others[pick], others[at]
        return others[:fanout]

    def _heard(self, now: float, payloads: list[Any]) -> None:
        for payload in payloads:
            if type(payload) is not bytes or len(payload) < 4:
                raise FormatError("a segment that is no bytes")
            number = self._number(payload)
            if not self.holds(number):
                continue
            outcome, segment = self._shard(number).take(payload, self._wall(now))
            self._took(now, outcome, segment, payload, number)
            if outcome is Outcome.NEW:
                self._spread(now, number, payload)
            if outcome in REFUSED:
                raise FormatError(f"a segment that no correct node hands on: {outcome.value}")

    def _number(self, payload: bytes) -> int:
        at = 2 if payload[0] == STRIKE else 1
        number = int.from_bytes(payload[at : at + 2], "big")
        if number >= self.knowledge.shards_count:
            raise FormatError(f"a segment of shard {number}")
        return number

    def _took(self, now: float, outcome: Outcome, segment: Segment | None, payload: bytes, number: int) -> None:
        self.counts[outcome.value] += 1
        if outcome is Outcome.NEW:
            self._keep.append((number, payload))
            if segment is not None:
                self.knowledge.heard(segment)
                try:
                    self.knowledge.clock.saw(segment.last_time, self._wall(now))
                except FarFuture:  # the wall clock went back since the shard looked
                    self.counts["future"] += 1
        elif outcome is Outcome.CONTRADICTS and segment is not None:
            proof = self._shard(number).strike(segment.line)
            assert proof is not None
            self._keep.append((number, proof))
            self._spread(now, number, proof)

    def _shard(self, number: int) -> Shard:
        return self.knowledge.shard(number)

    # --- anti-entropy ---------------------------------------------------------------------------------------------------

    def _tell_digests(self, now: float) -> None:
        """Tells a random peer the digests of the shards that both hold, and gives what it has of other shards to a holder of each."""
        if not self._peers:
            return
        peer = self._peers[int(self._rng.random() * len(self._peers))]
        rows = []
        for number in range(self.knowledge.shards_count):
            if self.holds(number):
                if peer in self._holders[number]:
                    rows.append([number, self._shard(number).digest[:DIGEST_BYTES]])
            elif number in self.knowledge.shards and len(self.knowledge.shards[number]):
                there = self._holders[number]
                self._begin(now, there[int(self._rng.random() * len(there))], number)
        if rows:
            self._send(peer, [VERSION, "digests", rows])

    def _compare(self, now: float, source: bytes, digests: list[Any]) -> None:
        if len(digests) > self.knowledge.shards_count:
            raise FormatError("more digests than there are shards")
        for row in digests:
            if not (type(row) is list and len(row) == 2 and type(row[0]) is int and type(row[1]) is bytes):
                raise FormatError("a digest that is not [shard, digest]")
            number, digest = row
            if not 0 <= number < self.knowledge.shards_count:
                raise FormatError(f"a digest of shard {number}")
            if self.holds(number) and self._shard(number).digest[:DIGEST_BYTES] != digest:
                self._begin(now, source, number)

    def compare(self, now: float, peer: bytes, number: int) -> bytes | None:
        """Begins an exchange with a peer that holds a shard, too: its salt, by which `compared` tells how it went. None while one with this peer
        about this shard is under way, or too many are. One of which nothing was heard for a while is given up for it."""
        for key in [
            key for key, (_, at) in self._exchanges.items() if key[:2] == (peer, number) and now - at > STALLED_S
        ]:
            del self._exchanges[key]
        return self._begin(now, peer, number)

    def compared(self, now: float, peer: bytes, number: int, salt: bytes) -> bool | None:
        """Whether an exchange went to its end, once it is over or nothing was heard of it for a while; None until then."""
        key = (peer, number, salt)
        found = self._exchanges.get(key)
        return key in self._ended if found is None else False if now - found[1] > STALLED_S else None

    def left_over(self, peer: bytes, number: int, salt: bytes) -> bool:
        """Whether something of an exchange waits for its author's certificate, or for its time."""
        return (peer, number, salt) in self._left_over

    def _begin(self, now: float, peer: bytes, number: int) -> bytes | None:
        if len(self._exchanges) >= EXCHANGES_MAX or any(key[:2] == (peer, number) for key in self._exchanges):
            return None
        salt = self._rng.randbytes(SALT_BYTES)
        exchange = self._made(now, peer, number, salt)
        self._exchanges[peer, number, salt] = (exchange, now)
        self._send(peer, [VERSION, "sync", number, salt, exchange.begin()])
        return salt

    def _made(self, now: float, peer: bytes, number: int, salt: bytes) -> Exchange:
        def took(outcome: Outcome, segment: Segment | None, payload: bytes) -> None:
            if outcome in WAITS:
                _note(self._left_over, (peer, number, salt))
            self._took(now, outcome, segment, payload, number)

        return Exchange(self._shard(number), salt, took, self.holds(number), self._config.retention_ms)

    def _exchange(self, now: float, source: bytes, number: int, salt: bytes, message: bytes) -> None:
        if not 0 <= number < self.knowledge.shards_count or len(salt) != SALT_BYTES:
            raise FormatError(f"an exchange about shard {number}")
        key = (source, number, salt)
        found = self._exchanges.get(key)
        if found is None:
            if not self.holds(number):
                return  # the peer knows other members; it gives up by itself
            exchange = self._made(now, source, number, salt)
        else:
            exchange = found[0]
        try:
            answer = exchange.receive(message, self._wall(now))
        except FormatError:
            self._exchanges.pop(key, None)
            raise
        if exchange.done:
            if self._exchanges.pop(key, None) is not None:
                _note(self._ended, key)
        elif exchange.turn:  # else it is from an exchange that is over
            self._exchanges[key] = (exchange, now)
            self._exchanges.move_to_end(key)
            if len(self._exchanges) > EXCHANGES_MAX:
                self._exchanges.popitem(last=False)
        if answer is not None:
            self._send(source, [VERSION, "sync", number, salt, answer])

    def _give_up(self, now: float) -> None:
        for key in [key for key, (_, at) in self._exchanges.items() if now - at > self._config.exchange_timeout_s]:
            del self._exchanges[key]

    def _send(self, peer: bytes, parts: list[Any]) -> None:
        raw = encode_plain(parts, FRAME_BYTES_MAX)
        assert raw is not None, parts[1]
        self._out.append((peer, raw))


def _note(noted: OrderedDict[tuple[bytes, int, bytes], None], key: tuple[bytes, int, bytes]) -> None:
    noted[key] = None
    if len(noted) > ENDED_MAX:
        noted.popitem(last=False)
