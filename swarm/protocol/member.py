"""Members: what is known of each, and the table of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

from blake3 import blake3

from swarm.protocol.effects import Address

T = TypeVar("T")


class Rng(Protocol):
    """Injected randomness: all that is needed is uniform floats in [0, 1)."""

    def random(self) -> float: ...


def pick(rng: Rng, items: Sequence[T]) -> T:
    """One of the items (at least one), each as likely."""
    return items[int(rng.random() * len(items))]


def shuffle(rng: Rng, items: list[T], start: int, stop: int) -> None:
    """Shuffles items[start:stop] in place (Fisher and Yates)."""
    for last in range(stop - 1, start, -1):
        other = start + int(rng.random() * (last - start + 1))
        items[last], items[other] = items[other], items[last]


class State(IntEnum):
    """What the fleet holds of a member. The number is on the wire."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the fleet, as known at one moment."""

    id: bytes
    name: str
    certificate: bytes
    addresses: tuple[Address, ...]
    incarnation: int
    boot: bytes
    """8 bytes, fresh at each start of the node's process."""
    info: Mapping[str, object]
    """Capabilities and load, as the node says them."""
    state: State
    address: Address
    """Where it was last heard from, or the first of its addresses."""

    @property
    def port(self) -> int:
        """The port that the node listens on, UDP and TCP alike."""
        return self.addresses[0][1] if self.addresses else 0


class Peer:
    """A member's mutable record."""

    __slots__ = (
        "addresses",
        "boot",
        "certificate",
        "id",
        "incarnation",
        "info",
        "info_packed",
        "mark",
        "name",
        "route",
        "since",
        "state",
        "told",
        "version",
    )

    def __init__(self, id: bytes) -> None:
        self.id = id
        self.name = ""
        self.certificate = b""
        self.addresses: tuple[Address, ...] = ()
        self.incarnation = 0
        self.version = 0
        """Counts changes of the info within one incarnation."""
        self.boot = b""
        self.info: Mapping[str, object] = {}
        self.info_packed = b"\x80"
        self.state = State.ALIVE
        self.since = 0.0
        """When `state` began, on the own clock."""
        self.route: Address = ("", 0)
        self.told = (0, 0)
        """(incarnation, version) of the own record that was last sent to this peer."""
        self.mark = 0
        """What this member contributes to the table's digest."""

    @property
    def live(self) -> bool:
        """Alive, or only suspected."""
        return self.state < State.DEAD

    def snapshot(self) -> Member:
        """The record as an immutable value."""
        return Member(
            self.id,
            self.name,
            self.certificate,
            self.addresses,
            self.incarnation,
            self.boot,
            self.info,
            self.state,
            self.route,
        )


class Table:
    """All members but the own node, by id; those alive also as a sorted list, and a digest of who lives in which
    incarnation: equal digests, equal tables."""

    __slots__ = ("_peers", "digest", "get", "live", "lost")

    def __init__(self) -> None:
        self._peers: dict[bytes, Peer] = {}
        self.get: Callable[[bytes], Peer | None] = self._peers.get
        """The peer of an id, or None. The dictionary's own, since each update that comes asks for it."""
        self.live: list[bytes] = []
        """Ids of the members that are alive or suspected, sorted."""
        self.lost: list[bytes] = []
        """Ids of those dead, sorted."""
        self.digest = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        for id in sorted(self._peers):
            yield self._peers[id]

    def at(self, id: bytes) -> Peer:
        """The peer of this id, which is known."""
        return self._peers[id]

    def add(self, peer: Peer) -> None:
        """A new peer, alive."""
        assert peer.id not in self._peers
        assert peer.live
        self._peers[peer.id] = peer
        insort(self.live, peer.id)
        self.remark(peer)

    def move(self, peer: Peer, state: State, now: float) -> None:
        """Gives a peer a state and keeps the lists and the digest right."""
        before = peer.state
        peer.state = state
        peer.since = now
        if (before < State.DEAD) != (state < State.DEAD):
            if state < State.DEAD:
                insort(self.live, peer.id)
            else:
                _remove(self.live, peer.id)
        if (before == State.DEAD) != (state == State.DEAD):
            if state == State.DEAD:
                insort(self.lost, peer.id)
            else:
                _remove(self.lost, peer.id)
        self.remark(peer)

    def remark(self, peer: Peer) -> None:
        """Renews a peer's part of the digest after its state or incarnation changed."""
        mark = mark_of(peer.id, peer.incarnation) if peer.live else 0
        self.digest ^= peer.mark ^ mark
        peer.mark = mark

    def forget(self, peer: Peer) -> None:
        """Drops the record of a peer that is not live."""
        assert not peer.live
        if peer.state == State.DEAD:
            _remove(self.lost, peer.id)
        del self._peers[peer.id]

    def forget_oldest(self) -> bool:
        """Makes room: drops the record that has not been live for longest. False if all are live."""
        gone = [peer for peer in self if not peer.live]
        if not gone:
            return False
        self.forget(min(gone, key=lambda peer: peer.since))
        return True


def mark_of(id: bytes, incarnation: int) -> int:
    """64 bits that stand for one live member's incarnation in a digest."""
    return int.from_bytes(blake3(id + incarnation.to_bytes(8, "big")).digest(8), "big")


def _remove(ids: list[bytes], id: bytes) -> None:
    index = bisect_left(ids, id)
    assert ids[index] == id
    del ids[index]
