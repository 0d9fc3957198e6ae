"""A simulated fleet at work: nodes, clients, the network between them, who is taken for dead, and the truth about it all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from swarm.protocol.owner.relief_bounds import ReliefBounds
from swarm.protocol.resources import Capacity
from swarm.protocol.states import Status
from tests.sim.fabric import checkers
from tests.sim.fabric.client import SimClient, Submitted
from tests.sim.fabric.lessons import Log
from tests.sim.fabric.links import Cables
from tests.sim.fabric.node import SimNode
from tests.sim.fabric.truth import Truth
from tests.sim.fabric.workers import Ailments
from tests.sim.fleet import Fleet, id_of
from tests.sim.simulator import Simulator

WALL_ZERO = 1.7e9
GOSSIP_EVERY_S = 0.25
CHECK_EVERY_S = 0.1
SUSPECT_AFTER_S = 0.7
DEAD_AFTER_S = (1.0, 3.0)
SEEN_AFTER_S = (0.02, 0.6)


@dataclass
class Bounds:
    """Bounds of nodes, small in some runs."""

    tasks_max: int = 2_000_000
    batches_max: int = 100_000
    retention_s: float = 900.0
    retained_max: int = 10_000
    recycle_tasks: int = 0
    recycle_age_s: float = 0.0
    suspended_bytes: int = 0
    lessons: bool = False
    """Whether owners learn, and obey."""
    relief: ReliefBounds | None = field(default_factory=ReliefBounds)


class Members:
    """Verdicts of membership, injected: who cannot be reached by any path is suspected, then dead, and seen again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(f"members {world.seed}")
        self._unheard: dict[tuple[int, int], float] = {}
        self._seen: dict[tuple[int, int], bool] = {}
        self._patience: dict[tuple[int, int], float] = {}
        self._tick()

    def _tick(self) -> None:
        world, now = self._world, self._world.sim.now
        reach = self._reach()
        for number in sorted(world.nodes):
            observer = world.nodes[number]
            if observer.host.paused:
                continue
            for other in sorted(world.known):
                if other != number:
                    self._look(now, observer, other, other in reach.get(number, ()))
        world.sim.at(now + GOSSIP_EVERY_S, self._tick)

    def _reach(self) -> dict[int, set[int]]:
        """Who is reached by a probe, direct or through a third."""
        world = self._world
        alive = [number for number in sorted(world.nodes) if not world.nodes[number].host.paused]
        pairs = {a: {b for b in alive if b != a and world.cables.open_both(("node", a), ("node", b))} for a in alive}
        return {a: direct.union(*(pairs[via] for via in direct)) for a, direct in pairs.items()}

    def _look(self, now: float, observer: SimNode, other: int, heard: bool) -> None:
        key = (observer.number, other)
        peer = self._world.nodes.get(other)
        believed = self._world.node_id(other) in observer.members
        if heard and peer is not None:
            self._unheard.pop(key, None)
            if not believed and not peer.draining and not observer.draining:
                delay = SEEN_AFTER_S[0] + (SEEN_AFTER_S[1] - SEEN_AFTER_S[0]) * self._rng.random()
                observer.host.call_later(delay, self._see, observer, other)
            return
        if not believed:
            return
        since = self._unheard.get(key)
        if since is None:
            since = self._unheard[key] = now
            self._patience[key] = DEAD_AFTER_S[0] + (DEAD_AFTER_S[1] - DEAD_AFTER_S[0]) * self._rng.random()
        if now - since > self._patience[key]:
            self._world.truth.note(now, f"node {observer.number} takes node {other} for dead")
            observer.host.call_soon(observer.member_lost, self._world.node_id(other), "dead")
        elif now - since > SUSPECT_AFTER_S:
            observer.host.call_soon(observer.member_suspected, self._world.node_id(other))

    def _see(self, observer: SimNode, other: int) -> None:
        peer = self._world.nodes.get(other)
        if peer is not None and not peer.draining:
            observer.member_seen(peer.id, peer.name, peer.info())

    def started(self, node: SimNode) -> None:
        """A node runs."""

    def stopped(self, node: SimNode) -> None:
        """A node runs no more."""

    def left(self, node: SimNode) -> None:
        """A node says goodbye to all that it reaches."""
        for other in self._world.running():
            if other is not node and self._world.cables.open_both(node.place, other.place):
                other.host.call_later(0.001 + 0.2 * self._rng.random(), other.member_lost, node.id, "left")

    def gossip(self, node: SimNode) -> None:
        """A node says how busy it is."""
        info = node.info()
        for other in self._world.running():
            if other is not node and self._world.cables.open_both(node.place, other.place):
                other.host.call_later(0.001 + 0.3 * self._rng.random(), self._heard, other, node, info)

    @staticmethod
    def _heard(other: SimNode, node: SimNode, info: dict[str, object]) -> None:
        if node.id in other.members:
            other.member_seen(node.id, node.name, info)

    def reset(self, node: SimNode, other: bytes) -> None:
        """A link broke: the other is probed at once."""

    def stood_still(self, node: SimNode, paused: bool) -> None:
        """A node is stopped, or goes on."""

    def cut(self, source: int, destination: int) -> None:
        """Nothing gets from one node to another any more."""

    def mend(self) -> None:
        """All cuts are undone."""


