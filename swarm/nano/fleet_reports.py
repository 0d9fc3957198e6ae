"""What came of a population that ran in the fleet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swarm.nano.reports import Report
from swarm.nano.saving import load
from swarm.nano.scheduling import NanoSwarm


@dataclass(frozen=True)
class Stint:
    """What one node did of a population, from when it began there to where it was last saved."""

    node: str
    part: int
    passes: int
    ticks: int
    wall_s: float
    report: Report = field(repr=False)


@dataclass(frozen=True)
class FleetReport:
    """What came of a population that ran in the fleet; `blob` is its state, which `load` makes a NanoSwarm again.

    `restarts` counts how often parts were lost and all begun again from their last common state, `moves` how often it was
    moved. `lines` are messages that crossed between parts.
    """

    now_ns: int
    passes: int
    wall_s: float
    stints: tuple[Stint, ...]
    failures: tuple[str, ...]
    restarts: int
    moves: int
    lines: int
    stopped: bool
    blob: Any = field(repr=False)
    balanced: int = 0
    """How often agents went from a part that was busy to those that waited for it."""

    @property
    def ticks(self) -> int:
        """Ticks that count: those after the last common state of a part that was lost were made again."""
        return sum(stint.ticks for stint in self.stints)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it ran, in order."""
        return tuple(dict.fromkeys(stint.node for stint in self.stints))

    def load(self, **more: Any) -> NanoSwarm:
        """The population as it is now, to look into or to go on with; see `nano.load`."""
        return load(self.blob, **more)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the blob."""
        return {
            "now_s": self.now_ns / 1e9, "passes": self.passes, "ticks": self.ticks, "wall_s": self.wall_s,
            "nodes": list(self.nodes), "restarts": self.restarts, "moves": self.moves, "balanced": self.balanced, "lines": self.lines,
            "stopped": self.stopped, "failures": list(self.failures), "bytes": len(self.blob),
            "stints": [
                {"node": each.node, "part": each.part, "passes": each.passes, "ticks": each.ticks, "wall_s": each.wall_s}
                for each in self.stints
            ],
        }  # fmt: skip
