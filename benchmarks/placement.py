"""What a placement decision costs, by the number of nodes. Run: python -m benchmarks.placement

A decision is the owner's: the next of what is ready, the executor for it, its number, and the record for `swarm task explain`.
Beside it, the choice alone: which executor, where one has changed since the last choice, and where the mean run time of the tasks
has, so that all are judged anew.
"""

from __future__ import annotations

import gc
import time

from kernels.batch import CallBuilder
from swarm.protocol.owner.batches import OwnershipConfig
from swarm.protocol.ownership import Ownership
from swarm.protocol.ranking import Rankings
from swarm.protocol.resources import PLAIN, Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import Priority

SLOTS = 16.0
ROUNDS = 3
CHOICES = 200


def owner_of(nodes: int) -> Ownership:
    """An owner that knows so many nodes, all of them linked and with free slots."""
    capacity = Capacity({"cpu": SLOTS})
    owner = Ownership(OwnershipConfig(), bytes(16), "node0", capacity)
    for number in range(1, nodes):
        node = number.to_bytes(16, "big")
        owner.executor_seen(1.0, node, f"node{number}", capacity, {"free": SLOTS, "wait": 0})
        owner.executor_linked(1.0, node)
    owner.take_effects()
    return owner


def decision_us(nodes: int, priority: int = Priority.STANDARD) -> float:
    """Microseconds of processor time a decision, the best of some rounds, for tasks of which nobody knows yet how long they take."""
    best = float("inf")
    for _ in range(ROUNDS):
        owner, builder = owner_of(nodes), CallBuilder()
        tasks = int(nodes * SLOTS) - 1
        for _ in range(tasks):
            builder.add_plain((), None)
        raw = Spec("call", ("name", "m:f", "f"), "f", priority=priority).encode()
        columns = builder.take()
        # Who is there, and what fits where, was looked at when the first batch of the kind came.
        first = CallBuilder()
        first.add_plain((), None)
        owner.submit(1.0, 1.0, b"client", "ann", True, b"session!\0\0\0\0", raw, 1, first.take())
        gc.collect()
        before = len(owner.dispatches)
        began = time.process_time()
        owner.submit(1.0, 1.0, b"client", "ann", True, b"session!\0\0\0\1", raw, tasks, columns)
        took = time.process_time() - began
        best = min(best, took / (len(owner.dispatches) - before) * 1e6)
    return best


def choice_us(nodes: int, another_mean: bool) -> float:
    """Microseconds of processor time a choice, the best of some rounds; before each, one executor was sent a task."""
    executors = dict(owner_of(nodes).executors)
    rankings, order = Rankings(executors), list(executors.values())
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for number in range(CHOICES):
            order[number % nodes].sent(PLAIN, 1)
            rankings.of(PLAIN, Priority.STANDARD).best(0.5 + number * 1e-4 if another_mean else 0.5, CHOICES, 1)
        best = min(best, (time.process_time() - began) / CHOICES * 1e6)
    return best


def main() -> None:
    """Print the table."""
    print("us          decision: STANDARD    CRITICAL   choice: one changed   another mean   (reach at 200 nodes: 5)")
    for nodes in (1, 8, 50, 200):
        print(
            f"{nodes:>5} nodes          {decision_us(nodes):12.1f}{decision_us(nodes, Priority.CRITICAL):12.1f}"
            f"{choice_us(nodes, False):22.1f}{choice_us(nodes, True):15.1f}"
        )


if __name__ == "__main__":
    main()
