"""Relief: tasks that offer checkpoints go on at another node, without being asked, where that pays.

Two things call for it, and both end in a move as anybody may ask for (`swarm.protocol.owner.moving`): the task is asked to
end at its next safe point, and only then handed out again, under a greater number.

* *Preemption.* A task stands still, since urgent work has its slot, and has done so for longer than a bound. As soon as a slot is
  free anywhere where it fits, it goes on there; before what has not begun, of its class, as on its own node.
* *Balance.* A node runs more than it offers slots now (it became hot, went on battery, its owner works on it): a task that has run for
  some time goes to a free slot elsewhere. Or it is markedly slower than another: what has run there for longer than its kind does, and
  so is expected to run for longest yet, goes to the other as soon as a slot is free there, before what has not begun. What waited for that slot
  has the one that becomes free. This is what keeps a fleet of unequal machines from waiting in the end for a long task on a slow one.

It pays where what is won is a multiple of what moves of such tasks were seen to cost. Against ping-pong and cascades:

* Only slots that are free are taken, or, for speed, about to be free, since what is at that node is short and was sent ahead; each is kept for
  its task before that is asked. So no move displaces anything.
* A task that was moved is left alone for a time that doubles with each move, and so is one that could not be moved.
* One that somebody moved by hand stays where it was put.
* A node that something left is nobody's target for a time, and from each node one task leaves at a time, whoever owns it: a node tells
  each owner how many tasks of others are leaving it. (Two that ask within the time of a report may both be heard.)

The bounds are those of `swarm.protocol.owner.relief_bounds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from kernels.tasks import TaskColumns
from swarm.protocol.executor.suspension import level
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings
from swarm.protocol.owner.moving import ASKED, ENDED, MOVES_MAX, Move, Moving
from swarm.protocol.owner.placing import Placing
from swarm.protocol.placement import DEEP_BELOW_S, WINDOW_HORIZON_S, Executor, judge
from swarm.protocol.resources import SLACK, Shape
from swarm.protocol.runtimes import Runtimes
from swarm.protocol.spec import kind_of
from swarm.protocol.states import Priority

RELIEF = 23
"""The timer of the next look at who should be relieved."""
STANDS = 24
"""The timer of what will have stood still for long."""
PREEMPTION, SLOTS, SPEED = "preemption", "slots", "speed"
"""Why a task is moved: it stands still; its node offers fewer slots than it runs; an idle node is faster."""

LONG_HORIZONS = 4
"""What is at a node for as many times the work that is sent ahead has a slot to itself."""

Task = tuple[bytes, int]


@dataclass(slots=True)
class Standing:
    """A task that stands still."""

    since: float
    dispatch: Dispatch
    name: str
    """Of what has its slot."""


@dataclass(slots=True)
class Record:
    """What is known of a task that was moved, or could not be."""

    count: int = 0
    until: float = 0.0
    """It is left alone until then."""
    ran_s: float = 0.0
    """How long it ran where it was before."""
    by_hand: bool = False


class Relief:
    """Sees who should go on elsewhere, and has him moved."""

    def __init__(self, holdings: Holdings, placing: Placing, moving: Moving) -> None:
        self._holdings = holdings
        self._placing = placing
        self._moving = moving
        self.bounds = holdings.config.relief
        moving.ended = self._ended
        placing.checkpointable = self.watch
        self._costs = Runtimes()
        """What moves cost, by the kind of what was moved."""
        self._batches: dict[bytes, Batch] = {}
        """Unfinished ones that offer checkpoints."""
        self._standing: dict[Task, Standing] = {}
        self._records: dict[Task, Record] = {}
        self._left: dict[bytes, float] = {}
        """Nodes that something left -> until when nothing goes there."""
        self._over_since: dict[bytes, float] = {}
        """Nodes that run more than they offer -> since when."""
        self._under_way: set[Task] = set()
        self._try_at = inf
        """When it is tried next whether there is room for what stands still."""
        self._hasten_at = inf
        """When it is tried next whether a fast node has room for what runs on a slow one."""
        self._lighten_at = 0.0
        self._slowed: list[tuple[Dispatch, int]] = []
        """What runs on slow nodes and would win by a move, that which would win most first."""
        self._armed = False
        self._new: list[Batch] = []

    @property
    def standing(self) -> int:
        """Tasks of this owner that stand still, and offer checkpoints."""
        return len(self._standing)

    # --- what happens -------------------------------------------------------------------------------------------------

    def watch(self, batch: Batch) -> None:
        """There are tasks of a batch that offers checkpoints."""
        if self.bounds is not None:
            self._batches[batch.key] = batch

    def arm(self, now: float) -> None:
        """Look at them from now on. Cheap: called in every turn of the owner."""
        if self._batches and not self._armed and self.bounds is not None:
            self._armed = True
            self._holdings.timers.at(now + self.bounds.hasten_s, RELIEF)

    def stood(self, now: float, dispatch: Dispatch, index: int, suspended: bool, value: Any) -> None:
        """A task was suspended, or goes on."""
        if self.bounds is None or not dispatch.batch.spec.checkpoint:
            return
        task = (dispatch.batch.key, index)
        if not suspended:
            self._standing.pop(task, None)
        elif len(self._standing) < MOVES_MAX:
            name = value.get("name") if isinstance(value, dict) else None
            self._standing[task] = Standing(now, dispatch, str(name or "a task")[:80])
            self._try_at = min(self._try_at, now + self.bounds.stood_s)
            self._holdings.timers.at(now + self.bounds.stood_s, STANDS)

    def _ended(self, now: float, it: Move, reason: str) -> None:
        """A move is over, whoever wanted it."""
        if self.bounds is None:
            return
        task = (it.batch.key, it.index)
        self._under_way.discard(task)
        if reason == ENDED and it.batch.columns.state(it.index) == TaskColumns.DONE:
            self._records.pop(task, None)
            return
        if not reason and it.saved:
            self._costs.observe(kind_of(it.batch.raw), int((now - it.asked_at) * 1e6), 1)
        record = self._records.get(task)
        if record is None:
            if len(self._records) >= self.bounds.tasks_max:
                return
            record = self._records[task] = Record()
        record.count += 1
        record.until = now + min(self.bounds.again_s_max, self.bounds.again_s * 2 ** min(record.count - 1, 16))
        if not reason:
            record.ran_s += max(0.0, now - it.dispatch.sent_at)
            record.by_hand = it.why == ASKED
            self._standing.pop(task, None)
            if it.why in (SLOTS, SPEED):
                self._left[it.dispatch.executor.id] = now + self.bounds.rest_s

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _cost_s(self, batch: Batch) -> float:
        """What a move of such a task costs: to the owner, as it was measured, and as much from there on."""
        assert self.bounds is not None
        seen = self._costs.mean_s(kind_of(batch.raw))
        return self.bounds.cost_guess_s if seen is None else 2 * seen

    def _pays(self, won_s: float, batch: Batch) -> bool:
        assert self.bounds is not None
        return won_s >= self.bounds.pays_factor * self._cost_s(batch)

    def _is_free(self, now: float, dispatch: Dispatch, index: int) -> bool:
        """Whether a task may be moved by itself now."""
        assert self.bounds is not None
        batch = dispatch.batch
        if not dispatch.sent or not batch.columns.holds(index, dispatch.number) or batch.is_cancelled(index):
            return False
        if self._moving.is_moving(batch, index) or len(self._under_way) >= self.bounds.under_way_max:
            return False
        record = self._records.get((batch.key, index))
        if record is None:
            return len(self._records) < self.bounds.tasks_max
        return record.until <= now and record.count < self.bounds.moves_max and not record.by_hand

    def _with_room(self, now: float, shape: Shape, but: Executor | None) -> Iterator[Executor]:
        """Nodes with a free slot for one more of a shape."""
        for node in sorted(self._placing.executors):
            it = self._placing.executors[node]
            if it is but or not it.linked or it.draining or it.suspect or self._left.get(node, 0.0) > now:
                continue
            if it.over > SLACK or it.waiting or judge(it, shape, None).room < 1:
                continue
            yield it

    def _with_slots_soon(self, now: float, batch: Batch, but: Executor) -> Iterator[Executor]:
        """Nodes that have no slot free, but only since short tasks of such a batch are sent ahead: a slot comes free there, and is
        taken again, every few milliseconds, and what is sent there waits for no longer than what is ahead of it takes."""
        mean_s = self._placing.runtimes.mean_s(batch.raw)
        if mean_s is None or mean_s >= DEEP_BELOW_S:
            return
        for node in sorted(self._placing.executors):
            it = self._placing.executors[node]
            if (
                it is but
                or not it.linked
                or it.draining
                or it.suspect
                or self._left.get(node, 0.0) > now
                or it.over > SLACK
            ):
                continue
            misfit, width = it.fit(batch.queued)
            if misfit or it.others > 0 or it.blocked:
                continue
            coming = sum(move.target is it for move in self._moving.under_way())
            if coming + self._held_for_long(now, it) < width - int(it.withheld):
                yield it

    @staticmethod
    def _held_for_long(now: float, it: Executor) -> int:
        """How many tasks of this owner have been at a node for longer than what is sent ahead takes."""
        found = 0
        for number, dispatch in it.dispatches.items():
            if now - dispatch.sent_at > LONG_HORIZONS * WINDOW_HORIZON_S:
                found += sum(stop - start for start, stop in dispatch.batch.outstanding(number))
        return found

    def _move(
        self, now: float, dispatch: Dispatch, index: int, target: Executor, within_s: float, why: str, words: str
    ) -> None:
        self._under_way.add((dispatch.batch.key, index))
        self._moving.relieve(now, dispatch, index, target, within_s, why, words)

    # --- preemption ---------------------------------------------------------------------------------------------------

    def came_back(self, now: float) -> None:
        """Something may have come back that was asked to move, and a slot be free for what stands still."""
        if self._moving:
            self._moving.look(now)
        self.look(now)

    def look(self, now: float) -> None:
        """Something came back: what has stood still for long takes the slot, or what has run for long on a slow node. Cheap where
        nothing has."""
        if self.bounds is None:
            return
        if now >= self._try_at:
            self._take_up(now)
        if now >= self._hasten_at:
            self._go_faster(now)

    def _take_up(self, now: float) -> None:
        """What has stood still for long goes on where there is room."""
        assert self.bounds is not None
        bounds = self.bounds
        self._try_at = inf
        for task, it in sorted(self._standing.items(), key=lambda pair: (pair[1].since, pair[0])):
            dispatch, index = it.dispatch, task[1]
            batch = dispatch.batch
            if not batch.columns.holds(index, dispatch.number) or self._holdings.batches.get(batch.key) is not batch:
                del self._standing[task]
                continue
            stood_s = now - it.since
            due_at = it.since + max(bounds.stood_s, bounds.pays_factor * self._cost_s(batch))
            if now < due_at:
                self._try_at = min(self._try_at, due_at)
                self._holdings.timers.at(due_at, STANDS)
                continue
            if not self._is_free(now, dispatch, index):
                record = self._records.get(task)
                self._try_at = min(self._try_at, max(now + bounds.try_s, record.until if record is not None else 0.0))
                continue
            self._try_at = min(self._try_at, now + bounds.try_s)
            standing_as = level(batch.urgency(index)[0], it.since, now)
            if any(self._placing.ready.waiting(priority) for priority in range(standing_as + 1, len(Priority))):
                continue
            target = self._fastest(self._with_room(now, batch.queued, dispatch.executor))
            if target is not None:
                words = f"it had stood still for {stood_s:.1f} s, since {it.name} is more urgent"
                self._move(now, dispatch, index, target, bounds.leave_s, PREEMPTION, words)

    @staticmethod
    def _fastest(found: Iterable[Executor]) -> Executor | None:
        return min(found, key=lambda it: (it.withheld > 0, -it.pace.speed, not it.local, it.id), default=None)

    # --- balance ------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> None:
        """The timer: who runs more than he offers, and who is slow."""
        if self.bounds is None:
            return
        self._armed = False
        for key in [key for key, batch in self._batches.items() if self._is_over(batch)]:
            del self._batches[key]
        if not self._batches:
            self._records.clear()
            self._over_since.clear()
            self._slowed = []
            return
        self._records = {task: it for task, it in self._records.items() if task[0] in self._batches}
        self._left = {node: until for node, until in self._left.items() if until > now}
        self.arm(now)
        if now >= self._lighten_at:
            self._lighten_at = now + self.bounds.look_s
            self._lighten_all(now)
        self._hasten(now)

    def _lighten_all(self, now: float) -> None:
        assert self.bounds is not None
        for node in sorted(self._placing.executors):
            source = self._placing.executors[node]
            if source.ask_load is not None:
                source.heard(source.ask_load())
            if source.over <= SLACK:
                self._over_since.pop(node, None)
            elif now - self._over_since.setdefault(node, now) >= self.bounds.over_s:
                self._lighten(now, source)

    def _is_over(self, batch: Batch) -> bool:
        return batch.finished_at is not None or self._holdings.batches.get(batch.key) is not batch

    def _candidates(self, now: float, source: Executor) -> Iterator[tuple[float, Dispatch, int]]:
        """(expected to run so long yet, dispatch, index) of what runs there and may leave."""
        assert self.bounds is not None
        for number in sorted(source.dispatches):
            dispatch = source.dispatches[number]
            batch = dispatch.batch
            if not batch.spec.checkpoint or now - dispatch.sent_at < self.bounds.ran_s:
                continue
            for start, stop in batch.outstanding(number):
                for index in range(start, stop):
                    if (batch.key, index) not in self._standing and self._is_free(now, dispatch, index):
                        yield self._left_s(now, dispatch, index), dispatch, index

    def _left_s(self, now: float, dispatch: Dispatch, index: int) -> float:
        """For how long a task is expected to run yet: to the mean of its kind; as long again where it has run for longer, or
        that is not known."""
        record = self._records.get((dispatch.batch.key, index))
        ran_s = now - dispatch.sent_at + (record.ran_s if record is not None else 0.0)
        mean_s = self._placing.runtimes.mean_s(dispatch.batch.raw)
        return mean_s - ran_s if mean_s is not None and mean_s > ran_s else ran_s

    def _leaves(self, source: Executor) -> bool:
        """Whether a task is leaving a node already, of this owner or of another: what comes of that is seen first."""
        if source.ask_load is not None:
            source.heard(source.ask_load())
        return source.leaving > 0 or any(it.dispatch.executor is source for it in self._moving.under_way())

    def _lighten(self, now: float, source: Executor) -> None:
        """A node runs more than it offers: what is expected to run longest leaves it."""
        assert self.bounds is not None
        if self._leaves(source):
            return
        for left_s, dispatch, index in sorted(
            self._candidates(now, source), key=lambda one: (-one[0], one[1].number, one[2])
        ):
            if not self._pays(left_s, dispatch.batch):
                return
            target = self._fastest(self._with_room(now, dispatch.batch.queued, source))
            if target is not None:
                offered = max(0.0, source.slots - source.withheld)
                words = f"{source.name} offers {offered:g} slots now, and ran {offered + source.over:g}"
                self._move(now, dispatch, index, target, self.bounds.within_s, SLOTS, words)
                return

    def _hasten(self, now: float) -> None:
        """Of what runs on each slow node that which wins most is to go to a markedly faster one."""
        assert self.bounds is not None
        executors = [self._placing.executors[node] for node in sorted(self._placing.executors)]
        most = max(it.pace.speed for it in executors)
        found: list[tuple[float, int, int, Dispatch]] = []
        for source in executors:
            ratio = most / source.pace.speed
            if not source.dispatches or ratio < self.bounds.faster_factor or self._leaves(source):
                continue
            best = max(
                ((left_s, -dispatch.number, -index, dispatch) for left_s, dispatch, index in self._candidates(now, source)
                 if self._goes_first(dispatch.batch, index, left_s)), default=None, key=lambda one: one[:3],
            )  # fmt: skip
            if best is not None and self._pays(best[0] * (1 - 1 / ratio), best[3].batch):
                found.append((-best[0] * (1 - 1 / ratio), -best[1], -best[2], best[3]))
        found.sort(key=lambda one: one[:3])
        self._slowed = [(dispatch, index) for _, _, index, dispatch in found[: self.bounds.under_way_max]]
        self._go_faster(now)

    def _go_faster(self, now: float) -> None:
        """What runs on slow nodes goes to free slots of markedly faster ones. What finds none has the next that comes back, before
        what has not begun and is expected to be shorter."""
        assert self.bounds is not None
        self._hasten_at = inf
        slowed, self._slowed = self._slowed, []
        for dispatch, index in slowed:
            source, batch = dispatch.executor, dispatch.batch
            if self._leaves(source) or not self._is_free(now, dispatch, index):
                continue
            least = self.bounds.faster_factor * source.pace.speed
            found = [*self._with_room(now, batch.queued, source), *self._with_slots_soon(now, batch, source)]
            target = self._fastest(it for it in found if it.pace.speed >= least and not it.withheld)
            left_s = self._left_s(now, dispatch, index)
            if target is None:
                self._slowed.append((dispatch, index))
                self._hasten_at = now + self.bounds.try_s
                continue
            ratio = target.pace.speed / source.pace.speed
            if self._goes_first(batch, index, left_s) and self._pays(left_s * (1 - 1 / ratio), batch):
                words = f"{target.name} was idle, and is {ratio:.1f} times as fast"
                self._move(now, dispatch, index, target, self.bounds.within_s, SPEED, words)

    def _goes_first(self, batch: Batch, index: int, left_s: float) -> bool:
        """Whether a task that runs has the next slot of a fast node rather than what waits: nothing that is more urgent does, and of its
        own class it is expected to run for longer yet than one that has not begun, and so wins more."""
        ready = self._placing.ready
        priority = batch.urgency(index)[0]
        if any(ready.waiting(one) for one in range(priority + 1, len(Priority))):
            return False
        mean_s = self._placing.runtimes.mean_s(batch.raw)
        return not ready.waiting(priority) or (mean_s is not None and left_s >= mean_s)
