"""What is said of members, and what follows from it: joined, changed, suspected, dead, left, refuted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from swarm.protocol import membership_wire as wire
from swarm.protocol.effects import Address, Changed, Cloned, Died, Joined, Left, Suspected
from swarm.protocol.member import Peer, Rng, State, Table
from swarm.protocol.membership_config import MembershipConfig
from swarm.protocol.notices import Notices
from swarm.protocol.outbox import Outbox
from swarm.protocol.own_record import OwnRecord
from swarm.protocol.probing import Prober
from swarm.protocol.suspicion import LocalHealth, Suspicion
from swarm.protocol.timers import Timer, Timers
from swarm.protocol.wants import Wants

CLONE_ANSWERS = 3
"""Greater incarnations of one other boot after which a copy of this node's files is looked for."""
_ABOUT = {wire.SUSPECT: "suspect", wire.DEAD: "dead", wire.LEFT: "left"}


class Verified(Protocol):
    """What a valid certificate says of its holder."""

    @property
    def id(self) -> bytes: ...
    @property
    def role(self) -> str: ...


class Verdicts:
    """Orders statements by incarnation (SWIM, section 4.2) and keeps the table by them."""

    __slots__ = (
        "_config",
        "_health",
        "_notices",
        "_others",
        "_outbox",
        "_own",
        "_prober",
        "_rng",
        "_suspicions",
        "_table",
        "_timers",
        "_verify",
        "_wants",
        "changed",
    )

    def __init__(
        self,
        own: OwnRecord,
        config: MembershipConfig,
        rng: Rng,
        verify: Callable[[bytes], Verified],
        table: Table,
        outbox: Outbox,
        timers: Timers,
        health: LocalHealth,
        suspicions: dict[bytes, Suspicion],
        prober: Prober,
        wants: Wants,
        notices: Notices,
    ) -> None:
        self._own = own
        self._others: dict[bytes, tuple[int, int]] = {}
        """The boot that is not this one and speaks for this node -> its last incarnation, and how many there were."""
        self._config = config
        self._rng = rng
        self._verify = verify
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self._health = health
        self._suspicions = suspicions
        self._prober = prober
        self._wants = wants
        self._notices = notices
        self.changed = False
        """Who lives has changed since this was last set to False."""

    @property
    def _count(self) -> int:
        return len(self._table.live) + 1

    def known(self, update: Any) -> bool:
        """Whether this is a record that is not newer than the one at hand: most of what gossip brings, so it is told
        before anything else of it is looked at."""
        if type(update) is not list or len(update) != 9 or update[0] != wire.ALIVE or type(update[1]) is not bytes:
            return False
        peer = self._table.get(update[1])
        if peer is None:
            return False
        incarnation = update[2]
        if type(incarnation) is not int or incarnation > peer.incarnation:
            return False
        if incarnation == peer.incarnation and (type(update[3]) is not int or update[3] > peer.version):
            return False
        if self._wants.wanted:
            self._wants.got(update[1])
        return True

    def apply(self, now: float, update: Any, sender: bytes) -> None:
        """Takes in an update that a member sent. WireError if it is malformed."""
        tag = wire.check_update(update)
        if tag == wire.NOTICE:
            self._notices.add(now, update[1])
            return
        id, incarnation = update[1], update[2]
        if tag == wire.ALIVE:
            if id == self._own.id:
                addresses = tuple(wire.read_address(address) for address in update[6])
                self._own_echo(now, incarnation, update[4], addresses)
            else:
                self.alive(now, update, sender)
            return
        if id == self._own.id:
            if incarnation < self._own.peer.incarnation:
                self._remind(sender, tag)
            self.refute(now, incarnation, _ABOUT[tag])
            return
        peer = self._table.get(id)
        if peer is None or not peer.live or incarnation < peer.incarnation:
            return
        accuser = self._table.get(sender)
        if tag != wire.LEFT and accuser is not None and not accuser.live:
            # Whom nobody reaches reaches nobody: a node that only hears nothing would accuse all others.
            return
        if incarnation > peer.incarnation:
            self.outdated(peer, incarnation, sender)
        if tag == wire.SUSPECT:
            self.accuse(now, peer, update[3])
        elif tag == wire.DEAD:
            self._condemned(now, peer, update[3])
        else:
            self.bury(now, peer, State.LEFT)

    def _own_echo(self, now: float, incarnation: int, boot: bytes, addresses: tuple[Address, ...]) -> None:
        if incarnation > self._own.peer.incarnation or (
            incarnation == self._own.peer.incarnation and boot != self._own.peer.boot
        ):
            # From a boot whose last incarnation did not reach the disk, or from a copy of this node's files. What a boot
            # that is over has said does not grow; a copy that runs answers each refutation with a greater incarnation.
            if boot != self._own.peer.boot:
                last, times = self._others.get(boot, (-1, 0))
                if incarnation > last:
                    self._others = {boot: (incarnation, times + 1)}
                    if times + 1 == CLONE_ANSWERS:
                        self._outbox.leave(Cloned(boot, addresses))
            self._outbox.fact("membership.conflict", {}, {"incarnation": incarnation, "boot": boot})
            self.refute(now, incarnation, "boot")

    def alive(self, now: float, update: Any, sender: bytes) -> None:
        """Takes in a checked record of another member."""
        _, id, incarnation, version, boot, name, addresses, info, certificate = update
        peer = self._table.get(id)
        if peer is not None:
            if (incarnation, version) <= (peer.incarnation, peer.version):
                return
            if incarnation == peer.incarnation and not peer.live:
                return
        if certificate is None and peer is None:
            self._wants.add(id, sender)
            return
        recertified = False
        if certificate is not None and (peer is None or certificate != peer.certificate):
            if not self.valid(id, certificate):
                self._wants.got(id)
                return
            recertified = True
        elif peer is not None:
            certificate = peer.certificate
        details = wire.read_info(info)
        readable = tuple(wire.read_address(address) for address in addresses)
        if peer is None:
            if len(self._table) >= self._config.members_max and not self._table.forget_oldest():
                self._outbox.fact("membership.rejected", {"reason": "members-max"})
                return
            peer = Peer(id)
            known, rose, rebooted = False, True, False
        else:
            known, rose, rebooted = True, not peer.live, boot != peer.boot
        newborn = incarnation > peer.incarnation
        peer.name = name
        peer.certificate = certificate
        if readable != peer.addresses or rebooted or rose:
            peer.addresses = readable
            if peer.route not in readable and readable:
                peer.route = readable[0]
        peer.incarnation = incarnation
        peer.version = version
        peer.boot = boot
        peer.info = details
        peer.info_packed = info
        self._wants.got(id)
        if newborn or not known:
            self.changed = True
        if not known:
            peer.since = now
            self._table.add(peer)
            self._prober.add(id)
        elif newborn:
            self._suspicions.pop(id, None)
            self._table.move(peer, State.ALIVE, now)
            if rose:
                self._prober.add(id)
        # Who does not know it yet fetches the certificate once, rather than being sent it by many.
        whole = known and recertified
        self._outbox.spread(now, id, wire.record(peer, whole), routine=known and not newborn)
        if rose or rebooted:
            peer.told = (0, 0)
            self._outbox.leave(Joined(peer.snapshot()))
        else:
            self._outbox.leave(Changed(peer.snapshot()))

    def valid(self, id: bytes, certificate: bytes) -> bool:
        """Whether a certificate makes the node `id` a member."""
        try:
            identity = self._verify(certificate)
        except Exception as error:
            reason = getattr(error, "reason", "invalid")
            self._outbox.fact("membership.refused", {"reason": str(reason)}, {"member": id})
            return False
        if identity.id != id or identity.role != "node":
            reason = "foreign-id" if identity.id != id else "role"
            self._outbox.fact("membership.refused", {"reason": reason}, {"member": id})
            return False
        return True

    def outdated(self, peer: Peer, incarnation: int, sender: bytes) -> None:
        """A statement is about a newer incarnation than the record at hand: it counts, and the record is fetched."""
        peer.incarnation = incarnation
        peer.version = -1
        self._table.remark(peer)
        self._wants.add(peer.id, sender)

    def accuse(self, now: float, peer: Peer, accusers: Sequence[bytes]) -> None:
        """Some suspect a live member."""
        suspicion = self._suspicions.get(peer.id)
        if suspicion is not None and suspicion.incarnation != peer.incarnation:
            suspicion = None
        began = suspicion is None
        if suspicion is None:
            count = self._count
            needed = min(self._config.confirmations, max(count - 2, 0))
            shortest = self._config.suspicion_min_s(count)
            longest = shortest * self._config.suspicion_max_factor
            suspicion = Suspicion(peer.incarnation, now, needed, shortest, longest)
            self._suspicions[peer.id] = suspicion
        news = False
        for accuser in accusers:
            if suspicion.accuse(accuser):
                news = True
        if began:
            self._table.move(peer, State.SUSPECT, now)
            self._outbox.leave(Suspected(peer.snapshot()))
            self._outbox.fact("membership.suspected", {}, {"member": peer.id, "accusers": tuple(accusers)})
            if self._own.id not in suspicion.accusers:
                wanted = 2 * (self._config.confirmations + 1) / max(self._count - 2, 1)
                if self._rng.random() < wanted:
                    delay = self._config.period(self._count) * self._config.probe_timeout_fraction * self._rng.random()
                    self._timers.at(now + delay, Timer.CONFIRM, peer.id)
        if news:
            self._timers.at(self._due(suspicion), Timer.SUSPICION, peer.id)
            self._outbox.spread(now, peer.id, wire.suspect(peer.id, peer.incarnation, suspicion.accusers))

    def _condemned(self, now: float, peer: Peer, accuser: bytes) -> None:
        """Another member says that a live one is dead. That counts here if this node has suspected it for long enough
        to have heard a refutation; else it is an accusation, by somebody whose suspicion is over."""
        suspicion = self._suspicions.get(peer.id)
        patience_s = 2 * self._config.spread_s(self._count)
        if suspicion is not None and suspicion.incarnation == peer.incarnation and now - suspicion.began >= patience_s:
            self.bury(now, peer, State.DEAD)
            return
        self.accuse(now, peer, [accuser])
        suspicion = self._suspicions[peer.id]
        if not suspicion.condemned:
            suspicion.condemned = True
            self._timers.at(self._due(suspicion), Timer.SUSPICION, peer.id)
            self._prober.probe(now, peer)

    def _due(self, suspicion: Suspicion) -> float:
        """When something is to be done about a suspicion: a period before its end its accuser looks once more."""
        if self._own.id not in suspicion.accusers:
            return suspicion.deadline
        look_s = self._config.period(self._count)
        if suspicion.looked is None:
            return suspicion.deadline - look_s
        return max(suspicion.deadline, suspicion.looked + look_s)

    def suspicion_due(self, now: float, id: bytes) -> None:
        """The time to refute is over, unless the suspicion was postponed, or this node has yet to look once more."""
        suspicion = self._suspicions.get(id)
        if suspicion is None:
            return
        peer = self._table.at(id)
        due = self._due(suspicion)
        if due <= now + 1e-6 and suspicion.looked is None and self._own.id in suspicion.accusers:
            suspicion.looked = now
            self._prober.insist(now, peer)
            due = self._due(suspicion)
        if due > now + 1e-6:
            self._timers.at(due, Timer.SUSPICION, id)
            return
        self.bury(now, peer, State.DEAD)
        # It may only be cut off one way, or stopped: when it wakes it finds this and refutes.
        self._outbox.send(peer, wire.GOSSIP, None, [self.statement(peer)], rumours=False)

    def bury(self, now: float, peer: Peer, state: State) -> None:
        """A live member is dead or has left."""
        self._suspicions.pop(peer.id, None)
        self._table.move(peer, state, now)
        self.changed = True
        self._outbox.spread(now, peer.id, self.statement(peer))
        self._outbox.leave(Died(peer.snapshot()) if state == State.DEAD else Left(peer.snapshot()))

    def statement(self, peer: Peer) -> bytes:
        """That a member is dead or has left, as an update."""
        if peer.state == State.LEFT:
            return wire.left(peer.id, peer.incarnation)
        assert peer.state == State.DEAD
        return wire.dead(peer.id, peer.incarnation, self._own.id)

    def refute(self, now: float, incarnation: int, about: str) -> None:
        """Somebody says something untrue of this node in an incarnation that is not over yet."""
        if incarnation < self._own.peer.incarnation or self._own.leaving:
            return
        self._health.worse()
        self._own.renew(now, incarnation + 1)
        self._outbox.fact("membership.refuted", {"about": about}, {"incarnation": self._own.peer.incarnation})
        if about in ("dead", "rows"):
            self._doubt(now)

    def _remind(self, sender: bytes, tag: int) -> None:
        """A member says what was refuted before: it was told then, and has not heard it. It is told again."""
        peer = self._table.get(sender)
        if peer is not None:
            peer.told = (0, 0)
            if tag != wire.SUSPECT and not self._own.leaving:
                self._outbox.send(peer, wire.GOSSIP, None)

    def _doubt(self, now: float) -> None:
        """This node was out of touch, so it was perhaps its own fault that it heard nothing of those it suspects; and
        those it accused meanwhile were told to ignore it, so they never refuted. All of it starts anew, and verdicts
        that are still being passed on are not: who is dead indeed is found so by others."""
        for id in self._table.lost:
            self._outbox.hush(id)
        for id in sorted(self._suspicions):
            suspicion = self._suspicions[id]
            suspicion.renew(now, [self._own.id])
            self._outbox.hush(id)
            self._timers.at(self._due(suspicion), Timer.SUSPICION, id)
            self._prober.probe(now, self._table.at(id))
