"""The executor: what this node runs for the owners of tasks, its own included.

Owners send *runs*: ranges of a batch, known by the owner's dispatch number. Their tasks wait in a run queue a shape. The
executor cuts a run into *slices*, sized by how long such tasks take, and hands them to worker processes; a worker
claims the tasks of a slice one by one from a page of shared memory, so that whatever it has not claimed can be taken back
at any moment, and so that the task it was running when it died is known exactly.

Everything here is a pure machine: `now` is seconds of the node's boot-time clock, effects are taken with `take_effects`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernels.batch import Calls, OutcomeBuilder, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.executor.effects import (
    ExecutionEffect,
    HandInput,
    HandSlice,
    HandSpec,
    RevokeSlot,
    StartWorker,
    StopWorker,
)
from swarm.protocol.executor.leases import Leases
from swarm.protocol.executor.leaving import asked, check_saved, saved_within
from swarm.protocol.executor.memory import LEAVE_S, is_repeatable, over_budget, tasks_of
from swarm.protocol.executor.orphans import Orphan, Orphans
from swarm.protocol.executor.runs import ClaimPage, Run, Slice, Worker
from swarm.protocol.executor.suspension import SPARE_AFTER_S, class_of, level, slots_that_yield
from swarm.protocol.executor.suspensions import Suspensions
from swarm.protocol.fair import EQUAL, GUESS_S
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.resources import PLAIN, Account, Capacity, ReadyShapes, Shape, shape_of
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import Spec
from swarm.protocol.states import FINAL_BELOW, Priority, Status

SLICE_HORIZON_S = 0.005
"""A slice is cut so that it takes about this long: short enough to share, long enough to pay for its hand-over."""
SLICE_TASKS_MAX = 512
PIPELINE_BELOW_S = 0.020
"""A worker is given a second slice ahead of time when its tasks are shorter than this: the gap would be felt."""
PIPELINE_DEPTH = 2
SHARE_AFTER_S = 0.050
"""What waits in a worker's hands behind a task that runs for so long is taken back, for whoever has time."""
WORKERS_EXTRA_MAX = 64
"""Workers beyond the slots, in place of those that wait for tasks of their own."""
OBSERVE_EVERY_S = 0.010
START_FAILURES_MAX = 3
CLASSES = tuple(priority.name.lower() for priority in Priority)
INDEX_END = 1 << 32
"""Tasks of a batch, and attempts of a task, are fewer."""
TOKEN_END = 1 << 64


@dataclass(frozen=True, slots=True)
class ExecutionConfig:
    """Units: tasks, seconds, bytes."""

    capacity: Capacity
    recycle_tasks: int = 0
    """A worker is replaced after so many tasks; 0: never."""
    recycle_age_s: float = 0.0
    worker_memory_bytes_max: int = 0
    spare_workers: int = 1
    """Beyond one a slot, where urgent work could take slots from other work: it then need not wait for a process to start."""
    shares: Mapping[str, float] = field(default_factory=lambda: EQUAL)
    """Weights of users by name; 1 where nothing is said."""
    releasable: frozenset[str] = frozenset(("cpu",))
    """Resources that a stopped process does not use."""
    suspended_bytes_max: int = 0
    """Memory that suspended tasks may keep; 0: whatever they have."""


