"""The executor: what this node runs for the owners of tasks, its own included.

Owners send *runs*: ranges of a batch, known by the owner's dispatch number. Their tasks wait in a run queue a shape. The
executor cuts a run into *slices*, sized by how long such tasks take, and hands them to worker processes; a worker
claims the tasks of a slice one by one from a page of shared memory, so that whatever it has not claimed can be taken back
at any moment, and so that the task it was running when it died is known exactly.

Everything here is a pure machine: `now` is seconds of the node's boot-time clock, effects are taken with `take_effects`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernels.batch import Calls, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.executor.crew import Crew
from swarm.protocol.executor.effects import ExecutionEffect, HandInput
from swarm.protocol.executor.ending import Ending
from swarm.protocol.executor.evictions import Evictions
from swarm.protocol.executor.grants import SlotGrants
from swarm.protocol.executor.handing import Handing
from swarm.protocol.executor.leases import Leases
from swarm.protocol.executor.leaving import asked, check_saved, still_here
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
from swarm.protocol.executor.reports import Reports
from swarm.protocol.executor.runs import ClaimPage, Run, Worker
from swarm.protocol.executor.suspensions import Suspensions
from swarm.protocol.executor.table import RunTable
from swarm.protocol.executor.timeouts import end_what_is_over
from swarm.protocol.executor.waiting import Waiting
from swarm.protocol.fair import EQUAL
from swarm.protocol.outbound import Bytes
from swarm.protocol.resources import Account, Capacity, ReadyShapes, shape_of
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import Spec
from swarm.protocol.states import FINAL_BELOW, Priority, Status

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
        self._effects: list[ExecutionEffect] = []
        self._emit: Callable[[ExecutionEffect], None] = self._effects.append
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
        self._waiting = Waiting(self._ready, self._table, self._reports, self.runtimes)
        self._suspensions = Suspensions(
            self._workers, self.account, config.releasable, self._emit, self._waiting.recall_from, self._reports.event,
            lambda now, worker: self._handing.resumed(now, worker), self._may_go_on,
        )  # fmt: skip
        self._ending = Ending(
            self._workers, self._ready, self._table, self._waiting, self._reports, self._suspensions, self.account, self._emit,
            lambda: self._handing.seen,
        )  # fmt: skip
        self._evictions = Evictions(
            self._workers, self._suspensions, config.suspended_bytes_max, self._emit, self._waiting.recall_from,
            self._ending.kill, self._may_go_on,
        )  # fmt: skip
        self._handing = Handing(
            self._ready, self._table, self._crew, self.account, self.runtimes, self._waiting, self._reports, self._grants,
            self.leases, self._suspensions, self._emit,
        )  # fmt: skip
        self._handing.owner_lost = self.owner_lost
        self._leaving: dict[tuple[int, int], Run] = {}
        """Tasks that were asked to end at their next safe point, by (number of the run, index)."""
        self._waiting_of: Mapping[bytes, list[int]] = {}
        """Owner -> tasks of his that wait here, by class, as of the last time that the load was asked for."""

    # --- what the shell asks ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[ExecutionEffect]:
        """What is to be done now, in order."""
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        crew = self._crew
        return min(
            (
                at
                for at in (
                    self._handing.observe_at,
                    self._handing.share_at,
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
    def draining(self) -> bool:
        """Whether nothing more is begun here."""
        return self._handing.draining

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
        self._handing.pump(now)

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
        return yielding(self._workers.values(), self._ready, self._table, self._handing.seen)

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
            self._handing.pump(now)

    def worker_exited(self, now: float, worker: int, why: str) -> None:
        """A worker's process is gone; `why` says how ("signal 9", "exit 1")."""
        it = self._workers.pop(worker, None)
        if it is None:
            return
        self._suspensions.end(now, it)
        self._evictions.exited(worker)
        expected = it.state == "stopping"
        if it.state == "starting" and self._crew.start_failed(now, it, why):
            self._ending.refuse_all(it.python, why)
        current = it.current()
        for part in sorted(it.slices.values(), key=lambda one: one.token):
            self._ending.slice_died(now, it, part, current, why)
        it.slices.clear()
        self._let_go(it)
        self._emit(
            Fact("worker.exited", {"expected": str(expected).lower()}, {"worker": worker, "why": why, "for": it.reason})
        )
        self._crew.replace(now)
        self._handing.pump(now)

    def worker_blocked(self, now: float, worker: int) -> None:
        """The task that a worker runs waits for another: its slot is lent, what it had not begun goes to others."""
        it = self._workers.get(worker)
        if it is not None and it.state == "suspended":
            self._suspensions.resume(now, it)  # it said so just before it was stopped
        if it is None or it.state != "ready":
            return
        it.state = "blocked"
        self._waiting.recall_from(now, it)
        if it.shape is not None:
            self.account.give(it.shape)
        self._crew.replace(now)
        self._handing.pump(now)

    def worker_unblocked(self, now: float, worker: int) -> None:
        """The task goes on. For a moment more may run than there are slots; new work waits until that is over."""
        it = self._workers.get(worker)
        if it is None or it.state != "blocked":
            return
        it.state = "ready"
        if it.shape is not None:
            self.account.take(it.shape)
        self._handing.pump(now)

    def standing(self) -> dict[int, list[bytes]]:
        """Workers that stand still, with the owners of what they have in hand."""
        return {
            worker.number: [part.run.owner for part in worker.slices.values()]
            for worker in self._workers.values()
            if worker.suspension is not None
        }

    def go_on(self, now: float) -> None:
        """Leases were renewed: what stands still may go on."""
        self._handing.pump(now)

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
        self._handing.pump(now)

    def granted_kill(self, worker: int, reason: str) -> None:
        """End a granted worker, with the call that it may be running."""
        it = self._workers.get(worker)
        if it is not None and it.granted and it.state in ("ready", "blocked"):
            self._ending.kill(it, reason)

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
        if self._handing.draining or self.config.capacity.misfit(shape):
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
        self._waiting.push(run, calls.count)
        self._handing.pump(now)

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
                self._emit(effect)
                self._suspensions.stay(now, self._workers[effect.worker])
            self._handing.pump(now)
            return
        wanted = ranges if ranges is not None else [(run.first, run.first + run.calls.count)]
        for worker in list(self._workers.values()):
            if any(part.run is run for part in worker.slices.values()):
                self._waiting.recall_from(now, worker)
                if kill:
                    self._ending.kill_running(worker, run, wanted, Status.CANCELLED, "its task was cancelled")
        self._waiting.give_back(run, wanted)
        if save:
            for effect in asked(self._workers.values(), run, ranges, True):
                self._leaving[run.number, effect.index] = run
                self._suspensions.leave(now, self._workers[effect.worker])  # who stands still comes to no safe point
                self._emit(effect)
        self._handing.pump(now)

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
            self._waiting.recall_from(now, worker)
        if ranges is None:
            waiting = self._ready.remove(run.shape, run.number)
            self._table.of_class(run, priority, nice)
            run.apart.clear()
            if waiting:
                self._waiting.push(run, waiting)
        else:
            self._waiting.give_back(run, ranges)
        for worker in mine:
            current = worker.current()
            if current is None or current[0].run is not run:
                continue
            index = current[1]
            if ranges is None or any(start <= index < stop for start, stop in ranges):
                if ranges is not None:
                    run.apart[index] = (priority, nice)
                self._suspensions.reprioritized(worker, run.number, index, priority)
        self._handing.pump(now)

    def owner_lost(self, now: float, owner: bytes, *, durable: bool = False) -> bool:
        """The lease of an owner's runs is over: drop what waits, end what runs, tell nobody. What is durable goes on, for
        who leads its log next, unless `durable`; whether there is any of it."""
        self.leases.forget(owner)
        mine = [run for run in self._table if run.owner == owner]
        for run in mine:
            if run.token is not None and not durable:
                self._orphans.add(now, run)
            else:
                self._ending.drop(now, run)
        self._handing.pump(now)
        return not durable and any(run.token is not None for run in mine)

    def keep_only(self, now: float, owner: bytes, out: Collection[int], last: int | None = None) -> None:
        """An owner is linked again within its lease, and had no more than these dispatches out here when `last` was the last that it
        had given a number. The others up to then it has given to somebody else, or up, when it took this node for dead: they end.
        Later ones may have overtaken what it says, by another link. What is durable is its log's, not its owner's."""
        for run in [run for run in self._table if run.owner == owner]:
            if run.token is None and run.dispatch not in out and (last is None or run.dispatch <= last):
                self._ending.drop(now, run)
        self._handing.pump(now)

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
            self._waiting.requeue(part.run, start, stop)
        if not it.slices and it.state == "suspended":
            self._suspensions.resume(now, it)  # it was through just before it was stopped
        if not it.slices and it.state == "ready":
            self._through(now, it)
        self._handing.pump(now)

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
                    self._emit(HandInput(worker.number, run.number, index, what, value, body))
                    return

    def drain(self, now: float) -> None:
        """Begin nothing more: what has not been begun goes back to its owners, what runs may end."""
        if self.draining:
            return
        self._handing.draining = True
        for worker in list(self._workers.values()):
            self._waiting.recall_from(now, worker)
            if worker.granted:
                self._grants.revoke(worker)
        for run in list(self._table):
            self._waiting.give_back(run, [(run.first, run.first + run.calls.count)])

    def on_timer(self, now: float) -> None:
        """End what has run for too long."""
        self._crew.on_timer(now, lambda: not self.draining and self._suspensions.is_taken(now))
        handing = self._handing
        if handing.share_at is not None and now >= handing.share_at:
            handing.share_at = None
            handing.share(now)
        if handing.observe_at is not None and now >= handing.observe_at:
            handing.observe_at = end_what_is_over(
                now, list(self._workers.values()), self._waiting.recall_from, self._ending.kill
            )
        self._evictions.on_timer(now)
        self._suspensions.left(now)
        for orphan in self._orphans.over(now):
            self._orphans.take(orphan)
            self._emit(Fact("orphan.given_up", {}, {"batch": orphan.run.batch.hex()}))
            if orphan.run.number in self._table.by_number:
                self._ending.drop(now, orphan.run)
                self._handing.pump(now)

    # --- inside -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _edges(outcomes: Outcomes) -> tuple[int, ...]:
        return (0, outcomes.count - 1) if outcomes.count > 1 else (0,) if outcomes.count else ()

    def _let_go(self, worker: Worker) -> None:
        if worker.shape is not None:
            if worker.state != "blocked":
                self.account.give(worker.shape)
            worker.shape = None


def _is_token(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(type(part) is int and 0 <= part < TOKEN_END for part in value)
