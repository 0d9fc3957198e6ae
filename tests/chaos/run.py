"""One run: a lab, a fleet, load, faults, peace, questions, judgement."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swarm.protocol.ledger.config import VOTERS
from tests.chaos import history, report
from tests.chaos.checker import check
from tests.chaos.hosts import Hosts
from tests.chaos.nemesis import NET_FAULTS, NODE_FAULTS, Nemesis, plan
from tests.lab.lan import Lan
from tests.lan.drivers import ROOT
from tests.lan.fleets import until

HOSTS = 5
LIVENESS_S = 60.0
"""After the last fault everything that was handed over has its outcome within this."""
PATIENCE_S = 240.0
"""The same where nothing is promised of the machine: the run among the tests is about what is right, not how soon."""
EXPLAINED_AFTER = 0.75
"""Of the time that is left after the last fault: what has not ended by then is asked about at every node."""
EXPLAINED_MAX = 20
FAULTS_A_MINUTE = 60
"""More than there is time for: a plan goes on until the time is over."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    seconds: float
    rate: float = 8.0
    """Tasks a second that each of the five clients hands over."""
    liveness_s: float = LIVENESS_S
    node_faults: int | None = None
    """None: as many as there is time for."""
    net_faults: int | None = None
    node_kinds: tuple[str, ...] = tuple(NODE_FAULTS)
    net_kinds: tuple[str, ...] = tuple(NET_FAULTS)


def run(folder: Path, seed: str, size: Size, say: Callable[[str], object]) -> bool:
    """Perform a run, and say what came of it. True if all was well."""
    began_s = time.monotonic()
    with Lan(HOSTS, label="chaos") as lan:
        hosts = Hosts(lan, folder, folder)
        well = False
        try:
            hosts.up()
            ids = hosts.ids()
            until(
                lambda: all(hosts.voters(host) == VOTERS for host in hosts.names), PATIENCE_S, lambda: "no three voters"
            )
            say(f"five nodes are up after {time.monotonic() - began_s:.0f} s; chaos for {size.seconds:.0f} s")
            nemesis = Nemesis(hosts)
            calm_s = _chaos(hosts, nemesis, folder, seed, size, say)
            statuses = hosts.stop()
            nemesis.wrong += [f"{host} ended with {status}" for host, status in statuses.items() if status != 0]
            nemesis.wrong += hosts.alarms()
            (folder / "faults.json").write_text(json.dumps([asdict(done) for done in nemesis.done], indent=1))
            seen = history.read(folder)
            violations = check(seen)
            for line in report.lines(
                seen, violations, nemesis.wrong, nemesis.done, report.take_overs(seen, nemesis.downs, ids)
            ):
                say(line)
            say(f"after the faults all was at rest within {calm_s:.1f} s" if calm_s >= 0 else "it never came to rest")
            well = not violations and not nemesis.wrong
        finally:
            for node in hosts.nodes.values():
                if node.poll() is None:
                    node.kill()
                node.wait()
            hosts.unmount(keep=not well)
    return well


def _chaos(hosts: Hosts, nemesis: Nemesis, folder: Path, seed: str, size: Size, say: Callable[[str], object]) -> float:
    loads = {
        host: _client(hosts, folder, "load", host, "--rate", str(size.rate), "--seed", seed) for host in hosts.names
    }
    many = int(size.seconds * FAULTS_A_MINUTE / 60) + 1
    node = plan(f"{seed} nodes", _only(NODE_FAULTS, size.node_kinds), hosts.names, size.node_faults or many)
    net = plan(f"{seed} net", _only(NET_FAULTS, size.net_kinds), hosts.names, size.net_faults or many)
    began_s = time.monotonic()
    nemesis.begin(node, net)
    nemesis.wait(size.seconds)
    nemesis.end()
    calm_since_s = time.monotonic()
    say(f"{len(nemesis.done)} faults in {calm_since_s - began_s:.0f} s are over")
    for load in loads.values():
        assert load.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its status is looked at below
            load.stdin.write(f"{size.liveness_s}\n".encode())
            load.stdin.flush()
    while time.monotonic() - calm_since_s < size.liveness_s * EXPLAINED_AFTER:
        if all(load.poll() is not None for load in loads.values()):
            break
        time.sleep(0.05)
    else:
        _explain(hosts, folder, say)
    for host, load in loads.items():
        _ended(load, f"the client of {host}", size.liveness_s * 2, nemesis)
    calm_s = time.monotonic() - calm_since_s
    asks = {host: _client(hosts, folder, "ask", host) for host in hosts.names}
    for host, ask in asks.items():
        _ended(ask, f"who asked at {host}", size.liveness_s * 10, nemesis)
    nemesis.check_nodes()
    settled = history.read(folder).settled
    return calm_s if settled == set(hosts.names) else -1.0


def _explain(hosts: Hosts, folder: Path, say: Callable[[str], object]) -> None:
    """Keep what every node knows of the batches that have not ended, while their clients still wait for them."""
    stuck: dict[str, list[str]] = {}
    for task in history.read(folder).tasks.values():
        if task.submitted_s and not task.outcomes:
            stuck.setdefault(task.id[: history.BATCH_HEX], []).append(task.id)
    explained = {}
    for batch in sorted(stuck)[:EXPLAINED_MAX]:
        explained[batch] = {"tasks": stuck[batch], "views": [hosts.view(host, batch) for host in hosts.names]}
    (folder / "stuck.json").write_text(json.dumps(explained, indent=1))
    if stuck:
        say(f"{len(stuck)} batches have not ended yet; what each node knows of them is in {folder / 'stuck.json'}")


def _client(hosts: Hosts, folder: Path, verb: str, host: str, *more: str) -> subprocess.Popen[Any]:
    with open(folder / f"{host}-{verb}.log", "ab") as log:
        return hosts.lan.popen(
            host, [sys.executable, "-m", "tests.chaos.load", verb, host, str(folder), *more],
            env=hosts.env(host), cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip


def _ended(process: subprocess.Popen[Any], who: str, within_s: float, nemesis: Nemesis) -> None:
    try:
        status = process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        nemesis.wrong.append(f"{who} did not come to its end within {within_s:.0f} s")
    else:
        if status != 0:
            nemesis.wrong.append(f"{who} ended with {status}")


def _only(kinds: dict[str, int], wanted: tuple[str, ...]) -> dict[str, int]:
    return {kind: weight for kind, weight in kinds.items() if kind in wanted}
