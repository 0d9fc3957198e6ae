"""Which agents run next: strategies of passes, each of another kind.

=================  ==================================================================================
`RoundRobin`       the same time for each cohort or group, or its weight's worth
`Priority`         the most urgent class first; who waits rises
`Hierarchical`     shares down a tree; what is unused is lent to the nearest
`Mesh`             the longest waiting first, the pass split over cores that steal from one another
`Quantum`          a register of amplitudes is measured
=================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from swarm.errors import ConfigError
from swarm.nano.topologies import hierarchical, mesh, priority, quantum, round_robin
from swarm.nano.topologies.contract import UNBOUNDED_NS, Due, Grant, Topology
from swarm.nano.topologies.hierarchical import Hierarchical, Share
from swarm.nano.topologies.mesh import Mesh
from swarm.nano.topologies.priority import Priority
from swarm.nano.topologies.quantum import Quantum
from swarm.nano.topologies.round_robin import RoundRobin, jain

__all__ = [
    "UNBOUNDED_NS",
    "Due",
    "Grant",
    "Hierarchical",
    "Mesh",
    "Priority",
    "Quantum",
    "RoundRobin",
    "Share",
    "Topology",
    "jain",
    "load",
]

KINDS: Final[Mapping[str, type[Topology]]] = {
    hierarchical.NAME: Hierarchical,
    mesh.NAME: Mesh,
    priority.NAME: Priority,
    quantum.NAME: Quantum,
    round_robin.NAME: RoundRobin,
}


def load(saved: Mapping[str, Any]) -> Topology:
    """The topology that gave this by its `save`, where it was. ConfigError for what is none."""
    kind = KINDS.get(str(saved.get("topology")))
    if kind is None:
        raise ConfigError(
            f"no topology is called {saved.get('topology')!r}", hint=f"there are {', '.join(sorted(KINDS))}"
        )
    return kind.load(saved)
