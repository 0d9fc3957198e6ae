"""Placing: who could run what is ready, and what is out at whom."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from kernels.batch import Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol import ids
from swarm.protocol.fair import GUESS_S
from swarm.protocol.ledger.records import Token
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Batch, Connect, Dispatch, Holdings, Lane, ToExecutor
from swarm.protocol.owner.in_line import WORDS, InLine
from swarm.protocol.owner.patience import Patience
from swarm.protocol.pace import Paces
from swarm.protocol.placement import Brief, Executor, judge
from swarm.protocol.ranking import Ranked, Ranking, Rankings
from swarm.protocol.resources import Capacity, ReadyShapes, Shape
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import kind_of
from swarm.protocol.states import Status

WINDOW_STEP = 1024
"""Tasks in one dispatch at most, so that a recall or a loss concerns few."""
WINDOW_SAVED = 16
"""The same, where some of them go on from a state, which travels with them."""

WAITED_S = 0.001
"""What has waited for less is not told that it did."""

MayStart = Callable[[Batch], bool]
"""Asks for the start of a batch's ready tasks that may not be repeated. False: none of them may begin now."""
Hand = Callable[[Dispatch], None]
"""Hands a dispatch of a durable batch over, as soon as that may be."""
Lost = Callable[[float, Dispatch, list[int], str], None]
"""(now, dispatch, indices, why): tasks were lost with their executor."""


class Heeds(Protocol):
    """Who knows lessons."""

    def pushed(self, batch: Batch) -> None:
        """Tasks of a batch are ready."""

    def machines_changed(self) -> None:
        """There is another machine, or one is not what it was."""

    def heed(self, now: float) -> None:
        """Whatever is to be done before ready tasks are placed."""


