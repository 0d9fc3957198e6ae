"""Temperature, battery and load from files as the kernel writes them, and from a machine that has none of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodes.sensors import Sensors, busy_s, family, on_battery, own_s, temperature_c
from swarm.protocol.executor.offer import Readings

TICKS = os.sysconf("SC_CLK_TCK")


def write(path: Path, **files: object) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (path / name).write_text(f"{value}\n")


def test_the_hottest_of_the_processors_zones_counts(tmp_path: Path) -> None:
    zones = tmp_path / "class/thermal"
    assert temperature_c(tmp_path) is None
    write(zones / "thermal_zone0", type="iwlwifi_1", temp=99000)
    assert temperature_c(tmp_path) == 99.0, "the only one that there is"
    write(zones / "thermal_zone1", type="x86_pkg_temp", temp=71500)
    write(zones / "thermal_zone2", type="cpu-1", temp=73000)
    write(zones / "thermal_zone3", type="cpu-2", temp=-274000)
    write(zones / "thermal_zone4", type="cpu-3", temp="n/a")
    assert temperature_c(tmp_path) == 73.0


def test_a_battery_counts_where_it_is_the_machines_and_is_being_emptied(tmp_path: Path) -> None:
    supplies = tmp_path / "class/power_supply"
    assert on_battery(tmp_path) is None
    write(supplies / "hidpp_battery_0", type="Battery", scope="Device", status="Discharging")
    assert on_battery(tmp_path) is None, "a mouse"
    write(supplies / "BAT0", type="Battery", status="Discharging")
    write(supplies / "AC", type="Mains", online=0)
    assert on_battery(tmp_path) is True
    write(supplies / "AC", online=1)
    assert on_battery(tmp_path) is False
    write(supplies / "AC", online=0)
    write(supplies / "BAT0", status="Full")
    assert on_battery(tmp_path) is False


def stat_of(pid: int, seconds: float) -> str:
    return f"{pid} (a b) c) S 1 1 1 0 -1 0 0 0 0 0 {int(seconds * TICKS)} 0 0 0 20 0 1 0 1 1 1"


def test_what_others_use_is_what_this_node_does_not(tmp_path: Path) -> None:
    now, busy, ours = 10.0, 100.0, 5.0

    def tell() -> None:
        write(tmp_path, stat=f"cpu  {int(busy * TICKS)} 0 0 5000 0 0 0 0 0 0\ncpu0 0 0 0 0")
        write(tmp_path / "7", stat=stat_of(7, ours))

    tell()
    assert busy_s(tmp_path) == pytest.approx(100.0) and own_s([7, 8], tmp_path) == pytest.approx(5.0)
    sensors = Sensors(sys=tmp_path, proc=tmp_path, pids=lambda: [7, 8], clock=lambda: now)
    assert sensors.read() == Readings(None, None, None), "it takes two looks"
    now, busy, ours = 12.0, 107.0, 8.0
    tell()
    assert sensors.read().others_cpus == pytest.approx(2.0)
    now, busy, ours = 14.0, 108.0, 1.0  # a worker ended
    tell()
    assert sensors.read().others_cpus == pytest.approx(0.5)
    assert Sensors(sys=tmp_path, proc=tmp_path / "none", pids=list).read() == Readings()


def test_this_machine_is_read_without_a_fault() -> None:
    assert os.getpid() in family()
    readings = Sensors().read()
    assert readings.temperature_c is None or 1.0 <= readings.temperature_c <= 150.0
