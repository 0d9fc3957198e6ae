"""A population over hosts of a LAN: spread, through a cut between two of them, moved, and gone on with when a host is unplugged."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from swarm import nano
from tests.lab.lan import Lan
from tests.lan.fleets import PATIENCE_S, LanFleet, until
from tests.unit.nano import kinds_to_spread
from tests.unit.nano.test_partition import content

pytestmark = [pytest.mark.lan, pytest.mark.timeout(240)]

LONG_S = 6.0


@pytest.fixture(scope="module")
def three(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanFleet]:
    """h1 drives and runs nothing; h2 and h3 run."""
    fleet = LanFleet(lan, tmp_path_factory.mktemp("nano"))
    flags = fleet.flags
    fleet.flags = (*flags, "--workers", "0")
    fleet.start("h1")
    fleet.join(fleet.token("h1", "--uses", "2"), "h2", "h3")
    fleet.flags = (*flags, "--workers", "2")
    fleet.start("h2", "h3")
    fleet.all_know(["h1", "h2", "h3"], PATIENCE_S)
    yield fleet
    lan.heal()
    lan.plug("h3", True)
    fleet.stop()


def slow() -> nano.NanoSwarm:
    flock = nano.NanoSwarm(seed=8)
    flock.spawn(kinds_to_spread.Slow, 12, rate_hz=100).pause_s[:1] = 0.01
    flock.spawn(kinds_to_spread.Singer, 3, rate_hz=100)
    return flock


@pytest.fixture(scope="module")
def alone() -> nano.NanoSwarm:
    flock = slow()
    flock.run_for(seconds=LONG_S)
    return flock


def test_a_cut_between_two_parts_costs_time_and_nothing_else(three: LanFleet, alone: nano.NanoSwarm) -> None:
    run = nano.submit(three.client("h1"), slow(), seconds=LONG_S, on=["h2", "h3"], by="rows", balance=False)
    until(lambda: run.progress["passes"] > 50, 60)
    three.lan.cut("h2", "h3")
    stands = -1
    while stands != run.progress["passes"]:  # what is on its way to who drives comes to its end
        stands = run.progress["passes"]
        time.sleep(1.0)
    time.sleep(2.0)
    assert run.progress["passes"] <= stands + 1, "nobody goes on alone"
    three.lan.heal()
    until(lambda: run.progress["passes"] > stands + 50, 60)
    report = run.result(120)
    assert report.nodes == ("h2", "h3")
    assert content(report.blob) == content(alone.save())
    assert report.lines > 100


def test_it_moves_from_host_to_host(three: LanFleet, alone: nano.NanoSwarm) -> None:
    run = nano.submit(three.client("h1"), slow(), seconds=LONG_S, on="h2")
    until(lambda: run.progress["passes"] > 50, 60)
    assert run.move("h3") == ("h3",)
    report = run.result(120)
    assert [stint.node for stint in report.stints] == ["h2", "h3"]
    assert content(report.blob) == content(alone.save())


def test_a_host_that_is_unplugged_costs_what_was_not_saved(three: LanFleet, alone: nano.NanoSwarm) -> None:
    run = nano.submit(
        three.client("h1"), slow(), seconds=LONG_S, on=["h2", "h3"], by="rows", save_every_s=0.3, balance=False
    )
    until(lambda: run.progress["passes"] > 100, 60)
    three.lan.plug("h3", False)
    report = run.result(180)
    assert report.restarts == 1
    assert set(run.nodes) == {"h2"}
    assert content(report.blob) == content(alone.save())
