"""Parts of a node that stand alone: its epoch, its pulse, where it listens."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from nodes.epochs import next_epoch
from nodes.listening import LAN_MARK, Listening
from nodes.pulse import Pulse
from nodes.settings import ListenSection, NodeSettings
from swarm.errors import SystemRefused
from swarm.paths import Home
from swarm.protocol.effects import Fact


def test_each_epoch_is_above_all_before_it(tmp_path: Path) -> None:
    assert [next_epoch(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / "epoch").write_text("no number")
    assert next_epoch(tmp_path) == 1, "what is no number counts as none"
    with pytest.raises(SystemRefused, match="epoch"):
        next_epoch(tmp_path / "not there")


def test_a_pulse_says_that_the_loop_turns() -> None:
    async def beats() -> tuple[int, Any]:
        told: list[int] = []
        pulse = Pulse(asyncio.get_running_loop())
        twice = asyncio.Event()

        def alive() -> None:
            told.append(1)
            if len(told) == 2:
                twice.set()

        pulse.alive = alive
        pulse.beat()
        await asyncio.wait_for(twice.wait(), 60.0)
        return len(told), pulse.health()

    count, condition = asyncio.run(beats())
    assert count == 2 and condition.ok and "lag_s" in dict(condition.facts)


def listening(tmp_path: Path, host: str, is_admin: bool = True) -> Listening:
    settings = replace(NodeSettings(), listen=ListenSection(host=host))
    facts: list[Fact] = []
    (tmp_path / "fleet").mkdir(exist_ok=True)
    home = cast(Home, type("There", (), {"fleet_dir": tmp_path / "fleet"})())
    return Listening(settings, home, tmp_path, is_admin, lambda: cast(Any, None), facts.append)


def test_a_node_listens_on_loopback_until_a_second_machine_is_asked_for(tmp_path: Path) -> None:
    it = listening(tmp_path, "auto")
    assert it._hosts() == ["127.0.0.1"] and not it.on_lan
    assert it.addresses(7) == (("127.0.0.1", 7),)
    (tmp_path / "fleet" / LAN_MARK).touch()
    assert it._hosts()[0] == "0.0.0.0" and it.on_lan
    assert listening(tmp_path, "loopback")._hosts() == ["127.0.0.1"]
    one = listening(tmp_path, "192.0.2.7")
    assert one._hosts() == ["192.0.2.7"] and one.addresses(9) == (("192.0.2.7", 9),)


def test_a_home_that_came_in_by_a_token_listens_on_the_lan_at_once(tmp_path: Path) -> None:
    it = listening(tmp_path, "auto", is_admin=False)
    assert it._hosts()[0] == "0.0.0.0" and it.on_lan
