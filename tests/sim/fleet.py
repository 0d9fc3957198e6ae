"""A simulated fleet of membership machines: what the shell of a node does around one, and the truth to hold it against."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from swarm.protocol.effects import (
    Address,
    Changed,
    Died,
    Fact,
    Introduced,
    Joined,
    Left,
    Noticed,
    PersistIncarnation,
    SendDatagram,
    Suspected,
)
from swarm.protocol.member import State
from swarm.protocol.membership import Membership, Own
from swarm.protocol.membership_config import CRYPTO_BYTES_MAX, DATAGRAM_BYTES_MAX, DEFAULT, MembershipConfig
from tests.sim.network import Network, Weather
from tests.sim.simulator import Simulator

PORT = 7000
_CERTIFICATE_PREFIX = b"certificate:"


@dataclass(frozen=True)
class Verified:
    """What the simulated certificates say."""

    id: bytes
    role: str


@cache
def id_of(number: int) -> bytes:
    """The id of the n-th node: neighbours are far apart, as real ones are."""
    return Random(number).randbytes(16)


def certificate_of(id: bytes, role: str = "node") -> bytes:
    """A certificate of a realistic size."""
    return _CERTIFICATE_PREFIX + id + role.encode().ljust(8) + bytes(264)


def verify(certificate: bytes) -> Verified:
    """What `Trust.verify` would say. ValueError if it is none."""
    if not certificate.startswith(_CERTIFICATE_PREFIX) or len(certificate) != 300:
        raise ValueError("malformed")
    rest = certificate[len(_CERTIFICATE_PREFIX) :]
    return Verified(rest[:16], rest[16:24].decode().strip())


class MemberProcess:
    """The shell of one membership machine. A payload on the simulated wire is (for whom | None, from whom | None, bytes):
    who lacks the sender's key cannot open it, and who it is not for cannot either."""

    def __init__(self, fleet: Fleet, number: int, membership: Membership) -> None:
        self.fleet = fleet
        self.number = number
        self.membership = membership
        self.id = membership.me.id
        self.keys: set[bytes] = set()
        self.facts: dict[str, int] = {}

    def receive(self, now: float, source: Address, payload: Any) -> None:
        to, sender, data = payload
        if to is None:
            self.membership.on_datagram(now, source, None, data)
        elif to == self.id:
            if sender in self.keys:
                self.membership.on_datagram(now, source, sender, data)
            else:
                self.membership.on_unreadable(now, source)

    def tick(self, now: float) -> None:
        self.membership.on_timer(now)

    def next_deadline(self) -> float | None:
        return self.membership.next_deadline()

    def take(self) -> list[tuple[Any, Any]]:
        sent: list[tuple[Any, Any]] = []
        for effect in self.membership.take_effects():
            if isinstance(effect, SendDatagram):
                assert len(effect.payload) + CRYPTO_BYTES_MAX <= DATAGRAM_BYTES_MAX, len(effect.payload)
                sent.append((effect.address, (effect.to, self.id if effect.to else None, effect.payload)))
                self.fleet.sim.trace_in(effect.payload)
            elif isinstance(effect, Fact):
                self.facts[effect.name] = self.facts.get(effect.name, 0) + 1
            elif isinstance(effect, PersistIncarnation):
                self.fleet.disk[self.number] = effect.incarnation
            else:
                if isinstance(effect, Introduced):
                    self.keys.add(effect.id)
                elif isinstance(effect, Joined):
                    self.keys.add(effect.member.id)
                self.fleet.note(self.number, effect)
        return sent


@dataclass
class Event:
    """Something that one node learned of another."""

    at: float
    observer: int
    subject: int
    kind: type


