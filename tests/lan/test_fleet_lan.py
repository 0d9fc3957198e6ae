"""A fleet on a LAN of five hosts: it forms, works, and gets over what LANs do to it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lan import Lan
from tests.lan.fleets import LanFleet, json_of

pytestmark = [pytest.mark.lan, pytest.mark.timeout(180)]

HOSTS = ["h1", "h2", "h3", "h4", "h5"]


@pytest.fixture(scope="module")
def made(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanFleet]:
    """h1 makes the fleet, and four others come in by one token."""
    fleet = LanFleet(lan, tmp_path_factory.mktemp("five"))
    fleet.start("h1")
    fleet.join(fleet.token("h1", "--uses", "4"), "h2", "h3", "h4", "h5")
    began_s = time.monotonic()
    fleet.start("h2", "h3", "h4", "h5")
    took_s = fleet.all_know(HOSTS, 20) - began_s
    print(f"four nodes started at once are members with the first: {took_s:.2f} s")
    yield fleet
    lan.heal()
    assert set(fleet.stop().values()) == {0}


@pytest.fixture
def five(made: LanFleet) -> LanFleet:
    """All five there and well, whatever the test before has done."""
    made.lan.heal()
    made.start(*(host for host in HOSTS if host not in made.nodes))
    made.all_know(HOSTS, 30)
    return made


def where(_: int) -> str:
    time.sleep(0.02)
    return os.path.basename(os.environ["SWARM_NODE_SOCKET"]).removesuffix(".sock")


def test_a_node_that_comes_in_is_soon_a_member_and_works(five: LanFleet) -> None:
    five.signal("h5", signal.SIGTERM)
    assert five.nodes.pop("h5").wait(20) == 0
    five.all_know(HOSTS[:4], 5)
    five.start("h5")
    took_s = five.all_know(HOSTS, 15) - five.started_s["h5"]
    print(f"member of five, from the start of its process: {took_s:.2f} s")
    assert json_of(five.cli("h3", "members", "--json"))


def test_a_map_uses_the_whole_fleet(five: LanFleet) -> None:
    used = Counter(five.client("h1").map(where, range(150)))
    assert used.total() == 150
    assert len(used) >= 3, used


def test_who_is_killed_is_dead_to_all_and_no_task_is_missing(five: LanFleet) -> None:
    futures = [five.client("h1").submit(where, index) for index in range(300)]
    time.sleep(0.5)
    killed_s = five.kill("h3")
    took_s = five.know(["h1", "h2", "h4", "h5"], lambda states: states.get("h3") in ("dead", None), 12) - killed_s
    print(f"killed, and dead to all: {took_s:.2f} s")
    assert Counter(future.result(60) for future in futures).total() == 300


def test_a_host_that_was_cut_off_comes_back(five: LanFleet) -> None:
    futures = [five.client("h1").submit(where, index) for index in range(300)]
    five.lan.cut("h4")
    cut_s = time.monotonic()
    took_s = five.know(["h1", "h2", "h3", "h5"], lambda states: states.get("h4") in ("dead", None), 15) - cut_s
    print(f"cut off, and dead to the others: {took_s:.2f} s")
    assert Counter(future.result(60) for future in futures).total() == 300
    five.lan.heal()
    healed_s = time.monotonic()
    print(f"healed, and a member to all again: {five.all_know(HOSTS, 40) - healed_s:.2f} s")
    assert len(set(five.client("h4").map(where, range(100)))) >= 2


def test_a_one_way_cut_loses_no_work(five: LanFleet) -> None:
    futures = [five.client("h1").submit(where, index) for index in range(300)]
    five.lan.cut("h2", one_way=True)  # it hears all and is heard by none
    assert Counter(future.result(60) for future in futures).total() == 300
    time.sleep(1.0)
    five.lan.heal()
    healed_s = time.monotonic()
    print(f"healed, and a member to all again: {five.all_know(HOSTS, 40) - healed_s:.2f} s")


def test_a_cut_between_two_is_no_reason_to_call_either_dead(five: LanFleet) -> None:
    five.lan.cut("h2", "h3")
    deadline = time.monotonic() + 5.0  # longer than a death takes
    while time.monotonic() < deadline:
        for host in HOSTS:
            assert "dead" not in five.states(host).values()
        time.sleep(0.2)


def test_a_node_that_stood_still_comes_back_and_nothing_is_lost(five: LanFleet) -> None:
    futures = [five.client("h1").submit(where, index) for index in range(300)]
    five.signal("h5", signal.SIGSTOP)
    try:
        five.know(["h1", "h2", "h3", "h4"], lambda states: states.get("h5") in ("dead", None), 15)
        assert Counter(future.result(60) for future in futures).total() == 300
    finally:
        went_on_s = five.signal("h5", signal.SIGCONT)
    print(f"goes on, and a member to all again: {five.all_know(HOSTS, 40) - went_on_s:.2f} s")
    assert Counter(five.client("h5").map(where, range(60))).total() == 60


def test_who_is_revoked_is_cut_off_everywhere_at_once(five: LanFleet, tmp_path: Path) -> None:
    others = HOSTS[:4]
    five.client("h1").query("revoke", member=five_id(five, "h5"), reason="test")
    revoked_s = time.monotonic()
    took_s = five.know(others, lambda states: states.get("h5") != "alive", 3.0) - revoked_s
    print(f"revoked, and cut off everywhere: {took_s:.2f} s")
    time.sleep(1.0)
    for host in others:
        assert "h5" not in five.alive(host)
    assert "h5" not in set(five.client("h1").map(where, range(80)))
    # it may try as long as it likes; with new keys, by a token, the host is welcome
    five.kill("h5")
    five.homes["h5"] = tmp_path / "anew"
    five.join(five.token("h1"), "h5")
    five.start("h5")
    five.all_know(HOSTS, 20)


def five_id(fleet: LanFleet, name: str) -> str:
    return next(str(member["id"]) for member in fleet.client("h1").members() if member["name"] == name)
