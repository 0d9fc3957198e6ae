"""Simulated links: the contract of `transport.links` over a network that delays, stalls, cuts and breaks.

A link is one connection, so within it messages come in order and once. What bad weather does to it is what TCP makes of
it: a lost segment comes late, and all behind it; a cut holds everything back until it is mended, or until one side has
heard nothing for too long and gives the link up; whatever was on the way is gone then, at each end from another message
on. Two links between the same processes overtake each other freely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.sim.fabric.host import Host
from tests.sim.simulator import Simulator
from transport.links import LinkClosed

SILENCE_S = (2.0, 4.25)
"""ZeroMQ's heartbeats give a link up after the first, the link's own keepalive after the second."""
RETRANSMISSION_S = 0.2
LOCAL_DELAY_S = 0.00003


@dataclass(frozen=True)
class PeerIdentity:
    """What a verified certificate would say."""

    id: bytes
    name: str
    role: str
    grants: frozenset[str] = frozenset(("code",))


@dataclass
class LinkWeather:
    """Seconds, and the probability that a message has to be sent again (each time)."""

    delay_s: float = 0.0003
    jitter_s: float = 0.0004
    loss: float = 0.0


class End:
    """One side of a link."""

    congested = behind = False
    queued_bytes = 0
    reach = "sim"
    version = 1
    info: Mapping[str, object] = {}

    def __init__(
        self, wire: Wire, host: Host, handler: Any, identity: PeerIdentity, boot: bytes, dialled: bool
    ) -> None:
        self.wire = wire
        self.host = host
        self.handler = handler
        self.identity = identity
        self.boot = boot
        self.dialled = dialled
        self.up = False
        self.was_up = False
        self.over = False
        self.other: End
        self.arrives_at = 0.0
        self.batch: list[bytes] = []
        self.batch_at = -1.0
        self.stalled: list[list[bytes]] = []

    def send(self, *parts: Any) -> None:
        """See `transport.links.Link.send`."""
        if not self.up:
            raise LinkClosed("down")
        message = b"".join(parts)
        self.wire.cables.messages += 1
        if self.batch_at == self.host.sim.now:
            self.batch.append(message)
            return
        self.batch, self.batch_at = [message], self.host.sim.now
        self.wire.carry(self, self.batch)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self, reason: str) -> None:
        """Go down; the peer sees it after all that was sent before."""
        if self.up:
            self.up, self.over = False, True
            self.host.call_soon(self.handler.link_down, self, f"closed: {reason}")
            self.wire.carry(self, None)

    # What the wire tells.

    def open(self) -> None:
        """The handshake is over."""
        if not self.over:
            self.up = self.was_up = True
            self.handler.link_up(self)

    def arrived(self, messages: list[bytes]) -> None:
        """Messages came, in order."""
        if self.up:
            self.handler.link_messages(self, messages)

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        if self.up:
            self.up, self.over = False, True
            self.handler.link_down(self, reason)
        self.over = True


class Wire:
    """One connection between two processes."""

    def __init__(self, cables: Cables) -> None:
        self.cables = cables
        self.broken = False
        self.ends: tuple[End, End]

    def carry(self, end: End, messages: list[bytes] | None) -> None:
        """Take messages (None: the end of the stream) to the other side, behind all that went before."""
        if self.broken:
            return
        cables, other = self.cables, end.other
        if end.stalled or cables.is_cut(end.host.place, other.host.place):
            end.stalled.append(messages if messages is not None else [])
            return
        sim = cables.sim
        end.arrives_at = max(end.arrives_at, sim.now + cables.delay(end.host.place, other.host.place))
        if messages is None:
            other.host.call_at_sim(end.arrives_at, other.lost, "disconnected")
        else:
            other.host.call_at_sim(end.arrives_at, other.arrived, messages)

    def mended(self, end: End) -> None:
        """The way from this end is free again: what was held back goes now."""
        stalled, end.stalled = end.stalled, []
        for messages in stalled:
            self.carry(end, messages or None)

    def sever(self, reason: str = "disconnected") -> None:
        """The connection is reset; each side sees that at its own moment, and loses what had not come until then."""
        self.broken = True
        for end in self.ends:
            delay = self.cables.delay(end.other.host.place, end.host.place) * 2 * self.cables.rng.random()
            end.host.call_later(delay, end.lost, reason)

    def give_up(self, end: End) -> None:
        """One side has heard nothing for too long; it tells the other, if that can hear."""
        if end.up:
            end.lost("silent")
            self.carry(end, None)

    @property
    def down(self) -> bool:
        """Neither side uses it any more."""
        return all(end.over or not end.host.alive for end in self.ends)


@dataclass
class Cables:
    """The network that links cross. Places are names of machines; what is at one place is never cut off from itself."""

    sim: Simulator
    rng: Random
    weather: LinkWeather = field(default_factory=LinkWeather)
    messages: int = 0

    def __post_init__(self) -> None:
        self.wires: list[Wire] = []
        self._cuts: set[tuple[Any, Any]] = set()

    def is_cut(self, source: Any, destination: Any) -> bool:
        """Whether nothing gets from one place to the other."""
        return bool(self._cuts) and (source, destination) in self._cuts

    def open_both(self, one: Any, other: Any) -> bool:
        """Whether a conversation is possible."""
        return not self.is_cut(one, other) and not self.is_cut(other, one)

    def delay(self, source: Any, destination: Any) -> float:
        """Seconds that a message takes now."""
        if source == destination:
            return LOCAL_DELAY_S
        weather, random = self.weather, self.rng.random
        delay = weather.delay_s + weather.jitter_s * random()
        wait = RETRANSMISSION_S
        while weather.loss and random() < weather.loss:
            delay += wait
            wait *= 2
        return delay

    def link(
        self, dialler: tuple[Host, Any, PeerIdentity, bytes], listener: tuple[Host, Any, PeerIdentity, bytes]
    ) -> tuple[End, End]:
        """A new connection between two processes, each given as (host, handler, own identity, own boot).

        The listener's side comes up first, the dialler's when the last message of the handshake is there.
        """
        self.wires = [wire for wire in self.wires if not wire.down]
        wire = Wire(self)
        near = End(wire, dialler[0], dialler[1], listener[2], listener[3], True)
        far = End(wire, listener[0], listener[1], dialler[2], dialler[3], False)
        near.other, far.other = far, near
        wire.ends = (near, far)
        self.wires.append(wire)
        there = self.delay(near.host.place, far.host.place)
        back = self.delay(far.host.place, near.host.place)
        # Nothing comes before the link is up.
        near.arrives_at = self.sim.now + there
        far.arrives_at = near.arrives_at + back
        far.host.call_at_sim(near.arrives_at, far.open)
        near.host.call_at_sim(far.arrives_at, near.open)
        for end in wire.ends:
            if self.is_cut(end.other.host.place, end.host.place):
                self._watch(wire, end)
        return near, far

    # Faults.

    def cut(self, source: Any, destination: Any) -> None:
        """Nothing gets from one place to the other any more; the way back stays as it is."""
        if source == destination or (source, destination) in self._cuts:
            return
        self._cuts.add((source, destination))
        for wire in self.wires:
            for end in wire.ends:
                if end.host.place == destination and end.other.host.place == source:
                    self._watch(wire, end)

    def mend(self) -> None:
        """Undo all cuts."""
        self._cuts.clear()
        for wire in self.wires:
            for end in wire.ends:
                if end.stalled and not wire.broken:
                    self.sim.at(self.sim.now + RETRANSMISSION_S * self.rng.random(), lambda w=wire, e=end: w.mended(e))

    def silent(self, host: Host) -> None:
        """A process stands still, or its machine lost power: the other sides of its links hear nothing any more."""
        for wire in self.wires:
            for end in wire.ends:
                if end.other.host is host:
                    self._watch(wire, end)

    def reset(self, host: Host) -> None:
        """A process died: its machine resets its connections."""
        for wire in self.wires:
            for end in wire.ends:
                if end.host is host and not self.is_cut(host.place, end.other.host.place):
                    wire.sever()
                elif end.host is host:
                    self._watch(wire, end.other)

    def _watch(self, wire: Wire, end: End) -> None:
        """One side hears nothing from now on; if that is still so when its patience ends, it gives the link up."""
        patience = SILENCE_S[0] + (SILENCE_S[1] - SILENCE_S[0]) * self.rng.random()

        def over() -> None:
            peer = end.other.host
            deaf = self.is_cut(peer.place, end.host.place) or peer.paused or not peer.alive
            if deaf and end.host.alive:
                end.host.call_soon(wire.give_up, end)

        self.sim.at(self.sim.now + patience, over)
