"""Two processes with one identity: how they are found, and which of them goes on.

Whoever copies a node's files (a cloned machine, a restored image, a home that was copied) makes a second process that
votes and acknowledges in the name of the first. No two of them may be counted. So a node that has a link to one process
of a member, and gets another from another one, does not take that in yet (`Door`). It asks both who they are. The first one
is gone more often than not: its machine was restarted, and it does not answer. If it does, each is shown what the other
said of itself (`Standing`), and both come to the same verdict from that (`goes_on`).

Nothing that waits at a door is heard, so a copy that comes while the original is there has not been counted anywhere: it
ends, and the original goes on. Where both have been counted (each on its side of a cut network), both end: what one of
them acknowledged the other one may not have, and nobody can tell which of them is the copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

ANSWER_S: Final = 1.0
"""How long a process is waited for to say that it is there: it has to do nothing for that but run."""
LEAVE_S: Final = 5.0
"""How long one that was shown the other is waited for to leave."""
ADDRESSES_MAX: Final = 8
_BOOT_BYTES: Final = 8
_NUMBER_END: Final = 1 << 62

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a process says of itself."""

    boot: bytes
    """8 bytes that it has from its start on."""
    since: float
    """When it started, in wall-clock seconds."""
    counted: bool
    """Whether another member has had it take part in a log's decisions since."""
    addresses: tuple[tuple[str, int], ...] = ()
    number: int = 0
    """Of its start, by which its datagrams are told from replays."""
    incarnation: int = 0

    def header(self) -> dict[str, Any]:
        """As the header of a message, or a part of one."""
        return {
            "boot": self.boot,
            "since": self.since,
            "c": self.counted,
            "at": [list(one) for one in self.addresses[:ADDRESSES_MAX]],
            "d": self.number,
            "i": self.incarnation,
        }

    @classmethod
    def read(cls, said: Any) -> Standing:
        """The inverse of `header`. ValueError."""
        if not isinstance(said, Mapping):
            raise ValueError("a standing is no map")
        boot, since, addresses = said.get("boot"), said.get("since"), said.get("at")
        number, incarnation = said.get("d"), said.get("i")
        if not isinstance(boot, bytes) or len(boot) != _BOOT_BYTES or not isinstance(addresses, list | tuple):
            raise ValueError("a standing without a boot or addresses")
        if not isinstance(since, int | float) or not isinstance(number, int) or not isinstance(incarnation, int):
            raise ValueError("a standing without its numbers")
        if not 0 <= number < _NUMBER_END or not 0 <= incarnation < _NUMBER_END:
            raise ValueError("a standing with a number out of bounds")
        found = []
        for one in addresses[:ADDRESSES_MAX]:
            host, port = one
            if not isinstance(host, str) or not isinstance(port, int):
                raise ValueError("an address that is none")
            found.append((host[:64], port))
        return cls(boot, float(since), said.get("c") is True, tuple(found), number, incarnation)

    @property
    def place(self) -> str:
        """Where it runs, for people."""
        return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses[:2])


def goes_on(mine: Standing, other: Standing) -> bool:
    """Whether the process that said `mine` goes on, and not the one that said `other`: at most one of two does."""
    if mine.counted != other.counted:
        return mine.counted
    return not mine.counted and (mine.since, mine.boot) < (other.since, other.boot)


@dataclass(frozen=True, slots=True)
class Ask(Generic[L]):
    """Have a process say who it is."""

    link: L


@dataclass(frozen=True, slots=True)
class Show(Generic[L]):
    """Show a process what it has said, and what the other one has."""

    link: L
    mine: Standing
    other: Standing


@dataclass(frozen=True, slots=True)
class Admit(Generic[L]):
    """Take a link in, in place of the one before."""

    link: L


@dataclass(frozen=True, slots=True)
class TurnAway(Generic[L]):
    """Close a link that was not taken in."""

    link: L


DoorEffect = Ask[L] | Show[L] | Admit[L] | TurnAway[L]


@dataclass(slots=True, eq=False)
class _Waiting(Generic[L]):
    new: L
    known: L
    until: float
    said_new: Standing | None = None
    said_known: Standing | None = None


class Door(Generic[L]):
    """Links to further processes of members, that wait until it is known whether the first one is there. `L` is whatever
    stands for a link."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting[L]] = []

    def holds(self, link: L) -> bool:
        """Whether a link waits."""
        return any(it.new is link for it in self._waiting)

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called."""
        return min((it.until for it in self._waiting), default=None)

    def came(self, now: float, new: L, known: L) -> list[DoorEffect[L]]:
        """A link to another process of a member, to one of which there is one."""
        self._waiting.append(_Waiting(new, known, now + ANSWER_S))
        return [Ask(known), Ask(new)]

    def said(self, now: float, link: L, standing: Standing) -> list[DoorEffect[L]]:
        """A process says who it is."""
        effects: list[DoorEffect[L]] = []
        for it in self._waiting:
            if link is not it.new and link is not it.known:
                continue
            before = it.said_new is not None and it.said_known is not None
            if link is it.new:
                it.said_new = it.said_new or standing
            else:
                it.said_known = it.said_known or standing
            if it.said_new is not None and it.said_known is not None and not before:
                it.until = now + LEAVE_S
                effects.append(Show(it.known, it.said_known, it.said_new))
                effects.append(Show(it.new, it.said_new, it.said_known))
        return effects

    def down(self, link: L) -> list[DoorEffect[L]]:
        """A link is down."""
        admitted = [it.new for it in self._waiting if it.known is link]
        self._waiting = [it for it in self._waiting if it.known is not link and it.new is not link]
        return [Admit(new) for new in admitted]

    def on_timer(self, now: float) -> list[DoorEffect[L]]:
        """Who did not answer is not there any more, or does not know the question."""
        due = [it for it in self._waiting if it.until <= now]
        self._waiting = [it for it in self._waiting if it.until > now]
        return [Admit(it.new) if it.said_known is None else TurnAway(it.new) for it in due]
