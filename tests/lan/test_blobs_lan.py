"""Blobs between hosts of a LAN: through a cut in the middle, and where a firewall lets only the control port in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.lab.lan import Lan
from tests.lan.fleets import PATIENCE_S, LanFleet, until

pytestmark = [pytest.mark.lan, pytest.mark.timeout(180)]

MIB = 1 << 20


@pytest.fixture(scope="module")
def two(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanFleet]:
    """h1 owns tasks and runs none; h2 runs them."""
    fleet = LanFleet(lan, tmp_path_factory.mktemp("two"))
    flags = fleet.flags
    fleet.flags = (*flags, "--workers", "0")
    fleet.start("h1")
    fleet.join(fleet.token("h1", "--uses", "1"), "h2")
    fleet.flags = flags
    fleet.start("h2")
    fleet.all_know(["h1", "h2"], PATIENCE_S)
    yield fleet
    lan.heal()
    assert set(fleet.stop().values()) == {0}


def size_and_ends(array: Any) -> tuple[int, int, int]:
    return array.nbytes, int(array[0]), int(array[-1])


def blob_bytes(fleet: LanFleet, host: str) -> int:
    value, _ = fleet.client(host)._engine.query("status", {})
    return int(value["blob_bytes"])


def events(fleet: LanFleet, host: str, name: str) -> list[str]:
    return [line for line in fleet.log(host).splitlines() if name in line]


def test_a_blob_outlives_a_cut_in_its_middle(two: LanFleet) -> None:
    for first in range(5):  # where much else runs it may all have come before the cut; then it is another one's turn
        array = np.full(256 * MIB, first, dtype="u1")
        array[-1] = 7
        before = blob_bytes(two, "h2")
        future = two.client("h1").submit(size_and_ends, array)
        at = before + array.nbytes  # room is set aside when it begins to come
        until(lambda future=future, at=at: blob_bytes(two, "h2") >= at or future.done(), PATIENCE_S)
        two.lan.cut("h2")
        time.sleep(1.5)
        cut = not future.done()
        two.lan.heal()
        assert future.result(90) == (256 * MIB, first, 7)
        if cut:
            return
    raise AssertionError("each of them had come before its cut")


def test_where_a_firewall_lets_only_the_control_port_in_blobs_come_all_the_same(two: LanFleet) -> None:
    port = (two.home("h1").node_dir("h1") / "bulk_port").read_text()
    for words in ("add table inet t", "add chain inet t in { type filter hook input priority 0; }"):
        assert two.lan.run("h1", ["nft", words]).returncode == 0
    assert two.lan.run("h1", ["nft", f"add rule inet t in tcp dport {port} drop"]).returncode == 0
    try:
        # What is open already goes on; the connections of a node that was started anew do not come to be.
        two.signal("h2", 15)
        assert two.nodes.pop("h2").wait(PATIENCE_S) == 0
        two.start("h2")
        two.all_know(["h1", "h2"], PATIENCE_S)
        for n in range(3):
            array = np.full(4 * MIB + n, n, dtype="u1")
            assert two.client("h1").submit(size_and_ends, array).result(90) == (array.nbytes, n, n)
        shut = events(two, "h2", '"unreachable"')
        assert len(shut) == 3 and sum("a moment ago" in line for line in shut) == 2, two.log("h2")
    finally:
        two.lan.run("h1", ["nft", "delete table inet t"])
