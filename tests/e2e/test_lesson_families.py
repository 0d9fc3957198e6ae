"""Faults as machines have them, on two real nodes: what failed on one does not begin there again, wherever it is submitted."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import lesson_faults as faults
from benchmarks.lesson_families import Service, _compile, _script, service
from tests.e2e.fleets import Nodes, until

NAMES = ("ash", "oak")
CALLS = 6
CERTAIN = ("missing-module", "missing-command", "wrong-interpreter")
"""Of the others one failure may be due to what a call was given, or pass soon, or there may be enough with what lessons give."""
MEMORY = {"ash": 64 << 30, "oak": 5 << 29}


@dataclass
class Planted:
    """Two nodes, of which oak lacks what all of the faults need, and what calls wrote down."""

    nodes: Nodes
    marks: Path

    def begun(self, family: str, phase: str, what: str = "begun") -> list[str]:
        """Of each call of a family that began (or went well) in a phase, the node."""
        lines = map(str.split, self.marks.read_text().splitlines())
        return [words[4] for words in lines if words[:3] == [what, family, phase]]

    def lessons(self, name: str, family: str) -> list[dict[str, Any]]:
        """What a node knows of a family."""
        with self.nodes.connect(name) as fleet:
            found = [value["lesson"] for _, value in fleet.knowledge.query("lessons")]
        return [one for one in found if one["family"] == family]


def environment(root: Path, name: str, port: int, nobody: int) -> dict[str, str]:
    """What a node has; oak lacks it."""
    lacks = name == "oak"
    modules, tools = root / name / "modules", root / name / "tools"
    for each in (modules, tools):
        each.mkdir(parents=True)
    _compile(modules, "VALUE = 8\n", of_another=lacks)
    if not lacks:
        _script(tools / faults.TOOL, 0o755)
        (modules / "planted_module.py").write_text("VALUE = 7\n")
    _script(tools / "owned-tool", 0o600 if lacks else 0o755)
    return {
        "PYTHONPATH": str(modules), "PATH": f"{tools}:{os.environ['PATH']}", "PLANTED_TOOLS": str(tools),
        "PLANTED_SCRATCH": "/dev/full" if lacks else str(root / "scratch"), "PLANTED_MARKS": str(root / "marks"),
        "PLANTED_PORT": str(nobody if lacks else port), "PLANTED_SERVICE": f"http://127.0.0.1:{port}/limited",
        "PLANTED_DRIVER": "broken" if lacks else "fine", "SWARM_RESOURCES": f"memory={MEMORY[name]}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    root = tmp_path_factory.mktemp("w")
    settings = {
        "SWARM_HTTP_ENABLED": "false", "SWARM_WORKERS": "2", "SWARM_SPARE_WORKERS": "0", "SWARM_LESSONS_MODE": "obey",
        "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1", "SWARM_LEDGER_ENABLED": "false",
    }  # fmt: skip
    nodes = Nodes(root / "home", settings=settings)
    plain = dict(nodes.env)
    with service() as port, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # held, and nobody listens
        for name in NAMES:
            nodes.env = {**plain, **environment(root, name, port, closed.getsockname()[1])}
            nodes.start(name)
        nodes.env = plain
        oak = psutil.Process(nodes.processes["oak"].pid)
        for each in (oak, *oak.children(recursive=True)):
            resource.prlimit(each.pid, resource.RLIMIT_AS, (MEMORY["oak"], MEMORY["oak"]))
        with nodes.connect("ash") as fleet:
            until(lambda: len(fleet.members()) == len(NAMES), 60, "members")
        yield Planted(nodes, root / "marks")
        assert set(nodes.stop_all().values()) <= {0}


def submitted(planted: Planted, call: Callable[[str, int], int], **options: Any) -> list[int]:
    """Calls of the work that follows, from both nodes; what came of them."""
    found = []
    for name in NAMES:
        with planted.nodes.connect(name) as fleet:
            futures = [fleet.submit(call, "work", number, **options) for number in range(CALLS)]
            found += [future.result(120) for future in futures]
    return found


@pytest.mark.parametrize(
    ("family", "call", "options"),
    [
        ("missing-module", faults.missing_module, {}),
        ("missing-command", faults.missing_command, {}),
        ("wrong-interpreter", faults.wrong_interpreter, {}),
        ("no-permission", faults.no_permission, {}),
        ("full-disk", faults.full_disk, {}),
        ("refused-connection", faults.refused_connection, {}),
        ("segfault", faults.segfault, {}),
        ("out-of-memory", faults.out_of_memory, {"needs": {"memory": "2GB"}}),
    ],
)
def test_what_failed_on_one_machine_begins_there_no_more(
    planted: Planted, family: str, call: Callable[[str, int], int], options: dict[str, Any]
) -> None:
    with planted.nodes.connect("ash") as fleet:
        failed = fleet.submit(call, "teach", 0, labels=["node:oak"], **options)
        assert failed.exception(120) is not None
    for name in NAMES:
        until(lambda name=name: planted.lessons(name, family), 60, f"{family} on {name}")
    assert set(planted.begun(family, "teach")) == {"oak"}
    assert submitted(planted, call, **options) == [*range(CALLS)] * 2
    assert planted.begun(family, "work") == ["ash"] * 2 * CALLS
    if family in CERTAIN:
        with planted.nodes.connect("oak") as fleet:
            refused = fleet.submit(call, "work", 99, labels=["node:oak"], **options)
            assert refused.exception(120) is not None
        assert "oak" not in planted.begun(family, "work"), "it is refused rather than tried"
    ran = planted.nodes.cli("lesson", "list", "--json", timeout_s=60)
    known = [json.loads(line) for line in ran.stdout.splitlines()]
    assert family in {one["family"] for one in known}


def test_a_rate_limit_is_waited_for_by_all(planted: Planted) -> None:
    with planted.nodes.connect("ash") as fleet:
        Service.opens = time.monotonic() + 3.0
        first = fleet.submit(faults.rate_limit, "teach", 0)
        for name in NAMES:
            until(lambda name=name: planted.lessons(name, "rate-limit"), 60, f"the limit on {name}")
        assert submitted(planted, faults.rate_limit) == [*range(CALLS)] * 2
        assert first.result(120) == 0, "it is tried again when the service answers"
    assert len(planted.begun("rate-limit", "work")) == len(planted.begun("rate-limit", "work", "well")) == 2 * CALLS
    (lesson,) = planted.lessons("oak", "rate-limit")
    assert lesson["ties"] == [] and lesson["subject"].startswith("127.0.0.1") or lesson["subject"] == ""


def test_more_time_is_given_on_both_machines(planted: Planted) -> None:
    allowed = {"timeout_s": 0.25, "timeout_max_s": 60.0}
    with planted.nodes.connect("oak") as fleet:
        assert fleet.submit(faults.timeout, "teach", 0, **allowed).result(120) == 0
    assert len(planted.begun("timeout", "teach")) > 1, "the first attempt was ended"
    until(lambda: planted.lessons("ash", "timeout"), 60, "the limit on ash")
    with planted.nodes.connect("ash") as fleet:
        future = fleet.submit(faults.timeout, "work", 1, **allowed)
        assert future.result(120) == 1
        assert any("is given more by a lesson" in line for line in fleet.query("explain", task=future.id)["lines"])
