"""Another process with this node's identity: what is told of it, and which of the two ends.

It is found by a member to which both have a link (`nodes.door`), or the two find each other, since what the other one
gossips is not true of this one. Both say who they are, and come to one verdict (`swarm.protocol.twins`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nodes.ledger import LedgerShell
from nodes.neighbourhood import Neighbourhood
from swarm.exit_codes import ExitCode
from swarm.protocol.effects import Address, Fact
from swarm.protocol.messages import Kind, MessageError, decode, encode
from swarm.protocol.twins import Standing, goes_on
from transport.identity import Credentials
from transport.links import Link, LinkClosed, LinkOverflow

OUTLIVE_AFTER_S = (0.5, 3.0)
"""When to speak above what the other one has said: it ends at once, and when not, a moment later."""


class Around(Protocol):
    """What this needs of the node."""

    boot: bytes
    directory: Path
    credentials: Credentials
    neighbourhood: Neighbourhood
    ledger: LedgerShell | None
    ready: bool

    def addresses(self) -> tuple[Address, ...]:
        """Where this node is reached."""

    def fact(self, fact: Fact) -> None:
        """Something worth knowing."""


class Twin:
    """What one process knows of another one with its identity. `end` ends this process, if that is its to decide."""

    def __init__(self, node: Around, loop: asyncio.AbstractEventLoop, end: Callable[[], object] | None) -> None:
        self._node = node
        self._loop = loop
        self._end = end
        self._since = time.time()
        self._said: dict[Link, Standing] = {}
        self._seen: tuple[float, Standing] | None = None
        self.closing = False
        self.refused = False
        """Whether this process is the one that ends."""
        self.on_refused: Callable[[], object] = lambda: None

    def standing(self) -> Standing | None:
        """What this process says of itself; None while it closes, and another one may come in its place."""
        if self.closing:
            return None
        node = self._node
        number, incarnation = node.neighbourhood.numbers
        counted = node.ledger is not None and node.ledger.counted
        return Standing(node.boot, self._since, counted, node.addresses(), number, incarnation)

    # --- a link between the two ---------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """They are linked: each says who it is."""
        mine = self.standing()
        if mine is None:
            link.close("this node stops")
            return
        self._said[link] = mine
        try:
            link.send(encode(Kind.TWIN, mine.header()))
        except (LinkClosed, LinkOverflow):
            pass

    def messages(self, link: Link, messages: list[bytes]) -> None:
        """What the other one says."""
        for message in messages:
            try:
                kind, header, _ = decode(message)
                mine = self._said.get(link)
                if kind == Kind.TWIN and mine is not None:
                    self.found(mine, Standing.read(header))
                    link.close("two processes of one identity")
            except (MessageError, ValueError) as error:
                link.close(f"violation: {error}"[:200])

    def link_down(self, link: Link) -> None:
        """They are not any more."""
        self._said.pop(link, None)

    # --- the verdict --------------------------------------------------------------------------------------------------

    def found(self, mine: Standing, other: Standing) -> None:
        """There is another process: what this one has said of itself, and what that one has."""
        node = self._node
        if other.boot == node.boot or mine.boot != node.boot or self.refused or self.closing:
            return
        stays = goes_on(mine, other)
        fields = {"at": other.place, "since": when(other.since), "counted": other.counted}
        node.fact(Fact("node.cloned", {"verdict": "stays" if stays else "ends"}, fields))
        if stays:
            self._seen = (time.time(), other)
            for after_s in OUTLIVE_AFTER_S:
                self._loop.call_later(after_s, self._outlive, other)
            return
        self.refused = True
        if node.ledger is not None:
            node.ledger.halt()
        self.on_refused()
        node.ready = False
        if self._end is not None:
            sys.stderr.write(self.words(mine, other))
            sys.stderr.flush()
            self._end()

    def _outlive(self, other: Standing) -> None:
        if not self.closing:
            self._node.neighbourhood.outlive(other.number, other.incarnation)

    def words(self, mine: Standing, other: Standing) -> str:
        """What is said by the one that ends."""
        id, directory = self._node.credentials.identity.text, self._node.directory
        found = (
            f"error: another node with this identity ({id}) is running at {other.place} since {when(other.since)}.\n"
        )
        if mine.counted and other.counted:
            found += "Both have voted and acknowledged in its name, while they did not see each other: both end.\n"
        return (
            f"{found}hint: one of the two is a copy of the other's files (a cloned machine, a restored image). On the copy: remove "
            f"{directory}, and let it join anew (`swarm fleet token` there, `swarm fleet join TOKEN` here). If this is the "
            "one to be kept: stop the other one first.\n"
        )

    def report(self) -> Mapping[str, Any] | None:
        """For people: the process that was found last, and has ended."""
        if self._seen is None:
            return None
        at, other = self._seen
        return {"at": other.place, "since": other.since, "found_s": max(0.0, time.time() - at)}


def when(wall_s: float) -> str:
    """A time of the wall clock, for people anywhere."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall_s))
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def end_process() -> None:
    """End at once: nothing more is to be said in this name."""
    os._exit(int(ExitCode.DENIED))
