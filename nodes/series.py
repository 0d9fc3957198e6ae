"""The table of what is measured: which fact feeds which Prometheus series, and at which level it is logged.

Names follow Prometheus' conventions (prometheus.io/docs/practices/naming): base units, ``_total`` on counters. Ids
are never labels: the label values of a series are few and known. ``docs/reference/metrics.md`` is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SeriesKind = Literal["counter", "gauge", "histogram", "durations"]
Level = Literal["debug", "info", "warning", "error"]

# 100 µs to 100 s: from a task on a warm worker to a long run; 1-2.5-5 steps keep the error of a quantile within 2.5
SECONDS_BUCKETS: Final = (*(step * 10**power / 1e4 for power in range(6) for step in (1, 2.5, 5)), 100.0)
BYTES_BUCKETS: Final = tuple(float(4**power) for power in range(4, 17, 2))


@dataclass(frozen=True, slots=True)
class Series:
    """One metric.

    ``durations``: a histogram that a kernel keeps, fed with columns of run times (``kernels.batch.Outcomes``).
    """

    kind: SeriesKind
    name: str
    about: str
    labels: tuple[str, ...] = ()
    of: str = ""
    """The field of the fact that it takes. Empty: the fact's value. ``#``: it counts facts, whatever their value."""
    but: tuple[str, str] = ("", "")
    """A label and a value of it with which a fact does not count here."""

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


def _seconds(name: str, about: str, *labels: str, but: tuple[str, str] = ("", "")) -> Series:
    return Series("histogram", f"swarm_{name}_seconds", about, labels, "", but)


def _gauge(name: str, about: str, *labels: str) -> Series:
    return Series("gauge", f"swarm_{name}", about, labels)


