"""Fleets on LANs of other kinds: two of them side by side, no IPv4, no multicast; and what a browser of services sees."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.paths import Home
from tests.lab import lan as lab
from tests.lab.fixtures import require
from tests.lan import avahi
from tests.lan.fleets import PATIENCE_S, LanFleet, Work, spread, until
from transport.certificates import id_text
from transport.fleet import Fleet, load_keys

pytestmark = [pytest.mark.lan, pytest.mark.timeout(600)]


@pytest.fixture
def kind() -> Iterator[type[lab.Lan]]:
    require(lab.missing())
    yield lab.Lan


def weigh(blob: bytes) -> tuple[int, str]:
    """Takes long enough that others take some."""
    time.sleep(0.1)
    return len(blob), os.environ["SWARM_NODE"]


def form(fleet: LanFleet, first: str, *others: str) -> None:
    """The first makes the fleet, the others come in by its token, all start."""
    fleet.start(first)
    if others:
        fleet.join(fleet.token(first, "--uses", str(len(others))), *others)
        fleet.start(*others)
    fleet.all_know([first, *others], PATIENCE_S)


def test_two_fleets_on_one_lan_do_not_see_each_other_and_a_browser_sees_both(
    kind: type[lab.Lan], tmp_path: Path
) -> None:
    require(avahi.missing())
    with kind(5, label="two") as lan:
        fleets = {"a": LanFleet(lan, tmp_path / "a"), "b": LanFleet(lan, tmp_path / "b")}
        hosts = {"a": ["h1", "h2", "h3"], "b": ["h4", "h5"]}
        for name, fleet in fleets.items():
            form(fleet, *hosts[name])
        work = {name: Work(fleet.client(hosts[name][0]), 150) for name, fleet in fleets.items()}
        for name, fleet in fleets.items():
            assert set(work[name].done()) <= set(hosts[name])
            for host in hosts[name]:
                assert set(fleet.states(host)) == set(hosts[name])
        expected = {
            host: (node_id(fleet, host), Fleet.load(fleet.home(host).fleet_dir).trust.tag.hex())
            for name, fleet in fleets.items()
            for host in hosts[name]
        }
        seen: dict[str, avahi.Service] = {}

        def all_seen() -> bool:
            seen.update((each.name, each) for each in avahi.browse(lan, "h2", "_swarm._tcp", tmp_path))
            return set(seen) >= {id for id, _ in expected.values()}

        # Each time the browser begins with nothing, and ends when for a second nothing comes: nodes may be slower than that.
        until(all_seen, 3 * PATIENCE_S, lambda: str(sorted(seen)))
        for host, (id, tag) in expected.items():
            assert seen[id].type == "_swarm._tcp"
            assert seen[id].address in (lan.address(host), lan.address(host, 6))
            assert seen[id].port == port_of(fleets["a" if host in hosts["a"] else "b"].home(host), host)
            assert f'"f={tag}"' in seen[id].text and '"v=1"' in seen[id].text
        assert len(seen) == 5
        assert len({tag for _, tag in expected.values()}) == 2
        for fleet in fleets.values():
            assert set(fleet.stop().values()) == {0}


def test_a_lan_without_ipv4(kind: type[lab.Lan], tmp_path: Path) -> None:
    require("" if Path("/proc/net/if_inet6").exists() else "no IPv6 in this kernel")
    with kind(5, label="six", ipv4=False) as lan:
        fleet = LanFleet(lan, tmp_path)
        form(fleet, *lan.hosts)
        blobs = [bytes([number]) * (2 << 20) for number in range(12)]
        weighers: set[str] = set()
        while len(weighers) < 2:  # the test's own limit ends it
            weighed = list(fleet.client("h1").map(weigh, blobs))
            assert [size for size, _ in weighed] == [2 << 20] * 12
            weighers |= {node for _, node in weighed}
        work = Work(fleet.client("h1"), 200)
        fleet.kill("h2")
        fleet.know(["h1", "h3", "h4", "h5"], lambda states: states.get("h2") in ("dead", None), PATIENCE_S)
        work.done()
        spread(fleet.client("h1"))
        fleet.start("h2")
        fleet.all_know(lan.hosts, PATIENCE_S)
        assert set(fleet.stop().values()) == {0}


def test_a_lan_without_multicast_where_seeds_lead_the_way(kind: type[lab.Lan], tmp_path: Path) -> None:
    with kind(5, label="deaf") as lan:
        lan.multicast(False)
        fleet = LanFleet(lan, tmp_path)
        form(fleet, *lan.hosts[:4])  # where a token was redeemed is a seed
        spread(fleet.client("h1"))
        # one that came in, forgot where, and is told of another node than that, which is gone
        fleet.join(fleet.token("h1"), "h5")
        (fleet.home("h5").fleet_dir / "seeds").unlink()
        fleet.kill("h1")
        fleet.know(["h2", "h3", "h4"], lambda states: states.get("h1") in ("dead", None), PATIENCE_S)
        fleet.flags = (*fleet.flags, "--seed", f"{lan.address('h3')}:{port_of(fleet.home('h3'), 'h3')}")
        fleet.start("h5")
        fleet.all_know(["h2", "h3", "h4", "h5"], PATIENCE_S)
        spread(fleet.client("h5"))
        assert set(fleet.stop().values()) == {0}


def node_id(fleet: LanFleet, host: str) -> str:
    keys = load_keys(fleet.home(host).node_dir(host))
    assert keys is not None
    return id_text(keys.id)


def port_of(home: Home, name: str) -> int:
    return int((home.node_dir(name) / "port").read_text())