class Placing:
    """Executors, the ready tasks, and the dispatches. Every dispatch has a number, which is its fencing token."""

    def __init__(self, holdings: Holdings, me: bytes, name: str, capacity: Capacity, epoch: int) -> None:
        self._holdings = holdings
        self._me = me
        self.runtimes = Runtimes()
        self._paces = Paces()
        local = Executor(me, name, capacity, local=True, linked=True, free=capacity.totals.get("cpu", 0.0))
        self.executors: dict[bytes, Executor] = {me: local}
        self._rankings = Rankings(self.executors)
        self._patience = Patience(self.executors, holdings.timers)
        self._in_line = InLine(self.executors, holdings.timers)
        self._before: list[Shape] = []
        """Shapes that had their turn in this look at what waits, and found no room."""
        self.dispatches: dict[int, Dispatch] = {}
        self.ready = ReadyShapes(holdings.config.shares)
        # Dispatch numbers of a later life of this node are above those of an earlier one: 2^40 dispatches a life.
        self._number = epoch << 40
        self._lanes: dict[int, Lane] = {}
        self.adopted: Callable[[Dispatch], None] = lambda dispatch: None
        """Told of a dispatch that is this owner's from now on."""
        self.checkpointable: Callable[[Batch], None] = lambda batch: None
        """Told of a batch that offers checkpoints, when tasks of it are ready, or out."""
        self.heeding: Heeds | None = None
        """Is asked before ready tasks are placed; None while there are no lessons."""
        self.may_start: MayStart
        self.hand: Hand
        self.lost: Lost

    # --- executors ----------------------------------------------------------------------------------------------------

    def seen(self, node: bytes, name: str, capacity: Capacity, load: Mapping[str, Any]) -> None:
        """A member said what it has and how busy it is."""
        it = self.executors.get(node)
        if it is None:
            it = self.executors[node] = Executor(node, name, capacity, free=capacity.totals.get("cpu", 0.0))
            self._rankings.joined(it)
            if self.heeding is not None:
                self.heeding.machines_changed()
        if it.capacity != capacity:
            it.capacity = capacity
            it.fits.clear()
            it.changed()
            if self.heeding is not None:
                self.heeding.machines_changed()
        it.name = name
        it.suspect = False
        it.heard(load)

    def gone(self, now: float, node: bytes, why: str) -> bool:
        """An executor is gone (dead, left, or its link is down). False when it was none, or is this very node."""
        it = self.executors.get(node)
        if it is None or it.local:
            return False
        if why == "link":
            it.linked = False
        else:
            del self.executors[node]
            self._rankings.gone(it)
            self._paces.gone(node)
        for number in sorted(it.dispatches):
            dispatch = it.dispatches[number]
            self.dispatches.pop(number, None)
            indices = [index for start, stop in dispatch.batch.outstanding(number) for index in range(start, stop)]
            self.lost(now, dispatch, indices, f"the node is gone ({why})")
        it.dispatches.clear()
        it.inflight.clear()
        it.ours = it.urgent = 0
        it.changed()
        return True

    def relinked(
        self, now: float, node: bytes, held: Mapping[int, list[tuple[int, int]]], asked: Collection[int] | None
    ) -> bool:
        """A link is back, and `held` is what its executor still has. False when it is no executor."""
        it = self.executors.get(node)
        if it is None:
            return False
        for number in sorted(it.dispatches):
            dispatch = it.dispatches[number]
            if (asked is not None and number not in asked) or not dispatch.sent:
                continue
            here = held.get(number, [])
            lost = [
                index
                for start, stop in dispatch.batch.outstanding(number)
                for index in range(start, stop)
                if not any(begin <= index < end for begin, end in here)
            ]
            if lost:
                self.lost(now, dispatch, lost, "a report was lost on the way")
                self.returned(dispatch, len(lost))
            given_up = dispatch.batch.killed
            if given_up and number in it.dispatches:
                # That the client wants them ended may have been lost as well.
                self.recall(dispatch, given_up, True)
        return True

    # --- starting -----------------------------------------------------------------------------------------------------

    def push(self, batch: Batch, since: float, count: int) -> None:
        """So many tasks of a batch are ready."""
        if self.heeding is not None:
            self.heeding.pushed(batch)
        if batch.spec.checkpoint:
            self.checkpointable(batch)
        self.runtimes.told(batch.raw, batch.spec.expected_s)
        if batch.apart:
            self._set_apart(batch, since)
            self.ready.remove(batch.queued, batch.number)
            count = batch.columns.ready
        if count:
            self._queue(batch, batch.number, batch.priority, batch.nice, since, count)

    def _set_apart(self, batch: Batch, since: float) -> None:
        """What is ready of those whose urgency is their own waits in lanes."""
        columns = batch.columns
        for index in sorted(batch.apart):
            if columns.state(index) != TaskColumns.READY:
                continue
            urgency = batch.apart[index]
            lane = batch.lanes.get(urgency)
            if lane is None:
                lane = batch.lanes[urgency] = Lane(next(self._holdings.numbers), batch, *urgency)
                self._lanes[lane.number] = lane
            columns.hold(index)
            insort(lane.waiting, index)
            self._queue(batch, lane.number, *urgency, since, 1)

    def _queue(self, batch: Batch, key: int, priority: int, nice: int, since: float, count: int) -> None:
        expected_s = batch.spec.expected_s
        job = (batch.key[: ids.SESSION_BYTES], batch.raw if expected_s is None else kind_of(batch.raw))
        self.ready.push(
            batch.queued, key, priority, nice, int(since * 1e9), count, batch.author, job, batch.expires_at, expected_s
        )

    def requeue(self, batch: Batch, shape: Shape) -> None:
        """What waits of a batch waits under another shape from now on."""
        waiting = self.withdraw(batch)
        batch.queued = shape
        if waiting:
            self.push(batch, batch.submitted_at, batch.columns.ready)

    def withdraw(self, batch: Batch) -> int:
        """Nothing of a batch waits for an executor any more, and what did is READY; how many did."""
        waiting = self.ready.remove(batch.queued, batch.number)
        for lane in batch.lanes.values():
            waiting += self.ready.remove(batch.queued, lane.number)
            for index in lane.waiting:
                if batch.columns.state(index) == TaskColumns.HELD:
                    batch.columns.release(index)
            del self._lanes[lane.number]
        batch.lanes.clear()
        return waiting

    def of(self, batch: Batch) -> list[Dispatch]:
        """What is out of a batch."""
        return [dispatch for dispatch in self.dispatches.values() if dispatch.batch is batch]

    def reprioritized(self, dispatch: Dispatch, priority: int, nice: int) -> None:
        """What is out is of another class."""
        it, shape, left = dispatch.executor, dispatch.batch.shape, dispatch.left
        it.back(shape, left, dispatch.priority)
        dispatch.priority, dispatch.nice = priority, nice
        it.sent(shape, left, priority)

    def pump(self, now: float) -> None:
        """Place ready tasks until they or the executors' windows run out."""
        if self.heeding is not None:
            self.heeding.heed(now)
        if not self.ready.tasks:
            return
        now_ns = int(now * 1e9)
        turns = self.ready.turns(now_ns)
        self._before.clear()
        while (shape := turns.next()) is not None:
            head = self.ready.head(shape, now_ns)
            assert head is not None, shape
            lane = self._lanes.get(head[0]) if self._lanes else None
            batch = self._holdings.by_number[head[0]] if lane is None else lane.batch
            if not batch.spec.rerun and batch.durable is None and not self._may_start(batch, lane):
                continue
            if lane is not None:
                placed = self._place_apart(now, lane, shape, head[1])
            elif head[1] == self.ready.waiting_of(shape) and turns.alone:
                placed = self._place(now, batch, shape, head[1], head[1])
            else:
                # Others wait as well, and after each range it may be somebody else's turn.
                placed = self._place(now, batch, shape, head[1], 1)
            if not placed:
                turns.full()
                self._before.append(shape)

    def _may_start(self, batch: Batch, lane: Lane | None) -> bool:
        if lane is None:
            return self.may_start(batch)
        if all(index in batch.may_start for index in lane.waiting):
            return True
        self.withdraw(batch)
        self.may_start(batch)
        self.push(batch, batch.submitted_at, batch.columns.ready)
        return False

    def _choose(
        self,
        now: float,
        batch: Batch,
        ranking: Ranking | None,
        waiting: int,
        mean_s: float | None,
        priority: int,
        taken: int = 0,
    ) -> tuple[Executor | None, int, bool, Ranked | list[Brief] | None]:
        """Who gets how many of what waits, whether others are suspended for these, and what was thought of the best. None: nobody
        has room, which is put on record."""
        most = WINDOW_SAVED if batch.saved else WINDOW_STEP
        if ranking is None:
            it = self.executors[self._me]
            alone = judge(it, batch.queued, mean_s, priority)
            if alone.room:
                return it, min(alone.room, waiting, most), alone.displaces, None
            if self._in_line.place(now, batch.queued, priority, mean_s, self._before) is not None:
                return it, 1, False, None
            self._explain_wait(now, batch, [alone.brief])
            return None, 0, False, None
        best, count, displaces, detail = ranking.best(mean_s, waiting, most)
        if ranking.passed_over:
            for it in ranking.unreached(best):
                self._holdings.emit(Connect(it.id))
        if best is None:
            best = self._in_line.place(now, batch.queued, priority, mean_s, self._before)
            if best is not None:
                return best, 1, False, [(best.name, 0, 0.0, WORDS)]
            self._explain_wait(now, batch, detail)
        elif not displaces:
            # What is counted out at the end of a turn still counts there.
            left = max(waiting, self.ready.waiting_of(batch.queued) - taken)
            allowed, why = self._patience.allows(now, batch.queued, best, left, mean_s, priority)
            if why is not None:
                self._explain_wait(now, batch, [why])
                return None, 0, False, None
            count = min(count, allowed)
        return best, count, displaces, detail

    def _ranking(self, shape: Shape, priority: int) -> Ranking | None:
        """None: there is nobody but this node."""
        return self._rankings.of(shape, priority) if len(self.executors) > 1 else None

    def _place(self, now: float, batch: Batch, shape: Shape, waiting: int, ranges: int) -> bool:
        """Hand ranges of a batch, so many at most, to the best executor each. False when none has room for more."""
        priority, mean = batch.priority, self.runtimes.mean_s(batch.raw)
        ranking = self._ranking(shape, priority)
        counts: list[int] = []
        emit, trace = self._holdings.emit, batch.trace
        while True:
            it, limit, displaces, detail = self._choose(now, batch, ranking, waiting, mean, priority, sum(counts))
            if it is None:
                break
            dispatch = self._take(now, batch, it, limit, GUESS_S if mean is None else mean)
            assert dispatch is not None, (batch.number, waiting)
            count = dispatch.left
            if displaces:
                it.displaced(shape, priority, count)
            elif ranking is not None:
                ranking.sent(it, count)
            waiting -= count
            counts.append(count)
            trace.append((now, "placed", dispatch.start, dispatch.stop, it.name, detail))
            if batch.durable is None:
                emit(handed(dispatch))
            else:
                self.hand(dispatch)
            if not waiting or len(counts) == ranges:
                break
        if counts:
            self.ready.take_ranges(shape, batch.number, counts, mean)
        return it is not None

    def _place_apart(self, now: float, lane: Lane, shape: Shape, waiting: int) -> bool:
        """Hand some of a lane to the best executor. False when none has room."""
        batch, mean = lane.batch, self.runtimes.mean_s(lane.batch.raw)
        ranking = self._ranking(shape, lane.priority)
        it, limit, displaces, detail = self._choose(now, batch, ranking, waiting, mean, lane.priority)
        if it is None:
            return False
        dispatch = self._take(now, batch, it, limit, GUESS_S if mean is None else mean, lane)
        if dispatch is None:
            return True  # what waited there has ended otherwise
        if displaces:
            it.displaced(shape, lane.priority, dispatch.left)
        batch.log(now, "placed", dispatch.start, dispatch.stop, it.name, detail)
        if batch.durable is None:
            self._holdings.emit(handed(dispatch))
        else:
            self.hand(dispatch)
        return True

    def _take(
        self, now: float, batch: Batch, it: Executor, limit: int, thought_s: float, lane: Lane | None = None
    ) -> Dispatch | None:
        """Put the next ready range of a batch, or of a lane of it, down as being out at an executor, under a new number."""
        self._number += 1
        number = self._number
        taken = batch.columns.take(limit, number) if lane is None else self._take_apart(lane, limit, number)
        if taken is None:
            return None
        start, count = taken
        priority, nice = (batch.priority, batch.nice) if lane is None else (lane.priority, lane.nice)
        dispatch = Dispatch(
            number, batch, it, start, start + count, count, now, None, True, 0, priority, nice, thought_s
        )
        self.dispatches[number] = it.dispatches[number] = dispatch
        it.sent(batch.shape, count, priority)
        return dispatch

    def pass_on(self, now: float, dispatch: Dispatch, it: Executor, start: int, stop: int) -> None:
        """Hand tasks of a dispatch, that came back and are counted out of it, to this executor, under a new number."""
        self._number += 1
        number, batch = self._number, dispatch.batch
        for index in range(start, stop):
            passed = batch.columns.pass_on(index, dispatch.number, number)
            assert passed, (batch.number, index)
        new = Dispatch(number, batch, it, start, stop, stop - start, now)
        new.priority, new.nice = dispatch.priority, dispatch.nice
        self.dispatches[number] = it.dispatches[number] = new
        it.sent(batch.shape, stop - start, new.priority)
        if batch.durable is None:
            self._holdings.emit(handed(new))
        else:
            self.hand(new)

    def send(self, now: float, batch: Batch, index: int, it: Executor) -> Dispatch:
        """Hand one ready task to a certain executor."""
        self._number += 1
        number = self._number
        apart = bool(batch.lanes)
        if apart:
            self.withdraw(batch)
        taken = batch.columns.take_at(index, number)
        assert taken, (batch.number, index, batch.columns.state(index))
        if apart:
            self.push(batch, batch.submitted_at, batch.columns.ready)
        else:
            self.ready.take(batch.queued, batch.number, 1)
        dispatch = Dispatch(number, batch, it, index, index + 1, 1, now)
        dispatch.priority, dispatch.nice = batch.urgency(index)
        self.dispatches[number] = it.dispatches[number] = dispatch
        it.sent(batch.shape, 1, dispatch.priority)
        batch.log(now, "placed", index, index + 1, it.name)
        if batch.durable is None:
            self._holdings.emit(handed(dispatch))
        else:
            self.hand(dispatch)
        return dispatch

    def _take_apart(self, lane: Lane, limit: int, number: int) -> tuple[int, int] | None:
        """The next tasks of a lane that lie side by side."""
        batch, start, count, seen = lane.batch, 0, 0, 0
        for index in lane.waiting:
            if count == limit or (count and index != start + count):
                break
            seen += 1
            if batch.columns.state(index) != TaskColumns.HELD:
                continue
            start = start if count else index
            batch.columns.release(index)
            count += batch.columns.take_at(index, number)
        self.ready.take(batch.queued, lane.number, seen, self.runtimes.mean_s(batch.raw))
        del lane.waiting[:seen]
        if not lane.waiting:
            del batch.lanes[lane.priority, lane.nice], self._lanes[lane.number]
        return (start, count) if count else None

    def adopt(
        self, now: float, batch: Batch, it: Executor, rows: list[tuple[int, int]], token: Token | None
    ) -> Dispatch:
        """Put held ranges of a batch down as being out at an executor already, under a new number and their old token."""
        if batch.spec.checkpoint:
            self.checkpointable(batch)
        self._number += 1
        number, count, columns = self._number, 0, batch.columns
        # What was adopted before and is lost again may be ready by now: that is not here, and waits on.
        others = [
            index for start, stop in (batch.pending() if columns.ready else ()) for index in range(start, stop)
            if columns.state(index) == TaskColumns.READY
        ]  # fmt: skip
        for index in others:
            columns.hold(index)
        for start, stop in rows:
            for index in range(start, stop):
                columns.release(index)
            while (taken := columns.take(stop - start, number)) is not None:
                count += taken[1]
        for index in others:
            columns.release(index)
        dispatch = Dispatch(number, batch, it, rows[0][0], rows[-1][1], count, now, token)
        self.dispatches[number] = it.dispatches[number] = dispatch
        dispatch.priority, dispatch.nice = batch.priority, batch.nice
        it.sent(batch.shape, count, dispatch.priority)
        return dispatch

    @property
    def last_number(self) -> int:
        """The number of the last dispatch that was put down: those of later ones are greater."""
        return self._number

    def next_number(self) -> int:
        """A number for what is only to be given up."""
        self._number += 1
        return self._number

    def give_up(self, batch: Batch) -> list[Dispatch]:
        """Nothing of a batch is out or ready any more, as far as this owner is concerned; its dispatches."""
        self.withdraw(batch)
        mine = self.of(batch)
        for dispatch in mine:
            self.returned(dispatch, dispatch.left)
        return mine

    @staticmethod
    def _explain_wait(now: float, batch: Batch, detail: Ranked | list[Brief]) -> None:
        if batch.trace and batch.trace[-1][1] == "waits":
            batch.trace.pop()
        batch.log(now, "waits", 0, batch.calls.count, "", detail)

    # --- coming back --------------------------------------------------------------------------------------------------

    def out(self, number: int, executor: bytes) -> Dispatch | None:
        """A dispatch, if it is out at this executor."""
        dispatch = self.dispatches.get(number)
        return dispatch if dispatch is not None and dispatch.executor.id == executor else None

    def ran(self, now: float, dispatch: Dispatch, report: Outcomes, count: int) -> None:
        """So many tasks of a dispatch have run, as reported; what stood still meanwhile is counted out."""
        stood_us, dispatch.stood_us = dispatch.stood_us, 0
        it, kind = dispatch.executor, dispatch.batch.raw
        self.runtimes.observe(kind, max(0, report.run_us_total - stood_us), count)
        if stood_us:
            return  # which of them stood still is not known
        run_us, status, unit_s = report.run_us, report.status, 1.0
        if dispatch.batch.spec.expected_s is not None:
            # Of one kind whatever was said of their length: how many times that they took.
            kind, unit_s = kind_of(kind), dispatch.batch.spec.expected_s
        scale = 1e-6 / unit_s

        def took_s(row: int) -> float:
            return run_us(row) * scale if status(row) == Status.OK else 0.0

        if self._paces.observe(now, it.id, it.pace, it.slots, kind, report.count, took_s, unit_s):
            it.changed()
            self._patience.measured()

    def returned(self, dispatch: Dispatch, count: int) -> None:
        """`count` tasks of a dispatch are out no more."""
        dispatch.left -= count
        it = dispatch.executor
        it.back(dispatch.batch.shape, count, dispatch.priority)
        if dispatch.left <= 0:
            self.dispatches.pop(dispatch.number, None)
            it.dispatches.pop(dispatch.number, None)

    def settle(self, dispatch: Dispatch, count: int, ran_s: float) -> None:
        """So many tasks of a dispatch have run, all together for so long."""
        batch = dispatch.batch
        self.ready.settle(batch.queued, batch.author, dispatch.priority, dispatch.thought_s * count, ran_s)

    def recall(self, dispatch: Dispatch, wanted: list[tuple[int, int]], kill: bool, save: bool | None = None) -> None:
        """Ask for tasks of a dispatch to be given back; with `kill` those that run are ended. With `save` those that run are
        to end at their next safe point; if it is False, not any more."""
        header: dict[str, Any] = {"d": dispatch.number, "r": [list(pair) for pair in wanted], "k": kill}
        if save is not None:
            header["c"] = save
        self._holdings.emit(Tell(dispatch.executor.id, Kind.RECALL, header))


