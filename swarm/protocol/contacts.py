"""Hints where members may be (mDNS, seeds, cached peers), and first contact. A hint makes nobody a member."""

from __future__ import annotations

from swarm.protocol import membership_wire as wire
from swarm.protocol.effects import Address
from swarm.protocol.member import Peer, Rng, Table
from swarm.protocol.membership_config import MembershipConfig
from swarm.protocol.outbox import Outbox
from swarm.protocol.timers import Timer, Timers

_ASKED_MAX = 1024


class Hint:
    """An address at which a node may listen."""

    __slots__ = ("delay_s", "id", "lasting", "tries")

    def __init__(self, id: bytes | None, lasting: bool, delay_s: float) -> None:
        self.id = id
        self.lasting = lasting
        self.delay_s = delay_s
        self.tries = 0


class Contacts:
    """Says hello to each hint, again and again with growing pauses, until it is a member."""

    __slots__ = ("_asked", "_config", "_hints", "_outbox", "_own", "_rng", "_table", "_timers")

    def __init__(
        self, own: Peer, config: MembershipConfig, rng: Rng, table: Table, outbox: Outbox, timers: Timers
    ) -> None:
        self._own = own
        self._config = config
        self._rng = rng
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self._hints: dict[Address, Hint] = {}
        self._asked: dict[Address, float] = {}
        """Unknown senders, and until when they are not asked again."""

    def add(self, now: float, address: Address, id: bytes | None, lasting: bool) -> None:
        """A new hint is tried at once; a known one that has become more definite too."""
        hint = self._hints.get(address)
        if hint is not None:
            hint.lasting = hint.lasting or lasting
            if id is None or hint.id == id:
                return
            hint.id = id
            hint.tries = 0
            return
        if len(self._hints) >= self._config.hints_max or id == self._own.id or self._met(address, id):
            if not lasting:
                return
            if len(self._hints) >= self._config.hints_max:
                self._outbox.fact("membership.rejected", {"reason": "hints-max"})
                return
        self._hints[address] = Hint(id, lasting, self._config.hello_retry_s)
        self.tick(now, address)

    def forget(self, address: Address) -> None:
        """Drops a hint: it is the own address."""
        self._hints.pop(address, None)

    def tick(self, now: float, address: Address) -> None:
        """Says hello at an address if nobody known is there, and plans the next time."""
        hint = self._hints.get(address)
        if hint is None:
            return
        if self._met(address, hint.id):
            if not hint.lasting:
                del self._hints[address]
                return
            hint.delay_s = self._config.hello_retry_max_s
        else:
            if not hint.lasting and hint.tries >= self._config.hello_tries:
                del self._hints[address]
                return
            hint.tries += 1
            self.hello(address, wanted=True)
        self._timers.at(now + hint.delay_s * (0.75 + 0.5 * self._rng.random()), Timer.HELLO, address)
        hint.delay_s = min(self._config.hello_retry_factor * hint.delay_s, self._config.hello_retry_max_s)

    def ask(self, now: float, address: Address) -> None:
        """Lets an unknown sender introduce itself, once in a while: two who lack each other would never end."""
        if now < self._asked.get(address, now):
            return
        if len(self._asked) >= _ASKED_MAX:
            self._asked.clear()
        self._asked[address] = now + self._config.hello_retry_s
        self.hello(address, wanted=True)

    def hello(self, address: Address, wanted: bool) -> None:
        """Shows the own certificate at an address."""
        self._outbox.send_openly(address, wire.HELLO, [wanted], [wire.record(self._own, whole=True)])

    def _met(self, address: Address, id: bytes | None) -> bool:
        if id is not None:
            peer = self._table.get(id)
            return peer is not None and peer.live
        return any(peer.live and (peer.route == address or address in peer.addresses) for peer in self._table)
