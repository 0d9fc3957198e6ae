"""Random fault schedules for the task fabric, one seed a run. Each raises AssertionError where a promise is broken.

A run has three parts: clients hand work over while faults happen; then all faults are over, and every client has to get
every outcome within a bound; then nothing is left anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from kernels.tasks import TaskColumns
from swarm.protocol.owner.relief_bounds import ReliefBounds
from swarm.protocol.resources import Capacity
from tests.sim.fabric import checkers
from tests.sim.fabric.links import LinkWeather
from tests.sim.fabric.node import SimNode
from tests.sim.fabric.workload import Mix, Workload
from tests.sim.fabric.world import Bounds, World
from tests.sim.scenarios import Outcome

DONE_S = 60.0
"""All faults are over: until a client has one more outcome. Verdicts, leases, backoffs and a task itself."""
REST_S = 25.0
"""Until what clients left behind is over, too: a lease of ten seconds, and what hung."""
SOON = ReliefBounds(
    stood_s=0.1, ran_s=0.2, over_s=0.1, cost_guess_s=0.05, again_s=1.0, again_s_max=4.0, rest_s=0.5, leave_s=1.5, within_s=3.0,
    look_s=0.1,
)  # fmt: skip
"""Tasks are moved by themselves after tenths of the usual times."""
PLAIN = Mix(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Schedule:
    """One kind of run: the work, how often what goes wrong (a second), and the fleet."""

    mix: Mix = Mix()
    faults: dict[str, float] = field(default_factory=dict)
    nodes: tuple[int, int] = (1, 5)
    clients: tuple[int, int] = (1, 3)
    seconds: float = 6.0
    batches_per_s: float = 4.0
    loss: float = 0.0
    start_fails: float = 0.0
    dies: float = 0.0
    bounds: Bounds = field(default_factory=Bounds)
    real_members: bool = False
    uneven: bool = False
    """Nodes differ in speed."""
    done_s: float = DONE_S


SCHEDULES: dict[str, Schedule] = {
    "work": Schedule(),
    "workers": Schedule(start_fails=0.1, dies=0.03, bounds=Bounds(recycle_tasks=7, recycle_age_s=2.0)),
    "once": Schedule(
        Mix(once=0.9, nested=0.02, run_s=0.8),
        {"break": 1.5, "again": 0.5, "kill": 0.3, "start": 0.6, "cut": 0.1, "mend": 0.5}, nodes=(2, 5), dies=0.02,
    ),
    "links": Schedule(faults={"break": 2.0, "again": 1.0}, nodes=(2, 5), loss=0.02),
    "cuts": Schedule(faults={"cut": 0.4, "one-way": 0.4, "mend": 0.3}, nodes=(2, 5), seconds=12.0, batches_per_s=2.5),
    "kills": Schedule(faults={"kill": 0.4, "power": 0.2, "start": 0.6}, nodes=(2, 5), seconds=10.0),
    "pauses": Schedule(faults={"pause": 0.5}, nodes=(2, 5), seconds=12.0, batches_per_s=2.5),
    "drains": Schedule(faults={"drain": 0.4, "start": 0.6}, nodes=(2, 5), seconds=10.0),
    "clients": Schedule(faults={"client": 0.5, "lone-client": 0.3, "mend": 0.2}, nodes=(1, 4), clients=(2, 4)),
    "apart": Schedule(
        faults={"lone-client": 0.2, "mend": 0.07, "break": 0.2}, nodes=(1, 3), clients=(1, 3), seconds=30.0,
        batches_per_s=1.0,
    ),
    "returning": Schedule(
        Mix(once=1.0, nested=0.0, streams=0.0, retried=0.0, crashing=0.0, guests=0.0, dependent=0.0, hungry=0.0, run_s=8.0),
        {"lone-client": 0.4, "mend": 0.06}, nodes=(1, 2), clients=(2, 3), seconds=40.0, batches_per_s=0.4, done_s=4 * DONE_S,
    ),
    "full": Schedule(bounds=Bounds(tasks_max=30, retention_s=1.0, retained_max=5), batches_per_s=8.0),
    "flood": Schedule(
        Mix(nested=0.05, tasks_max=20), {"break": 0.2, "client": 0.2}, nodes=(1, 3), clients=(2, 4),
        bounds=Bounds(tasks_max=60, batches_max=12, retention_s=1.0, retained_max=5), batches_per_s=20.0, seconds=2.5,
    ),
    "nests": Schedule(Mix(nested=0.8, once=0.05, tasks_max=8), {"break": 0.3, "kill": 0.1, "start": 0.3}, nodes=(1, 3)),
    "grants": Schedule(
        Mix(nested=0.2), {"grant": 3.0, "break": 0.2, "drain": 0.05, "start": 0.3}, nodes=(1, 3), dies=0.02,
        batches_per_s=3.0,
    ),
    "steals": Schedule(
        Mix(once=0.3, skewed=0.6, tasks_max=20), {"break": 0.4, "kill": 0.2, "start": 0.5, "pause": 0.1, "drain": 0.05, "heat": 0.5},
        nodes=(3, 5), seconds=8.0, batches_per_s=2.0, dies=0.005,
    ),
    "chains": Schedule(Mix(dependent=0.8, failing=0.05), {"break": 0.5, "kill": 0.15, "start": 0.5}, nodes=(2, 4)),
    "members": Schedule(
        faults={"kill": 0.2, "start": 0.3, "pause": 0.2, "cut": 0.15, "mend": 0.3, "break": 0.3}, nodes=(3, 5),
        seconds=10.0, batches_per_s=2.0, real_members=True,
    ),
    "moves": Schedule(
        Mix(once=0.3, counting=0.7, hanging=0.02, streams=0.02, crashing=0.0, cancelled=0.05, run_s=0.6), {"move": 20.0, "memory": 10.0},
        nodes=(2, 4), seconds=8.0, batches_per_s=3.0, bounds=Bounds(suspended_bytes=100),
    ),
    "moving": Schedule(
        Mix(once=0.2, counting=0.7, hanging=0.02, streams=0.02, run_s=0.6),
        {
            "move": 15.0, "memory": 10.0, "break": 0.4, "again": 0.2, "cut": 0.15, "one-way": 0.1, "mend": 0.3, "kill": 0.2, "start": 0.5,
            "pause": 0.15, "drain": 0.2, "weather": 0.2,
        },
        nodes=(2, 5), seconds=8.0, batches_per_s=2.5, dies=0.01, bounds=Bounds(suspended_bytes=100),
    ),
    "relief": Schedule(
        Mix(once=0.2, counting=0.6, hanging=0.02, streams=0.02, crashing=0.0, cancelled=0.05, reprioritized=0.1, nested=0.02, run_s=3.0),
        {"heat": 0.6, "memory": 2.0, "pace": 2.0}, nodes=(3, 5), seconds=10.0, batches_per_s=2.0, bounds=Bounds(relief=SOON), uneven=True,
        done_s=4 * DONE_S,
    ),
    "relieving": Schedule(
        Mix(once=0.2, counting=0.6, hanging=0.02, streams=0.02, cancelled=0.2, nested=0.05, run_s=3.0),
        {
            "heat": 1.0, "move": 1.0, "break": 0.3, "again": 0.2, "cut": 0.1, "one-way": 0.1, "mend": 0.3, "kill": 0.2, "start": 0.5,
            "pause": 0.15, "drain": 0.2, "weather": 0.2, "client": 0.1,
        },
        nodes=(3, 5), clients=(2, 3), seconds=10.0, batches_per_s=1.5, dies=0.01, bounds=Bounds(relief=SOON), uneven=True,
        done_s=4 * DONE_S,
    ),
    "lessons": Schedule(
        Mix(lacking=0.4, crashing=0.1, once=0.1, cancelled=0.1),
        {"lie": 1.0, "kill": 0.15, "start": 0.5, "break": 0.3, "cut": 0.1, "mend": 0.3, "drain": 0.05, "pause": 0.1},
        nodes=(2, 5), seconds=8.0, dies=0.01, bounds=Bounds(lessons=True),
    ),
    "storm": Schedule(
        faults={
            "break": 0.5, "again": 0.2, "cut": 0.15, "one-way": 0.15, "mend": 0.3, "kill": 0.15, "power": 0.05,
            "start": 0.4, "pause": 0.2, "drain": 0.1, "client": 0.1, "lone-client": 0.1, "weather": 0.3,
        },
        nodes=(2, 6), clients=(1, 4), seconds=12.0, start_fails=0.05, dies=0.01,
        bounds=Bounds(tasks_max=400, retention_s=20.0, recycle_tasks=20),
    ),
}  # fmt: skip


class Run:
    """One run of one schedule."""

    def __init__(self, kind: str, seed: int) -> None:
        it = self.schedule = SCHEDULES[kind]
        self.rng = Random(f"fabric {kind} {seed}")
        self.world = World(seed, real_members=it.real_members, bounds=it.bounds)
        self.world.ailments.start_fails = it.start_fails
        self.world.workers_fail = it.start_fails > 0
        self.world.ailments.dies = it.dies
        self.world.cables.weather = LinkWeather(loss=it.loss)
        self.workload = Workload(self.world, it.mix)
        self.count = self._between(it.nodes)

    def _between(self, bounds: tuple[int, int]) -> int:
        return bounds[0] + int(self.rng.random() * (bounds[1] - bounds[0] + 1))

    def go(self) -> None:
        """All of it. AssertionError where a promise is broken."""
        self._grow()
        self._suffer()
        self._heal()
        world = self.world
        world.run_while_tasks_end(self.schedule.done_s)
        checkers.all_ended(world)
        for client in world.clients:
            if client.link is not None:
                client.link.close("closing")
        world.run(REST_S)
        checkers.at_rest(world)

    def _grow(self) -> None:
        world, rng = self.world, self.rng
        for number in range(self.count):
            totals = {"cpu": float(1 + int(rng.random() * 3)), "memory": 1000.0}
            pythons: frozenset[str] = frozenset()
            if number == 0:
                # Whatever is asked for, one machine has it.
                totals |= {"cpu": 2.0 + int(rng.random() * 2), "gpu": 1.0}
                pythons = frozenset(("guest",))
            speed = (0.5, 1.0, 2.0)[int(rng.random() * 3)] if self.schedule.uneven else 1.0
            world.start(number, Capacity(totals, pythons=pythons), speed)
        for _ in range(self._between(self.schedule.clients)):
            home = int(rng.random() * self.count)
            world.client(home, ("node", home) if rng.random() < 0.5 else None)
        world.run(rng.random() * 1.5)

    def _suffer(self) -> None:
        world, rng, it = self.world, self.rng, self.schedule
        kinds = ["batch", *sorted(it.faults)]
        rates = [it.batches_per_s, *(it.faults[kind] for kind in sorted(it.faults))]
        end = world.sim.now + it.seconds
        while True:
            wait = rng.expovariate(sum(rates))
            if world.sim.now + wait > end:
                return
            world.run(wait)
            (what,) = rng.choices(kinds, rates)
            FAULTS[what](self) if what != "batch" else self._batch()

    def _batch(self) -> None:
        if self.world.clients:
            self.workload.one(self.rng.choice(self.world.clients))

    def _heal(self) -> None:
        world = self.world
        world.mend()
        world.cables.weather = LinkWeather()
        world.ailments.start_fails = world.ailments.dies = 0.0
        world.lessons.revoke()
        for node in list(world.nodes.values()):
            self._offer(node, node.execution.slots)
            if node.host.paused:
                node.host.resume()
                world.members.stood_still(node, False)
        # Those that drain may take what time they have; those that are gone come back.
        for _ in range(200):
            if not any(node.draining for node in world.nodes.values()):
                break
            world.run(0.05)
        for number in sorted(world.known):
            if number not in world.nodes:
                world.start(number)

    # --- faults -------------------------------------------------------------------------------------------------------

    def victim(self) -> int | None:
        """A node that runs, of several."""
        running = [node.number for node in self.world.running() if not node.host.paused]
        return self.rng.choice(running) if len(running) > 1 else None

    def kill(self, *, power: bool = False) -> None:
        """A node dies."""
        number = self.victim()
        if number is not None:
            self.world.kill(number, power=power)

    def start(self) -> None:
        """A node that is gone comes back."""
        gone = [number for number in sorted(self.world.known) if number not in self.world.nodes]
        if gone:
            self.world.start(self.rng.choice(gone))

    def pause(self) -> None:
        """A node stands still."""
        number = self.victim()
        if number is not None:
            self.world.pause(number, self.rng.choice((0.3, 3.0, 12.0)) * self.rng.random())

    def drain(self) -> None:
        """A node is asked to stop."""
        number = self.victim()
        if number is not None:
            self.world.drain(number, self.rng.random() * 6)

    def cut(self, *, both: bool) -> None:
        """Two machines can not talk any more, or one not to the other."""
        one, other = self.rng.sample(range(self.count), 2)
        self.world.cut(("node", one), ("node", other), both=both)

    def kill_client(self) -> None:
        """A client dies, and another comes."""
        if self.world.clients:
            self.world.kill_client(self.rng.choice(self.world.clients))
            self.world.client(int(self.rng.random() * self.count))

    def cut_client(self) -> None:
        """A client is cut off from some nodes."""
        places = [client.host.place for client in self.world.clients if client.host.place[0] == "client"]
        if places:
            place = self.rng.choice(places)
            both = self.rng.random() < 0.5
            for number in range(self.count):
                if self.rng.random() < 0.7:
                    self.world.cut(place, ("node", number), both=both)

    def grant(self) -> None:
        """A client of a node's machine is granted a worker to talk to itself."""
        nodes = [node for node in self.world.running() if not node.host.paused and node.fabric.client_links]
        if nodes:
            node = self.rng.choice(nodes)
            client = self.rng.choice(sorted(node.fabric.client_links))
            node.pool.grant(client, 2.0 * self.rng.random())
            node.fabric.turn()

    def heat(self) -> None:
        """A node offers fewer slots, or more again."""
        nodes = [node for node in self.world.running() if not node.host.paused]
        if nodes:
            node = self.rng.choice(nodes)
            self._offer(node, 1 + int(self.rng.random() * node.execution.slots))

    @staticmethod
    def _offer(node: SimNode, slots: int) -> None:
        node.execution.offer(node.host.now(), slots)
        if not node.host.paused:
            node.fabric.turn()

    def move(self) -> None:
        """Somebody wants a task to go on elsewhere, or one that does not run, or somewhere where there is no room."""
        nodes = [node for node in self.world.running() if not node.host.paused]
        if not nodes:
            return
        node = self.rng.choice(nodes)
        batches = [it for it in node.ownership.batches.values() if it.spec.checkpoint and it.finished_at is None]
        if batches:
            batch = self.rng.choice(batches)
            out = [
                index for index in range(batch.columns.count) if batch.columns.state(index) == TaskColumns.DISPATCHED
            ]
            index = self.rng.choice(out) if out else int(self.rng.random() * batch.columns.count)
            there = node.ownership.dispatches.get(batch.columns.token(index))
            others = [it for it in sorted(node.ownership.executors) if there is None or it != there.executor.id]
            target = self.rng.choice(others or [node.id])
            node.ownership.move(node.host.now(), batch.key, index, target, self.rng.choice((0.05, 1.0, 20.0)))
            node.fabric.turn()

    def pace(self) -> None:
        """An owner has found out how fast the others are."""
        nodes = [node for node in self.world.running() if not node.host.paused]
        if nodes:
            for id, it in sorted(self.rng.choice(nodes).ownership.executors.items()):
                peer = self.world.node_by_id(id)
                if peer is not None:
                    it.pace.speed = peer.speed
                    it.changed()

    def memory(self) -> None:
        """Somebody looks at what stands still, and finds that it is too much."""
        for node in self.world.running():
            if not node.host.paused and node.execution.suspended:
                standing = node.execution.standing()
                node.execution.suspended_memory(node.host.now(), node.pool.memory(standing))
                node.fabric.turn()

    def weather(self) -> None:
        """The network gets better or worse."""
        rng = self.rng
        self.world.cables.weather = LinkWeather(0.0005, 0.02 * rng.random() ** 2, 0.1 * rng.random())


