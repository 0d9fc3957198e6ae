"""The parts of the ledger by themselves: consensus without disks and network, and the journal on a disk.

``python -m benchmarks.ledger [--json] [--only consensus|journal] [--directory DIR]``. What it shows of consensus is what the state
machines cost, three members in one process on one core, in CPU time: nothing there is durable. Of the journal, see
``benchmarks.journal``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import journal
from swarm.protocol.raft.effects import Proposed
from swarm.protocol.raft.entries import Members, Recovered, Snapshot
from tests.sim.raft.cluster import GROUP, Cluster, id_of
from tests.sim.raft.plan import draw
from tests.sim.raft.world import World


def proposals_per_s(a_turn: int, entry_bytes: int = 256, for_s: float = 1.0) -> float:
    """Proposals that three members commit, `a_turn` of them before messages are exchanged."""
    cluster = Cluster()
    leader = cluster.node(cluster.elect())
    data = bytes(entry_bytes)
    count = 0
    began = time.process_time()
    while time.process_time() - began < for_s:
        for _ in range(a_turn):
            proposed = leader.propose(cluster.now, GROUP, data)
            assert isinstance(proposed, Proposed), proposed
        count += a_turn
        cluster.turn()
        for events in (*cluster.events.values(), *cluster.writes.values()):
            events.clear()
        if count % 4096 < a_turn:
            for node in cluster.nodes.values():
                raft = node.group(GROUP)
                assert raft is not None
                node.compact(cluster.now, GROUP, raft.commit, b"")
    took_s = time.process_time() - began
    raft = leader.group(GROUP)
    assert raft is not None and raft.commit >= count
    return count / took_s


def idle_groups(count: int = 10_000, simulated_s: float = 10.0) -> dict[str, float]:
    """Groups at rest on three nodes: what `simulated_s` of them cost, and what making and electing them did."""
    groups = [b"g%05d" % number for number in range(count)]
    began = time.process_time()
    cluster = Cluster(groups=groups)
    for group in groups:
        cluster.node(0).campaign(cluster.now, group)
    cluster.run(8.0)
    resting = min(node.resting for node in cluster.nodes.values())
    ready_s = time.process_time() - began
    frames = cluster.frames
    began = time.process_time()
    cluster.run(simulated_s)
    idle_s = time.process_time() - began
    return {
        "groups": count,
        "resting": resting,
        "elected_cpu_s": ready_s,
        "idle_cpu_ms_per_s": 1000 * idle_s / simulated_s,
        "idle_frames_per_s": (cluster.frames - frames) / simulated_s,
    }


def simulation(seeds: int = 20) -> dict[str, float]:
    """Runs of the simulator with every fault, all properties checked in each step."""
    events = 0
    began = time.process_time()
    for seed in range(seeds):
        world = World(draw(seed))
        world.run()
        events += world.sim.events
    took_s = time.process_time() - began
    return {"events_per_s": events / took_s, "runs_per_s": seeds / took_s}


def single_voter() -> float:
    """Proposals a second of a group of one, one a turn: the fixed cost of a turn."""
    found = Recovered(snapshot=Snapshot(members=Members.of([id_of(0)])))
    cluster = Cluster(1, recovered=found)
    leader = cluster.node(cluster.elect())
    count = 0
    began = time.process_time()
    while time.process_time() - began < 0.5:
        leader.propose(cluster.now, GROUP, b"x" * 64)
        cluster.turn()
        count += 1
    return count / (time.process_time() - began)


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("consensus", "journal"))
    parser.add_argument("--directory", type=Path, help="on whose disk the journal is (the current directory)")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    if arguments.only != "journal":
        figures |= consensus()
    if arguments.only != "consensus":
        figures["journal"] = journal.measure(arguments.directory)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    if arguments.only != "journal":
        show_consensus(figures)
    if arguments.only != "consensus":
        journal.show(figures["journal"])


def consensus() -> dict[str, Any]:
    """Figures of consensus."""
    return {
        "proposals_per_s": {str(a_turn): proposals_per_s(a_turn) for a_turn in (1, 16, 256)},
        "single_voter_per_s": single_voter(),
        "idle": idle_groups(),
        "simulation": simulation(),
    }


def show_consensus(figures: dict[str, Any]) -> None:
    """For people."""
    rates, idle, sim = figures["proposals_per_s"], figures["idle"], figures["simulation"]
    for a_turn, rate in rates.items():
        print(f"three members, {a_turn:>3} entries of 256 B a turn  {rate:10,.0f} proposals/s")
    print(f"one member, one entry a turn                {figures['single_voter_per_s']:10,.0f} proposals/s")
    print(
        f"{idle['groups']:,} groups on three nodes, {idle['resting']:,} at rest: {idle['idle_cpu_ms_per_s']:.2f} ms of CPU "
        f"and {idle['idle_frames_per_s']:.0f} frames a second for all three ({idle['elected_cpu_s']:.1f} s of CPU to elect them and come to rest)"
    )
    print(
        f"simulation under every fault  {sim['events_per_s']:,.0f} events/s, {sim['runs_per_s']:.1f} runs/s (of CPU time)"
    )


if __name__ == "__main__":
    main()
