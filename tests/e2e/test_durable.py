"""Durable tasks on real nodes: receipts from disks, a leader that is killed, and scripts that come back later."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.errors import NotFound
from tests.e2e.fleets import Nodes, until

NAMES = ("oak", "elm", "fir")


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes, each in a zone of its own, as if on three machines."""
    nodes = Nodes(tmp_path_factory.mktemp("w"))
    for name in NAMES:
        nodes.env["SWARM_LEDGER_ZONE"] = name
        nodes.start(name, "--workers", "1")
    yield nodes
    assert set(nodes.stop_all().values()) == {0}


def on_two_hosts(nodes: Nodes, name: str) -> None:
    """Wait until what a node takes is on the disks of two hosts: until three nodes vote in its log."""
    with nodes.connect(name) as fleet:

        def formed() -> bool:
            groups = fleet.query("status")["ledger"]["groups"]
            return any(len(one["voters"]) == 3 for one in groups if one["home_name"] == name)

        until(formed, 60, nodes.log(name))


def slow(index: int, for_s: float, ran: str, gate: str = "") -> tuple[int, tuple[int, ...]]:
    """Takes a while, waits for a file if one is named, and leaves a line for each attempt."""
    import os

    import swarm

    with open(ran, "a") as file:
        file.write(f"{index}\n")
    time.sleep(for_s)
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    current = swarm.current_task()
    assert current is not None
    return index, current.token


def test_what_was_accepted_survives_its_home_and_live_attempts_go_on(nodes: Nodes, tmp_path: Path) -> None:
    on_two_hosts(nodes, "oak")
    ran, gate = tmp_path / "ran", tmp_path / "gate"
    with nodes.connect("oak") as fleet:
        # All but the first ones end after the kill: then there are some that nobody has begun before.
        futures = [
            fleet.submit(slow, index, 0.2, str(ran), "" if index < 6 else str(gate), durability="fleet")
            for index in range(30)
        ]
        receipt = futures[-1].receipt.result(60)
        assert (receipt.copies, receipt.hosts) >= (2, 2)
        until(lambda: any(future.done() for future in futures), 60)
        nodes.kill("oak")
        gate.touch()
        found = [future.result(60) for future in futures]
    assert [index for index, _ in found] == list(range(30))
    epochs = {token[0] for _, token in found}
    assert max(epochs) > receipt.epoch >= min(epochs), "what a later leader began has greater tokens"
    attempts = [int(line) for line in ran.read_text().split()]
    assert set(attempts) == set(range(30))


def test_a_later_script_on_another_node_has_the_results(nodes: Nodes, tmp_path: Path) -> None:
    on_two_hosts(nodes, "oak")
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(slow, index, 0.05, str(tmp_path / "ran"), durability="fleet") for index in range(10)]
        batches = {future.batch_id for future in futures}
        one = futures[7].id
        fleet.detach(20)
    with nodes.connect("elm") as fleet:
        assert fleet.attach(one).result(60)[0] == 7
        found = [value for batch in sorted(batches) for _, value in fleet.attach(batch).outcomes(60)]
        assert sorted(index for index, _ in found) == list(range(10))
        with pytest.raises(NotFound) as missing:
            fleet.attach("0" * 26)
        assert missing.value.hint
        nodes.kill("oak")
        assert fleet.attach(one).result(60)[0] == 7
    listed = json.loads(nodes.cli("batch", "list", "--json", "--durable").stdout)
    assert batches <= {batch["id"] for batch in listed}
    batch = sorted(batches)[0]
    assert nodes.cli("batch", "wait", batch[:8], "--timeout", "30s").returncode == 0
    shown = json.loads(nodes.cli("batch", "show", batch, "--json").stdout)
    assert (shown["state"], shown["durability"], shown["node"] in ("elm", "fir")) == ("done", "fleet", True)
    lines = nodes.cli("batch", "results", batch).stdout.decode().splitlines()
    assert len(lines) == shown["count"]
    views = {view["node"]: view for view in json.loads(nodes.cli("batch", "explain", batch, "--json").stdout)}
    assert any(log["knows"] and log["unfinished"] == 0 for log in views["fir"]["logs"])
    assert views[shown["node"]]["owner"]["open"] == 0 and views[shown["node"]]["owner"]["leads"] == shown["epoch"]
    assert b"\n  owner:" in nodes.cli("batch", "explain", batch[:8]).stdout


def test_a_node_that_is_started_again_has_what_it_had_accepted(nodes: Nodes, tmp_path: Path) -> None:
    with nodes.connect("oak") as fleet:
        future = fleet.submit(slow, 3, 1.0, str(tmp_path / "ran"), durability="node")
        once = fleet.submit(slow, 4, 0.0, str(tmp_path / "ran"), durability="node", rerun=False)
        receipt = future.receipt.result(60)
        assert (receipt.copies, receipt.hosts) == (1, 1)
        assert once.result(60)[0] == 4
        task, other = future.id, once.id
        nodes.kill("oak")
        nodes.start("oak", "--workers", "1")
        index, token = future.result(60)
        assert index == 3 and token[0] >= receipt.epoch
    with nodes.connect("fir") as fleet:
        assert fleet.attach(task).result(60)[0] == 3
        assert fleet.attach(other).result(60)[0] == 4


def test_what_says_nothing_of_its_durability_has_that_of_the_nodes_setting(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "home", settings={"SWARM_LEDGER_DURABILITY": "node", "SWARM_HTTP_ENABLED": "false"})
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert fleet.durability == "node"
        assert fleet.submit(pow, 2, 3).receipt.result(60).copies == 1
        assert fleet.submit(pow, 2, 3, durability="none").receipt.result(60).copies == 0
    assert set(nodes.stop_all().values()) == {0}
