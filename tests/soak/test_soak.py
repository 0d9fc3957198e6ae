"""Some thousands of the million events of which ``make soak`` makes populations live and die: nothing stays behind."""

from __future__ import annotations

import sys

import pytest

from tests.soak.one import soaked
from tests.soak.scenarios import PLANTED, SCENARIOS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
EVENTS = {"saves": 4_000, "swarms": 4_000, "births in ticks": 6_000, "messages": 20_000}


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_stays_behind(name: str) -> None:
    it = soaked(name, EVENTS.get(name, 10_000), 250)
    assert not it.grown, f"{it.events} events: {it.grown}"


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_leak_is_found(name: str) -> None:
    it = soaked(name, 2_000, 100)
    assert it.before.native_bytes < 0 or any(line.startswith("native_bytes") for line in it.grown), it
