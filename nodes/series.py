"""The table of what is measured: which fact feeds which Prometheus series, and at which level it is logged.

Names follow Prometheus' conventions (prometheus.io/docs/practices/naming): base units, ``_total`` on counters. Ids
are never labels: the label values of a series are few and known. ``docs/reference/metrics.md`` is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SeriesKind = Literal["counter", "gauge", "histogram"]
Level = Literal["debug", "info", "warning", "error"]

# 100 µs to 100 s: from a task on a warm worker to a long run; 1-2.5-5 steps keep the error of a quantile within 2.5
SECONDS_BUCKETS: Final = (*(step * 10**power / 1e4 for power in range(6) for step in (1, 2.5, 5)), 100.0)
BYTES_BUCKETS: Final = tuple(float(4**power) for power in range(4, 17, 2))


@dataclass(frozen=True, slots=True)
class Series:
    """One metric. ``of`` is the field of the fact that it takes; empty: the fact's own value."""

    kind: SeriesKind
    name: str
    about: str
    labels: tuple[str, ...] = ()
    of: str = ""

    @property
    def buckets(self) -> tuple[float, ...]:
        """Upper bounds of a histogram, in its unit."""
        return BYTES_BUCKETS if self.name.endswith("_bytes") else SECONDS_BUCKETS


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of fact is told: its level in the log (None: not logged) and its series."""

    level: Level | None
    series: tuple[Series, ...] = ()


def _counter(name: str, about: str, *labels: str, of: str = "") -> Series:
    return Series("counter", f"swarm_{name}_total", about, labels, of)


def _seconds(name: str, about: str, *labels: str, of: str = "") -> Series:
    return Series("histogram", f"swarm_{name}_seconds", about, labels, of)


def _bytes(name: str, about: str, *labels: str, of: str = "") -> Series:
    return Series("histogram", f"swarm_{name}_bytes", about, labels, of)


def _gauge(name: str, about: str, *labels: str, of: str = "") -> Series:
    return Series("gauge", f"swarm_{name}", about, labels, of)


TABLE: Final[dict[str, Row]] = {
    # the node itself
    "node.starting": Row("info"),
    "node.ready": Row("info", (_gauge("start_seconds", "Time from the start of the process to readiness."),)),
    "node.draining": Row("info"),
    "node.stopped": Row("info"),
    "node.loop_stalled": Row(
        "warning", (_counter("loop_stalls", "Times that the node's loop did not turn for 0.1 s."),)
    ),
    # workers
    "worker.started": Row("info", (_counter("workers_started", "Worker processes that became ready."),)),
    "worker.exited": Row("info", (_counter("workers_exited", "Worker processes that ended.", "expected"),)),
    "worker.start_failed": Row("error", (_counter("worker_start_failures", "Workers that did not become ready."),)),
    "worker.killed": Row("info", (_counter("workers_killed", "Worker processes killed by the node.", "why"),)),
    "worker.recycled": Row("info", (_counter("workers_recycled", "Workers replaced as the limits ask.", "why"),)),
    # tasks, where they run
    "slice.handed": Row(
        None,
        (
            _seconds("queue_wait", "Time a slice of tasks waited on this node for a worker."),
            _counter("tasks_started", "Tasks handed to a worker.", of="tasks"),
        ),
    ),
    "slice.finished": Row(
        None,
        (
            _seconds("run", "Time a slice of tasks ran in a worker."),
            _counter("tasks_run", "Tasks that ended in a worker of this node.", "status", of="tasks"),
        ),
    ),
    "task.timeout": Row("warning", (_counter("task_timeouts", "Tasks killed at their time limit."),)),
    "task.crashed": Row("warning", (_counter("task_crashes", "Tasks during which their worker died."),)),
    "command.lost": Row("warning", (_counter("commands_lost", "Commands whose outcome is not known."),)),
    # tasks, where they are owned
    "batch.accepted": Row(
        "debug",
        (
            _counter("tasks_accepted", "Tasks accepted from clients.", "priority", of="tasks"),
            _bytes("batch", "Bytes of an accepted batch.", of="bytes"),
        ),
    ),
    "batch.refused": Row("info", (_counter("batches_refused", "Batches not accepted.", "why"),)),
    "batch.finished": Row("debug", (_counter("tasks_finished", "Tasks with a final outcome.", "status", of="tasks"),)),
    "task.round_trip": Row(None, (_seconds("round_trip", "Time from acceptance of a batch to its outcomes."),)),
    "task.retried": Row("info", (_counter("task_retries", "Attempts repeated after an exception."),)),
    "task.quarantined": Row("error", (_counter("tasks_quarantined", "Tasks given up: they took workers down."),)),
    "dispatch.returned": Row("debug", (_counter("tasks_returned", "Tasks given back unstarted.", of="tasks"),)),
    "outcome.stale": Row("debug", (_counter("outcomes_stale", "Outcomes refused for their fencing token."),)),
    # membership
    "member.joined": Row("info", (_counter("members_joined", "Members seen alive for the first time or again."),)),
    "member.changed": Row("debug"),
    "member.suspected": Row("info", (_counter("members_suspected", "Suspicions raised or heard."),)),
    "member.died": Row("warning", (_counter("members_died", "Members declared dead."),)),
    "member.left": Row("info", (_counter("members_left", "Members that said goodbye."),)),
    "probe.round_trip": Row(None, (_seconds("probe_round_trip", "Time from a probe to its answer."),)),
    # the door, and what stands outside
    "link.up": Row("info", (_counter("links_opened", "Connections that were admitted.", "reach", "role"),)),
    "link.down": Row("info", (_counter("links_closed", "Connections that ended.", "reach", "role"),)),
    "refused": Row("warning", (_counter("refusals", "Peers or messages turned away.", "reason"),)),
    "violation": Row("warning", (_counter("violations", "Peers dropped for breaking the protocol.", "reason"),)),
    "join.admitted": Row("info", (_counter("joins_admitted", "Machines and clients that joined with a token."),)),
    "join.refused": Row("warning", (_counter("joins_refused", "Join requests refused.", "reason"),)),
    "discovery.hint": Row("debug", (_counter("discovery_hints", "Addresses found.", "source"),)),
}

UNKNOWN: Final = _counter("unknown_facts", "Facts that the table of series does not know.")
SUPPRESSED: Final = _counter("log_suppressed", "Log events left out because too many of a kind came in one second.")

GAUGES: Final[dict[str, Series]] = {
    # read when somebody looks: Telemetry.watch(name, labels, read)
    "queue.tasks": _gauge("queue_tasks", "Tasks that wait on this node.", "class"),
    "queue.bytes": _gauge("queue_bytes", "Bytes of what waits on this node."),
    "workers": _gauge("workers", "Worker processes.", "state"),
    "running": _gauge("running_tasks", "Tasks that run now."),
    "members": _gauge("members", "Members of the fleet as this node sees it.", "state"),
    "links": _gauge("links", "Open connections.", "reach"),
    "blobs.bytes": _gauge("blob_store_bytes", "Bytes of stored blobs."),
    "owned.tasks": _gauge("owned_tasks", "Unfinished tasks of the batches that this node owns."),
}

HISTOGRAMS: Final[dict[str, Series]] = {
    # recorded by kernels on the hot path, and read when somebody looks: Telemetry.watch_histogram(name, labels, read)
    "task.run": _seconds("task_run", "Time a task ran."),
    "task.wait": _seconds("task_wait", "Time a task waited before it started."),
}


def all_series() -> list[Series]:
    """Every series, by name."""
    rows = [series for row in TABLE.values() for series in row.series]
    unique = {series.name: series for series in (*rows, UNKNOWN, SUPPRESSED, *GAUGES.values(), *HISTOGRAMS.values())}
    return [unique[name] for name in sorted(unique)]
