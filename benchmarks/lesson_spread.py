"""From a failed attempt to 200 nodes that heed its lesson: simulated, with the owners and keepers of real nodes.

An attempt fails at one of them; its owner learns, and what it says goes into its knowledge log, from there by gossip and anti-entropy to
the others, and out of each log into its owner. Measured is simulated time, by steps of 5 ms, with one datagram of a hundred lost.
"""

from __future__ import annotations

from random import Random
from typing import Any

from swarm.protocol.knowledge.keeper import KeeperConfig
from swarm.protocol.knowledge.replicas import Replication
from swarm.protocol.knowledge.rules import Quota
from swarm.protocol.lessons.heeding import Mode
from swarm.protocol.spec import Spec
from tests.sim.knowledge.node import Disk, KnowledgeNode
from tests.sim.network import Network, Weather
from tests.sim.simulator import Simulator
from tests.unit.protocol.owner import Owner
from tests.unit.protocol.test_owner_heeding import NO_MODULE, fails, owner_of, said

STEP_S = 0.005
NODES = 200
SEEDS = 3
LESSONS = 20


class Machine:
    """A node of the simulator, and its owner."""

    def __init__(self, node: KnowledgeNode, sim: Simulator) -> None:
        self.node = node
        self.owner: Owner = owner_of(Mode.OBEY)
        self._sim = sim
        self._watch: Any = node.knowledge.watch("lessons", "")

    def fails(self, number: int) -> str:
        """An attempt of a task of this owner fails; the key of the lesson."""
        name = f"f{number}"
        self.owner.submit(number, spec=Spec("call", ("name", f"m:{name}", name), name, labels=("node:oak",)))
        (out,) = self.owner.taken()
        fails(self.owner, out, NO_MODULE | {"message": f"No module named 'planted_{number}'"})
        (learn,) = said(self.owner)
        self.node.knowledge.put("lessons", learn.key, learn.value, self.node.wall_ms)
        self.node.keeper.said(self._sim.now)
        self._sim.settle(self.node.id)
        return learn.key

    def knows(self, key: str) -> bool:
        """Whether its owner heeds this lesson, after it was told what its log has."""
        changes = self.node.knowledge.changes(self._watch)
        if changes:
            self.owner.it.heeding.told(self.owner.now, [(change.key, change.value) for change in changes])
        return key in self.owner.it.heeding.known


def spread(nodes: int = NODES, seeds: int = SEEDS, lessons: int = LESSONS, loss: float = 0.01) -> list[float]:
    """Simulated seconds until every node heeds a lesson, of each lesson, sorted."""
    found = []
    for seed in range(seeds):
        sim = Simulator(Network(Random(seed), Weather(loss=loss)))
        machines = []
        for number in range(nodes):
            node = KnowledgeNode(
                number, 0.0, Disk(), Random(1000 * seed + number), lambda sim=sim: 1.7e9 + sim.now, KeeperConfig(),
                Replication(whole_nodes_max=nodes), 1, Quota(1 << 60), set(),
            )  # fmt: skip
            machines.append(Machine(node, sim))
        for machine in machines:
            machine.node.keeper.members(0.0, [each.node.id for each in machines])
            sim.start(machine.node.id, machine.node)
        sim.run(5.0)
        rng = Random(seed)
        for number in range(1, lessons + 1):
            began, key = sim.now, machines[int(rng.random() * nodes)].fails(number)
            lacking = machines
            while lacking:
                sim.run(sim.now + STEP_S)
                assert sim.now < began + 60, "it does not spread"
                lacking = [machine for machine in lacking if not machine.knows(key)]
            found.append(sim.now - began)
            sim.run(sim.now + 1.0)
    return sorted(found)


def report() -> None:
    """Print it."""
    times = spread()
    print(
        f"  a lesson from the failed attempt to {NODES} owners, simulated, 1 % loss: median {times[len(times) // 2]:.2f} s, worst of "
        f"{len(times)} {times[-1]:.2f} s"
    )


if __name__ == "__main__":
    report()
