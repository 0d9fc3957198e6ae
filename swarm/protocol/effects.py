"""Effects: what a state machine of the protocol wants done, as plain values.

A machine never acts. It is told what happened and when, changes its state, and leaves effects to be taken; the shell in
`nodes/` (or the simulator) carries them out, those of one machine in the order in which they were left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.protocol.member import Member

EMPTY: Mapping[str, object] = MappingProxyType({})
NO_LABELS: Mapping[str, str] = MappingProxyType({})

Address = tuple[str, int]
"""(IPv4 or IPv6 address as text, UDP port)."""


# Effects that come with every task are not frozen: making a frozen one costs four times as much.


@dataclass(slots=True)
class Fact:
    """Something worth knowing that happened. One module of the node turns facts into log events and metric series.

    `labels` take few values each (they become labels of a series); whatever identifies something goes into `fields`.
    `value` is what a counter grows by, a gauge is set to, or a histogram observes (seconds or bytes, as the name says).
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    fields: Mapping[str, object] = field(default_factory=lambda: EMPTY)
    value: float = 1.0


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send `payload` (at most `MembershipConfig.payload_bytes_max` bytes) to an address.

    `to` is the member id for which to encrypt, or None when the peer's key is not known yet: then the fleet's secret
    alone protects it.
    """

    address: Address
    to: bytes | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Introduced:
    """A node that is no member yet showed a valid certificate: learn its key, so that it can prove that it holds it.

    It becomes a member (`Joined`) with its first datagram that the shell could authenticate.
    """

    id: bytes
    certificate: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Joined:
    """A member is known and alive: seen for the first time, or back after it was dead or had left, or rebooted."""

    member: Member


@dataclass(frozen=True, slots=True)
class Changed:
    """A live member changed what it says of itself (addresses, info, certificate), or a suspicion of it was refuted."""

    member: Member


@dataclass(frozen=True, slots=True)
class Suspected:
    """A member did not answer, here or elsewhere. It counts as a member until it is dead."""

    member: Member


@dataclass(frozen=True, slots=True)
class Died:
    """A member is dead by the fleet's verdict. A verdict alone never moves ownership."""

    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """A member said goodbye."""

    member: Member


@dataclass(frozen=True, slots=True)
class PersistIncarnation:
    """Write the own incarnation to disk; the next boot starts above it."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """A notice (an opaque, self-certifying blob such as a revocation) that was not known here before."""

    blob: bytes


@dataclass(frozen=True, slots=True)
class Cloned:
    """Another process seems to run with this node's identity: a copy of its files, on a cloned machine for one. Whoever is
    at one of these addresses can show that; a member that only says so cannot."""

    boot: bytes
    addresses: tuple[Address, ...]


MembershipEffect = (
    SendDatagram
    | Introduced
    | Joined
    | Changed
    | Suspected
    | Died
    | Left
    | PersistIncarnation
    | Noticed
    | Cloned
    | Fact
)