TABLE: Final[dict[str, Row]] = {
    # the node itself
    "node.ready": Row("info", (_counter("starts", "Starts of this node that became ready.", of="#"),)),
    "node.draining": Row("info"),
    "node.cloned": Row("error"),
    "peer.cloned": Row("error"),
    "http.refused": Row("warning"),
    "listen.refused": Row("warning"),
    "query.crashed": Row("error", (_counter("query_crashes", "Questions that failed by a mistake of the node's."),)),
    "fleet.unreadable": Row("error"),
    "boot.unreadable": Row("warning"),
    "boot.unsaved": Row("error"),
    "incarnation.unreadable": Row("warning"),
    "incarnation.unsaved": Row("error"),
    # workers
    "worker.exited": Row("info", (_counter("workers_exited", "Worker processes that ended.", "expected"),)),
    "worker.start_failed": Row("error", (_counter("worker_start_failures", "Workers that did not become ready."),)),
    "worker.output": Row("info"),
    # tasks, where they run
    "slice.handed": Row(
        None,
        (
            Series(
                "durations",
                "swarm_task_wait_seconds",
                "Time tasks waited since they were handed over to the fleet, until a worker of this node got them, by slice and the class it was of then.",
                ("class",),
                of="waits",
            ),
            _counter("tasks_handed", "Tasks handed to a worker.", of="tasks"),
        ),
    ),
    "suspended.evicted": Row(
        "info",
        (
            _counter(
                "suspended_evictions",
                "Suspended tasks whose memory was more than the node keeps: ended at a safe point, or run again.",
                "how",
                of="#",
            ),
        ),
    ),
    "task.saved": Row("debug"),
    "state.lost": Row("warning"),
    "move.over": Row(
        "info",
        (
            _counter(
                "task_moves",
                "Tasks that were asked to go on at another node: by whom, and what came of it.",
                "why",
                "result",
                of="#",
            ),
        ),
    ),
    "task.suspended": Row(
        "info", (_counter("task_suspensions", "Tasks stopped where they stood, for more urgent ones.", "class"),)
    ),
    "task.resumed": Row(
        "info",
        (
            _counter("task_resumptions", "Suspended tasks that went on.", of="#"),
            _counter("task_suspended_seconds", "Seconds for which tasks stood still.", of="stood_s"),
        ),
    ),
    # tasks, where they are owned
    "task.reprioritized": Row(
        "info",
        (_counter("reprioritizations", "Times that tasks were made more or less urgent after their submit.", of="#"),),
    ),
    "batch.submitted": Row(
        "debug",
        (
            _counter("tasks_submitted", "Tasks accepted from clients.", "kind"),
            _counter("batches_submitted", "Batches accepted from clients.", "kind", of="#"),
        ),
    ),
    "batch.refused": Row("info", (_counter("batches_refused", "Batches not accepted.", "reason"),)),
    "batch.abandoned": Row("info", (_counter("batches_abandoned", "Batches whose client went away."),)),
    "task.finished": Row(
        None,
        (
            _counter("tasks_finished", "Tasks with a final outcome.", "status", "kind"),
            Series("durations", "swarm_task_run_seconds", "Time a task ran in its worker.", of="outcomes"),
        ),
    ),
    "task.moved": Row("info", (_counter("tasks_moved", "Tasks taken back from a node to be run elsewhere."),)),
    "task.rerun": Row("info", (_counter("tasks_rerun", "Tasks run again after a crash or a loss.", "why"),)),
    "task.retried": Row("info", (_counter("tasks_retried", "Tasks run again after an exception."),)),
    "slots.offered": Row("info"),
    "steal.asked": Row(
        "debug", (_counter("steals_asked", "Times that this node, with a free slot, asked a loaded one for work."),)
    ),
    "steal.approved": Row(
        "debug",
        (_counter("steals_approved", "Times that an owner gave this node work that waited elsewhere.", of="#"),),
    ),
    "steal.refused": Row(
        "debug",
        (
            _counter(
                "steals_refused",
                "Work that did not move, since it did not pay or its owner did not let it.",
                "by",
                of="#",
            ),
        ),
    ),
    "steal.moved": Row(
        "info",
        (_counter("tasks_stolen", "Tasks that waited on one node and were moved to an idle one, by their owner."),),
    ),
    "outcome.stale": Row("debug", (_counter("outcomes_stale", "Outcomes refused for their fencing token."),)),
    "batch.withdrawn": Row("info", (_counter("batches_withdrawn", "Batches that another node owns from now on."),)),
    "orphan.lost": Row(
        "warning", (_counter("orphan_outcomes_lost", "Outcomes that no owner was there for, and no room was left."),)
    ),
    "orphan.given_up": Row(
        "warning", (_counter("orphans_given_up", "Runs of durable batches that no leader adopted in time."),)
    ),
    # what outlives this node
    "raft.rejected": Row("debug", (_counter("raft_rejected", "Frames of consensus not understood.", "reason"),)),
    "raft.violation": Row("error", (_counter("raft_violations", "Members that break the consensus.", "reason"),)),
    "ledger.leads": Row("info", (_counter("ledger_leaderships", "Logs that this node began to lead.", of="#"),)),
    "ledger.taken_over": Row(
        "info", (_counter("ledger_batches_taken_over", "Unfinished batches of logs that this node began to lead."),)
    ),
    "ledger.members": Row("info", (_counter("ledger_changes", "Changes of the members of logs.", "change"),)),
    "ledger.stranger": Row("debug", (_counter("ledger_strangers", "Logs that this node was not added to.", "reason"),)),
    "ledger.closed": Row("info"),
    "ledger.overflow": Row("debug", (_counter("ledger_overflows", "Frames of consensus that a link did not take."),)),
    "ledger.restarted": Row(
        "warning", (_counter("ledger_restarts", "Logs begun anew from the disk, for want of space or for rot."),)
    ),
    "ledger.damaged": Row("error", (_counter("ledger_damaged", "Logs of which something could not be read."),)),
    "ledger.repaired": Row("info", (_counter("ledger_repaired", "Damaged logs that are whole again."),)),
    "ledger.forced": Row(
        "error", (_counter("ledger_forced", "Logs recovered without a majority: some of them was lost."),)
    ),
    "ledger.too_large": Row(
        "error", (_counter("ledger_too_large", "Times that a log was too large to be compacted."),)
    ),
    "journal.full": Row("error", (_counter("journal_full", "Times that the journal had no space for entries."),)),
    "journal.space": Row("info"),
    "journal.refused": Row("error"),
    "journal.waits": Row("warning"),
    "kept.refused": Row(
        "warning", (_counter("kept_refused", "Times that a large argument or result had no room beside the journal."),)
    ),
    "kept.damaged": Row(
        "error", (_counter("kept_damaged", "Files beside the journal that were not what they had been."),)
    ),
    # what the fleet knows
    "knowledge.segment": Row(
        None,
        (
            _counter(
                "knowledge_segments",
                "Segments of knowledge that came from other nodes, by what became of them.",
                "outcome",
            ),
        ),
    ),
    "knowledge.damaged": Row(
        "error", (_counter("knowledge_damaged", "Starts that found damaged knowledge on the disk."),)
    ),
    "knowledge.refused": Row("error"),
    "knowledge.crashed": Row(
        "error", (_counter("knowledge_crashes", "Times that knowledge failed by a mistake of the node's."),)
    ),
    "knowledge.full": Row("error", (_counter("knowledge_full", "Times that the disk took no knowledge."),)),
    "knowledge.space": Row("info"),
    "knowledge.left_out": Row(
        "debug", (_counter("knowledge_left_out", "Messages of peers that were not read, since too many waited."),)
    ),
    "knowledge.unsent": Row(
        "debug", (_counter("knowledge_unsent", "Messages about knowledge that a link did not take."),)
    ),
    "knowledge.pruned": Row(
        "info", (_counter("knowledge_pruned", "Facts that this node pruned: nobody used them for long."),)
    ),
    "knowledge.untended": Row("warning"),
    "knowledge.otherwise": Row("warning"),
    "knowledge.ahead": Row("warning"),
    "knowledge.blob_damaged": Row(
        "error", (_counter("knowledge_blobs_damaged", "Large values on the disk that were not what they had been."),)
    ),
    "knowledge.blob_fetched": Row(
        None, (_counter("knowledge_blobs_fetched", "Large values that came from another node."),)
    ),
    "knowledge.blob_lacking": Row("warning"),
    "knowledge.past_lacking": Row("info"),
    "knowledge.past_fetched": Row(
        "info", (_counter("knowledge_past_fetched", "Segments of the past that came from other nodes."),)
    ),
    "knowledge.author_refused": Row(
        "warning", (_counter("knowledge_authors_refused", "Certificates of authors that do not hold.", "reason"),)
    ),
    "snapshot.created": Row("info", (_seconds("snapshot_writing", "How long snapshots of knowledge took.", "why"),)),
    "snapshot.failed": Row(
        "error", (_counter("snapshots_failed", "Snapshots of knowledge that could not be taken.", of="#"),)
    ),
    "snapshot.damaged": Row("error", (_counter("snapshots_damaged", "Snapshots that were found damaged.", of="#"),)),
    "snapshot.repaired": Row("info", (_counter("snapshot_chunks_repaired", "Damaged chunks that were made whole."),)),
    "snapshot.unrepaired": Row(
        "error", (_counter("snapshots_unrepaired", "Snapshots that stay damaged: nobody has what is lacking.", of="#"),)
    ),
    "snapshot.joining": Row("info"),
    "snapshot.joined": Row(
        "info", (_seconds("knowledge_joining", "How long it took to have the knowledge of a fleet that was joined."),)
    ),
    "snapshot.join_failed": Row("warning"),
    "lesson.learned": Row(
        "info",
        (
            _counter(
                "lessons_learned", "Lessons that this node learned from failures, by the family of the fault.", "family"
            ),
        ),
    ),
    "lesson.heeded": Row(
        None, (_counter("lessons_heeded", "Tasks that were placed otherwise, or not, as a lesson says."),)
    ),
    "lesson.given": Row(
        None, (_counter("lessons_given", "Tasks that were given more memory or time, as a lesson says."),)
    ),
    "lesson.probed": Row("info", (_counter("lessons_probed", "Trials whether a lesson still holds."),)),
    "lesson.refused": Row("warning", (_counter("lessons_refused", "Lessons that are malformed."),)),
    "lesson.unwritten": Row(
        "warning", (_counter("lessons_unwritten", "Lessons that this node could not write down."),)
    ),
    # membership
    "member.joined": Row("info", (_counter("members_joined", "Members seen alive for the first time or again."),)),
    "member.suspected": Row("info", (_counter("members_suspected", "Members suspected, here or elsewhere."),)),
    "member.dead": Row("warning", (_counter("members_dead", "Members declared dead."),)),
    "member.left": Row("info", (_counter("members_left", "Members that said goodbye."),)),
    "member.revoked": Row("warning", (_counter("members_revoked", "Members and clients that were revoked."),)),
    "membership.probe": Row(
        None,
        (
            _counter("probes", "Probes of other members.", "result", of="#"),
            _seconds("probe_round_trip", "Time from a probe to its answer.", "result", but=("result", "failed")),
        ),
    ),
    "membership.suspected": Row("debug"),
    "membership.refuted": Row(
        "info", (_counter("refutations", "Times that this node had to say it is alive.", "about"),)
    ),
    "membership.late": Row("debug", (_seconds("membership_late", "By how much a turn of the membership was late."),)),
    "membership.conflict": Row("warning", (_counter("incarnation_conflicts", "Incarnations used by two processes."),)),
    "membership.refused": Row("debug", (_counter("membership_refused", "News of members not believed.", "reason"),)),
    "membership.rejected": Row("debug", (_counter("membership_rejected", "Datagrams not understood.", "reason"),)),
    "notice.refused": Row(
        "warning", (_counter("notices_refused", "Revocations and the like not believed.", "reason"),)
    ),
    # the door, and what stands outside
    "link.up": Row("info", (_counter("links_opened", "Connections that were admitted.", "reach"),)),
    "link.down": Row("info", (_counter("links_closed", "Connections that ended.", "reach"),)),
    "link.refused": Row("warning", (_counter("links_refused", "Connections and frames turned away.", "reason"),)),
    "link.overflow": Row("warning", (_counter("link_overflows", "Messages that a peer did not take.", "reach"),)),
    "dial.failed": Row("info", (_counter("dials_failed", "Connections that did not come to be.", "reason"),)),
    "datagram.refused": Row("warning", (_counter("datagrams_refused", "Datagrams turned away.", "reason"),)),
    "bulk.refused": Row(
        "warning", (_counter("bulk_refused", "Connections turned away at the bulk lane's port.", "reason"),)
    ),
    "bulk.failed": Row("info", (_counter("bulk_failures", "Transfers of blobs that did not come off.", "reason"),)),
    "bulk.moved": Row(
        "debug",
        (
            _counter(
                "bulk_bytes", "Bytes of blobs that came from other hosts, or were sent there.", "direction", of="bytes"
            ),
            _seconds(
                "bulk_transfer", "Time a blob took to come from another host.", "direction", but=("direction", "out")
            ),
        ),
    ),
    "member.far": Row("warning"),
    "message.unknown": Row("debug", (_counter("messages_unknown", "Messages of a kind not known here."),)),
    "peer.violation": Row("warning", (_counter("violations", "Peers dropped for breaking the protocol.", "role"),)),
    "join.admitted": Row("info", (_counter("joins_admitted", "Certificates given out for a token.", "role"),)),
    "join.refused": Row("warning", (_counter("joins_refused", "Requests to join refused.", "reason"),)),
    # finding each other
    "discovery.mdns_open": Row("debug"),
    "discovery.mdns_unavailable": Row("warning"),
    "discovery.mdns_deaf": Row("warning"),
    "discovery.addresses_changed": Row("info"),
    "discovery.seed_unresolved": Row("warning"),
    "discovery.presence_failed": Row("warning"),
    "discovery.cache_unsaved": Row("warning"),
}

