"""Nodes that keep their journals in PostgreSQL: what was accepted outlives kill -9 of the node, and a restart of the database."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from swarm.exit_codes import ExitCode
from tests.e2e.fleets import Nodes, until
from tests.postgres import PASSWORD, Cluster, postgres

__all__ = ["postgres"]


@pytest.fixture
def nodes(tmp_path: Path, postgres: Cluster) -> Iterator[Nodes]:
    """Nodes with a database that they share; the password is in its URL."""
    name = postgres.database().partition("@/")[2].partition("?")[0]
    url = f"postgresql://swarm:{quote(PASSWORD, safe='')}@127.0.0.1:{postgres.port}/{name}"
    made = Nodes(tmp_path / "home", settings={"SWARM_HTTP_ENABLED": "false", "SWARM_LEDGER_JOURNAL_URL": url})
    yield made
    made.stop_all()


def slow(index: int, for_s: float) -> int:
    time.sleep(for_s)
    return index


def test_what_was_accepted_survives_kill_9(nodes: Nodes) -> None:
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        done = fleet.submit(slow, 1, 0.0, durability="node", rerun=False)
        assert done.result(60) == 1
        futures = [fleet.submit(slow, index, 0.3, durability="node") for index in range(10)]
        receipt = futures[-1].receipt.result(60)
        assert (receipt.copies, receipt.hosts) == (1, 1)
        ids = [future.id for future in futures]
        nodes.kill("oak")
        nodes.start("oak", "--workers", "1")
        assert [future.result(60) for future in futures] == list(range(10))
    nodes.kill("oak")
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert [fleet.attach(id).result(60) for id in ids] == list(range(10))
        assert fleet.attach(done.id).result(60) == 1
        assert fleet.submit(secrets).result(60) == []
    shown = nodes.cli("status", timeout_s=90).stdout.decode()
    assert "its journal is in postgresql://swarm@127.0.0.1" in shown
    assert PASSWORD not in shown and quote(PASSWORD, safe="") not in shown + nodes.log("oak")
    found = nodes.cli("journal", "verify", "--name", "oak", "--json", timeout_s=90)
    assert found.returncode == 0 and json.loads(found.stdout)["whole"]


def secrets() -> list[str]:
    """What a task sees of the node's setting."""
    import os

    return [name for name in os.environ if "JOURNAL_URL" in name]


def test_a_database_and_files_in_one_fleet(nodes: Nodes, postgres: Cluster) -> None:
    """Two of three journals are in the database; it is restarted in between, and a node is killed."""
    for name in ("oak", "elm", "fir"):
        nodes.env["SWARM_LEDGER_ZONE"] = name
        if name == "fir":
            del nodes.env["SWARM_LEDGER_JOURNAL_URL"]
        else:
            url = nodes.env["SWARM_LEDGER_JOURNAL_URL"]
        nodes.start(name, "--workers", "1")

    with nodes.connect("oak") as fleet:

        def formed() -> bool:
            groups = fleet.query("status")["ledger"]["groups"]
            return any(len(one["voters"]) == 3 for one in groups if one["home_name"] == "oak")

        until(formed, 60, nodes.log("oak"))
        futures = [fleet.submit(slow, index, 0.2, durability="fleet") for index in range(20)]
        receipts = [future.receipt.result(60) for future in futures]
        assert min((receipt.copies, receipt.hosts) for receipt in receipts) >= (2, 2)
        ids = [future.id for future in futures]
        postgres.stop(signal.SIGINT)
        postgres.start()
        nodes.kill("oak")
        nodes.env |= {"SWARM_LEDGER_JOURNAL_URL": url}

        def ended() -> bool:
            if (status := nodes.processes["elm"].poll()) is not None:
                # The database went away in the middle of a commit: the node ends, and whoever looks after it starts it again.
                assert status == ExitCode.SYSTEM, nodes.log("elm")
                nodes.start("elm", "--workers", "1", "--ledger-zone", "elm")
            return all(future.done() for future in futures)

        until(ended, 120, nodes.log("elm"))
        assert [future.result(1) for future in futures] == list(range(20))
    nodes.env["SWARM_LEDGER_ZONE"] = "oak"
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        assert [fleet.attach(id).result(60) for id in ids] == list(range(20))


def test_a_node_without_its_database_says_so(nodes: Nodes, postgres: Cluster) -> None:
    nodes.start("oak", "--workers", "1")
    assert nodes.stop("oak") == 0
    url = nodes.env.pop("SWARM_LEDGER_JOURNAL_URL")
    refused = nodes.cli("node", "--name", "oak", timeout_s=90)
    assert refused.returncode == ExitCode.SYSTEM and b"ledger.journal_url" in refused.stderr
    nodes.env["SWARM_LEDGER_JOURNAL_URL"] = url.replace("swarm:", "nobody:")
    refused = nodes.cli("node", "--name", "oak", timeout_s=90)
    assert refused.returncode == ExitCode.SYSTEM and b"can not be reached" in refused.stderr, refused.stderr
    assert quote(PASSWORD, safe="").encode() not in refused.stderr