FAULTS: dict[str, Callable[[Run], None]] = {
    "kill": Run.kill,
    "power": lambda it: it.kill(power=True),
    "start": Run.start,
    "pause": Run.pause,
    "drain": Run.drain,
    "cut": lambda it: it.cut(both=True),
    "one-way": lambda it: it.cut(both=False),
    "mend": lambda it: it.world.mend(),
    "break": lambda it: it.world.break_link(),
    "again": lambda it: it.world.dial_again(),
    "client": Run.kill_client,
    "lone-client": Run.cut_client,
    "weather": Run.weather,
    "heat": Run.heat,
    "grant": Run.grant,
    "move": Run.move,
    "memory": Run.memory,
    "pace": Run.pace,
    "lie": lambda it: it.world.lessons.lie(),
}


def run(kind: str, seed: int) -> Outcome:
    """One run of one schedule. AssertionError, with what had happened last, where it breaks a promise."""
    it = Run(kind, seed)
    try:
        it.go()
    except AssertionError as error:
        told = "".join(f"\n    {at:8.3f} s  {text}" for at, text in it.world.truth.events[-12:])
        raise AssertionError(f"{kind} {seed} at {it.world.sim.now:.3f} s: {error}{told}") from error
    sim = it.world.sim
    return Outcome(sim.trace, sim.events, sim.now, it.count)