class Execution:
    """The executor's state machine."""

    def __init__(self, config: ExecutionConfig, me: bytes) -> None:
        self.config = config
        self.me = me
        self.account = Account(config.capacity)
        self.runtimes = Runtimes()
        self.draining = False
        self._ready = ReadyShapes(config.shares)
        self._runs: dict[int, Run] = {}
        self._by_dispatch: dict[tuple[bytes, int], Run] = {}
        self._workers: dict[int, Worker] = {}
        self._run_number = 0
        self._worker_number = 0
        self._token = 0
        self._here = 0
        self._of: dict[bytes, int] = {}
        """Tasks here that are not reported yet: all, and by owner."""
        self._urgent_of: dict[bytes, int] = {}
        """Of these the ones that others make way for."""
        self._effects: list[ExecutionEffect] = []
        self._observe_at: float | None = None
        self._share_at: float | None = None
        self._start_failures = 0
        self._seen = 0.0
        """The latest instant that it was told."""
        self._retry_start_at: float | None = None
        self._orphans = Orphans()
        self.leases = Leases()
        self._suspensions = Suspensions(
            self._workers, self.account, config.releasable, self._emit, self._recall_from, self._tell_event, self._resumed,
            self._may_go_on,
        )  # fmt: skip
        self._leaving: dict[int, tuple[float, int, list[tuple[int, int]]]] = {}
        """Workers whose suspended tasks go on to a safe point, to leave -> (until when, number of the run, tasks)."""
        self._spare_at: float | None = None
        self._spares = 0

    # --- what the shell asks ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[ExecutionEffect]:
        """What is to be done now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        orphans = self._orphans.next_deadline()
        return min(
            (
                at
                for at in (
                    self._observe_at,
                    self._retry_start_at,
                    self._share_at,
                    self._spare_at,
                    orphans,
                    self._leave_at(),
                )
                if at is not None
            ),
            default=None,
        )

    @property
    def slots(self) -> int:
        """Slots of this node."""
        return int(self.config.capacity.totals.get("cpu", 0))

    @property
    def waiting(self) -> int:
        """Tasks that no worker has been handed yet."""
        return self._ready.tasks

    @property
    def running(self) -> int:
        """Workers with work in their hands, those that stand still left out."""
        return sum(1 for worker in self._workers.values() if worker.slices or worker.granted) - self.suspended

    @property
    def suspended(self) -> int:
        """Workers that stand still, since more urgent work has their slots."""
        return self._suspensions.count

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._runs and not any(worker.granted for worker in self._workers.values())

    @property
    def workers(self) -> Mapping[int, Worker]:
        """The workers by number."""
        return self._workers

    @property
    def runs(self) -> list[Run]:
        """What owners have sent and is not reported in full, in the order in which it came."""
        return list(self._runs.values())

    def offer(self, now: float, slots: int) -> None:
        """Offer so many slots from now on; what runs is left alone."""
        self.account.withheld = float(max(0, self.slots - slots))
        self._pump(now)

    def load(self, owner: bytes | None = None) -> dict[str, Any]:
        """What this node tells of its load: free slots, tasks waiting, tasks that wait for other tasks.

        To an owner also how many tasks of others are here ("others"): its own it counts itself, and better, since a
        report of what is free is older than what it has sent or taken back since.
        """
        blocked = sum(1 for worker in self._workers.values() if worker.state == "blocked")
        load: dict[str, Any] = {
            "free": round(self.account.free_cpu, 3),
            "wait": self._ready.tasks,
            "drain": self.draining,
            "blocked": blocked,
        }
        if self.account.withheld:
            load["off"] = self.account.withheld
        if owner is not None:
            load["others"] = self.others(owner)
        yielding = self.yielding()
        if any(yielding):
            load["low"] = yielding
            urgent = 0 if owner is None else self._urgent_of.get(owner, 0)
            if urgent:
                load["urgent"] = urgent
        return load

    def yielding(self) -> list[float]:
        """Slots whose tasks make way for more urgent ones: of class LOW, STANDARD, HIGH."""
        waiting = [] if not self._urgent_of or not self._ready.tasks else [
            (run, run.columns.ready) for run in self._runs.values()
            if run.priority >= Priority.HIGH and run.columns.ready
        ]  # fmt: skip
        return slots_that_yield(self._workers.values(), waiting, self._seen)

    def others(self, owner: bytes) -> int:
        """Tasks here, running or waiting, that are not of this owner."""
        return self._here - self._of.get(owner, 0)

    def running_tasks(self) -> list[tuple[bytes, int, int, float]]:
        """(batch, index, worker, started at) of what runs now."""
        found = []
        for worker in self._workers.values():
            current = worker.current()
            if current is not None:
                found.append((current[0].run.batch, current[1], worker.number, current[2]))
        return found

    def classes(self) -> list[tuple[int, int, int]]:
        """(waiting, running, suspended) of each class, LOW first: tasks that no worker has, and workers that have some."""
        running, standing = [0] * len(Priority), [0] * len(Priority)
        for worker in self._workers.values():
            if worker.suspension is not None:
                standing[worker.suspension.priority] += 1
            elif worker.slices:
                running[class_of(worker)] += 1
        return [(self._ready.waiting(priority), running[priority], standing[priority]) for priority in Priority]

    def waiting_tasks(self) -> dict[bytes, int]:
        """Tasks that run here and wait for others, with their classes now."""
        found = {}
        for worker in self._workers.values():
            current = worker.current() if worker.state == "blocked" else None
            if current is not None:
                found[ids.task_id(current[0].run.batch, current[1])] = class_of(worker)
        return found

    def held(self, owner: bytes) -> dict[int, list[tuple[int, int]]]:
        """What is not reported yet of an owner's runs: dispatch -> ranges."""
        return {run.dispatch: run.pending() for run in self._runs.values() if run.owner == owner}

    def held_of(self, batches: Collection[bytes]) -> list[tuple[bytes, bytes, int, list[int], list[tuple[int, int]]]]:
        """What is not reported of durable batches, whoever handed it over: (batch, owner, dispatch, token, ranges)."""
        found = []
        for run in (*self._runs.values(), *(each.run for each in self._orphans if each.run.number not in self._runs)):
            token = run.token if run.batch in batches else None
            if token is not None:
                orphan = self._orphans.find(run.owner, run.dispatch)
                ranges = run.pending() if orphan is None else orphan.held()
                if ranges:
                    found.append((run.batch, run.owner, run.dispatch, list(token), ranges))
        return found

    def holds(self, owner: bytes, dispatch: int) -> bool:
        """Whether tasks of an owner's dispatch are here that are not reported yet."""
        return (owner, dispatch) in self._by_dispatch

    # --- workers ------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start the warm workers, one a slot."""
        for _ in range(self.slots):
            self._start_worker(now, "")

    def worker_started(self, worker: int, page: ClaimPage | None) -> None:
        """The process of a worker runs; its page, if it has one."""
        if worker in self._workers:
            self._workers[worker].page = page

    def worker_ready(self, now: float, worker: int) -> None:
        """A worker has loaded and takes work."""
        it = self._workers.get(worker)
        if it is None or it.state != "starting":
            return
        it.state = "ready"
        it.started_at = now
        self._start_failures = 0
        self._pump(now)

    def worker_exited(self, now: float, worker: int, why: str) -> None:
        """A worker's process is gone; `why` says how ("signal 9", "exit 1")."""
        it = self._workers.pop(worker, None)
        if it is None:
            return
        self._suspensions.end(now, it)
        self._leaving.pop(worker, None)
        expected = it.state == "stopping"
        if it.state == "starting":
            self._start_failed(now, it, why)
        current = it.current()
        for part in sorted(it.slices.values(), key=lambda one: one.token):
            self._slice_died(now, it, part, current, why)
        it.slices.clear()
        self._let_go(it)
        self._effects.append(
            Fact("worker.exited", {"expected": str(expected).lower()}, {"worker": worker, "why": why, "for": it.reason})
        )
        self._replace(now)
        self._pump(now)

    def worker_blocked(self, now: float, worker: int) -> None:
        """The task that a worker runs waits for another: its slot is lent, what it had not begun goes to others."""
        it = self._workers.get(worker)
        if it is not None and it.state == "suspended":
            self._suspensions.resume(now, it)  # it said so just before it was stopped
        if it is None or it.state != "ready":
            return
        it.state = "blocked"
        self._recall_from(now, it)
        if it.shape is not None:
            self.account.give(it.shape)
        self._replace(now)
        self._pump(now)

    def worker_unblocked(self, now: float, worker: int) -> None:
        """The task goes on. For a moment more may run than there are slots; new work waits until that is over."""
        it = self._workers.get(worker)
        if it is None or it.state != "blocked":
            return
        it.state = "ready"
        if it.shape is not None:
            self.account.take(it.shape)
        self._pump(now)

    def standing(self) -> dict[int, list[bytes]]:
        """Workers that stand still, with the owners of what they have in hand."""
        return {
            worker.number: [part.run.owner for part in worker.slices.values()]
            for worker in self._workers.values()
            if worker.suspension is not None
        }

    def go_on(self, now: float) -> None:
        """Leases were renewed: what stands still may go on."""
        self._pump(now)

    def _may_go_on(self, now: float, owner: bytes) -> bool:
        return owner == self.me or self.leases.may_go_on(now, owner)

    def suspended_memory(self, now: float, rss_bytes: Mapping[int, int]) -> None:
        """What suspended workers keep in memory was measured; over the budget the cheapest to lose go."""
        if not self.config.suspended_bytes_max:
            return
        standing = [worker for worker in self._workers.values() if worker.suspension is not None]
        for goes in over_budget(standing, rss_bytes, self.config.suspended_bytes_max):
            worker, how = goes.worker, "saved" if goes.saves else "again"
            if goes.saves and not all(self._may_go_on(now, part.run.owner) for part in worker.slices.values()):
                continue
            kept = rss_bytes.get(worker.number, 0)
            fields = {"worker": worker.number, "bytes": kept}
            self._effects.append(Fact("suspended.evicted", {"how": how}, fields))
            if not goes.saves:
                self._run_again(worker, f"{kept} bytes of it were more than this node keeps for what stands still")
                continue
            tasks = tasks_of(worker)
            self._suspensions.resume(now, worker)
            worker.immune_until = now + LEAVE_S
            self._leaving[worker.number] = (
                now + LEAVE_S,
                tasks[0][0].number,
                [(run.number, index) for run, index in tasks],
            )
            for run, index in tasks:
                self._effects += asked((worker,), run, [(index, index + 1)], True)

    def _leave_at(self) -> float | None:
        return min((until for until, _, _ in self._leaving.values()), default=None)

    def _left(self, now: float) -> None:
        """Some came to no safe point in time: they are run again as a whole, or stay."""
        for number, (until, _, tasks) in list(self._leaving.items()):
            if until > now:
                continue
            del self._leaving[number]
            worker = self._workers.get(number)
            if worker is None or worker.state != "ready":
                continue
            still = [(run, index) for run, index in tasks_of(worker) if (run.number, index) in tasks]
            if still and all(is_repeatable(run) for run, _ in still):
                self._recall_from(now, worker)
                self._run_again(worker, "it came to no safe point, and its memory was more than this node keeps")
            else:
                for run, index in still:
                    self._effects += asked((worker,), run, [(index, index + 1)], False)

    def _run_again(self, worker: Worker, why: str) -> None:
        """End a worker where it stands; what it ran goes back to its owner without blame."""
        for run, index in tasks_of(worker):
            run.verdicts[index] = Status.RETURNED
        self._kill(worker, why)

    def worker_memory(self, now: float, worker: int, rss_bytes: int) -> None:
        """A worker's resident memory was measured; over the limit it is replaced once it has nothing in hand."""
        it = self._workers.get(worker)
        limit = self.config.worker_memory_bytes_max
        if it is None or not limit or rss_bytes <= limit or it.slices or it.state != "ready":
            return
        if it.granted:
            self._revoke(it)  # measured again when it is back
        else:
            self._retire(now, it, f"its memory grew to {rss_bytes} bytes")

    # --- granted slots ------------------------------------------------------------------------------------------------

    def grant(self, client: bytes) -> int | None:
        """Set an idle worker apart for a client of this host; its number, or None while none can be spared."""
        if self.draining or self._ready.tasks or not self.account.fits(PLAIN):
            return None
        idle: Worker | None = None
        for worker in self._workers.values():
            if worker.granted == client:
                return None  # one each
            if worker.state == "ready" and not worker.python and not worker.slices and not worker.granted:
                idle = idle or worker
        if idle is None:
            return None
        idle.granted, idle.revoked, idle.shape = client, False, PLAIN
        self.account.take(PLAIN)
        return idle.number

    def granted_ran(self, worker: int, count: int) -> None:
        """A worker has run so many calls of the client that its slot was granted to."""
        it = self._workers.get(worker)
        if it is not None:
            it.done += count

    def granted_over(self, now: float, worker: int) -> None:
        """A granted worker is this node's again."""
        it = self._workers.get(worker)
        if it is None or not it.granted:
            return
        it.granted, it.revoked = b"", False
        if it.state == "blocked":
            self.worker_unblocked(now, worker)
        if it.state == "ready":
            self._through(now, it)
        self._pump(now)

    def granted_kill(self, worker: int, reason: str) -> None:
        """End a granted worker, with the call that it may be running."""
        it = self._workers.get(worker)
        if it is not None and it.granted and it.state in ("ready", "blocked"):
            self._kill(it, reason)

    def _revoke(self, worker: Worker) -> None:
        if not worker.revoked:
            worker.revoked = True
            self._effects.append(RevokeSlot(worker.number))

    # --- work ---------------------------------------------------------------------------------------------------------

    def dispatch(
        self,
        now: float,
        owner: bytes,
        *,
        dispatch: int,
        batch: bytes,
        spec: Spec,
        raw: bytes,
        granted: bool,
        calls: Calls,
        first: int,
        attempts: int = 0,
        extra: dict[str, Any] | None = None,
        urgency: tuple[int, int] | None = None,
        user: str = "",
    ) -> None:
        """Take a run from its owner; its `urgency` is (class, nice), those of its spec if nothing is said. While draining it goes
        straight back. ValueError for what no owner would send."""
        key = (owner, dispatch)
        if key in self._by_dispatch:
            return
        if len(batch) != ids.BATCH_KEY_BYTES or calls.count < 1 or not 0 <= first <= INDEX_END - calls.count:
            raise ValueError(f"tasks {first} to {first + calls.count} of a batch with a key of {len(batch)} bytes")
        if not 0 <= dispatch < TOKEN_END or not 0 <= attempts < INDEX_END or not isinstance(extra, dict | None):
            raise ValueError(f"a dispatch {dispatch} after {attempts} attempts, with {type(extra).__name__}")
        if extra and "token" in extra and not _is_token(extra["token"]):
            raise ValueError("a fencing token that is no pair of whole numbers")
        if extra and "saved" in extra:
            check_saved(extra["saved"])
        shape = shape_of(spec)
        if self.draining or self.config.capacity.misfit(shape):
            self._tell_back(owner, dispatch, batch, range(first, first + calls.count), Status.RETURNED)
            return
        self._run_number += 1
        run = Run(
            self._run_number, owner, dispatch, batch, spec, raw, granted, shape, calls, first,
            TaskColumns(calls.count), attempts, extra or {}, now, calls.count,
        )  # fmt: skip
        run.user = user
        if urgency is not None:
            run.priority, run.nice = urgency
        self._runs[run.number] = run
        self._by_dispatch[key] = run
        self._here += calls.count
        self._count_in(run, calls.count)
        self._push(run, calls.count)
        self._pump(now)

    def recall(
        self,
        now: float,
        owner: bytes,
        dispatch: int,
        ranges: list[tuple[int, int]] | None,
        kill: bool,
        save: bool | None = None,
    ) -> None:
        """The owner wants tasks back: those not begun return to it; with `kill` those that run are ended, and with `save` they
        are asked to end at their next safe point. With `save` False they are asked no more, and stay."""
        run = self._by_dispatch.get((owner, dispatch))
        if run is None:
            return
        if save is False:
            self._effects += asked(self._workers.values(), run, ranges, False)
            return
        wanted = ranges if ranges is not None else [(run.first, run.first + run.calls.count)]
        for worker in list(self._workers.values()):
            if any(part.run is run for part in worker.slices.values()):
                self._recall_from(now, worker)
                if kill:
                    self._kill_running(worker, run, wanted, Status.CANCELLED, "its task was cancelled")
        self._return_waiting(run, wanted)
        if save:
            for effect in asked(self._workers.values(), run, ranges, True):
                self._suspensions.resume(now, self._workers[effect.worker])  # who stands still comes to no safe point
                self._effects.append(effect)
        self._pump(now)

    def reprioritize(
        self, now: float, owner: bytes, dispatch: int, ranges: list[tuple[int, int]] | None, priority: int, nice: int
    ) -> None:
        """Class and nice of a run are others from here on, or those of some of its tasks: of these, what has not begun goes back
        to its owner, to come again by itself."""
        run = self._by_dispatch.get((owner, dispatch))
        if run is None:
            return
        mine = [worker for worker in self._workers.values() if any(part.run is run for part in worker.slices.values())]
        for worker in mine:
            self._recall_from(now, worker)
        if ranges is None:
            waiting = self._ready.remove(run.shape, run.number)
            left = run.left
            self._gone(run, 0)
            run.priority, run.nice, run.left = priority, nice, left
            run.apart.clear()
            self._here += left
            self._count_in(run, left)
            if waiting:
                self._push(run, waiting)
        else:
            self._return_waiting(run, ranges)
        for worker in mine:
            current = worker.current()
            if current is None or current[0].run is not run:
                continue
            index = current[1]
            if ranges is None or any(start <= index < stop for start, stop in ranges):
                if ranges is not None:
                    run.apart[index] = (priority, nice)
                self._suspensions.reprioritized(worker, run.number, index, priority)
        self._pump(now)

    def owner_lost(self, now: float, owner: bytes, *, durable: bool = False) -> bool:
        """The lease of an owner's runs is over: drop what waits, end what runs, tell nobody. What is durable goes on, for
        who leads its log next, unless `durable`; whether there is any of it."""
        self.leases.forget(owner)
        mine = [run for run in self._runs.values() if run.owner == owner]
        for run in mine:
            if run.token is not None and not durable:
                self._orphans.add(now, run)
            else:
                self._drop(now, run)
        self._pump(now)
        return not durable and any(run.token is not None for run in mine)

    def keep_only(self, now: float, owner: bytes, out: Collection[int]) -> None:
        """An owner is linked again within its lease, and has no more than these dispatches out here. The others it has given
        to somebody else, or up, when it took this node for dead: they end. What is durable is its log's, not its owner's."""
        for run in [run for run in self._runs.values() if run.owner == owner]:
            if run.token is None and run.dispatch not in out:
                self._drop(now, run)
        self._pump(now)

    def disown(self, now: float, owner: bytes, batches: Collection[bytes]) -> None:
        """An owner leads the log of these batches no longer: their runs wait for who does."""
        for run in self._runs.values():
            if run.owner == owner and run.batch in batches and run.token is not None:
                self._orphans.add(now, run)

    def owner_back(self, owner: bytes) -> None:
        """An owner is linked again, the same process as before: what waited is told to it."""
        self.leases.renewed(owner)
        for orphan in self._orphans.of(owner):
            self._tell_waiting(orphan)

    def adopt(self, owner: bytes, dispatch: int, by: bytes, number: int) -> list[tuple[int, int]]:
        """A later leader of its log has a run from here on, under a number of its own: it goes on as it is, under its
        token. What of it is not reported; nothing when it is not here, or is no durable one's."""
        orphan = self._orphans.find(owner, dispatch)
        run = orphan.run if orphan is not None else self._by_dispatch.get((owner, dispatch))
        if run is None or run.token is None or not 0 <= number < TOKEN_END or (by, number) in self._by_dispatch:
            return []
        self._by_dispatch.pop((owner, dispatch), None)
        left = run.left
        self._gone(run, 0)
        run.owner, run.dispatch, run.left = by, number, left
        if run.number in self._runs:
            self._by_dispatch[by, number] = run
        if left:
            self._here += left
            self._count_in(run, left)
        if orphan is not None:
            self._tell_waiting(orphan)
        return run.pending()

    def _tell_waiting(self, orphan: Orphan) -> None:
        run = orphan.run
        for count, body in self._orphans.take(orphan):
            self._tell_outcomes(run, count, body)

    def worker_outcomes(self, now: float, worker: int, run_number: int, outcomes: Outcomes, body: Bytes) -> None:
        """A worker reports outcomes; they go to the owner as they came."""
        it, run = self._workers.get(worker), self._runs.get(run_number)
        if it is None or run is None:
            return
        it.done += outcomes.count
        it.slow = False
        mine = [part.token for part in it.slices.values() if part.run is run]
        for row in self._edges(outcomes):
            index = outcomes.index(row)
            for one in mine:
                if run.holds(index, one):
                    break
            else:
                return
        stood_us = self._stood_us(it, run, outcomes)
        ran_us = max(0, outcomes.run_us_total - stood_us)
        timed = outcomes.count if outcomes.all_ok else sum(1 for row in range(outcomes.count) if outcomes.run_us(row))
        if timed:
            self.runtimes.observe(run.raw, ran_us, timed)
        self._ready.settle(run.shape, run.user, run.priority, run.thought_s * outcomes.count, ran_us / 1e6)
        for one in mine:
            run.columns.settle(outcomes, one, run.first)
        if not outcomes.all_ok:
            for row in range(outcomes.count):
                if outcomes.status(row) >= FINAL_BELOW:
                    run.finish(outcomes.index(row))
        self._tell_outcomes(run, outcomes.count, body, stood_us)
        if run.columns.done == run.calls.count:
            self._forget(run)

    @staticmethod
    def _stood_us(worker: Worker, run: Run, outcomes: Outcomes) -> int:
        """For how long the tasks of a report stood still, in microseconds: their worker, which stood too, counts it as run time."""
        task, stood_s = worker.paused
        if (
            task is None
            or task[0] != run.number
            or not any(outcomes.index(row) == task[1] for row in range(outcomes.count))
        ):
            return 0
        worker.paused = (None, 0.0)
        return int(stood_s * 1e6)

    def worker_slice_done(self, now: float, worker: int, slot: int) -> None:
        """A worker has reported every task it claimed of the slice in `slot`."""
        it = self._workers.get(worker)
        part = None if it is None else it.slices.pop(slot, None)
        if it is None or part is None:
            return
        it.slow = False
        # What was recalled from the slice went back when it was recalled; nothing else can be left.
        for start, stop in part.run.outstanding(part.token):
            self._requeue(part.run, start, stop)
        if not it.slices and it.state == "suspended":
            self._suspensions.resume(now, it)  # it was through just before it was stopped
        if not it.slices and it.state == "ready":
            self._through(now, it)
        self._pump(now)

    def _through(self, now: float, it: Worker) -> None:
        """A worker has nothing in hand any more: it rests, or is replaced."""
        self._let_go(it)
        it.evictions, it.immune_until = 0, 0.0
        config = self.config
        if config.recycle_tasks and it.done >= config.recycle_tasks:
            self._retire(now, it, f"it has run {it.done} tasks")
        elif config.recycle_age_s and now - it.started_at >= config.recycle_age_s:
            self._retire(now, it, f"it is {now - it.started_at:.0f} s old")

    def worker_event(self, worker: int, run_number: int, index: int, name: str, value: Any, body: Bytes = b"") -> None:
        """A worker says something about a task that runs: progress, an item of a stream, output."""
        run = self._runs.get(run_number)
        if run is None or worker not in self._workers:
            return
        header = {"b": run.batch, "d": run.dispatch, "i": index, "e": name, "v": value}
        self._effects.append(Tell(run.owner, Kind.EVENT, header, (body,) if len(body) else ()))

    def give_input(self, owner: bytes, batch: bytes, index: int, what: str, value: Any, body: Bytes = b"") -> None:
        """Pass something on to a task that runs here: "in", "signal" or "ack"."""
        for worker in self._workers.values():
            for part in worker.slices.values():
                run = part.run
                if run.batch == batch and run.owner == owner and part.start <= index < part.stop:
                    self._effects.append(HandInput(worker.number, run.number, index, what, value, body))
                    return

    def drain(self, now: float) -> None:
        """Begin nothing more: what has not been begun goes back to its owners, what runs may end."""
        if self.draining:
            return
        self.draining = True
        for worker in list(self._workers.values()):
            self._recall_from(now, worker)
            if worker.granted:
                self._revoke(worker)
        for run in list(self._runs.values()):
            self._return_waiting(run, [(run.first, run.first + run.calls.count)])

    def on_timer(self, now: float) -> None:
        """End what has run for too long."""
        if self._retry_start_at is not None and now >= self._retry_start_at:
            self._retry_start_at = None
            self._replace(now)
        if self._share_at is not None and now >= self._share_at:
            self._share_at = None
            self._share(now)
        if self._spare_at is not None and now >= self._spare_at:
            self._spare_at = None
            if not self.draining and self._suspensions.is_taken(now):
                self._spares = self.config.spare_workers
                self._replace(now)
        if self._observe_at is not None and now >= self._observe_at:
            self._observe_at = None
            self._observe(now)
        if self._leaving:
            self._left(now)
        for orphan in self._orphans.over(now):
            self._orphans.take(orphan)
            self._effects.append(Fact("orphan.given_up", {}, {"batch": orphan.run.batch.hex()}))
            if orphan.run.number in self._runs:
                self._drop(now, orphan.run)
                self._pump(now)

    # --- inside -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _edges(outcomes: Outcomes) -> tuple[int, ...]:
        return (0, outcomes.count - 1) if outcomes.count > 1 else (0,) if outcomes.count else ()

    def _push(self, run: Run, count: int) -> None:
        self._ready.push(
            run.shape, run.number, run.priority, run.nice, int(run.queued_at * 1e9), count, run.user,
            (run.batch[: ids.SESSION_BYTES], run.raw), run.spec.deadline,
        )  # fmt: skip

    def _pump(self, now: float) -> None:
        """Hand waiting tasks to workers until one or the other runs out; what is suspended goes before what has not begun."""
        self._seen = max(self._seen, now)
        suspensions = self._suspensions
        if suspensions.count and (gone := self.leases.over(now)):
            # This node stood still itself, or its timer is late: what stands still does not go on first.
            for owner in gone:
                self.owner_lost(now, owner)
        if self.draining or not self._ready.tasks:
            suspensions.resume_all(now)
            return
        now_ns = int(now * 1e9)
        for shape in self._ready.shapes(now_ns):
            while (head := self._ready.head(shape, now_ns)) is not None:
                run = self._runs[head[0]]
                if suspensions.count:
                    suspensions.resume_all(now, level(run.priority, run.queued_at, now))
                worker = self._worker_for(now, shape, run)
                if worker is None:
                    break
                self._hand(now, worker, run, shape)
        suspensions.resume_all(now)
        if (
            self._spares < self.config.spare_workers
            and self._spare_at is None
            and not self.draining
            and self._suspensions.is_taken(now)
        ):
            self._spare_at = now + SPARE_AFTER_S

    def _worker_for(self, now: float, shape: Shape, run: Run) -> Worker | None:
        """The worker to hand a slice of this shape to, or None while it has to wait."""
        idle: Worker | None = None
        busy: Worker | None = None
        granted: Worker | None = None
        alive = 0
        for worker in self._workers.values():
            if worker.granted and worker.state == "ready":
                granted = worker if granted is None or granted.revoked else granted
                continue
            if worker.python != shape.python or worker.state in ("stopping", "blocked", "suspended"):
                continue
            alive += 1
            if worker.state != "ready":
                continue
            if not worker.slices:
                idle = idle or worker
            elif worker.shape == shape and len(worker.slices) < PIPELINE_DEPTH and not worker.slow:
                busy = worker if busy is None or len(worker.slices) < len(busy.slices) else busy
        if self.account.fits(shape):
            if idle is not None:
                return idle
            if granted is None:
                self._start_if_short(now, shape, alive)
        elif run.priority >= Priority.HIGH:
            found = self._suspensions.victims(now, shape, run)
            if found and idle is not None:
                fits = self._suspensions.suspend(now, found, shape, run)
                self._replace(now)
                if fits:
                    return idle
            elif found:
                self._start_if_short(now, shape, alive)
        if granted is not None:
            self._revoke(granted)
        if busy is None or busy.page is None or run.spec.stream or not run.spec.rerun:
            return None
        mean = self.runtimes.mean_s(run.raw)
        return busy if mean is not None and mean < PIPELINE_BELOW_S else None

    def _start_if_short(self, now: float, shape: Shape, alive: int) -> None:
        """Resources are free but no worker is: start one, within bounds, for this interpreter."""
        starting = sum(1 for one in self._workers.values() if one.state == "starting" and one.python == shape.python)
        if starting >= self._ready.waiting_of(shape) or starting >= max(self.slots, 1):
            return
        if len(self._workers) >= self.slots + WORKERS_EXTRA_MAX:
            spare = next(
                (one for one in self._workers.values() if one.state == "ready" and not one.slices and not one.granted),
                None,
            )
            if spare is None or spare.python == shape.python:
                return
            self._retire(now, spare, "another interpreter is needed")
        self._start_worker(now, shape.python)

    def _hand(self, now: float, worker: Worker, run: Run, shape: Shape) -> None:
        limit = self._slice_tasks(run, shape, worker)
        self._token += 1
        taken = run.columns.take(limit, self._token)
        assert taken is not None, (run.number, run.columns.ready)
        start = run.first + taken[0]
        stop = start + taken[1]
        mean = self.runtimes.mean_s(run.raw)
        run.thought_s = GUESS_S if mean is None else mean
        self._ready.take(shape, run.number, taken[1], mean)
        if worker.shape is None:
            worker.shape = shape
            self.account.take(shape)
        slot = 0
        while slot in worker.slices:
            slot += 1
        part = Slice(run, slot, self._token, start, stop, now)
        worker.slices[slot] = part
        if worker.page is not None:
            worker.page.offer(slot, stop - start)
        number = worker.specs.get((run.raw, run.granted))
        if number is None:
            number = len(worker.specs) + 1
            worker.specs[(run.raw, run.granted)] = number
            self._effects.append(HandSpec(worker.number, number, run.raw, run.granted))
        lengths, payloads = run.calls.slice(start - run.first, stop - run.first)
        extra = {"batch": run.batch, "token": run.dispatch, "attempt": run.attempts + 1}
        if run.extra:
            extra |= run.extra
            if "saved" in extra:
                extra["saved"] = saved_within(extra["saved"], start, stop)
        low = run.spec.priority == Priority.LOW and class_of(worker) == Priority.LOW
        self._effects.append(
            HandSlice(worker.number, slot, run.number, start, stop - start, number, extra, lengths, payloads, low)
        )
        if self._share_at is None and (stop - start > 1 or len(worker.slices) > 1):
            self._share_at = now + SHARE_AFTER_S
        if run.spec.timeout_s is not None and self._observe_at is None:
            self._observe_at = now + min(OBSERVE_EVERY_S, run.spec.timeout_s)
        if not run.spec.rerun or run.spec.kind == "command":
            self._tell_event(run, start, "started", None)
        wait = now - run.queued_at
        self._effects.append(
            Fact("slice.handed", {"class": CLASSES[run.priority]}, {"wait_s": wait, "tasks": stop - start}, wait)
        )

    def _slice_tasks(self, run: Run, shape: Shape, worker: Worker) -> int:
        """How many tasks to hand over at once."""
        if worker.page is None or not run.spec.rerun or run.spec.stream or run.spec.kind == "command":
            return 1
        most = self.runtimes.count_within(run.raw, SLICE_HORIZON_S, SLICE_TASKS_MAX)
        if most == 1:
            return 1
        share = -(-self._ready.waiting_of(shape) // max(1, self.slots))
        return max(1, min(most, share))

    def _emit(self, effect: ExecutionEffect) -> None:
        self._effects.append(effect)

    def _tell_event(self, run: Run, index: int, name: str, value: Any) -> None:
        header = {"b": run.batch, "d": run.dispatch, "i": index, "e": name, "v": value}
        self._effects.append(Tell(run.owner, Kind.EVENT, header))

    def _resumed(self, now: float, worker: Worker) -> None:
        if self._observe_at is None and any(part.run.spec.timeout_s is not None for part in worker.slices.values()):
            self._observe_at = now + OBSERVE_EVERY_S

    def _let_go(self, worker: Worker) -> None:
        if worker.shape is not None:
            if worker.state != "blocked":
                self.account.give(worker.shape)
            worker.shape = None

    def _start_worker(self, now: float, python: str) -> None:
        self._worker_number += 1
        worker = Worker(self._worker_number, python, None, started_at=now)
        self._workers[worker.number] = worker
        self._effects.append(StartWorker(worker.number, python))

    def _replace(self, now: float) -> None:
        """Keep as many home workers as there are slots, not counting those whose task waits for another."""
        if self._retry_start_at is not None:
            return
        count = sum(1 for one in self._workers.values() if not one.python and one.state in ("starting", "ready"))
        room = self.slots + WORKERS_EXTRA_MAX - len(self._workers)
        for _ in range(min(self.slots + self._spares - count, room)):
            self._start_worker(now, "")

    def _retire(self, now: float, worker: Worker, reason: str) -> None:
        worker.state = "stopping"
        worker.reason = reason
        self._effects.append(StopWorker(worker.number, "finish", reason))
        self._replace(now)

    def _start_failed(self, now: float, worker: Worker, why: str) -> None:
        """A worker died before it was ready. After a few in a row wait longer; a guest's tasks are refused."""
        self._start_failures += 1
        self._effects.append(
            Fact("worker.start_failed", {}, {"worker": worker.number, "python": worker.python, "why": why})
        )
        if worker.python and self._start_failures >= START_FAILURES_MAX:
            self._start_failures = 0
            for run in [run for run in self._runs.values() if run.spec.python == worker.python]:
                self._refuse(run, f"the interpreter {worker.python!r} does not start a worker ({why})")
        elif not worker.python:
            self._retry_start_at = now + min(30.0, 0.1 * 2**self._start_failures)

    def _refuse(self, run: Run, message: str) -> None:
        import msgpack

        body = b"F" + msgpack.packb({"message": message, "hint": "look at the node's log", "facts": {}})
        builder, count = OutcomeBuilder(), 0
        for start, stop in run.pending():
            for index in range(start, stop):
                if run.finish(index):
                    builder.add(index, Status.REFUSED, 0, body)
                    count += 1
        self._ready.remove(run.shape, run.number)
        if count:
            self._tell_outcomes(run, count, builder.take())
        self._forget(run)

    def _recall_from(self, now: float, worker: Worker) -> None:
        """Take back whatever a worker has not begun, and queue it again."""
        if worker.page is None:
            return
        for part in worker.slices.values():
            new_end, old_end = worker.page.recall(part.slot)
            if new_end < old_end:
                self._requeue(part.run, part.start + new_end, part.start + old_end)

    def _share(self, now: float) -> None:
        """Take back what waits in workers' hands behind tasks that turned out to be long, and see when to look again."""
        for worker in self._workers.values():
            if worker.page is None or worker.state != "ready":
                continue
            if not any(cursor < end for cursor, end in map(worker.page.progress, worker.slices)):
                continue
            current = worker.current()
            if current is not None and now - current[2] >= SHARE_AFTER_S:
                worker.slow = True
                self._recall_from(now, worker)
            else:
                self._share_at = now + SHARE_AFTER_S
        self._pump(now)

    def _requeue(self, run: Run, start: int, stop: int) -> None:
        if run.number not in self._runs:
            return  # Its owner was lost meanwhile: nobody wants them.
        for index in range(start, stop):
            run.columns.release(index - run.first)
        self._push(run, stop - start)

    def _return_waiting(self, run: Run, ranges: list[tuple[int, int]]) -> None:
        """Give tasks of these ranges that no worker has back to the owner."""
        back: list[int] = []
        columns = run.columns
        for start, stop in ranges:
            for index in range(max(start, run.first), min(stop, run.first + run.calls.count)):
                if columns.state(index - run.first) == TaskColumns.READY:
                    run.finish(index)
                    back.append(index)
        if not back:
            return
        waiting = self._ready.remove(run.shape, run.number) - len(back)
        if waiting > 0:
            self._push(run, waiting)
        self._gone(run)
        self._tell_back(run.owner, run.dispatch, run.batch, back, Status.RETURNED)
        if columns.done == run.calls.count:
            self._forget(run)

    def _kill_running(self, worker: Worker, run: Run, ranges: list[tuple[int, int]], verdict: int, reason: str) -> None:
        """End a worker if it runs, or may run, a task of these ranges; they are reported with `verdict`."""
        doomed = [
            index
            for part in worker.slices.values()
            if part.run is run
            for begin, end in run.outstanding(part.token)
            for index in range(begin, end)
            if any(start <= index < stop for start, stop in ranges)
        ]
        if worker.page is not None:
            current = worker.current()
            if current is not None and current[0].run is run and not run.spec.stream and len(doomed) > 1:
                doomed = [index for index in doomed if index == current[1]] or doomed
        if not doomed:
            return
        for index in doomed:
            run.verdicts[index] = verdict
        self._kill(worker, reason)

    def _kill(self, worker: Worker, reason: str) -> None:
        if worker.state == "blocked" and worker.shape is not None:
            self.account.take(worker.shape)
        self._suspensions.end(self._seen, worker)
        worker.state = "stopping"
        worker.reason = reason
        self._effects.append(StopWorker(worker.number, "kill", reason))

    def _slice_died(
        self, now: float, worker: Worker, part: Slice, current: tuple[Slice, int, float] | None, why: str
    ) -> None:
        """A worker died with this slice: say of each task in it what that means."""
        run = part.run
        if run.number not in self._runs:
            return
        claimed = part.start + (worker.page.progress(part.slot)[0] if worker.page else part.stop - part.start)
        ours = worker.reason if worker.state == "stopping" else ""
        running = current[1] if current is not None and current[0] is part else None
        builder, count, verdict_used = OutcomeBuilder(), 0, bool(run.verdicts)
        for begin, end in run.outstanding(part.token):
            for index in range(begin, end):
                if index >= claimed:
                    self._requeue(run, index, index + 1)
                    continue
                status = run.verdicts.pop(index, None)
                if status is None:
                    blamed = index == running or worker.page is None
                    status = Status.CRASHED if blamed and not (ours and verdict_used) else Status.LOST
                run.finish(index)
                builder.add(index, status, 0, _ended(status, ours or why, run.spec))
                count += 1
        if count:
            self._tell_outcomes(run, count, builder.take())
        if run.columns.done == run.calls.count:
            self._forget(run)

    def _drop(self, now: float, run: Run) -> None:
        self._ready.remove(run.shape, run.number)
        self._forget(run)
        for worker in list(self._workers.values()):
            parts = [part for part in worker.slices.values() if part.run is run]
            if not parts:
                continue
            started = worker.page is None
            if worker.page is not None:
                for part in parts:
                    worker.page.recall(part.slot)
                current = worker.current()
                started = current is not None and any(part is current[0] for part in parts)
            if started and worker.state in ("ready", "blocked", "suspended"):
                self._recall_from(now, worker)
                self._kill(worker, "the owner of its task is gone")

    def _observe(self, now: float) -> None:
        """Look at what runs under a timeout, and when to look again."""
        soonest: float | None = None
        for worker in list(self._workers.values()):
            if worker.state not in ("ready", "blocked"):
                continue
            timed = [part for part in worker.slices.values() if part.run.spec.timeout_s is not None]
            if not timed:
                continue
            current = worker.current()
            if current is None or current[0].run.spec.timeout_s is None:
                soonest = min(soonest or now + OBSERVE_EVERY_S, now + OBSERVE_EVERY_S)
                continue
            part, timeout_s = current[0], current[0].run.spec.timeout_s
            ends = current[2] + timeout_s
            if worker.paused[0] == (part.run.number, current[1]):
                ends += worker.paused[1]  # only running counts
            if now < ends:
                soonest = min(soonest, ends) if soonest is not None else ends
                continue
            self._recall_from(now, worker)
            part.run.verdicts[current[1]] = Status.TIMEOUT
            self._kill(worker, f"its task ran longer than {timeout_s:g} s")
        self._observe_at = soonest

    def _tell_outcomes(self, run: Run, count: int, body: Bytes, stood_us: int = 0) -> None:
        header = {"b": run.batch, "n": count, "d": run.dispatch}
        if stood_us:
            header["s"] = stood_us
        self._gone(run)
        if run in self._orphans:
            if not self._orphans.keep(run, count, body):
                self._effects.append(Fact("orphan.lost", {}, {"batch": run.batch.hex()}, count))
            return
        if run.owner != self.me:
            header["l"] = self.load(run.owner)
        self._effects.append(Tell(run.owner, Kind.OUTCOMES, header, (body,)))

    def _tell_back(self, owner: bytes, dispatch: int, batch: bytes, indices: range | list[int], status: Status) -> None:
        builder = OutcomeBuilder()
        for index in indices:
            builder.add(index, status, 0, b"")
        header = {"b": batch, "n": len(indices), "d": dispatch, "l": self.load(owner)}
        self._effects.append(Tell(owner, Kind.OUTCOMES, header, (builder.take(),)))

    def _gone(self, run: Run, left: int | None = None) -> None:
        """Count out what of a run is over; `left` of its tasks are not, by default those not reported."""
        if left is None:
            left = run.calls.count - run.columns.done
        gone, run.left = run.left - left, left
        self._here -= gone
        self._count_out(self._of, run.owner, gone)
        if run.priority >= Priority.HIGH:
            self._count_out(self._urgent_of, run.owner, gone)

    def _count_in(self, run: Run, count: int) -> None:
        self._of[run.owner] = self._of.get(run.owner, 0) + count
        if run.priority >= Priority.HIGH:
            self._urgent_of[run.owner] = self._urgent_of.get(run.owner, 0) + count

    @staticmethod
    def _count_out(of: dict[bytes, int], owner: bytes, count: int) -> None:
        left = of.get(owner, 0) - count
        if left:
            of[owner] = left
        else:
            of.pop(owner, None)

    def _forget(self, run: Run) -> None:
        if self._runs.pop(run.number, None) is not None and run.left:
            self._gone(run, 0)
        self._by_dispatch.pop((run.owner, run.dispatch), None)


def _is_token(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(type(part) is int and 0 <= part < TOKEN_END for part in value)


def _ended(status: int, why: str, spec: Spec) -> bytes:
    """The payload of an outcome that the node, not the task, has to tell."""
    import msgpack

    if status == Status.TIMEOUT:
        message, hint = (
            f"{spec.name or 'the task'} ran longer than its timeout of {spec.timeout_s:g} s",
            "raise timeout_s",
        )
    elif status == Status.CANCELLED:
        message, hint = f"{spec.name or 'the task'} was cancelled", ""
    elif status == Status.RETURNED:
        message, hint = f"{spec.name or 'the task'} stood still and is run again: {why}", ""
    else:
        message = f"the worker process died while it ran {spec.name or 'the task'} ({why})"
        hint = "swarm task logs shows its last output"
    return b"F" + bytes(msgpack.packb({"message": message, "hint": hint, "facts": {"why": why}}))
