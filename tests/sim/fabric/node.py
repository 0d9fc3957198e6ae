"""One life of a simulated node: the node's own `Fabric` and `Switchboard` between simulated links, workers and members."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from nodes.fabric import Fabric
from nodes.machine import capacity_from, info_of, load_from
from nodes.pool import PoolConfig
from nodes.queries import Switchboard
from nodes.stealing import Stealing
from swarm.protocol.effects import Fact
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.messages import Kind, encode
from swarm.protocol.ownership import MoveOver, Ownership, OwnershipConfig, ToExecutor
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import parse_spec
from tests.sim.fabric import checkers
from tests.sim.fabric.host import Handle, Host
from tests.sim.fabric.links import End, PeerIdentity
from tests.sim.fabric.relief import watch_relief
from tests.sim.fabric.workers import Ailments, SimPool
from transport.links import reconnect_delays

if TYPE_CHECKING:
    from tests.sim.fabric.world import World

EPOCHS_PER_NODE = 1 << 12
DIAL_TIMEOUT_S = 2.0
INFO_EVERY_S = 0.25
DRAIN_POLL_S = 0.02
NEVER = frozenset(("peer.violation", "link.overflow", "message.unknown"))
"""Facts that a fleet of nodes without a traitor never has to tell."""


class WatchedOwnership(Ownership):
    """The node's own, whose dispatches are put on record."""

    node: SimNode

    def __init__(self, config: OwnershipConfig, me: bytes, name: str, capacity: Capacity, epoch: int) -> None:
        super().__init__(config, me, name, capacity, epoch=epoch)
        self._submit, self.submit = self.submit, self._submit_watched

    def _submit_watched(
        self, now: float, now_wall: float, client: bytes, author: str, granted: bool, key: bytes, raw: bytes,
        count: int, columns: memoryview | bytes, **how: Any,
    ) -> None:  # fmt: skip
        fits = key not in self.batches and not self.refusals.draining and not how.get("deps")
        fits = fits and checkers.has_room(self, count, len(columns))
        self._submit(now, now_wall, client, author, granted, key, raw, count, columns, **how)
        if fits and key not in self.batches:
            checkers.refused(self, client, parse_spec(raw), count)

    def take_effects(self) -> list[Any]:
        effects = super().take_effects()
        checkers.bounded(self)
        for it in effects:
            if type(it) is ToExecutor:
                node = self.node
                node.world.truth.dispatched(node.number, node.boot, it.dispatch, it.batch, it.first, it.count)
        return effects


