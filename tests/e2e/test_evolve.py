"""`swarm nano evolve --fleet`: genomes scored by the workers of a node, some of which they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from swarm.nano.minds import ArrayGenomes, EvolvingPopulation, over
from tests.e2e.fleets import Nodes

SCRIPT = """
import os
import time

import helper_of_fit

def sphere(x):
    return -helper_of_fit.squares(x)

def crashes(x):
    if x[0] > 0.8:
        os._exit(3)
    if x[0] < -0.8:
        raise ValueError("too low")
    return sphere(x)

def hangs(x):
    if x[0] > 0.7:
        time.sleep(600)
    return sphere(x)

def slow(x):
    time.sleep(0.05)
    return sphere(x)

def who(x):
    return float(os.getpid())
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    root = tmp_path_factory.mktemp("v")
    nodes = Nodes(root)
    (root / "fit.py").write_text(SCRIPT)
    (root / "helper_of_fit.py").write_text("def squares(x):\n    return float((x**2).sum())\n")
    nodes.start("ash", "--workers", "2")
    nodes.env["SWARM_NODE_SOCKET"] = str(nodes.home.node_socket("ash"))
    yield nodes
    assert nodes.stop_all() == {"ash": 0}


WORDS = ("--array", "4", "--population", "24", "--seed", "5", "--generations", "5", "--json")


def evolved(nodes: Nodes, name: str, *words: str) -> dict[str, object]:
    done = nodes.cli("nano", "evolve", f"{nodes.root}/fit.py:{name}", *WORDS, *words, timeout_s=120)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_over_the_fleet_it_is_what_it_is_here(nodes: Nodes) -> None:
    here, there = (evolved(nodes, "sphere", "--baseline", *more) for more in ((), ("--fleet",)))
    assert here == there and here["failures"] == 0


def test_workers_of_the_fleet_score(nodes: Nodes, tmp_path: Path) -> None:
    """The score is the process: none of them is this one, and both workers had some."""
    with nodes.connect("ash") as fleet:
        there = str(tmp_path)

        def who(x: object) -> float:
            import os
            import time

            open(os.path.join(there, str(os.getpid())), "w").close()
            deadline = time.monotonic() + 60
            while len(os.listdir(there)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            return float(os.getpid())

        population = EvolvingPopulation(ArrayGenomes(2), who, size=40, seed=1, map=fleet.map)
        population.step()
        assert len(set(population.fitness)) == 2


def test_who_ends_its_worker_or_raises_fails_alone(nodes: Nodes) -> None:
    found = evolved(nodes, "crashes", "--fleet")
    reasons = found["reasons"]
    assert isinstance(reasons, dict) and sum(reasons.values()) == found["failures"] > 0
    assert any("Worker" in why or "Quarantined" in why for why in reasons) and "ValueError: too low" in reasons
    first = EvolvingPopulation(ArrayGenomes(4), lambda x: -float((x**2).sum()), size=24, seed=5)
    first.step()
    wrong = sum(abs(genome[0]) > 0.8 for genome in first.population)
    assert found["history"][0]["failures"] == wrong  # type: ignore[index]
    assert found["history"][0]["best"] == max(  # type: ignore[index]
        value for value, genome in zip(first.fitness, first.population) if abs(genome[0]) <= 0.8
    )


def test_who_takes_too_long_fails_alone(nodes: Nodes) -> None:
    found = evolved(nodes, "hangs", "--fleet", "--timeout", "1s", "--population", "8", "--generations", "1")
    assert 0 < found["failures"] < 8 and all("Timeout" in why for why in found["reasons"])  # type: ignore[operator,attr-defined]


def test_what_concerns_all_is_raised(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "locked.py").write_text(
        "import threading\nlock = threading.Lock()\ndef f(x):\n    with lock: return 1.0\n"
    )
    done = nodes.cli("nano", "evolve", f"{tmp_path}/locked.py:f", *WORDS, "--fleet")
    assert done.returncode == 65 and b"cannot be sent" in done.stderr and b"Traceback" not in done.stderr
    nodes.env["SWARM_HOME"], before = str(tmp_path / "empty"), nodes.env["SWARM_HOME"]
    socket = nodes.env.pop("SWARM_NODE_SOCKET")
    try:
        done = nodes.cli(
            "nano", "evolve", f"{nodes.root}/fit.py:sphere", *WORDS, "--fleet", "--connect-timeout", "300ms",
            "--node", "127.0.0.1:1", timeout_s=60,
        )  # fmt: skip
    finally:
        nodes.env["SWARM_HOME"], nodes.env["SWARM_NODE_SOCKET"] = before, socket
    assert done.returncode == 69 and b"hint:" in done.stderr or b'"hint"' in done.stderr


def test_a_map_over_the_fleet_gives_a_value_or_a_reason_for_each(nodes: Nodes) -> None:
    with nodes.connect("ash") as fleet:

        def crashing(x: int) -> float:
            if x % 5 == 2:
                import os

                os._exit(1)
            return float(x)

        found = list(over(fleet)(crashing, range(12)))
    assert [value for value in found if not isinstance(value, str)] == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert [isinstance(value, str) for value in found].count(True) == 2 and np.isfinite(found[0])
