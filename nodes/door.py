"""The door of a node: links to a further process of a member wait here while it is found out whether the first one lives.

`swarm.protocol.twins` decides; this shell asks over the links, and keeps what is said by who waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind, encode
from swarm.protocol.twins import Admit, Ask, Door, DoorEffect, Show, Standing, TurnAway
from transport.links import Link, LinkClosed, LinkOverflow

HELD_BYTES_MAX = 4 << 20
"""Of what a process says that waits."""
_TWIN = bytes((Kind.TWIN,))
TURNED_AWAY = "another process of this member is linked"


class Inside(Protocol):
    """Where links go that were let in."""

    def take_in(self, link: Link) -> None:
        """The link to this member from now on."""

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        """What was said on it meanwhile."""


class Doorway:
    """Who waits at one node's door, and what this node says where it waits itself."""

    def __init__(
        self,
        inside: Inside,
        fact: Callable[[Fact], None],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        self._inside = inside
        self._fact = fact
        self._loop = loop
        self._now = now
        self._door: Door[Link] = Door()
        self._held: dict[Link, list[bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.standing: Callable[[], Standing | None] = lambda: None
        """What this process says of itself; None when it is about to end, and another one may come in its place."""
        self.twin: Callable[[Standing, Standing], None] = lambda mine, other: None
        """Told of another process with this node's identity: what this one has said, and what that one has."""

    def stops(self, link: Link, known: Link | None) -> bool:
        """Whether a link that came has to wait, since there is one to another process of the same member."""
        if known is None or not known.up or known.boot == link.boot:
            return False
        self._held[link] = []
        self._carry_out(self._door.came(self._now(), link, known))
        return True

    def heard(self, link: Link, messages: list[bytes]) -> list[bytes]:
        """What is to be read now of what a link says."""
        held = self._held.get(link)
        if held is None:
            return messages
        held.extend(message for message in messages if message[:1] != _TWIN)
        if sum(map(len, held)) > HELD_BYTES_MAX:
            link.close(TURNED_AWAY)
            return []
        return [message for message in messages if message[:1] == _TWIN]

    def message(self, link: Link, header: Mapping[str, Any]) -> None:
        """A message of kind TWIN. ValueError when it is malformed."""
        if "q" in header:
            mine = self.standing()
            if mine is not None:
                self._send(link, mine.header())
        elif "other" in header:
            self.twin(Standing.read(header.get("you")), Standing.read(header["other"]))
        else:
            self._carry_out(self._door.said(self._now(), link, Standing.read(header)))

    def down(self, link: Link) -> None:
        """A link is down."""
        self._held.pop(link, None)
        self._carry_out(self._door.down(link))

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _carry_out(self, effects: Sequence[DoorEffect[Link]]) -> None:
        for it in effects:
            match it:
                case Ask():
                    self._send(it.link, {"q": True})
                case Show():
                    self._send(it.link, {"you": it.mine.header(), "other": it.other.header()})
                    self._fact(Fact("peer.cloned", {}, {"peer": it.link.identity.name, "at": it.other.place}))
                case Admit():
                    messages = self._held.pop(it.link, [])
                    if it.link.up and not self._closed:
                        self._inside.take_in(it.link)
                        if messages:
                            self._inside.link_messages(it.link, messages)
                case TurnAway():
                    self._held.pop(it.link, None)
                    it.link.close(TURNED_AWAY)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._door.next_deadline()
        if at is not None and not self._closed:
            self._timer = self._loop.call_later(max(0.0, at - self._now()), self._due)

    def _due(self) -> None:
        self._timer = None
        self._carry_out(self._door.on_timer(self._now()))

    @staticmethod
    def _send(link: Link, header: dict[str, Any]) -> None:
        try:
            link.send(encode(Kind.TWIN, header))
            link.flush()
        except (LinkClosed, LinkOverflow):
            pass  # it is told as down next, or says nothing and counts as gone
