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
from swarm.protocol.executor.crew import Crew
from swarm.protocol.executor.effects import ExecutionEffect, HandInput, HandSlice, HandSpec, StopWorker
from swarm.protocol.executor.evictions import Evictions
from swarm.protocol.executor.grants import SlotGrants
from swarm.protocol.executor.keeping import keeps_slots
from swarm.protocol.executor.leases import Leases
from swarm.protocol.executor.leaving import asked, check_saved, saved_within, still_here
from swarm.protocol.executor.load import (
    NOBODY_WAITS,
    classes,
    load_of,
    load_to,
    running_tasks,
    waiting_by_owner,
    waiting_tasks,
    yielding,
)
from swarm.protocol.executor.orphans import Orphans
from swarm.protocol.executor.reports import Reports, ended
from swarm.protocol.executor.runs import ClaimPage, Run, Slice, Worker
from swarm.protocol.executor.suspension import class_of, level
from swarm.protocol.executor.suspensions import Suspensions
from swarm.protocol.executor.table import RunTable
from swarm.protocol.executor.timeouts import OBSERVE_EVERY_S, end_what_is_over, is_timed
from swarm.protocol.fair import EQUAL, GUESS_S
from swarm.protocol.outbound import Bytes
from swarm.protocol.resources import Account, Capacity, ReadyShapes, Shape, shape_of
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import Spec, kind_of
from swarm.protocol.states import FINAL_BELOW, Priority, Status

