"""A simulated client: the client's own `Session`, and what `swarm.client.engine` does around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from kernels.batch import CallBuilder
from swarm.protocol import ids
from swarm.protocol.messages import decode, encode
from swarm.protocol.outbound import Tell
from swarm.protocol.session import Delivered, Ended, Happened, Moving, Session
from swarm.protocol.spec import Spec
from swarm.protocol.states import FINAL_BELOW, Status
from tests.sim.fabric.host import Handle, Host
from tests.sim.fabric.links import End, PeerIdentity
from transport.links import LinkClosed

if TYPE_CHECKING:
    from tests.sim.fabric.node import SimNode
    from tests.sim.fabric.world import World

DIAL_TIMEOUT_S = 2.0
ROUND_PAUSE_S = 0.05


@dataclass(slots=True)
class Submitted:
    """A batch as its client knows it."""

    number: int
    key: bytes
    spec: Spec
    count: int
    deps: list[bytes]
    at: float
    left: int
    ended: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """Index -> (status, payload): the one outcome."""
    ended_at: float = 0.0
    cancelled: set[int] = field(default_factory=set)


class SimClient:
    """One client process."""

    def __init__(
        self, world: World, number: int, place: Any, session: bytes, home: int, *, local: bool = False
    ) -> None:
        self.world = world
        self.number = number
        self.home = home
        self.local = local
        """Uses the node of its machine and no other, as a task's own client does while that node lives."""
        self.rng = Random(f"client {world.seed} {number} {session.hex()}")
        self.host = Host(world.sim, place, self.rng.random() * 1e5)
        self.boot = self.rng.randbytes(8)
        self.identity = PeerIdentity(self.rng.randbytes(16), f"client{number}", "client")
        self.session = Session(session)
        self.batches: dict[int, Submitted] = {}
        self.link: End | None = None
        self._number = 0
        self._dialling: End | None = None
        self._timer: Handle | None = None
        self._moving = ""
        self._avoid: bytes | None = None
        self._looking = False
        self._connect()

    # --- what its user does -------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """Tasks without an outcome."""
        return sum(batch.left for batch in self.batches.values())

    def submit(self, spec: Spec, payloads: list[bytes], deps: list[bytes] | None = None) -> Submitted:
        """Hand a batch over."""
        builder = CallBuilder()
        for payload in payloads:
            builder.add(payload)
        self._number += 1
        key = ids.batch_key(self.session.id, self._number)
        batch = Submitted(self._number, key, spec, len(payloads), deps or [], self.world.sim.now, len(payloads))
        self.batches[self._number] = batch
        if not spec.rerun:
            self.world.truth.unrepeatable.add(key)
        self.session.submit(self._number, spec.encode(), spec.rerun, len(payloads), builder.take(), batch.deps)
        self._turn()
        return batch

    def cancel(self, batch: Submitted, ranges: list[tuple[int, int]] | None = None, *, kill: bool = True) -> None:
        """Give tasks up."""
        for start, stop in ranges or [(0, batch.count)]:
            batch.cancelled.update(range(start, stop))
        self.session.cancel(batch.number, ranges, kill=kill)
        self._turn()

    def reprioritize(
        self, batch: Submitted, ranges: list[tuple[int, int]] | None, priority: int | None, nice: int | None
    ) -> None:
        """Have tasks sooner or later, as somebody asks for at the node that has them."""
        for node in self.world.running():
            if batch.key in node.fabric.ownership.batches:
                node.fabric.ownership.reprioritize(self.world.sim.now, batch.key, ranges, priority, nice)
                node.fabric.turn()

    def kill(self) -> None:
        """The process is gone."""
        self.host.kill()
        self.world.cables.reset(self.host)

    def leave(self) -> None:
        """Close, as `Engine.close` does, with nothing unfinished."""
        if self.link is not None:
            self.link.close("closing")
        self.host.call_later(0.01, self.host.kill)

    # --- finding a node -----------------------------------------------------------------------------------------------

    def _candidates(self) -> list[SimNode]:
        nodes = [node for node in self.world.running() if node.id != self._avoid]
        home = [node for node in nodes if node.number == self.home]
        others = [node for node in nodes if node.number != self.home and not self.local]
        self.rng.shuffle(others)
        return home + others

    def _connect(self) -> None:
        if not self._looking:
            self._looking = True
            self._try(self._candidates())

    def _try(self, nodes: list[SimNode]) -> None:
        if not nodes:
            self._avoid = None
            self.host.call_later(ROUND_PAUSE_S, lambda: self._try(self._candidates()))
            return
        node = nodes.pop(0)
        if not node.host.alive:
            self.host.call_later(0.001, self._try, nodes)
            return
        if not self.world.cables.open_both(self.host.place, node.place) or node.host.paused:
            self.host.call_later(DIAL_TIMEOUT_S, self._try, nodes)
            return
        near, _ = self.world.cables.link(
            (self.host, self, self.identity, self.boot), (node.host, node, node.identity, node.link_boot)
        )
        self._dialling = near
        self.host.call_later(DIAL_TIMEOUT_S, self._tried, near, nodes)

    def _tried(self, near: End, nodes: list[SimNode]) -> None:
        if self._dialling is near:
            self._dialling = None
            near.over = True
            near.wire.sever()
            self._try(nodes)

    # --- what links tell ----------------------------------------------------------------------------------------------

    def link_up(self, link: End) -> None:
        """Connected."""
        if link is not self._dialling:
            link.close("late")
            return
        self._dialling, self._looking = None, False
        self.link, self._moving = link, ""
        self.session.link_up(link.identity.id + link.boot)
        self._turn()

    def link_messages(self, link: End, messages: list[bytes]) -> None:
        """Messages from the node."""
        if link is not self.link:
            return
        for message in messages:
            self.session.on_message(self.host.now(), *decode(message))
        self._turn()

    def link_down(self, link: End, reason: str) -> None:
        """The node is gone."""
        if link is not self.link:
            return
        self.link = None
        self.session.link_down()
        self._avoid = link.identity.id if self._moving else None
        self._connect()

    # --- effects ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for effect in self.session.take_effects():
            if isinstance(effect, Tell):
                if self.link is not None:
                    try:
                        self.link.send(encode(effect.kind, effect.header), *effect.parts)
                    except LinkClosed:
                        pass
            elif isinstance(effect, Delivered):
                self._delivered(effect)
            elif isinstance(effect, Ended):
                self._ended(effect)
            elif isinstance(effect, Happened):
                batch = self.batches[effect.batch]
                assert 0 <= effect.index < batch.count
            elif isinstance(effect, Moving):
                self._moving = effect.reason or "moving"
        if self._moving:
            self._move()
        at = self.session.next_deadline()
        if at is not None and self._timer is None:
            self._timer = self.host.call_later(max(0.0, at - self.host.now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.session.on_timer(self.host.now())
        self._turn()

    def _move(self) -> None:
        link = self.link
        if link is None or self.local or not self.session.may_move:
            return
        if any(node.id != link.identity.id for node in self.world.running()):
            link.close(f"moving: {self._moving}")

    def _delivered(self, it: Delivered) -> None:
        batch, outcomes, fresh = self.batches[it.batch], it.outcomes, 0
        for row in range(outcomes.count):
            index = outcomes.index(row)
            if index not in batch.ended:
                fresh += 1
                self._end(batch, index, outcomes.status(row), bytes(outcomes.payload(row)))
        assert fresh == it.fresh, f"{it.fresh} outcomes are said to be the first of their task; {fresh} are"
        assert it.last == (not batch.left)

    def _ended(self, it: Ended) -> None:
        batch = self.batches[it.batch]
        for index in it.indices:
            assert index not in batch.ended, f"task {index} of {batch.spec.name} ends again, as {it.status}"
            self._end(batch, index, it.status, it.message.encode())
        assert it.last == (not batch.left)

    def _end(self, batch: Submitted, index: int, status: int, payload: bytes) -> None:
        assert status < FINAL_BELOW, f"status {status} came to a client"
        batch.ended[index] = (status, payload)
        batch.left -= 1
        batch.ended_at = self.world.sim.now
        self.world.ended(self, batch, index, Status(status), payload)
