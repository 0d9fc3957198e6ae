"""A fleet on a LAN of five hosts: it forms, works, and gets over what LANs do to it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lan import Lan
from tests.lan.drivers import Driver
from tests.lan.fleets import PATIENCE_S, LanFleet, Work, json_of, spread, where

pytestmark = [pytest.mark.lan, pytest.mark.timeout(300)]

STALL_S = 0.4
"""Where a process that only sleeps is woken so late, one that works may wait for longer than a suspicion lasts."""
HOSTS = ["h1", "h2", "h3", "h4", "h5"]


@pytest.fixture(scope="module")
def made(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanFleet]:
    """h1 makes the fleet, and four others come in by one token."""
    fleet = LanFleet(lan, tmp_path_factory.mktemp("five"))
    fleet.start("h1")
    fleet.join(fleet.token("h1", "--uses", "4"), "h2", "h3", "h4", "h5")
    began_s = time.monotonic()
    fleet.start("h2", "h3", "h4", "h5")
    took_s = fleet.all_know(HOSTS, PATIENCE_S) - began_s
    print(f"four nodes started at once are members with the first: {took_s:.2f} s")
    yield fleet
    lan.heal()
    assert set(fleet.stop().values()) == {0}


@pytest.fixture
def five(made: LanFleet) -> LanFleet:
    """All five there and well, whatever the test before has done."""
    made.lan.heal()
    made.start(*(host for host in HOSTS if host not in made.nodes))
    made.all_know(HOSTS, PATIENCE_S)
    return made


def test_a_node_that_comes_in_is_soon_a_member_and_works(five: LanFleet) -> None:
    five.signal("h5", signal.SIGTERM)
    assert five.nodes.pop("h5").wait(PATIENCE_S) == 0
    five.all_know(HOSTS[:4], PATIENCE_S)
    work = [Work(five.client("h1"), 100)]
    five.start("h5")
    took_s = five.all_know(HOSTS, PATIENCE_S) - five.started_s["h5"]
    print(f"member of five, from the start of its process: {took_s:.2f} s")
    used: Counter[str] = Counter()
    deadline = time.monotonic() + PATIENCE_S
    while "h5" not in used:  # what comes in while it is there goes to it too
        assert time.monotonic() < deadline, used
        work.append(Work(five.client("h1"), 100))
        used += work.pop(0).done()
    for each in work:
        each.done()
    assert {member["name"] for member in json_of(five.cli("h3", "members", "--json"))} >= set(HOSTS)


def test_a_map_uses_the_whole_fleet(five: LanFleet) -> None:
    used: Counter[str] = Counter()
    deadline = time.monotonic() + PATIENCE_S
    while len(used) < 3:
        assert time.monotonic() < deadline, used
        ran = Counter(node for _, node in five.client("h1").map(where, range(150)))
        assert ran.total() == 150
        used += ran


def test_who_is_killed_is_dead_to_all_and_no_task_is_missing(five: LanFleet) -> None:
    work = Work(five.client("h1"), 300)
    time.sleep(0.5)
    killed_s = five.kill("h3")
    took_s = (
        five.know(["h1", "h2", "h4", "h5"], lambda states: states.get("h3") in ("dead", None), PATIENCE_S) - killed_s
    )
    print(f"killed, and dead to all: {took_s:.2f} s")
    work.done()


def test_a_host_that_was_cut_off_goes_on_by_itself_and_comes_back(five: LanFleet) -> None:
    here, there = Work(five.client("h1"), 300), Work(five.client("h4"), 80)
    five.lan.cut("h4")
    cut_s = time.monotonic()
    took_s = five.know(["h1", "h2", "h3", "h5"], lambda states: states.get("h4") in ("dead", None), PATIENCE_S) - cut_s
    print(f"cut off, and dead to the others: {took_s:.2f} s")
    here.done()
    there.done()
    here, there = Work(five.client("h1"), 300), Work(five.client("h4"), 80)
    five.lan.heal()
    came_back(five)
    here.done()
    there.done()
    spread(five.client("h4"))


def test_a_one_way_cut_loses_no_work(five: LanFleet) -> None:
    here, there = Work(five.client("h1"), 300), Work(five.client("h2"), 80)
    five.lan.cut("h2", one_way=True)  # it hears all and is heard by none
    here.done()
    there.done()
    time.sleep(1.0)
    here, there = Work(five.client("h1"), 300), Work(five.client("h2"), 80)
    five.lan.heal()
    came_back(five)
    here.done()
    there.done()


def test_a_host_that_hears_nothing_loses_no_work(five: LanFleet) -> None:
    work = [Work(five.client("h1"), 300), Work(five.client("h3"), 80)]
    for host in HOSTS:
        if host != "h3":
            five.lan.cut(host, "h3", one_way=True)
    for each in work:
        each.done()
    five.lan.heal()
    came_back(five)


def test_a_cut_between_two_is_no_reason_to_call_either_dead(five: LanFleet) -> None:
    wall_s, began_s = time.time(), time.monotonic()
    work = [Work(five.client(host), 150) for host in ("h1", "h2")]
    five.lan.cut("h2", "h3")
    time.sleep(5.0)  # longer than a death takes
    nobody_buried(five, wall_s, began_s)
    for each in work:
        each.done()


def test_a_node_that_stood_still_comes_back_and_nothing_is_lost(five: LanFleet) -> None:
    work = Work(five.client("h1"), 300)
    five.signal("h5", signal.SIGSTOP)
    try:
        five.know(["h1", "h2", "h3", "h4"], lambda states: states.get("h5") in ("dead", None), PATIENCE_S)
        work.done()
        work = Work(five.client("h1"), 300)
    finally:
        five.signal("h5", signal.SIGCONT)
    came_back(five)
    work.done()
    assert Work(five.client("h5"), 60).done().total() == 60


def test_a_script_whose_node_is_killed_goes_on_with_another_and_misses_nothing(five: LanFleet) -> None:
    five.signal("h5", signal.SIGTERM)  # its host has no node, so it uses one over the LAN
    assert five.nodes.pop("h5").wait(PATIENCE_S) == 0
    script = Driver(five.lan, "h5", "200", module="tests.lan.client_driver", env=five.env("h5"))
    script.until(lambda d: d.all("submitted"), PATIENCE_S)
    home = script.all("home")[0]["node"]
    assert home in HOSTS[:4]
    time.sleep(0.3)
    five.kill(home)
    script.until(lambda d: d.all("done"), 100)
    done = script.all("done")[0]
    assert sum(done["nodes"].values()) == 200
    assert done["node"] != home
    assert script.process.wait(PATIENCE_S) == 0


def test_who_is_revoked_is_cut_off_everywhere_at_once(five: LanFleet, tmp_path: Path) -> None:
    others = HOSTS[:4]
    work = Work(five.client("h1"), 300)
    five.client("h1").query("revoke", member=five_id(five, "h5"), reason="test")
    revoked_s = time.monotonic()
    took_s = five.know(others, lambda states: states.get("h5") != "alive", PATIENCE_S) - revoked_s
    print(f"revoked, and cut off everywhere: {took_s:.2f} s")
    work.done()
    time.sleep(1.0)
    for host in others:
        assert "h5" not in five.alive(host)
        assert "h5" not in Work(five.client(host), 40).done()
    # it may try as long as it likes; with new keys, by a token, the host is welcome
    five.kill("h5")
    five.homes["h5"] = tmp_path / "anew"
    five.join(five.token("h1"), "h5")
    five.start("h5")
    five.all_know(HOSTS, PATIENCE_S)


def came_back(five: LanFleet) -> None:
    """Whoever was away is a member to all again, and what was believed meanwhile buries nobody who is there."""
    healed_s, wall_s = time.monotonic(), time.time()
    print(f"healed, and a member to all again: {five.all_know(HOSTS, PATIENCE_S) - healed_s:.2f} s")
    time.sleep(1.0)
    nobody_buried(five, wall_s + 0.5, healed_s - 2.0)


def nobody_buried(five: LanFleet, wall_s: float, since_s: float) -> None:
    """Nobody called anybody dead since then (wall clock), unless this machine itself stood still (since then, monotonic)."""
    if five.pulse.worst_s(since_s) < STALL_S:
        assert not five.buried(wall_s)


def five_id(fleet: LanFleet, name: str) -> str:
    return next(str(member["id"]) for member in fleet.client("h1").members() if member["name"] == name)
