"""What tells a node's starts apart in its datagrams: a number that grows, whatever the wall clock does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from nodes import neighbourhood
from nodes.neighbourhood import Neighbourhood
from swarm.protocol.effects import Fact
from swarm.protocol.member import Member
from tests.lab.fleet import LabFleet
from transport.fleet import Fleet
from transport.links import Link

LAB = LabFleet(b"b")


class Fakes:
    """Stands for the fleet, the dialler and the node, which have no part in this."""

    def __init__(self) -> None:
        self.trust = LAB.trust()
        self.facts: list[str] = []

    async def connect(self, endpoint: str, **_: object) -> Link:
        raise AssertionError(endpoint)

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact.name)

    def member_seen(self, member: Member) -> None: ...
    def member_suspected(self, member: Member) -> None: ...
    def member_lost(self, node: bytes, why: str) -> None: ...
    def own_info(self) -> Mapping[str, object]:
        return {}

    def is_linked(self, node: bytes) -> bool:
        return False


def boot_at(directory: Path, wall_s: float, monkeypatch: pytest.MonkeyPatch, fakes: Fakes | None = None) -> int:
    """The number of a start at this time of the wall clock."""
    fakes = fakes or Fakes()
    monkeypatch.setattr(neighbourhood.time, "time", lambda: wall_s)
    fleet: Fleet = fakes  # type: ignore[assignment]
    loop = asyncio.new_event_loop()
    try:
        made = Neighbourhood(
            fleet, LAB.member("oak"), directory, b"x" * 8, fakes, fakes, loop, lambda: 0.0, random.Random(1)
        )
        return made._datagrams._boot
    finally:
        loop.close()


def test_each_start_is_above_the_one_before_though_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = [boot_at(tmp_path, wall_s, monkeypatch) for wall_s in (1e9, 1e9 + 60, 1e9 - 86400, 1e9 - 86400, 1e9 + 90)]
    assert boots == sorted(set(boots))
    assert boots[-1] == int((1e9 + 90) * 1e6), "the clock again, once it is ahead: what a lost file falls back on"


@pytest.mark.parametrize("content", ["", "never", "-5", "9" * 400])
def test_a_damaged_file_is_told_and_costs_the_clocks_word_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "boot").write_text(content)
    fakes = Fakes()
    boot = boot_at(tmp_path, 1e9, monkeypatch, fakes)
    assert int(1e9 * 1e6) <= boot < 1 << 64, "it fits into a datagram"
    assert ("boot.unreadable" in fakes.facts) == (content in ("", "never"))


def test_a_disk_that_takes_nothing_does_not_keep_a_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes()
    assert boot_at(tmp_path / "gone", 1e9, monkeypatch, fakes) == int(1e9 * 1e6)
    assert fakes.facts == ["boot.unsaved"]