class FleetMembers(Fleet):
    """Verdicts of membership by the node's own machine, in the same simulation. Its datagrams cross their own network,
    which is cut and stopped together with the links."""

    def __init__(self, world: World) -> None:
        self.world = world
        super().__init__(world.seed)
        world.sim = self.sim

    def started(self, node: SimNode) -> None:
        hints = [number for number in sorted(self.nodes) if number != node.number]
        self.start(node.number, hints)
        self.call(node.number, "update_self", node.info())

    def stopped(self, node: SimNode) -> None:
        if node.number in self.nodes:
            super().kill(node.number)

    def left(self, node: SimNode) -> None:
        self.call(node.number, "leave")

    def gossip(self, node: SimNode) -> None:
        if node.number in self.nodes:
            self.call(node.number, "update_self", node.info())

    def reset(self, node: SimNode, other: bytes) -> None:
        if node.number in self.nodes:
            self.call(node.number, "peer_reset", other)

    def stood_still(self, node: SimNode, paused: bool) -> None:
        where = self.address(node.number)
        if paused:
            self.sim.pause(where)
        else:
            self.sim.resume(where, self.rng.random() < 0.5)

    def cut(self, source: int, destination: int) -> None:
        self.network.cut(self.address(source), self.address(destination))

    def mend(self) -> None:
        self.network.heal()

    def note(self, observer: int, effect: Any) -> None:
        """Verdicts reach the node in its next turn, as by the loop."""
        node = self.world.nodes.get(observer)
        member = getattr(effect, "member", None)
        if node is None or member is None:
            return
        what = type(effect).__name__
        if what in ("Joined", "Changed"):
            node.host.call_soon(node.member_seen, member.id, member.name, member.info)
        elif what == "Suspected":
            node.host.call_soon(node.member_suspected, member.id)
        else:
            self.world.truth.note(self.sim.now, f"node {observer}: {what} {member.name}")
            node.host.call_soon(node.member_lost, member.id, "dead" if what == "Died" else "left")