SLICE_HORIZON_S = 0.005
"""A slice is cut so that it takes about this long: short enough to share, long enough to pay for its hand-over."""
SLICE_TASKS_MAX = 512
PIPELINE_BELOW_S = 0.020
"""A worker is given a second slice ahead of time when its tasks are shorter than this: the gap would be felt."""
PIPELINE_DEPTH = 2
SLICES_MAX = 8
"""Slices in a worker's hands, counting those that it does not know to be empty yet. Its page has room for 16."""
SHARE_AFTER_S = 0.050
"""What waits in a worker's hands behind a task that runs for so long is taken back, for whoever has time."""
CLASSES = tuple(priority.name.lower() for priority in Priority)
INDEX_END = 1 << 32
"""Tasks of a batch, and attempts of a task, are fewer."""
TOKEN_END = 1 << 64
WAITED_S_MAX = 1e9


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
        self._effects: list[ExecutionEffect] = []
        self._ready = ReadyShapes(config.shares)
        self._table = RunTable()
        self._orphans = Orphans()
        self._reports = Reports(me, self._table, self._orphans, self.load, self._emit)
        self._crew = Crew(
            self.slots, self._emit, recycle_tasks=config.recycle_tasks, recycle_age_s=config.recycle_age_s,
            spare_workers=config.spare_workers,
        )  # fmt: skip
        self._workers = self._crew.workers
        self._grants = SlotGrants(self._workers, self.account, self._emit)
        self.leases = Leases()
        self._suspensions = Suspensions(
            self._workers, self.account, config.releasable, self._emit, self._recall_from, self._reports.event, self._resumed,
            self._may_go_on,
        )  # fmt: skip
        self._evictions = Evictions(
            self._workers, self._suspensions, config.suspended_bytes_max, self._emit, self._recall_from, self._kill,
            self._may_go_on,
        )  # fmt: skip
        self._slice_token = 0
        self._observe_at: float | None = None
        self._share_at: float | None = None
        self._leaving: dict[tuple[int, int], Run] = {}
        """Tasks that were asked to end at their next safe point, by (number of the run, index)."""
        self._waiting_of: Mapping[bytes, list[int]] = {}
        """Owner -> tasks of his that wait here, by class, as of the last time that the load was asked for."""
        self._seen = 0.0
        """The latest instant that it was told."""

    # --- what the shell asks ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[ExecutionEffect]:
        """What is to be done now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        crew = self._crew
        return min(
            (
                at
                for at in (
                    self._observe_at,
                    self._share_at,
                    crew.retry_at,
                    crew.spare_at,
                    self._orphans.next_deadline(),
                    self._evictions.next_deadline(),
                    self._suspensions.leave_at(),
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
        return not self._table and not any(worker.granted for worker in self._workers.values())

    @property
    def workers(self) -> Mapping[int, Worker]:
        """The workers by number."""
        return self._workers

    @property
    def runs(self) -> list[Run]:
        """What owners have sent and is not reported in full, in the order in which it came."""
        return list(self._table)

    def offer(self, now: float, slots: int) -> None:
        """Offer so many slots from now on; what runs is left alone."""
        self.account.withheld = float(max(0, self.slots - slots))
        self._pump(now)

    def load(self, owner: bytes | None = None) -> dict[str, Any]:
        """What this node tells of its load (`swarm.protocol.executor.load.load_of`), to an owner or to anybody."""
        load = load_of(self.account, self._ready, self._workers.values(), self.yielding(), draining=self.draining)
        self._waiting_of = waiting_by_owner(self._ready, self._table)
        self._leaving = still_here(self._leaving, self._table)
        return load if owner is None else self.load_to(load, owner)

    def load_to(self, load: Mapping[str, Any], owner: bytes) -> dict[str, Any]:
        """What anybody is told, made into what an owner is: where many are told at once, just after."""
        told = load_to(load, self._table, owner, self._waiting_of.get(owner, NOBODY_WAITS))
        leaving = sum(run.owner != owner for run in self._leaving.values())
        return told | {"leaving": leaving} if leaving else told

    def yielding(self) -> list[float]:
        """Slots whose tasks make way for more urgent ones: of class LOW, STANDARD, HIGH."""
        return yielding(self._workers.values(), self._ready, self._table, self._seen)

    def others(self, owner: bytes) -> int:
        """Tasks here, running or waiting, that are not of this owner."""
        return self._table.others(owner)

    def running_tasks(self) -> list[tuple[bytes, int, int, float]]:
        """(batch, index, worker, started at) of what runs now."""
        return running_tasks(self._workers.values())

    def classes(self) -> list[tuple[int, int, int]]:
        """(waiting, running, suspended) of each class, LOW first: tasks that no worker has, and workers that have some."""
        return classes(self._workers.values(), self._ready)

    def waiting_tasks(self) -> dict[bytes, int]:
        """Tasks that run here and wait for others, with their classes now."""
        return waiting_tasks(self._workers.values())

    def held(self, owner: bytes) -> dict[int, list[tuple[int, int]]]:
        """What is not reported yet of an owner's runs: dispatch -> ranges."""
        return self._table.held(owner)

    def held_of(self, batches: Collection[bytes]) -> list[tuple[bytes, bytes, int, list[int], list[tuple[int, int]]]]:
        """What is not reported of durable batches, whoever handed it over: (batch, owner, dispatch, token, ranges)."""
        return self._table.held_of(batches, self._orphans)

    def holds(self, owner: bytes, dispatch: int) -> bool:
        """Whether tasks of an owner's dispatch are here that are not reported yet."""
        return self._table.find(owner, dispatch) is not None

    def class_of_run(self, owner: bytes, dispatch: int) -> int:
        """The class by now of what an owner has sent; LOW where it is not here."""
        run = self._table.find(owner, dispatch)
        return int(Priority.LOW) if run is None else run.priority

    # --- workers ------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start the warm workers, one a slot."""
        for _ in range(self.slots):
            self._crew.start(now, "")

    def worker_started(self, worker: int, page: ClaimPage | None) -> None:
        """The process of a worker runs; its page, if it has one."""
        self._crew.started(worker, page)

    def worker_ready(self, now: float, worker: int) -> None:
        """A worker has loaded and takes work."""
        if self._crew.ready(now, worker):
            self._pump(now)

    def worker_exited(self, now: float, worker: int, why: str) -> None:
        """A worker's process is gone; `why` says how ("signal 9", "exit 1")."""
        it = self._workers.pop(worker, None)
        if it is None:
            return
        self._suspensions.end(now, it)
        self._evictions.exited(worker)
        expected = it.state == "stopping"
        if it.state == "starting" and self._crew.start_failed(now, it, why):
            self._refuse_all(it.python, why)
        current = it.current()
        for part in sorted(it.slices.values(), key=lambda one: one.token):
            self._slice_died(now, it, part, current, why)
        it.slices.clear()
        self._let_go(it)
        self._effects.append(
            Fact("worker.exited", {"expected": str(expected).lower()}, {"worker": worker, "why": why, "for": it.reason})
        )
        self._crew.replace(now)
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
        self._crew.replace(now)
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
        self._evictions.measured(now, rss_bytes)

    def worker_memory(self, now: float, worker: int, rss_bytes: int) -> None:
        """A worker's resident memory was measured; over the limit it is replaced once it has nothing in hand."""
        it = self._workers.get(worker)
        limit = self.config.worker_memory_bytes_max
        if it is None or not limit or rss_bytes <= limit or it.slices or it.state != "ready":
            return
        if it.granted:
            self._grants.revoke(it)  # measured again when it is back
        else:
            self._crew.retire(now, it, f"its memory grew to {rss_bytes} bytes")

    # --- granted slots ------------------------------------------------------------------------------------------------

    def grant(self, client: bytes) -> int | None:
        """Set an idle worker apart for a client of this host; its number, or None while none can be spared."""
        return None if self.draining or self._ready.tasks else self._grants.grant(client)

    def granted_ran(self, worker: int, count: int) -> None:
        """A worker has run so many calls of the client that its slot was granted to."""
        it = self._workers.get(worker)
        if it is not None:
            it.done += count

    def granted_over(self, now: float, worker: int) -> None:
        """A granted worker is this node's again."""
        it = self._grants.over(worker)
        if it is None:
            return
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
        if self.holds(owner, dispatch):
            return
        if len(batch) != ids.BATCH_KEY_BYTES or calls.count < 1 or not 0 <= first <= INDEX_END - calls.count:
            raise ValueError(f"tasks {first} to {first + calls.count} of a batch with a key of {len(batch)} bytes")
        if not 0 <= dispatch < TOKEN_END or not 0 <= attempts < INDEX_END or not isinstance(extra, dict | None):
            raise ValueError(f"a dispatch {dispatch} after {attempts} attempts, with {type(extra).__name__}")
        if extra and "token" in extra and not _is_token(extra["token"]):
            raise ValueError("a fencing token that is no pair of whole numbers")
        if extra and "saved" in extra:
            check_saved(extra["saved"])
        extra = dict(extra or {})
        waited_s = extra.pop("waited", 0.0)
        if type(waited_s) not in (int, float) or not 0 <= waited_s <= WAITED_S_MAX:
            raise ValueError(f"tasks that waited for {waited_s!r} s")
        shape = shape_of(spec)
        if self.draining or self.config.capacity.misfit(shape):
            self._reports.back(owner, dispatch, batch, range(first, first + calls.count))
            return
        run = Run(
            self._table.next_number(), owner, dispatch, batch, spec, raw, granted, shape, calls, first,
            TaskColumns(calls.count), attempts, extra, now,
        )  # fmt: skip
        run.user, run.waited_s = user, float(waited_s)
        if urgency is not None:
            run.priority, run.nice = urgency
        self._table.add(run)
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
        run = self._table.find(owner, dispatch)
        if run is None:
            return
        if save is False:
            for effect in asked(self._workers.values(), run, ranges, False):
                self._leaving.pop((run.number, effect.index), None)
                self._effects.append(effect)
                self._suspensions.stay(now, self._workers[effect.worker])
            self._pump(now)
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
                self._leaving[run.number, effect.index] = run
                self._suspensions.leave(now, self._workers[effect.worker])  # who stands still comes to no safe point
                self._effects.append(effect)
        self._pump(now)

    def class_of(self, task: bytes) -> int | None:
        """The class that a task which runs here was given by now, whoever waits for it; None for one that does not."""
        key, index = ids.split(task)
        for worker in self._workers.values():
            for part in worker.slices.values():
                if part.run.batch == key and part.start <= index < part.stop:
                    return part.run.own.get(index, part.run.own_class)
        return None

    def reprioritize(
        self,
        now: float,
        owner: bytes,
        dispatch: int,
        ranges: list[tuple[int, int]] | None,
        priority: int,
        nice: int,
        own: int | None = None,
    ) -> None:
        """Class and nice of a run are others from here on, or those of some of its tasks: of these, what has not begun goes back
        to its owner, to come again by itself. `own` is the class that they were given, without what who waits for them lends."""
        run = self._table.find(owner, dispatch)
        if run is None:
            return
        run.given(ranges, own)
        mine = [worker for worker in self._workers.values() if any(part.run is run for part in worker.slices.values())]
        for worker in mine:
            self._recall_from(now, worker)
        if ranges is None:
            waiting = self._ready.remove(run.shape, run.number)
            self._table.of_class(run, priority, nice)
            run.apart.clear()
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
        mine = [run for run in self._table if run.owner == owner]
        for run in mine:
            if run.token is not None and not durable:
                self._orphans.add(now, run)
            else:
                self._drop(now, run)
        self._pump(now)
        return not durable and any(run.token is not None for run in mine)

    def keep_only(self, now: float, owner: bytes, out: Collection[int], last: int | None = None) -> None:
        """An owner is linked again within its lease, and had no more than these dispatches out here when `last` was the last that it
        had given a number. The others up to then it has given to somebody else, or up, when it took this node for dead: they end.
        Later ones may have overtaken what it says, by another link. What is durable is its log's, not its owner's."""
        for run in [run for run in self._table if run.owner == owner]:
            if run.token is None and run.dispatch not in out and (last is None or run.dispatch <= last):
                self._drop(now, run)
        self._pump(now)

    def disown(self, now: float, owner: bytes, batches: Collection[bytes]) -> None:
        """An owner leads the log of these batches no longer: their runs wait for who does."""
        for run in self._table:
            if run.owner == owner and run.batch in batches and run.token is not None:
                self._orphans.add(now, run)

    def owner_back(self, owner: bytes) -> None:
        """An owner is linked again, the same process as before: what waited is told to it."""
        self.leases.renewed(owner)
        for orphan in self._orphans.of(owner):
            self._reports.kept(orphan)

    def adopt(self, owner: bytes, dispatch: int, by: bytes, number: int) -> list[tuple[int, int]]:
        """A later leader of its log has a run from here on, under a number of its own: it goes on as it is, under its
        token. What of it is not reported; nothing when it is not here, or is no durable one's."""
        orphan = self._orphans.find(owner, dispatch)
        run = orphan.run if orphan is not None else self._table.find(owner, dispatch)
        if run is None or run.token is None or not 0 <= number < TOKEN_END or self.holds(by, number):
            return []
        self._table.hand_over(run, by, number)
        self._suspensions.tell_again(run)
        if orphan is not None:
            self._reports.kept(orphan)
        return run.pending()

    def worker_outcomes(self, now: float, worker: int, run_number: int, outcomes: Outcomes, body: Bytes) -> None:
        """A worker reports outcomes; they go to the owner as they came."""
        it, run = self._workers.get(worker), self._table.by_number.get(run_number)
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
        self._reports.outcomes(run, outcomes.count, body, stood_us)
        if run.columns.done == run.calls.count:
            self._table.forget(run)

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
        self._crew.retire_if_old(now, it)

    def worker_event(self, worker: int, run_number: int, index: int, name: str, value: Any, body: Bytes = b"") -> None:
        """A worker says something about a task that runs: progress, an item of a stream, output."""
        run = self._table.by_number.get(run_number)
        if run is None or worker not in self._workers:
            return
        self._reports.event(run, index, name, value, body)

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
                self._grants.revoke(worker)
        for run in list(self._table):
            self._return_waiting(run, [(run.first, run.first + run.calls.count)])

    def on_timer(self, now: float) -> None:
        """End what has run for too long."""
        self._crew.on_timer(now, lambda: not self.draining and self._suspensions.is_taken(now))
        if self._share_at is not None and now >= self._share_at:
            self._share_at = None
            self._share(now)
        if self._observe_at is not None and now >= self._observe_at:
            self._observe_at = end_what_is_over(now, list(self._workers.values()), self._recall_from, self._kill)
        self._evictions.on_timer(now)
        self._suspensions.left(now)
        for orphan in self._orphans.over(now):
            self._orphans.take(orphan)
            self._effects.append(Fact("orphan.given_up", {}, {"batch": orphan.run.batch.hex()}))
            if orphan.run.number in self._table.by_number:
                self._drop(now, orphan.run)
                self._pump(now)

    # --- inside -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _edges(outcomes: Outcomes) -> tuple[int, ...]:
        return (0, outcomes.count - 1) if outcomes.count > 1 else (0,) if outcomes.count else ()

    def _push(self, run: Run, count: int) -> None:
        expected_s = run.spec.expected_s
        self.runtimes.told(run.raw, expected_s)
        self._ready.push(
            run.shape, run.number, run.priority, run.nice, int(run.queued_at * 1e9), count, run.user,
            (run.batch[: ids.SESSION_BYTES], run.raw if expected_s is None else kind_of(run.raw)), run.spec.deadline,
            expected_s,
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
        turns = self._ready.turns(now_ns)
        while (shape := turns.next()) is not None:
            head = self._ready.head(shape, now_ns)
            assert head is not None, shape
            run = self._table.by_number[head[0]]
            if suspensions.count:
                suspensions.resume_all(now, level(run.priority, run.queued_at, now))
            worker = self._worker_for(now, shape, run)
            if worker is not None:
                self._hand(now, worker, run, shape)
                continue
            turns.full()
            if not turns.alone and keeps_slots(
                self.account, self._workers.values(), self._table, self.runtimes, shape, now - run.queued_at
            ):
                break
        suspensions.resume_all(now)
        if self._crew.lacks_spares and not self.draining and self._suspensions.is_taken(now):
            self._crew.want_spares(now)

    def _worker_for(self, now: float, shape: Shape, run: Run) -> Worker | None:
        """The worker to hand a slice of this shape to, or None while it has to wait."""
        idle: Worker | None = None
        busy: Worker | None = None
        granted: Worker | None = None
        through: Worker | None = None
        alive, low = 0, run.priority == Priority.LOW
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
                # One whose share of the processors need not be changed first, if there is one.
                if idle is None or (idle.low is not low and worker.low is low):
                    idle = worker
            elif worker.shape is None:
                # All of it was taken back before it began, and it has not seen that yet.
                through = worker if len(worker.slices) < SLICES_MAX else through
            elif worker.shape != shape or len(worker.slices) >= PIPELINE_DEPTH or worker.slow:
                pass
            elif not self._suspensions.count or class_of(worker) <= run.priority:
                # Behind urgent work nothing goes while others stand still for it: its slot is theirs.
                busy = worker if busy is None or len(worker.slices) < len(busy.slices) else busy
        if idle is None and run.priority >= Priority.HIGH:
            idle = through
        if self.account.fits(shape):
            if idle is not None:
                return idle
            if granted is None:
                self._crew.start_if_short(now, shape, self._ready.waiting_of(shape))
        elif run.priority >= Priority.HIGH:
            found = self._suspensions.victims(now, shape, run)
            # One that has begun nothing of what it was handed can run it as well as an idle one.
            free = (one for one in found if one.current() is None and len(one.slices) < SLICES_MAX)
            taker = idle or next(free, None)
            if found and taker is not None:
                fits = self._suspensions.suspend(now, found, shape, run)
                self._crew.replace(now)
                if fits and taker.state == "ready":
                    return taker
            if found and idle is None:
                self._crew.start_if_short(now, shape, self._ready.waiting_of(shape))
        if granted is not None:
            self._grants.revoke(granted)
        if busy is None or busy.page is None or run.spec.stream or not run.spec.rerun:
            return None
        mean = self.runtimes.mean_s(run.raw)
        return busy if mean is not None and mean < PIPELINE_BELOW_S else None

    def _hand(self, now: float, worker: Worker, run: Run, shape: Shape) -> None:
        limit = self._slice_tasks(run, shape, worker)
        self._slice_token += 1
        taken = run.columns.take(limit, self._slice_token)
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
        part = Slice(run, slot, self._slice_token, start, stop, now)
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
        low = worker.low = run.spec.priority == Priority.LOW and class_of(worker) == Priority.LOW
        self._effects.append(
            HandSlice(worker.number, slot, run.number, start, stop - start, number, extra, lengths, payloads, low)
        )
        if self._share_at is None and (stop - start > 1 or len(worker.slices) > 1):
            self._share_at = now + SHARE_AFTER_S
        if run.spec.timeout_s is not None:
            self._observe_by(now + min(OBSERVE_EVERY_S, run.spec.timeout_s))
        if not run.spec.rerun or run.spec.kind == "command":
            self._reports.event(run, start, "started", None)
        wait = now - run.queued_at + run.waited_s
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

    def _resumed(self, now: float, worker: Worker) -> None:
        if is_timed(worker):
            self._observe_by(now + OBSERVE_EVERY_S)

    def _observe_by(self, at: float) -> None:
        """Look for what has run for too long at that time at the latest: what was looked at last may have had more time than this."""
        self._observe_at = at if self._observe_at is None else min(self._observe_at, at)

    def _let_go(self, worker: Worker) -> None:
        if worker.shape is not None:
            if worker.state != "blocked":
                self.account.give(worker.shape)
            worker.shape = None

    def _refuse_all(self, python: str, why: str) -> None:
        """An interpreter starts no worker: what is to run under it ends."""
        for run in [run for run in self._table if run.spec.python == python]:
            self._ready.remove(run.shape, run.number)
            self._reports.refused(run, f"the interpreter {python!r} does not start a worker ({why})")
            self._table.forget(run)

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
        if run.number not in self._table.by_number:
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
        self._table.gone(run)
        self._reports.back(run.owner, run.dispatch, run.batch, back)
        if columns.done == run.calls.count:
            self._table.forget(run)

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
        if run.number not in self._table.by_number:
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
                builder.add(index, status, 0, ended(status, ours or why, run.spec))
                count += 1
        if count:
            self._reports.outcomes(run, count, builder.take())
        if run.columns.done == run.calls.count:
            self._table.forget(run)

    def _drop(self, now: float, run: Run) -> None:
        self._ready.remove(run.shape, run.number)
        self._table.forget(run)
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


def _is_token(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(type(part) is int and 0 <= part < TOKEN_END for part in value)
