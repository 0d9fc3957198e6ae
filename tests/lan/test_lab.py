"""The lab itself: what it is told to cut is cut, and nothing else; and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab import lan as lab

pytestmark = pytest.mark.lan


def reaches(lan: lab.Lan, a: str, b: str, version: int = 4) -> bool:
    """Whether a datagram goes from a to b and an answer comes back."""
    done = lan.run(a, ["ping", "-c1", "-W1", lan.address(b, version)])
    return done.returncode == 0


def comes_to_reach(lan: lab.Lan, a: str, b: str, version: int = 4) -> bool:
    """Whether it does within some seconds: a neighbour that was found missing is asked for again only then."""
    return any(reaches(lan, a, b, version) for _ in range(8))


def test_hosts_reach_each_other_and_know_their_names(healed):
    assert comes_to_reach(healed, "h1", "h5")
    assert healed.run("h3", ["hostname"]).stdout.strip() == "h3"


def test_a_pair_is_cut_and_healed(healed):
    healed.cut("h1", "h2")
    assert not reaches(healed, "h1", "h2")
    assert comes_to_reach(healed, "h1", "h3")
    assert comes_to_reach(healed, "h2", "h3")
    healed.heal("h1", "h2")
    assert comes_to_reach(healed, "h1", "h2")


def test_a_host_is_cut_from_all_and_one_way(healed):
    healed.cut("h4")
    assert not reaches(healed, "h4", "h1")
    healed.heal("h4")
    assert comes_to_reach(healed, "h2", "h1")  # it knows where h1 is, which nobody could tell it later
    healed.cut("h1", "h2", one_way=True)
    count = ["sh", "-c", "cat /proc/net/snmp | grep ^Icmp: | tail -1 | cut -d' ' -f2"]
    before = int(healed.run("h1", count).stdout)
    assert not reaches(healed, "h2", "h1")  # the question arrives, the answer is lost
    assert int(healed.run("h1", count).stdout) > before


def test_everything_is_lost_and_undone(healed):
    healed.loss(100, "h1", "h2")
    assert not reaches(healed, "h1", "h2")
    healed.loss(0, "h1", "h2")
    assert comes_to_reach(healed, "h1", "h2")


def test_a_host_sees_its_cable_go(healed):
    state = ["ip", "-br", "link", "show", "eth0"]
    assert " UP " in healed.run("h2", state).stdout
    healed.plug("h2", False)
    assert " DOWN " in healed.run("h2", state).stdout
    healed.plug("h2", True)
    assert " UP " in healed.run("h2", state).stdout


def test_processes_end_with_the_lab_and_leftovers_are_cleared(healed):
    with lab.Lan(1, label="other") as other:  # beside the first, with the same addresses
        child = other.popen("h1", ["sleep", "60"])
        deadline = time.monotonic() + 30
        while child.pid not in other.pids("h1") and time.monotonic() < deadline:
            time.sleep(0.01)
        other.signal("h1", signal.SIGSTOP)
    assert child.returncode == -signal.SIGTERM
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f"swlab{dead.pid}-lan-h1"
    subprocess.run(["ip", "netns", "add", name], check=True)
    lab.clear_leftovers()
    left = os.listdir("/run/netns")
    assert name not in left and not any("other" in one for one in left)
    assert Path("/run/netns", f"swlab{os.getpid()}-lan-h1").exists()