@dataclass
class Fleet:
    """Nodes 0, 1, 2 … of one simulated fleet. Times are simulated seconds."""

    seed: int
    weather: Weather = field(default_factory=Weather)
    config: MembershipConfig = DEFAULT

    def __post_init__(self) -> None:
        self.rng = Random(f"fleet {self.seed}")
        self.network = Network(Random(f"network {self.seed}"), self.weather)
        self.sim = Simulator(self.network)
        self.nodes: dict[int, MemberProcess] = {}
        self.starts: dict[int, list[float]] = {}
        self.disk: dict[int, int] = {}
        self.events: list[Event] = []
        self.notices: dict[int, list[bytes]] = {}
        self.excused: dict[int, list[tuple[float, float]]] = {}
        self.disturbances: dict[int, list[tuple[float, float]]] = {}
        """When a node may rightly be taken for dead, or take others for dead."""
        self._numbers: dict[bytes, int] = {}

    def address(self, number: int) -> Address:
        """Where the n-th node listens."""
        return f"10.0.{number // 250}.{number % 250 + 1}", PORT

    def start(self, number: int, hints: list[int] | None = None) -> MemberProcess:
        """Starts a node, or starts it again; `hints` are the nodes it has heard of."""
        id = id_of(number)
        self._numbers[id] = number
        starts = self.starts.setdefault(number, [])
        starts.append(self.sim.now)
        boot = len(starts)
        own = Own(
            id,
            f"node{number}",
            certificate_of(id),
            (self.address(number),),
            boot.to_bytes(8, "big"),
            self.disk.get(number, 0),
            {"slots": 2},
        )
        rng = Random(f"node {self.seed} {number} {boot}")
        membership = Membership(own, rng, verify, self.config, lambda blob: blob.startswith(b"notice"))
        node = self.nodes[number] = MemberProcess(self, number, membership)
        where = self.address(number)
        slot = self.sim.slots.get(where)
        offset = slot.offset if slot else self.rng.random() * 1e6
        membership.start(self.sim.now + offset)
        self.sim.start(where, node, offset)
        for hint in hints or ():
            membership.add_hint(self.sim.now + offset, self.address(hint), lasting=True)
        self.sim.settle(where)
        return node

    def grow(self, count: int, apart_s: float = 0.01) -> None:
        """Starts nodes one after the other, each with a hint of an earlier one, and runs until all are there."""
        first = len(self.nodes)
        for number in range(first, first + count):
            hints = [int(self.rng.random() * number)] if number else []
            self.start(number, hints)
            self.sim.run(self.sim.now + apart_s)

    def boot_at(self, number: int, instant: float) -> int:
        """Which boot of a node was running at an instant."""
        return sum(start <= instant for start in self.starts[number])

    def call(self, number: int, method: str, *arguments: Any) -> None:
        """Calls a method of a node's machine, with its clock as the first argument."""
        where = self.address(number)
        getattr(self.nodes[number].membership, method)(self.sim.clock(where), *arguments)
        self.sim.settle(where)

    def kill(self, number: int) -> None:
        """kill -9."""
        self.sim.stop(self.address(number))
        del self.nodes[number]

    def pause(self, number: int, for_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        where = self.address(number)
        generation = self.sim.slots[where].generation
        self.sim.pause(where)
        first = self.rng.random() < 0.5

        def resume() -> None:
            if self.sim.slots[where].generation == generation:
                self.sim.resume(where, first)

        self.sim.at(self.sim.now + for_s, resume)

    def disturb(self, number: int, for_s: float) -> None:
        """From now on a node may rightly be out of touch."""
        self.disturbances.setdefault(number, []).append((self.sim.now, self.sim.now + for_s))

    def excuse(self, number: int, for_s: float) -> None:
        """From now on a node may rightly be taken for dead, but has no reason to take others for dead."""
        self.excused.setdefault(number, []).append((self.sim.now, self.sim.now + for_s))

    def is_disturbed(self, number: int, instant: float) -> bool:
        """Whether a node may rightly be out of touch at an instant."""
        return any(start <= instant <= end for start, end in self.disturbances.get(number, ()))

    def is_excused(self, number: int, instant: float) -> bool:
        """Whether a node may rightly be taken for dead at an instant."""
        spans = self.disturbances.get(number, []) + self.excused.get(number, [])
        return any(start <= instant <= end for start, end in spans)

    def note(self, observer: int, effect: object) -> None:
        """What a machine told its shell."""
        if isinstance(effect, Noticed):
            self.notices.setdefault(observer, []).append(effect.blob)
        elif isinstance(effect, Joined | Changed | Suspected | Died | Left):
            kind = type(effect)
            if kind is not Changed:
                self.events.append(Event(self.sim.now, observer, self._numbers[effect.member.id], kind))

    def run(self, for_s: float) -> None:
        """Runs for some simulated seconds."""
        self.sim.run(self.sim.now + for_s)

    def run_until_agreed(self, within_s: float, step_s: float = 0.01) -> float:
        """Runs until all running nodes know exactly each other; returns how long it took. AssertionError after
        `within_s`."""
        began = self.sim.now
        while True:
            wrong = self.disagreement()
            if wrong is None:
                return self.sim.now - began
            assert self.sim.now - began < within_s, f"seed {self.seed}, {within_s} s later: {wrong}"
            self.run(step_s)

    def disagreement(self) -> str | None:
        """Who holds a wrong view of the fleet, in words; None if nobody does."""
        running = sorted(self.nodes)
        digests = {self.nodes[number].membership.digest() for number in running}
        if len(digests) > 1 or any(self.nodes[n].membership.count != len(running) for n in running):
            for number in running:
                membership = self.nodes[number].membership
                lacking = [n for n in running if membership.state(id_of(n)) not in (State.ALIVE, State.SUSPECT)]
                extra = [self._numbers[m.id] for m in membership.live() if self._numbers[m.id] not in self.nodes]
                if lacking or extra:
                    return f"node {number} lacks {lacking}, still believes in {extra}"
            return "incarnations differ"
        for number in running:
            membership = self.nodes[number].membership
            if any(membership.state(id_of(other)) is not State.ALIVE for other in running):
                return f"node {number} suspects somebody"
        return None