UNKNOWN: Final = _counter("unknown_facts", "Facts that the table of series does not know.")
SUPPRESSED: Final = _counter("log_suppressed", "Log events left out because too many of a kind came in one second.")

GAUGES: Final[dict[str, Series]] = {
    # read when somebody looks: Telemetry.watch(name, read, **labels)
    "queue.tasks": _gauge("queue_tasks", "Tasks that wait on this node.", "class"),
    "workers": _gauge("workers", "Worker processes.", "state"),
    "running": _gauge("running_tasks", "Tasks that run now."),
    "members": _gauge("members", "Members of the fleet as this node sees it.", "state"),
    "links": _gauge("links", "Open connections.", "reach"),
    "blobs.bytes": _gauge("blob_store_bytes", "Bytes of stored blobs."),
    "kept.bytes": _gauge("kept_bytes", "Bytes of large arguments and results that are kept beside the journal."),
    "kept.missing": _gauge("kept_missing", "Large arguments and results that logs name and that are not here yet."),
    "knowledge.entries": _gauge("knowledge_entries", "Entries of the knowledge that this node holds."),
    "snapshots.kept": _gauge("snapshots", "Snapshots of knowledge that are on this node's disk."),
    "snapshots.newest": _gauge("snapshot_timestamp_seconds", "When the newest of them was made, since 1970."),
    "knowledge.blob_bytes": _gauge("knowledge_blob_bytes", "Bytes of values over 64 KiB on this node's disk."),
    "knowledge.bytes": _gauge("knowledge_bytes", "Bytes of knowledge on this node's disk."),
    "lessons.known": _gauge("lessons_known", "Lessons that this node knows."),
    "owned.tasks": _gauge("owned_tasks", "Unfinished tasks of the batches that this node owns."),
}


def all_series() -> list[Series]:
    """Every series, by name."""
    rows = [series for row in TABLE.values() for series in row.series]
    unique = {series.name: series for series in (*rows, UNKNOWN, SUPPRESSED, *GAUGES.values())}
    return [unique[name] for name in sorted(unique)]
