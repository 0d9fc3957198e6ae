"""What is measured of a node whenever somebody asks: tasks, workers, links, what is kept and known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from nodes.fabric import Fabric
from nodes.telemetry import Telemetry
from swarm.protocol.execution import Execution

if TYPE_CHECKING:
    from nodes.kept_blobs import KeptBlobs
    from nodes.knowledge.parts import KnowledgeParts


def watch_all(
    telemetry: Telemetry,
    fabric: Fabric,
    live_count: Callable[[], int],
    kept: KeptBlobs | None,
    knowledge: KnowledgeParts | None,
) -> None:
    """Have a node's telemetry ask for them."""
    telemetry.own_durations("swarm_task_run_seconds", fabric.run_times)
    for klass, waits in fabric.wait_times.items():
        telemetry.own_durations("swarm_task_wait_seconds", waits, **{"class": klass})
    execution, ownership, watch = fabric.execution, fabric.ownership, telemetry.watch
    watch("running", lambda: float(execution.running))
    watch("owned.tasks", lambda: float(ownership.unfinished))
    if kept is not None:
        watch("kept.bytes", lambda: float(kept.disk.files.bytes))
        watch("kept.missing", lambda: float(kept.report()["missing"]))
    if knowledge is not None:
        desk, large = knowledge.shell.desk, knowledge.large
        watch("knowledge.entries", lambda: float(desk.entries))
        watch("lessons.known", lambda: float(len(ownership.heeding.known)))
        watch("knowledge.bytes", lambda: float(desk.bytes))
        watch("knowledge.blob_bytes", lambda: float(large.files.bytes))
        shelf = knowledge.keeping.shelf
        watch("snapshots.kept", lambda: float(shelf.count))
        watch("snapshots.newest", lambda: shelf.newest_ms / 1000)
    watch("members", lambda: float(live_count()), state="alive")
    for state in ("starting", "ready", "blocked", "suspended", "stopping"):
        watch("workers", partial(_count_state, execution, state), state=state)
    for reach in ("lan", "host"):
        watch("links", partial(_count_reach, fabric, reach), reach=reach)


def _count_state(execution: Execution, state: str) -> float:
    return float(sum(1 for one in execution.workers.values() if one.state == state))


def _count_reach(fabric: Fabric, reach: str) -> float:
    links = (*fabric.node_links.values(), *fabric.client_links.values())
    return float(sum(1 for link in links if link.reach == reach))
