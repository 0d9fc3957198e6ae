"""The parts of the ledger by themselves: consensus and the ledger without disks and network, and the journal on a disk.

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
from swarm.protocol.ledger.records import Forgotten, Token, pack, pack_entry
from swarm.protocol.ledger.state import LedgerState
from swarm.protocol.raft.effects import Proposed
from swarm.protocol.raft.entries import Members, Recovered, Snapshot
from tests.sim.ledger.cluster import Ledgers, batch, outcomes
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
    """Groups at rest on three nodes: what `simulated_s` of them cost, what making and electing them did, and what they cost
    when one of the nodes is down."""
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
    frames = cluster.frames - frames
    cluster.cut = lambda source, to: id_of(2) in (source, to)
    others = {id: node for id, node in cluster.nodes.items() if id != id_of(2)}
    del cluster.nodes[id_of(2)]
    cluster.run(8.0)
    without = min(node.resting for node in others.values())
    began = time.process_time()
    cluster.run(simulated_s)
    down_s = time.process_time() - began
    return {
        "groups": count,
        "resting": resting,
        "resting_without_one": without,
        "down_cpu_ms_per_s": 1000 * down_s / simulated_s,
        "elected_cpu_s": ready_s,
        "idle_cpu_ms_per_s": 1000 * idle_s / simulated_s,
        "idle_frames_per_s": frames / simulated_s,
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


def durable_submits(tasks: int, a_turn: int, for_s: float = 1.0) -> dict[str, float]:
    """Batches of `tasks` submitted to the ledger, `a_turn` of them before messages are exchanged, until all have their
    receipt of two or three copies; what they end with is recorded too, and not counted. CPU time of all three members."""
    ledgers = Ledgers(3)
    ledgers.run(4.0)
    ledgers.watching = False
    home, group = ledgers.nodes[0], ledgers.group(0)
    epoch = home.leads(group)
    assert epoch is not None
    submitted_s = ended_s = 0.0
    number = batches = 0
    turns = max(1, min(64 // a_turn, 10_000 // tasks))  # of one reading of the clock, which is slow itself
    while submitted_s < for_s:
        work = [batch(0, number + at, tasks) for at in range(a_turn * turns)]
        results = [outcomes(one, Token(epoch, 1)) for one in work]
        number += len(work)
        batches += len(work)
        took_s = []
        for records in (work, results):
            began = time.process_time()
            for at in range(0, len(records), a_turn):
                for record in records[at : at + a_turn]:
                    assert isinstance(home.propose(ledgers.now, group, record), int)
                ledgers.turn()
            took_s.append(time.process_time() - began)
        submitted_s += took_s[0]
        ended_s += took_s[1]
        state = home.state(group)
        assert state is not None and all(one.key in state.batches for one in work)
        assert not state.unfinished
        home.propose(ledgers.now, group, Forgotten(tuple(one.key for one in work)))
        ledgers.turn()
    return {
        "batches_per_s": batches / submitted_s,
        "tasks_per_s": batches * tasks / submitted_s,
        "ended_tasks_per_s": batches * tasks / ended_s,
    }


def applied(tasks: int = 10_000, repeats: int = 50) -> dict[str, float]:
    """What the state of one replica takes to apply the submission and the outcomes of one batch, in microseconds."""
    one = batch(0, 1, tasks)
    entries = [pack_entry([pack(record)]) for record in (one, outcomes(one, Token(1, 1)))]
    took_us: list[list[float]] = [[], []]
    for _ in range(repeats):
        state = LedgerState()
        for at, entry in enumerate(entries):
            began = time.perf_counter()
            state.apply(at + 1, 1, entry)
            took_us[at].append(1e6 * (time.perf_counter() - began))
        assert state.unfinished == 0
    return {"submitted_us": sorted(took_us[0])[repeats // 2], "ended_us": sorted(took_us[1])[repeats // 2]}


SUBMITS = ((1, 1), (1, 256), (100, 16), (10_000, 1))
"""(tasks of a batch, batches a turn)."""


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
        "submits": {f"{tasks} x {a_turn}": durable_submits(tasks, a_turn) for tasks, a_turn in SUBMITS},
        "applied": applied(),
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
        f"the same with one of the three down, {idle['resting_without_one']:,} at rest: {idle['down_cpu_ms_per_s']:.2f} ms of CPU a second"
    )
    submits, state = figures["submits"], figures["applied"]
    for (tasks, a_turn), row in zip(SUBMITS, submits.values(), strict=True):
        print(
            f"submits, three members, {a_turn:>3} batches of {tasks:>6,} a turn  {row['batches_per_s']:10,.0f} batches/s "
            f"{row['tasks_per_s']:12,.0f} tasks/s; ended {row['ended_tasks_per_s']:12,.0f} tasks/s"
        )
    print(
        f"10,000 tasks applied by one replica: {state['submitted_us']:.0f} us, their outcomes {state['ended_us']:.0f} us"
    )
    print(
        f"simulation under every fault  {sim['events_per_s']:,.0f} events/s, {sim['runs_per_s']:.1f} runs/s (of CPU time)"
    )


if __name__ == "__main__":
    main()