class World:
    """One run. Times are simulated seconds."""

    def __init__(
        self,
        seed: int,
        *,
        real_members: bool = False,
        bounds: Bounds | None = None,
        checked: bool = True,
        members: type[Members] = Members,
    ) -> None:
        self.seed = seed
        self.rng = Random(f"world {seed}")
        self.truth = Truth()
        self.bounds = bounds or Bounds()
        self.lessons = Log(self)
        self.ailments = Ailments()
        self.nodes: dict[int, SimNode] = {}
        self.known: dict[int, Capacity] = {}
        self.boots: dict[int, int] = {}
        self.clients: list[SimClient] = []
        self.everyone: list[SimClient] = []
        self.workers_fail = False
        """Whether workers may fail to start."""
        self.faults = 0
        """How many faults there were that may cost a node or a report."""
        self.drains = 0
        self.sim: Simulator
        self.members: Members | FleetMembers
        if real_members:
            self.members = FleetMembers(self)
        else:
            self.sim = Simulator(self)  # nothing but calls: links and datagrams have their own ways
        self.cables = Cables(self.sim, Random(f"cables {seed}"))
        if not real_members:
            self.members = members(self)
        if checked:
            self._check()

    def delays(self, source: Any, destination: Any) -> tuple[float, ...]:
        """No process of this simulator sends by itself."""
        raise AssertionError((source, destination))

    def wall(self) -> float:
        """Wall-clock time, seconds."""
        return WALL_ZERO + self.sim.now

    @staticmethod
    def node_id(number: int) -> bytes:
        """The id of the n-th node."""
        return id_of(number)

    def node_by_id(self, id: bytes) -> SimNode | None:
        """A node that runs."""
        return next((node for node in self.nodes.values() if node.id == id), None)

    def running(self) -> list[SimNode]:
        """Nodes that run and are not about to stop."""
        return [self.nodes[number] for number in sorted(self.nodes) if not self.nodes[number].draining]

    # --- nodes --------------------------------------------------------------------------------------------------------

    def start(self, number: int, capacity: Capacity | None = None, speed: float = 1.0) -> SimNode:
        """Start a node, or start it again. On one of speed 2 tasks take half of their time."""
        assert number not in self.nodes
        if capacity is not None:
            self.known[number] = capacity
        boot = self.boots[number] = self.boots.get(number, 0) + 1
        node = SimNode(self, number, boot, self.known[number], self.ailments)
        node.speed = speed
        self.nodes[number] = node
        self.members.started(node)
        return node

    def kill(self, number: int, *, power: bool = False) -> None:
        """kill -9, or the power is gone: then nobody resets its connections."""
        node = self.nodes.pop(number)
        self.truth.note(self.sim.now, f"node {number} is killed{' with its machine' if power else ''}")
        self.faults += 1
        self.members.stopped(node)
        node.kill()
        if power:
            self.cables.silent(node.host)
        else:
            self.cables.reset(node.host)

    def pause(self, number: int, for_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        node = self.nodes[number]
        if node.host.paused:
            return
        self.truth.note(self.sim.now, f"node {number} stands still for {for_s:.2f} s")
        self.faults += 1
        node.host.pause()
        self.members.stood_still(node, True)
        self.cables.silent(node.host)

        def resume() -> None:
            if node.host.alive and node.host.paused:
                node.host.resume()
                self.members.stood_still(node, False)

        self.sim.at(self.sim.now + for_s, resume)

    def drain(self, number: int, timeout_s: float) -> None:
        """SIGTERM."""
        node = self.nodes[number]
        if not node.draining and not node.host.paused:
            self.truth.note(self.sim.now, f"node {number} drains")
            self.faults += 1
            self.drains += 1
            node.drain(timeout_s)

    def node_left(self, node: SimNode) -> None:
        """A node has drained, says goodbye and closes."""
        self.truth.note(self.sim.now, f"node {node.number} leaves")
        self.members.left(node)

        def end() -> None:
            if self.nodes.get(node.number) is node:
                del self.nodes[node.number]
                self.members.stopped(node)
                node.kill()
                self.cables.reset(node.host)

        node.host.call_later(0.3, end)

    def cut(self, one: Any, other: Any, *, both: bool) -> None:
        """Cut a place off from another."""
        self.faults += 1
        for source, destination in ((one, other), (other, one)) if both else ((one, other),):
            self.cables.cut(source, destination)
            if source[0] == destination[0] == "node":
                self.members.cut(source[1], destination[1])

    def mend(self) -> None:
        """Undo all cuts."""
        self.cables.mend()
        self.members.mend()

    def break_link(self) -> None:
        """Reset a connection that is up."""
        wires = [wire for wire in self.cables.wires if any(end.up for end in wire.ends) and not wire.broken]
        wires = [wire for wire in wires if wire.ends[0].host.place != wire.ends[1].host.place]
        if wires:
            wire = self.rng.choice(wires)
            self.faults += 1
            self.truth.note(self.sim.now, f"a link breaks: {[end.host.place for end in wire.ends]}")
            wire.sever()

    def dial_again(self) -> None:
        """Two nodes that are linked dial each other once more, as when both dialled at once."""
        nodes = self.running()
        if len(nodes) > 1:
            one, other = self.rng.sample(nodes, 2)
            if not (one.host.paused or other.host.paused) and self.cables.open_both(one.place, other.place):
                self.cables.link(
                    (one.host, one, one.identity, one.link_boot), (other.host, other, other.identity, other.link_boot)
                )

    # --- clients ------------------------------------------------------------------------------------------------------

    def client(self, home: int, place: Any = None) -> SimClient:
        """Start a client; its first choice is a node."""
        number = len(self.everyone)
        session = Random(f"session {self.seed} {number}").randbytes(8)
        client = SimClient(self, number, place or ("client", number), session, home)
        self.clients.append(client)
        self.everyone.append(client)
        return client

    def nested_client(self, node: SimNode, session: bytes) -> SimClient:
        """The client of a task, on the machine of its node."""
        client = SimClient(self, len(self.everyone), node.place, session, node.number, local=True)
        self.everyone.append(client)
        return client

    def kill_client(self, client: SimClient) -> None:
        """Its process dies."""
        self.truth.note(self.sim.now, f"client {client.number} is killed")
        self.clients.remove(client)
        client.kill()

    def ended(self, client: SimClient, batch: Submitted, index: int, status: Status, payload: bytes) -> None:
        """A task has its outcome."""
        checkers.explained(self, client, batch, index, status, payload)

    # --- what others are told -----------------------------------------------------------------------------------------

    def gossip_info(self, node: SimNode) -> None:
        """A node's load changed."""
        self.members.gossip(node)

    def peer_reset(self, node: SimNode, other: bytes) -> None:
        """A link of a node broke."""
        self.members.reset(node, other)

    # --- time ---------------------------------------------------------------------------------------------------------

    def run(self, for_s: float) -> None:
        """Run for some simulated seconds."""
        self.sim.run(self.sim.now + for_s)

    def run_until_done(self, within_s: float) -> float:
        """Run until every client has every outcome; how long that took. AssertionError after `within_s`."""
        began = self.sim.now
        while unfinished := [client for client in self.clients if client.unfinished]:
            assert self.sim.now - began < within_s, checkers.stuck(self, unfinished, within_s)
            self.run(0.05)
        return self.sim.now - began

    def run_while_tasks_end(self, within_s: float) -> None:
        """Run until every client has every outcome, however long that takes: where one node alone has what many long tasks
        need, they run one after another. AssertionError where none came for `within_s`."""
        ended, since = -1, self.sim.now
        while unfinished := [client for client in self.clients if client.unfinished]:
            now_ended = sum(batch.count - batch.left for client in self.clients for batch in client.batches.values())
            if now_ended != ended:
                ended, since = now_ended, self.sim.now
            assert self.sim.now - since < within_s, checkers.stuck(self, unfinished, within_s)
            self.run(0.05)

    def _check(self) -> None:
        for node in self._live():
            checkers.sound(node)
        self.sim.at(self.sim.now + CHECK_EVERY_S, self._check)

    def _live(self) -> Iterator[SimNode]:
        return (self.nodes[number] for number in sorted(self.nodes))
