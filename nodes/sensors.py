"""How the machine is: its temperature, whether it runs on battery, and what others use of its processors.

Read from /sys and /proc, as the kernel's documentation describes them (Documentation/ABI/testing/sysfs-class-thermal,
sysfs-class-power; proc(5)). What a machine or a platform does not tell is None, and heeded by nobody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from swarm.protocol.executor.offer import Readings

SYS = Path("/sys")
PROC = Path("/proc")
PROCESSOR_ZONES = ("x86_pkg_temp", "cpu", "soc", "acpitz", "coretemp", "k10temp")
"""Thermal zones that are a processor's, by how their types begin. Where none is, the hottest of all counts."""
PLAUSIBLE_C = (1.0, 150.0)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def temperature_c(sys: Path = SYS) -> float | None:
    """Degrees Celsius of the processor, the hottest of its sensors; None where there are none."""
    zones: list[tuple[bool, float]] = []
    for zone in sorted((sys / "class/thermal").glob("thermal_zone*")):
        try:
            degrees = int(_text(zone / "temp")) / 1000
        except ValueError:
            continue
        if PLAUSIBLE_C[0] <= degrees <= PLAUSIBLE_C[1]:
            zones.append((_text(zone / "type").lower().startswith(PROCESSOR_ZONES), degrees))
    of_processor = [degrees for is_processor, degrees in zones if is_processor]
    return max(of_processor or (degrees for _, degrees in zones), default=None)


def on_battery(sys: Path = SYS) -> bool | None:
    """Whether the machine lives on its battery; None where there is no telling, as on one that has none."""
    supplies = sorted((sys / "class/power_supply").glob("*"))
    mains = [_text(one / "online") for one in supplies if _text(one / "type") in ("Mains", "USB")]
    # Batteries of mice and keyboards say that they are a device's.
    batteries = [
        _text(one / "status")
        for one in supplies
        if _text(one / "type") == "Battery" and _text(one / "scope") != "Device"
    ]
    if not batteries:
        return None
    if "1" in mains:
        return False
    return "Discharging" in batteries


def busy_s(proc: Path = PROC) -> float | None:
    """Processor seconds used on this machine since it was started, by whatever; None where it does not say."""
    for line in _text(proc / "stat").splitlines():
        if line.startswith("cpu "):
            fields = [int(field) for field in line.split()[1:]]
            user, nice, system, _, _, irq, softirq, steal = (*fields, *[0] * 8)[:8]
            # A guest's time is in the user's; what a hypervisor took is somebody else's, too.
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return None


def own_s(pids: Iterable[int], proc: Path = PROC) -> float:
    """Processor seconds of these processes, and of those children that they have waited for."""
    total = 0.0
    for pid in pids:
        _, _, rest = _text(proc / str(pid) / "stat").rpartition(")")
        fields = rest.split()
        if len(fields) > 14:
            total += sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return total


def family() -> list[int]:
    """This process and all that it has started, and what they have."""
    import psutil

    me = psutil.Process()
    return [me.pid, *(child.pid for child in me.children(recursive=True))]


class Sensors:
    """Reads the machine now and then; what others use is what was used since the last time."""

    def __init__(
        self, *, sys: Path = SYS, proc: Path = PROC, pids: Callable[[], list[int]] = family,
        clock: Callable[[], float] = time.monotonic, watch_load: bool = True,
    ) -> None:  # fmt: skip
        self._sys, self._proc, self._pids, self._clock = sys, proc, pids, clock
        self._watch_load = watch_load
        self._last: tuple[float, float, float] | None = None

    def read(self) -> Readings:
        """How the machine is now."""
        return Readings(temperature_c(self._sys), on_battery(self._sys), self._others() if self._watch_load else None)

    def _others(self) -> float | None:
        busy = busy_s(self._proc)
        if busy is None:
            return None
        last, now = self._last, (self._clock(), busy, own_s(self._pids(), self._proc))
        self._last = now
        if last is None or now[0] <= last[0]:
            return None
        # Processes that have ended take their seconds with them: never less than nothing.
        ours = max(0.0, now[2] - last[2])
        return max(0.0, now[1] - last[1] - ours) / (now[0] - last[0])
