"""Pages and files that follow from the code are current, and those that systemd and Prometheus read are right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.cli.command_line import VERBS
from nodes.settings import NodeSettings, all_settings
from swarm.exit_codes import ExitCode
from swarm.units import parse_duration_s

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "swarm-node.service"


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed (package {package})")
    if found is None:
        pytest.skip(f"{name} is not installed (package {package})")
    return found


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nodes.reference", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_unit_is_fine_for_systemd() -> None:
    done = subprocess.run(
        [tool("systemd-analyze", "systemd"), "verify", str(UNIT)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_waits_longer_than_the_node_drains() -> None:
    unit = directives()
    environment = dict(each.split("=", 1) for each in unit["Environment"])
    drain_s = parse_duration_s(environment["SWARM_DRAIN_TIMEOUT_S"])
    assert drain_s >= NodeSettings().node.drain_timeout_s
    assert parse_duration_s(unit["TimeoutStopSec"][0]) > drain_s + 10
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["on-failure"]


def test_the_unit_names_settings_and_statuses_that_exist() -> None:
    unit = directives()
    variables = {setting.variable for setting in all_settings()} | {"SWARM_HOME"}
    assert {each.split("=")[0] for each in unit["Environment"]} <= variables
    final = {int(each) for each in unit["RestartPreventExitStatus"][0].split()}
    assert final == {ExitCode.USAGE, ExitCode.DENIED, ExitCode.CONFIG}
    assert unit["ExecStart"][0].split()[-1] in VERBS


def test_the_sample_for_prometheus_is_fine() -> None:
    sample = ROOT / "configs" / "prometheus.yml"
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "config", str(sample)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