def handed(dispatch: Dispatch) -> ToExecutor:
    """The effect that hands a dispatch over."""
    batch, start, stop, urgency = dispatch.batch, dispatch.start, dispatch.stop, (dispatch.priority, dispatch.nice)
    lengths, payloads = batch.calls.slice(start, stop)
    extra: dict[str, Any] = {}
    if batch.dep_order:
        extra["deps"] = [batch.deps[dep] for dep in batch.dep_order]
    if batch.spec.checkpoint:
        # Also where there is nothing to go on from: it says that this owner knows what to do with a state.
        saved = sorted((index, *batch.saved[index]) for index in batch.saved.keys() & range(start, stop))
        extra["saved"] = [list(row) for row in saved]
    own = batch.own_apart.get(start, batch.own)[0] if batch.own_apart else batch.own[0]
    if own != batch.spec.priority:
        # What it submits is of the class that it was given since, and not of one that it has while somebody waits for it.
        extra["priority"] = own
    if dispatch.token is not None:
        extra["token"] = list(dispatch.token)
    attempts = batch.columns.attempts(start) - 1 + batch.attempt
    waited_s = dispatch.sent_at - batch.submitted_at
    if not attempts and not batch.dep_order and waited_s >= WAITED_S:
        extra["waited"] = round(waited_s, 3)
    dispatch.spec, raw = (batch.spec, batch.raw) if batch.given is None else batch.given
    return ToExecutor(
        dispatch.executor.id, dispatch.number, batch.key, dispatch.spec, raw, batch.granted, start, stop - start,
        attempts, extra, lengths, payloads,
        None if urgency == (batch.spec.priority, batch.spec.nice) else urgency, batch.author,
    )  # fmt: skip
