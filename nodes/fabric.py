"""The task fabric of a node: links and workers on one side, the cores of owner and executor on the other.

The cores decide; this shell carries messages between them and the world. Each callback hands an event to a core and then
`_turn` carries out the effects of both until there are none, since the effect of one is often an event of the other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kernels.batch import Calls, Outcomes
from kernels.clock import boottime_ns
from kernels.histogram import Histogram
from nodes.arriving import Arriving
from nodes.door import Doorway
from nodes.headers import held_row, ranges
from nodes.incoming import client_key, take
from nodes.pool import Pool, PoolConfig
from nodes.ports import Grants, Queries, States, Surroundings, WorkerRequests
from nodes.relay import Relay
from nodes.standing import Standing
from nodes.task_logs import TaskLogs
from swarm.protocol import ids
from swarm.protocol.effects import Fact
from swarm.protocol.execution import Execution
from swarm.protocol.executor.effects import (
    HandInput,
    HandSlice,
    HandSpec,
    ResumeWorker,
    RevokeSlot,
    StartWorker,
    StopWorker,
    SuspendWorker,
)
from swarm.protocol.executor.leases import OWNER_LEASE_S
from swarm.protocol.messages import Kind, MessageError, encode
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Adopt, AskHeld, Learn
from swarm.protocol.ownership import Connect, MoveOver, Ownership, ToExecutor
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import SpecError
from swarm.protocol.states import Priority
from transport.links import Link, LinkClosed, LinkOverflow

if TYPE_CHECKING:
    from nodes.kept_blobs import KeptBlobs
    from nodes.ledger import LedgerShell
    from nodes.stealing import Stealing

LINK_GRACE_S = 3.0
"""How long a link to an executor may be down before its tasks are taken to be lost."""
UNDELIVERED_COUNT_MAX = 4096
LOAD_EVERY_S = 0.02
SUM_EVERY_S = 0.25
"""How often what happens with every slice is counted."""
Now = Callable[[], float]


def boottime_s() -> float:
    """Seconds of the clock that goes on while the machine sleeps; the `now` of every core of a node."""
    return boottime_ns() / 1e9


class Fabric:
    """Owner and executor of one node, with their links and workers."""

    states: States | None = None

    def __init__(
        self,
        me: bytes,
        ownership: Ownership,
        execution: Execution,
        pool: PoolConfig,
        surroundings: Surroundings,
        loop: asyncio.AbstractEventLoop,
        now: Now = boottime_s,
        wall: Now | None = None,
    ) -> None:
        import time

        self.me = me
        self.ownership = ownership
        self.execution = execution
        self.pool = Pool(pool, self, loop)
        self.logs = TaskLogs()
        self.requests: WorkerRequests | None = None
        self.queries: Queries | None = None
        self.direct: Grants | None = None
        self.ledger: LedgerShell | None = None
        self.knowledge: Callable[[bytes, memoryview], None] | None = None
        """Given what peers say about knowledge."""
        self.stealing: Stealing | None = None
        self.learn: Callable[[Learn], None] = lambda it: None
        """Writes a lesson down."""
        self.move_over: Callable[[MoveOver], None] = lambda it: None
        """Told what came of moves that were asked for."""
        self._around = surroundings
        self._loop = loop
        self._carry_out: dict[type, Callable[[Any], object]] = {
            ToExecutor: self._to_executor,
            Tell: self._tell,
            HandSlice: lambda it: self.pool.send_slice(it),
            Fact: self._fact,
            HandSpec: lambda it: self.pool.send_spec(it.worker, it.number, it.raw, it.granted),
            HandInput: lambda it: self.pool.send_input(it),
            RevokeSlot: lambda it: self.pool.send_revoke(it.worker),
            SuspendWorker: lambda it: self.pool.suspend(it.worker),
            ResumeWorker: lambda it: self.pool.resume(it.worker),
            StartWorker: self._start_worker,
            StopWorker: lambda it: self.pool.stop(it.worker, it.how),
            Connect: lambda it: self._around.connect(it.node),
            AskHeld: self._ask_held,
            Adopt: self._adopt,
            MoveOver: lambda it: self.move_over(it),
            Learn: lambda it: self.learn(it),
        }
        self._now = now
        self.wall = wall or time.time
        self.door = Doorway(self, surroundings.fact, loop, now)
        self._local = ownership.executors[me]
        self._local.ask_load = lambda: execution.load(me)
        ownership.class_here = execution.class_of
        self._nodes: dict[bytes, Link] = {}
        self._spare: dict[bytes, list[Link]] = {}
        """Further links to the very process of a node: both sides dialled, or one saw the first go down and the other not."""
        self._clients: dict[bytes, Link] = {}
        ownership.is_behind = lambda client: (link := self._clients.get(client)) is not None and link.behind
        self.arriving = Arriving()
        self.relay = Relay(me, ownership, self._nodes, self._clients, surroundings.connect, self.where)
        self.standing = Standing(
            me, execution, lambda: self.pool, self._nodes, self.ask, self._turn, loop, now,
        )  # fmt: skip
        self._boots: dict[bytes, bytes] = {}
        self._undelivered: dict[bytes, OrderedDict[int, Tell]] = {}
        self._grace: dict[bytes, asyncio.TimerHandle] = {}
        self._leases: dict[bytes, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._turning = False
        self._load_sent: dict[bytes, dict[str, Any]] = {}
        self._load_timer: asyncio.TimerHandle | None = None
        self._sum_timer: asyncio.TimerHandle | None = None
        self._finished: dict[str, float] = {}
        self._who_waits: dict[bytes, int] = {}
        self.run_times = Histogram()
        self.wait_times = {priority.name.lower(): Histogram() for priority in Priority}
        self.closed = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the warm workers."""
        self.execution.start(self._now())
        self._turn()

    def drain(self) -> None:
        """Take nothing more; give back what has not begun."""
        now = self._now()
        self.ownership.drain(now)
        self.execution.drain(now)
        self._turn()

    @property
    def quiet(self) -> bool:
        """Nothing runs here, and no client waits for anything from here."""
        return self.rests and not self.ownership.unfinished

    @property
    def rests(self) -> bool:
        """Nothing runs here, and nobody has to fetch from here what ran here."""
        return self.execution.idle and not (self.states is not None and self.states.unfetched)

    def close(self) -> None:
        """End the workers and every timer."""
        self.closed = True
        self.door.close()
        if self.stealing is not None:
            self.stealing.close()
        self.standing.close()
        for handle in (self._timer, self._load_timer, self._sum_timer, *self._grace.values(), *self._leases.values()):
            if handle is not None:
                handle.cancel()
        self.pool.kill_all()

    @property
    def node_links(self) -> Mapping[bytes, Link]:
        """Links to other nodes by id."""
        return self._nodes

    @property
    def client_links(self) -> Mapping[bytes, Link]:
        """Links to clients by client key."""
        return self._clients

    # --- links --------------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A member or client is linked."""
        peer = link.identity.id
        if link.identity.role != "node":
            self._clients[client_key(link)] = link
            return
        if not self.door.stops(link, self._nodes.get(peer)):
            self.take_in(link)

    def take_in(self, link: Link) -> None:
        """The link to this member from now on."""
        peer = link.identity.id
        known = self._nodes.get(peer)
        self._nodes[peer] = link
        if known is not None and known.up:
            # Both sides dialled at once, or the peer came back before its old link was seen to be down.
            if known.boot == link.boot:
                self._spare.setdefault(peer, []).append(known)
                return
            known.close("replaced by a link to its next process")
        self._spare.pop(peer, None)
        for timers in (self._grace, self._leases):
            handle = timers.pop(peer, None)
            if handle is not None:
                handle.cancel()
        now = self._now()
        # What went over a link that ended, though nobody has seen it end yet, may not have arrived.
        self.relay.node_down(peer)
        if self._boots.get(peer, link.boot) != link.boot:
            self._undelivered.pop(peer, None)
            self.execution.owner_lost(now, peer)
            self.ownership.executor_lost(now, peer, "link")
        else:
            self.execution.owner_back(peer)
            self._resync(link)
        self._boots[peer] = link.boot
        for told in self._undelivered.pop(peer, OrderedDict()).values():
            self._tell(told)
        self._load_sent.pop(peer, None)
        self.ownership.executor_linked(now, peer)
        self._turn()

    def link_down(self, link: Link, reason: str) -> None:
        """A link is gone; its peer may come back."""
        self._link_down(link, reason)
        self.door.down(link)

    def _link_down(self, link: Link, reason: str) -> None:
        peer = link.identity.id
        now = self._now()
        if link.identity.role != "node":
            key = client_key(link)
            if self._clients.get(key) is link:
                del self._clients[key]
                self.ownership.client_lost(now, key)
                self.relay.client_down(key)
                if self.direct is not None:
                    self.direct.client_gone(key)
                self._turn()
            return
        # Of several links to one process none is used any further when one is lost: which messages that cost, the next
        # link tells, which both sides begin together.
        spare = self._spare.pop(peer, [])
        if link in spare:
            self._nodes[peer].close("another link to the same process was lost")
        if link in spare or self._nodes.get(peer) is link:
            for other in spare:
                other.close("another link to the same process was lost")
        elif spare:
            self._spare[peer] = spare
        if self._nodes.get(peer) is not link:
            return
        del self._nodes[peer]
        if self.closed:
            return
        self.relay.node_down(peer)
        executor = self.ownership.executors.get(peer)
        if executor is not None:
            executor.linked = False
        self._around.peer_reset(peer)
        if executor is not None and executor.dispatches:
            self._grace[peer] = self._loop.call_later(LINK_GRACE_S, self._grace_over, peer)
            self._around.connect(peer)
        self._leases[peer] = self._loop.call_later(OWNER_LEASE_S, self._lease_over, peer)
        self.execution.leases.away(now, peer)

    def link_writable(self, link: Link) -> None:
        """The peer consumes again."""
        self._turn()

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        """Messages from a peer. One that breaks the protocol costs it the link."""
        try:
            for message in self.door.heard(link, messages):
                take(self, link, message)
        except (MessageError, SpecError, ValueError, TypeError, KeyError, OverflowError) as error:
            self._around.fact(
                Fact("peer.violation", {"role": link.identity.role}, {"peer": link.identity.name, "error": str(error)})
            )
            link.close(f"violation: {error}"[:200])
        self._turn()

    def take_outcomes(
        self, executor: bytes, number: int, count: int, body: memoryview, load: Any, stood_us: Any
    ) -> None:
        """An executor reports. States that it wrote down have to be here before they count."""
        dispatch = self.ownership.dispatches.get(number)
        if (
            self.states is not None
            and dispatch is not None
            and dispatch.batch.spec.checkpoint
            and dispatch.batch.durable is None
            and dispatch.executor.id == executor
            and self.states.holds_back(
                executor, dispatch, count, body,
                lambda copy: self.ownership.outcomes(self._now(), executor, number, count, copy, None, stood_us),
            )
        ):  # fmt: skip
            return
        self.ownership.outcomes(self._now(), executor, number, count, body, load, stood_us)

    def lost_on_the_way(self, executor: bytes, number: int, rows: list[int]) -> None:
        """A report cannot be taken: as if it had never come."""
        dispatch = self.ownership.dispatches.get(number)
        if dispatch is None:
            return
        left = [
            (row, row + 1)
            for start, stop in dispatch.batch.outstanding(number)
            for row in range(start, stop)
            if row not in rows
        ]
        self.ownership.executor_relinked(self._now(), executor, {number: left}, frozenset((number,)))
        self._turn()

    # --- members ------------------------------------------------------------------------------------------------------

    def member_seen(self, node: bytes, name: str, capacity: Capacity, load: Mapping[str, Any]) -> None:
        """A member is known, or said something new of itself."""
        now = self._now()
        self.ownership.executor_seen(now, node, name, capacity, load)
        link = self._nodes.get(node)
        if link is not None and link.up:
            # It may have dialled before its membership was heard of here.
            self.ownership.executor_linked(now, node)
        self._turn()

    def told_of_lessons(self, changes: Iterable[tuple[str, Any]]) -> None:
        """What the knowledge log says of lessons (key, value) now; the value None: nothing."""
        self.ownership.heeding.told(self._now(), changes)
        self._turn()

    def member_lost(self, node: bytes, why: str) -> None:
        """The fleet's verdict: a member is dead, or it left."""
        now = self._now()
        self._undelivered.pop(node, None)
        self._boots.pop(node, None)
        for timers in (self._grace, self._leases):
            handle = timers.pop(node, None)
            if handle is not None:
                handle.cancel()
        self.ownership.executor_lost(now, node, why)
        self.execution.owner_lost(now, node)
        for link in (self._nodes.get(node), *self._spare.pop(node, ())):
            if link is not None:
                link.close(f"the member is {why}")
        self._turn()

    def _grace_over(self, node: bytes) -> None:
        self._grace.pop(node, None)
        self.ownership.executor_lost(self._now(), node, "link")
        self._turn()

    def _lease_over(self, node: bytes) -> None:
        self._leases.pop(node, None)
        self.execution.owner_lost(self._now(), node)
        self._undelivered.pop(node, None)
        self._turn()

    def _resync(self, link: Link) -> None:
        """A link to an executor was down for a moment: what it no longer knows of was lost on the way, and what was given up
        here meanwhile it shall not run any longer."""
        peer = link.identity.id
        executor = self.ownership.executors.get(peer)
        out = executor.dispatches if executor is not None else {}
        # What is handed over from now on, or when its grant is committed, may reach it after the question.
        sent = frozenset(number for number, dispatch in out.items() if dispatch.sent)

        def answered(value: Any, error: Any) -> None:
            if error is None and isinstance(value, dict) and isinstance(value.get("held"), list):
                held = {number: ranges(parts) or [] for number, parts in value["held"]}
                if self.states is not None:
                    held = self.states.with_coming(peer, held)
                self.ownership.executor_relinked(self._now(), peer, held, sent)
                self._turn()
            elif self._is_late(link, error):
                self._resync(link)

        self.ask(link, "dispatches", {"out": sorted(out), "last": self.ownership.last_dispatch}, answered)

    def held_by(self, owner: bytes, args: Mapping[str, Any]) -> dict[str, Any]:
        """What is here of an owner's, when it asks: `out`, if it says so, is all that it still has out here, up to the dispatch `last`.
        Between two processes there may be several links for a moment, and what goes by one may overtake what goes by another."""
        out, last = args.get("out"), args.get("last")
        if isinstance(out, list):
            self.execution.keep_only(self._now(), owner, frozenset(out), last if type(last) is int else None)
            self._turn()
        held = self.execution.held(owner)
        return {"held": [[number, [list(pair) for pair in parts]] for number, parts in held.items()]}

    def _ask_held(self, it: AskHeld) -> None:
        """What an executor has of batches whose log this node leads now."""

        def answered(value: Any, error: Any) -> None:
            runs = value.get("runs") if error is None and isinstance(value, dict) else None
            if isinstance(runs, list):
                self.ownership.held(self._now(), it.group, it.epoch, it.executor, [held_row(run) for run in runs])
                self._turn()

        if it.executor == self.me:
            found = [held_row(list(run)) for run in self.execution.held_of(frozenset(it.batches))]
            self.ownership.held(self._now(), it.group, it.epoch, self.me, found)
            return
        link = self._nodes.get(it.executor)
        if link is not None and link.up:
            self.ask(link, "held", {"batches": it.batches}, answered)

    def _adopt(self, it: Adopt) -> None:
        """A run at an executor is this owner's from now on."""
        if it.executor == self.me:
            left = self.execution.adopt(it.owner, it.dispatch, self.me, it.number)
            for effect in self.execution.take_effects():
                # What it had ended meanwhile is told first: it is not lost.
                self._carry_out[type(effect)](effect)
            self.ownership.executor_relinked(self._now(), self.me, {it.number: left}, frozenset((it.number,)))
            return

        def answered(value: Any, error: Any) -> None:
            left = ranges(value.get("left")) if error is None and isinstance(value, dict) else None
            if left is not None:
                self.ownership.executor_relinked(self._now(), it.executor, {it.number: left}, frozenset((it.number,)))
                self._turn()
            elif link is not None and self._is_late(link, error):
                # By now it is adopted, if it was there, and what had ended before was told to the owner before.
                self._resync(link)

        link = self._nodes.get(it.executor)
        if link is not None and link.up:
            self.ask(link, "adopt", {"owner": it.owner, "dispatch": it.dispatch, "number": it.number}, answered)

    def _is_late(self, link: Link, error: Any) -> bool:
        """Whether a node that is still linked has only not answered in time: what it has is asked for until it says it."""
        return error is not None and error[0] == "timeout" and self._nodes.get(link.identity.id) is link and link.up

    def ask(self, link: Link, method: str, args: Mapping[str, Any], done: Callable[[Any, Any], None]) -> None:
        """Ask a peer; `done(value, error)` is called once."""
        asker = getattr(self.queries, "ask", None)
        if asker is not None:
            asker(link, method, args, lambda value, error, body: done(value, error))

    # --- workers ------------------------------------------------------------------------------------------------------

    def worker_turn(self) -> None:
        """All that was read from a worker at once has been told."""
        self._turn()

    def worker_ready(self, worker: int, info: Mapping[str, Any]) -> None:
        """A worker takes work."""
        self.execution.worker_ready(self._now(), worker)

    def worker_outcomes(self, worker: int, run: int, outcomes: Outcomes, body: memoryview) -> None:
        """A worker has outcomes."""
        if self.states is not None and not outcomes.all_ok:
            # What is durable goes onto disks of its log's members, which its owner sees to.
            it = self.execution.workers.get(worker)
            if it is not None and any(part.run.number == run and part.run.token is None for part in it.slices.values()):
                self.states.wrote(outcomes)
        self.execution.worker_outcomes(self._now(), worker, run, outcomes, body)

    def worker_slice_done(self, worker: int, slot: int) -> None:
        """A worker is through with a slice."""
        self.execution.worker_slice_done(self._now(), worker, slot)

    def worker_event(self, worker: int, run: int, index: int, name: str, value: Any) -> None:
        """A task that runs says something. Bulk (stream items, output) goes as the message's body."""
        if isinstance(value, bytes):
            self._keep_output(worker, run, index, name, value)
            self.execution.worker_event(worker, run, index, name, None, value)
        elif isinstance(value, list) and len(value) == 2 and isinstance(value[1], bytes):
            self._keep_output(worker, run, index, name, value[1])
            self.execution.worker_event(worker, run, index, name, value[0], value[1])
        else:
            self.execution.worker_event(worker, run, index, name, value)

    def worker_blocked(self, worker: int, blocked: bool) -> None:
        """The task of a worker waits for another task, or goes on."""
        if blocked:
            self.execution.worker_blocked(self._now(), worker)
        else:
            self.execution.worker_unblocked(self._now(), worker)
        self.tell_who_waits()
        self.ownership.executor_load(self._now(), self.me, self.execution.load())

    def tell_who_waits(self) -> None:
        """Which tasks here wait for others, and how urgent they are: what they submitted is as urgent."""
        waiting = self.execution.waiting_tasks()
        now = self._now()
        for task in [task for task in self._who_waits if task not in waiting]:
            self.ownership.parent_waits(now, task, None)
        for task, priority in waiting.items():
            if self._who_waits.get(task) != priority:
                self.ownership.parent_waits(now, task, priority)
        self._who_waits = waiting

    def worker_request(self, worker: int, number: int, method: str, args: list[Any]) -> None:
        """A worker asks for something."""
        if self.requests is not None:
            self.requests.worker_request(worker, number, method, args)

    def worker_output(self, worker: int, stream: str, data: bytes) -> None:
        """A worker's task printed something; it is kept under the task that runs there now."""
        it = self.execution.workers.get(worker)
        current = it.current() if it is not None else None
        if current is not None:
            self.logs.add(ids.task_id(current[0].run.batch, current[1]), stream, data)
        elif it is not None and it.slices:
            part = next(iter(it.slices.values()))
            self.logs.add(ids.task_id(part.run.batch, part.start), stream, data)
        elif self.direct is None or not self.direct.output(worker, stream, data):
            self.stray_output(worker, stream, data)

    def stray_output(self, worker: int, stream: str, data: bytes) -> None:
        """A worker printed something that is no task's."""
        fields = {"worker": worker, "stream": stream, "text": data[-2000:].decode(errors="replace")}
        self._around.fact(Fact("worker.output", {}, fields))

    def worker_grant_ready(self, worker: int) -> None:
        """A worker waits for the client that its slot is granted to."""
        if self.direct is not None:
            self.direct.ready(worker)

    def worker_grant_over(self, worker: int) -> None:
        """A granted worker is this node's again."""
        if self.direct is not None:
            self.direct.over(worker)
        self.execution.granted_over(self._now(), worker)

    def worker_records(self, worker: int, records: list[Any]) -> None:
        """A granted worker has run calls."""
        self.execution.granted_ran(worker, len(records))
        if self.direct is not None:
            self.direct.recorded(worker, records)

    def worker_exited(self, worker: int, why: str) -> None:
        """A worker's process is gone."""
        if self.requests is not None:
            self.requests.worker_gone(worker)
        if self.direct is not None:
            self.direct.over(worker)
        if not self.closed:
            self.execution.worker_exited(self._now(), worker, why)
            if self._who_waits:
                self.tell_who_waits()
            self._turn()

    def _keep_output(self, worker: int, run: int, index: int, name: str, data: bytes) -> None:
        if name in ("out", "err"):
            it = self.execution.workers.get(worker)
            for part in it.slices.values() if it is not None else ():
                if part.run.number == run:
                    self.logs.add(ids.task_id(part.run.batch, index), name, data)

    # --- effects ------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """A core was told something from outside: carry out what follows."""
        self._turn()

    def _turn(self) -> None:
        """Carry out what the cores want, until they want nothing."""
        if self._turning:
            return
        self._turning = True
        try:
            carry_out = self._carry_out
            # What others have running here is known at once, and counts when the next task is placed.
            it, others, withheld = self._local, self.execution.others(self.me), self.execution.account.withheld
            has_room = others < it.others or withheld < it.withheld
            it.others, it.withheld = others, withheld
            if has_room and self.ownership.waiting:
                # What waits for room here is placed by nobody else's word.
                self.ownership.executor_load(self._now(), self.me, self.execution.load())
            while effects := self.execution.take_effects() or self.ownership.take_effects() or self._ledger_effects():
                for effect in effects:
                    carry_out[type(effect)](effect)
        finally:
            self._turning = False
        if self.stealing is not None:
            self.stealing.turn(self._now())
        self._arm()
        self.standing.watch()
        self._tell_load()

    def now(self) -> float:
        """Seconds of the node's boot-time clock."""
        return self._now()

    def connect(self, node: bytes) -> None:
        """Have a link to a member opened."""
        self._around.connect(node)

    def where(self, key: bytes) -> list[bytes]:
        """Which nodes may lead the log that a durable batch or task is in; nobody where its id names no home."""
        return [] if self.ledger is None else self.ledger.where(key)

    def _ledger_effects(self) -> list[Any]:
        return [] if self.ledger is None else self.ledger.take()

    def keep_ledger(self, ledger: LedgerShell, kept: KeptBlobs) -> None:
        """From now on what is durable goes through these."""
        self.ledger = ledger
        self._carry_out |= ledger.carry_out | kept.carry_out
        self._turn()

    def happened(self, fact: Fact) -> None:
        """Something that neither core knows of."""
        self._fact(fact)

    def _fact(self, it: Fact) -> None:
        """Facts that come with every slice are summed up and told now and then; all others at once."""
        if it.name == "slice.handed":
            self.wait_times[it.labels["class"]].record(int(it.value * 1e9))
            return
        if it.name == "task.finished":
            outcomes = it.fields.get("outcomes")
            if isinstance(outcomes, Outcomes):
                self.run_times.record_many(outcomes.run_times_us())
            if it.labels.get("status") == "ok":
                kind = it.labels["kind"]
                self._finished[kind] = self._finished.get(kind, 0.0) + it.value
                if self._sum_timer is None:
                    self._sum_timer = self._loop.call_later(SUM_EVERY_S, self._tell_sums)
                return
        self._around.fact(it)

    def _tell_sums(self) -> None:
        self._sum_timer = None
        finished, self._finished = self._finished, {}
        for kind, count in finished.items():
            self._around.fact(Fact("task.finished", {"status": "ok", "kind": kind}, {}, count))

    def _start_worker(self, it: StartWorker) -> None:
        try:
            page = self.pool.start(it.worker, it.python)
        except (OSError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
            self._loop.call_soon(self.worker_exited, it.worker, why)
        else:
            self.execution.worker_started(it.worker, page)

    def _to_executor(self, it: ToExecutor) -> None:
        if it.executor == self.me:
            # One join of two views; a remote executor would get the same columns from the wire.
            calls = Calls(b"".join((it.lengths, it.payloads)), it.count)
            self.execution.dispatch(
                self._now(), self.me, dispatch=it.dispatch, batch=it.batch, spec=it.spec, raw=it.raw,
                granted=it.granted, calls=calls, first=it.first, attempts=it.attempts, extra=it.extra,
                urgency=it.urgency, user=it.user,
            )  # fmt: skip
            if self.requests is not None:
                self.requests.queued(self.me, it.dispatch, it.spec, calls, it.extra or {})
            return
        header = {
            "b": it.batch, "d": it.dispatch, "a": it.first, "n": it.count, "s": it.raw, "w": it.attempts,
            "g": it.granted, "x": it.extra, "u": it.user,
        }  # fmt: skip
        if it.urgency is not None:
            header["y"] = it.urgency
        self._tell(Tell(it.executor, Kind.DISPATCH, header, (it.lengths, it.payloads)))

    def _tell(self, it: Tell) -> None:
        if it.to == self.me:
            self._tell_self(it)
            return
        link = self._nodes.get(it.to) or self._clients.get(it.to)
        if link is not None and link.up:
            try:
                link.send(encode(it.kind, it.header), *it.parts)
                return
            except LinkClosed:
                pass
            except LinkOverflow as error:
                self._around.fact(Fact("link.overflow", {"reach": link.reach}, {"peer": link.identity.name}))
                link.close(f"overflow: {error}"[:200])
        if link is None and self.relay.tell(it.to, it.kind, it.header, it.parts):
            return
        if it.kind in (Kind.OUTCOMES, Kind.EVENT) and (it.to in self._leases or it.to in self._nodes):
            # The link is down, or about to be told so. The owner may be back in a moment; then it wants what ended meanwhile.
            waiting = self._undelivered.setdefault(it.to, OrderedDict())
            waiting[len(waiting)] = it
            if len(waiting) > UNDELIVERED_COUNT_MAX:
                self._undelivered.pop(it.to)

    def _tell_self(self, it: Tell) -> None:
        now, header = self._now(), it.header
        body: Any = it.parts[0] if it.parts else b""
        if it.kind == Kind.OUTCOMES:
            self.take_outcomes(self.me, header["d"], header["n"], memoryview(body), None, header.get("s"))
        elif it.kind == Kind.EVENT:
            self.ownership.event(now, self.me, header["d"], header["i"], header["e"], header["v"], body)
        elif it.kind == Kind.RECALL:
            wanted = None if header["r"] is None else [(start, stop) for start, stop in header["r"]]
            self.execution.recall(now, self.me, header["d"], wanted, header["k"], header.get("c"))
        elif it.kind == Kind.REPRIORITIZE:
            wanted = None if header["r"] is None else [(start, stop) for start, stop in header["r"]]
            self.execution.reprioritize(now, self.me, header["d"], wanted, header["p"], header["n"], header["o"])
            self.tell_who_waits()
        elif it.kind == Kind.INPUT:
            self.execution.give_input(self.me, header["b"], header["i"], header["e"], header["v"], body)
        else:
            raise AssertionError(it)

    def _arm(self) -> None:
        if self.ledger is not None:
            self.ledger.arm()
        at, other = self.execution.next_deadline(), self.ownership.next_deadline()
        if at is None or (other is not None and other < at):
            at = other
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self._now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._now()
        self.execution.on_timer(now)
        self.ownership.on_timer(now)
        self._turn()

    def _tell_load(self) -> None:
        """Say free slots and queue to linked nodes, when they changed and not too often."""
        if self._load_timer is None and self._nodes:
            self._load_timer = self._loop.call_later(LOAD_EVERY_S, self._send_load)
        self._around.load_changed()

    def _send_load(self) -> None:
        self._load_timer = None
        common = self.execution.load()
        for node in sorted(self._nodes):
            load = self.execution.load_to(common, node)
            if load != self._load_sent.get(node):
                self._load_sent[node] = load
                self._tell(Tell(node, Kind.LOAD, {"l": load}))
