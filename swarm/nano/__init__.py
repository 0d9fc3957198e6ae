"""Nano-agents: a population that ticks in nanoseconds.

A `Kind` declares fields; a `NanoSwarm` schedules agents of kinds, whose tick is a Python object's method, a generator, or
native code for one agent or for a batch of them (`nano.h`). Native ticks run without the GIL.

>>> from swarm import nano
>>> class Cell(nano.Kind, capacity=1000):
...     level: nano.f64
...     def tick(self, now_ns, bus):
...         self.level += 1.0
>>> flock = nano.NanoSwarm(seed=7)
>>> cells = flock.spawn(Cell, 10, rate_hz=100)
>>> flock.run_for(seconds=0.5).ticks
500
>>> cells[3].level
50.0
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.nano.agents import Agents
from swarm.nano.alerts import Alert, Raised
from swarm.nano.anomalies import Anomalies, Anomaly
from swarm.nano.budget import Budget
from swarm.nano.bus import Message
from swarm.nano.errors import BadTick, KindNotThere, NanoError, PopulationFull, SchemaMismatch
from swarm.nano.fields import (
    boolean,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    reads,
    u8,
    u16,
    u32,
    u64,
    writes,
)
from swarm.nano.isolation import Isolated, PopulationLost, isolate
from swarm.nano.kinds import DONE, FAILED, IDLE, WORKED, Kind, Sleep
from swarm.nano.reports import CohortReport, Report
from swarm.nano.saving import load
from swarm.nano.scheduling import NanoSwarm
from swarm.nano.topologies import Hierarchical, Mesh, Priority, Quantum, RoundRobin, Share

if TYPE_CHECKING:
    from swarm.nano.bridge import Bridge as Bridge
    from swarm.nano.bridge import End as End
    from swarm.nano.bridge import ends as ends
    from swarm.nano.fleet import FleetReport as FleetReport
    from swarm.nano.fleet import PopulationRun as PopulationRun
    from swarm.nano.fleet import submit as submit

_LATER = dict.fromkeys(("FleetReport", "PopulationRun", "submit"), "swarm.nano.fleet") | dict.fromkeys(
    ("Bridge", "End", "ends"), "swarm.nano.bridge"
)
"""Imported when first used: who only simulates needs no fleet."""

__all__ = [
    "DONE",
    "FAILED",
    "IDLE",
    "WORKED",
    "Agents",
    "Alert",
    "Anomalies",
    "Anomaly",
    "BadTick",
    "Bridge",
    "Budget",
    "CohortReport",
    "End",
    "FleetReport",
    "Hierarchical",
    "Isolated",
    "Kind",
    "KindNotThere",
    "Mesh",
    "Message",
    "NanoError",
    "NanoSwarm",
    "PopulationFull",
    "PopulationLost",
    "PopulationRun",
    "Priority",
    "Quantum",
    "Raised",
    "Report",
    "RoundRobin",
    "SchemaMismatch",
    "Share",
    "Sleep",
    "boolean",
    "ends",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "include",
    "isolate",
    "load",
    "reads",
    "submit",
    "u8",
    "u16",
    "u32",
    "u64",
    "writes",
]  # fmt: skip


def include() -> str:
    """The folder of `nano.h`, the C interface of native ticks: `cc -I$(python -c '…')`."""
    import kernels

    return str(Path(kernels.__path__[0]))


def __getattr__(name: str) -> Any:
    where = _LATER.get(name)
    if where is None:
        raise AttributeError(f"module 'swarm.nano' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value