class SimNode:
    """A node process, from its start to its end."""

    def __init__(self, world: World, number: int, boot: int, capacity: Capacity, ailments: Ailments) -> None:
        self.world = world
        self.number = number
        self.boot = boot
        self.id = world.node_id(number)
        self.name = f"node{number}"
        self.place = ("node", number)
        self.rng = Random(f"node {world.seed} {number} {boot}")
        self.host = Host(world.sim, self.place, self.rng.random() * 1e5)
        self.identity = PeerIdentity(self.id, self.name, "node")
        self.link_boot = f"{number:03}.{boot:04}".encode()
        self.members: set[bytes] = set()
        self.draining = False
        self.speed = 1.0
        self._dials: set[bytes] = set()
        self._info_timer: Handle | None = None
        self.switchboard = Switchboard(self.host, self._crashed)  # type: ignore[arg-type]
        self.switchboard.serve("dispatches", self._dispatches)
        bounds = world.bounds
        ownership = WatchedOwnership(
            OwnershipConfig(
                tasks_max=bounds.tasks_max, batches_max=bounds.batches_max, retention_s=bounds.retention_s,
                retained_batches_max=bounds.retained_max, relief=bounds.relief,
            ),
            self.id, self.name, capacity, epoch=number * EPOCHS_PER_NODE + boot,
        )  # fmt: skip
        ownership.node = self
        watch_relief(self, ownership)
        self.ownership = ownership
        self.execution = Execution(
            ExecutionConfig(
                capacity,
                recycle_tasks=bounds.recycle_tasks,
                recycle_age_s=bounds.recycle_age_s,
                suspended_bytes_max=bounds.suspended_bytes,
            ),
            self.id,
        )
        self.fabric = Fabric(
            self.id, ownership, self.execution, PoolConfig(), self, self.host,  # type: ignore[arg-type]
            now=self.host.now, wall=world.wall,
        )  # fmt: skip
        self.pool = self.fabric.pool = SimPool(self, self.rng, ailments)  # type: ignore[assignment]
        self.fabric.queries = self.switchboard
        self.stealing = Stealing(
            self.fabric, self.switchboard, self.host, Random(f"steal {world.seed} {number} {boot}")
        )  # type: ignore[arg-type]
        self.fabric.move_over = self._move_over
        if bounds.lessons:
            world.lessons.join(self)
        self.fabric.start()

    def _dispatches(self, link: End, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        return self.fabric.held_by(link.identity.id, args)

    def _move_over(self, it: MoveOver) -> None:
        moves = self.world.truth.moves
        moves[it.reason or "moved"] = moves.get(it.reason or "moved", 0) + 1

    @staticmethod
    def _crashed(method: str, error: BaseException) -> None:
        raise AssertionError(f"{method}: {error}")

    # --- ending -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9; its workers end with it."""
        self.host.kill()
        self.pool.kill_all()
        self.fabric.closed = True

    def drain(self, timeout_s: float) -> None:
        """SIGTERM: take nothing more, end what runs, leave."""
        self.draining = True
        self.fabric.drain()
        for link in list(self.fabric.client_links.values()):
            if link.up:
                link.send(encode(Kind.GOODBYE, {"reason": "draining"}))
        self._drained(self.host.now() + timeout_s)

    def _drained(self, deadline: float) -> None:
        fabric = self.fabric
        if fabric.quiet or self.host.now() >= deadline or (not fabric.client_links and self.execution.idle):
            self.world.node_left(self)
        else:
            self.host.call_later(DRAIN_POLL_S, self._drained, deadline)

    # --- what links tell (see `nodes.node.Node`) ----------------------------------------------------------------------

    def link_up(self, link: End) -> None:
        self._dials.discard(link.identity.id)
        self.fabric.link_up(link)

    def link_messages(self, link: End, messages: list[bytes]) -> None:
        self.fabric.link_messages(link, messages)

    def link_down(self, link: End, reason: str) -> None:
        self.switchboard.link_down(link)
        self.fabric.link_down(link, reason)

    # --- what membership tells ----------------------------------------------------------------------------------------

    def member_seen(self, node: bytes, name: str, info: Mapping[str, object]) -> None:
        """A member is known, or said something new of itself."""
        new = node not in self.members
        self.members.add(node)
        self.fabric.member_seen(node, name, capacity_from(info, name), load_from(info))
        if new and self.id < node:
            self.connect(node)

    def member_suspected(self, node: bytes) -> None:
        """A member does not answer."""
        self.ownership.executor_suspected(node)

    def member_lost(self, node: bytes, why: str) -> None:
        """A member is dead or has left."""
        self.members.discard(node)
        self.fabric.member_lost(node, why)

    def info(self) -> dict[str, object]:
        """What it says of itself."""
        return info_of(self.execution)

    # --- what the fabric asks -----------------------------------------------------------------------------------------

    def is_linked(self, node: bytes) -> bool:
        """Whether there is a link to a member."""
        link = self.fabric.node_links.get(node)
        return link is not None and link.up

    def connect(self, node: bytes) -> None:
        """Dial a member until there is a link, or it is no member any more."""
        if node in self._dials or self.is_linked(node) or node not in self.members:
            return
        self._dials.add(node)
        self._dial(node, reconnect_delays(self.rng))

    def _dial(self, node: bytes, delays: Any) -> None:
        if self.is_linked(node) or node not in self.members:
            self._dials.discard(node)
            return
        peer = self.world.node_by_id(node)
        if (
            peer is None
            or not peer.host.alive
            or not self.world.cables.open_both(self.place, peer.place)
            or peer.host.paused
        ):
            refused = peer is None or not peer.host.alive
            self.host.call_later((0.001 if refused else DIAL_TIMEOUT_S) + next(delays), self._dial, node, delays)
            return
        near, _ = self.world.cables.link(
            (self.host, self, self.identity, self.link_boot), (peer.host, peer, peer.identity, peer.link_boot)
        )
        self.host.call_later(DIAL_TIMEOUT_S, self._dialled, node, near, delays)

    def _dialled(self, node: bytes, near: End, delays: Any) -> None:
        if not near.was_up:
            near.over = True
            near.wire.sever()
            self._dial(node, delays)

    def peer_reset(self, node: bytes) -> None:
        """A link to a member broke."""
        self.world.peer_reset(self, node)

    def load_changed(self) -> None:
        """The own load changed: it is gossiped a moment later."""
        if self._info_timer is None:
            self._info_timer = self.host.call_later(INFO_EVERY_S, self._tell_info)

    def _tell_info(self) -> None:
        self._info_timer = None
        self.world.gossip_info(self)

    def fact(self, fact: Fact) -> None:
        """Count it; some may not be."""
        facts = self.world.truth.facts
        facts[fact.name] = facts.get(fact.name, 0) + 1
        if fact.name == "move.over":
            moves = self.world.truth.moves_of
            moves[fact.labels["why"], fact.labels["result"]] += 1
        assert fact.name not in NEVER, f"{self.name}: {fact}"
