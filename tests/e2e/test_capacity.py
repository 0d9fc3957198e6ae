"""A real node on a machine that is at other work, and is told to heed that, offers fewer slots and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.fleets import Nodes, until


def test_a_node_yields_to_what_others_run_on_its_machine(tmp_path: Path) -> None:
    settings = {"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false", "SWARM_YIELD_TO_OWNER": "true"}
    nodes = Nodes(tmp_path / "w", settings=settings)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        nodes.start("oak", "--workers", "4")
        with nodes.connect("oak") as fleet:
            until(lambda: fleet.query("status")["node"]["withheld"], 60, "fewer slots are offered")
            (member,) = fleet.query("status")["members"]
            assert 1 <= member["withheld"] <= 3 and member["slots"] == 4
            assert [one.result(60) for one in [fleet.submit(pow, 2, number) for number in range(20)]][-1] == 2**19
            text = nodes.cli("status").stdout.decode()
            assert "fewer are offered on oak" in text and "processors at other work" in text, text
            assert json.loads(nodes.cli("status", "--json").stdout)["members"][0]["withheld"] >= 1
    finally:
        for one in others:
            one.kill()
            one.wait()
        assert set(nodes.stop_all().values()) <= {0}
