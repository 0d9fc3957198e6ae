"""Planted faults of the knowledge log: mutations of one place each, that the simulator has to find."""

from __future__ import annotations

from tests.sim.raft.faults import Fault, plant_in

PACKAGE = "swarm.protocol.knowledge"
FAULTS: dict[str, Fault] = {}


def plant(name: str) -> None:
    """From here on the knowledge log has this fault. It must not have been imported yet."""
    plant_in(PACKAGE, FAULTS[name])
