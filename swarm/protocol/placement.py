"""Placement: which executor gets the next tasks of a shape, and how many.

An executor is offered as many tasks as keep its slots busy for a short horizon: a window. Short tasks get deep windows,
so that no slot waits for the next message; long or unknown ones get one task a slot, so that none waits behind another
while a slot elsewhere is free. Among executors with room, the one that would start the task soonest is taken; the owner
itself wins a tie, since that saves the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from swarm.protocol.executor.suspension import yields
from swarm.protocol.pace import Pace
from swarm.protocol.resources import PLAIN, SLACK, Capacity, Shape
from swarm.protocol.states import Priority

WINDOW_HORIZON_S = 0.030
"""How much work, in seconds, an executor is sent ahead: a few round trips on a LAN."""
WINDOW_TASKS_MAX = 2048
FITS_KEPT_MAX = 1024
DEEP_BELOW_S = 0.020
"""Tasks shorter than this on average are sent ahead; longer ones only when a slot is free."""
SLOTS_MAX = 1 << 20
"""Slots, and tasks that wait, of one executor: what it says beyond that counts as so many."""
DRAINS, SILENT, FULL = "is draining", "does not answer at the moment", "is full"
WAY = "less urgent work makes way ({})"
JUDGED = frozenset({
    "name", "capacity", "local", "linked", "draining", "suspect", "free", "blocked", "withheld", "others", "ours", "pace",
    "yielding", "ask_load",
})  # fmt: skip
"""What of an executor a verdict depends on: who keeps verdicts is told when one of these becomes another."""


@dataclass(slots=True, eq=False)
class Executor:
    """An executor as an owner sees it: capacity as it says, load as it last said, and what it was sent since."""

    watchers: list[set[Executor]] = field(init=False, default_factory=list, repr=False)
    """Who keeps verdicts on it: it is put into these whenever it has changed."""
    id: bytes
    name: str
    capacity: Capacity
    local: bool = False
    linked: bool = False
    draining: bool = False
    suspect: bool = False
    granted: bool = True
    free: float = 0.0
    """Slots free, as last heard."""
    waiting: int = 0
    """Tasks that wait there for a slot, of whatever owner; as last heard."""
    blocked: int = 0
    """Tasks there that wait for other tasks: their slots are lent."""
    withheld: float = 0.0
    """Slots that it has and does not offer now."""
    over: float = 0.0
    """Slots in use there beyond those that it offers."""
    others: float = 0.0
    """Slots there that tasks of other owners take, or wait for."""
    inflight: dict[Shape, int] = field(default_factory=dict)
    """Tasks of ours there, by shape."""
    dispatches: dict[int, Any] = field(default_factory=dict)
    ours: int = 0
    """Tasks of ours there, of all shapes."""
    pace: Pace = field(default_factory=Pace)
    """How fast it runs tasks of ours."""
    urgent: int = 0
    """Tasks of ours there that others make way for."""
    yielding: list[float] = field(default_factory=list)
    """Slots there whose tasks make way for more urgent ones: of class LOW, STANDARD, HIGH; as last heard, less what was sent since."""
    leaving: int = 0
    """Tasks of other owners there that were asked to leave, and have not yet."""
    queued: list[int] | None = None
    """Tasks of ours that wait there for a slot, by class: as last heard, and sent to wait since. None: it does not say."""
    ask_load: Callable[[], Mapping[str, Any]] | None = None
    """Asks for its load anew, where that costs nothing: of this very node."""
    fits: dict[Shape, tuple[str, int]] = field(default_factory=dict)
    """What `fit` found, by shape, for the capacity of now."""

    def __setattr__(self, attribute: str, value: Any) -> None:
        if attribute in JUDGED and self.watchers and value != getattr(self, attribute):
            self.changed()
        object.__setattr__(self, attribute, value)

    def __copy__(self) -> Executor:
        """One of which nobody keeps verdicts, for trying things out."""
        other: Executor = object.__new__(type(self))
        other.watchers = []
        for one in fields(self)[1:]:
            setattr(other, one.name, getattr(self, one.name))
        return other

    def changed(self) -> None:
        """What was thought of it holds no longer. To be called where something within an attribute changes."""
        for watcher in self.watchers:
            watcher.add(self)

    def sent(self, shape: Shape, count: int, priority: int = Priority.STANDARD) -> None:
        """Count tasks of ours in."""
        if priority >= Priority.HIGH:
            self.urgent += count
        self.inflight[shape] = self.inflight.get(shape, 0) + count
        _SET_OURS(self, self.ours + count)
        self.changed()

    def back(self, shape: Shape, count: int, priority: int = Priority.STANDARD) -> None:
        """Count tasks of ours out."""
        if priority >= Priority.HIGH:
            self.urgent -= count
        left = self.inflight.get(shape, 0) - count
        _SET_OURS(self, self.ours - count)
        self.changed()
        if left > 0:
            self.inflight[shape] = left
        else:
            self.inflight.pop(shape, None)

    def fit(self, shape: Shape) -> tuple[str, int]:
        """Why no task of a shape fits here ever, or ""; and how many its capacity runs at a time."""
        found = self.fits.get(shape)
        if found is None:
            if len(self.fits) >= FITS_KEPT_MAX:
                self.fits.clear()
            found = self.fits[shape] = (self.capacity.misfit(shape), self.fit_count(shape))
        return found

    @property
    def slots(self) -> float:
        """Slots it has in all."""
        return self.capacity.totals.get("cpu", 0.0)

    def heard(self, load: Mapping[str, Any]) -> None:
        """Its load, as it says it is."""
        free, waiting, others = _amount(load.get("free")), _amount(load.get("wait")), _amount(load.get("others"))
        if free is not None:
            self.free = free
        self.withheld = _amount(load.get("off")) or 0.0
        if waiting is not None:
            self.waiting = int(waiting)
        if others is not None:  # not gossip, which says nothing of it
            self.leaving = int(_amount(load.get("leaving")) or 0)
        yours = load.get("yours")
        if isinstance(yours, list | tuple) and len(yours) == len(Priority):
            counts = [_amount(tasks) for tasks in yours]
            self.queued = None if None in counts else [int(tasks or 0) for tasks in counts]
        blocked = _amount(load.get("blocked"))
        if blocked is not None:
            self.blocked = int(blocked)
        if others is not None:
            self.others, self.over = others, _amount(load.get("over")) or 0.0
        elif not self.linked and waiting is not None:
            # Gossip, which says nothing of whose tasks they are: none of ours, where there is no link.
            theirs = self.slots - self.withheld - self.free + self.blocked + int(waiting)
            self.others = min(max(0.0, theirs), float(SLOTS_MAX))
        self.draining = load.get("drain") is True
        if others is None and self.linked:
            return  # gossip, which is older than what was heard over the link, and sent
        low, urgent = load.get("low"), load.get("urgent")
        self.yielding = []
        amounts = [_amount(slots) for slots in low[:3]] if isinstance(low, list | tuple) else []
        if amounts and None not in amounts:
            self.yielding = [slots for slots in amounts if slots is not None]
            # What it did not know of yet will take slots, too.
            self.displaced(PLAIN, Priority.CRITICAL, max(0, self.urgent - (urgent if type(urgent) is int else 0)))

    def displaced(self, shape: Shape, priority: int, count: int) -> None:
        """So many urgent tasks were sent, for whom others make way: the same slots are not given away twice."""
        wanted = shape.cpu * count
        for running, slots in enumerate(self.yielding):
            if wanted > 0 and yields(running, priority):
                taken = min(wanted, slots)
                self.yielding[running] -= taken
                wanted -= taken
                self.changed()

    def fit_count(self, shape: Shape) -> int:
        """How many tasks of a shape its capacity runs at a time."""
        most = float("inf")
        for name, amount in shape.needs:
            if amount > 0:
                most = min(most, (self.capacity.totals.get(name, 0.0) + SLACK) // amount)
        return int(min(most, 4 * max(1.0, min(self.slots, SLOTS_MAX))))


_SET_OURS = Executor.__dict__["ours"].__set__
"""Without a look at whether that is a change, which it is, and at what: twice a task."""


def _amount(said: Any) -> float | None:
    """Slots or tasks as a peer says them, within bounds; None when it is no number."""
    if type(said) not in (int, float) or said != said:
        return None
    return float(min(max(said, 0), SLOTS_MAX))


Brief = tuple[str, int, float, str]
"""(name, room, wait in seconds, why not): a verdict as it goes on record."""


@dataclass(slots=True)
class Verdict:
    """What placement thought of one executor: room in tasks, the wait in seconds it would mean, or why not."""

    executor: bytes
    name: str
    room: int
    wait_s: float
    why: str = ""
    fits: bool = True
    """It could run them, now or later."""
    lag_s: float = 0.0
    """By how much longer a task runs there than on average; less than 0 where it is faster."""
    displaces: bool = False
    """Its room is that of less urgent tasks, which are suspended for these."""
    gives: int = 0
    """The lowest class of these."""

    @property
    def brief(self) -> Brief:
        """What of it goes on record with a decision."""
        return self.name, self.room, round(self.wait_s, 3), self.why


def judge(executor: Executor, shape: Shape, mean_s: float | None, priority: int = Priority.STANDARD) -> Verdict:
    """Room and expected wait of an executor for tasks of a shape that take `mean_s` seconds each (None: unknown)."""
    verdict = _judge(executor, shape, mean_s)
    if priority < Priority.HIGH or not verdict.fits or (verdict.room and executor.free >= shape.cpu):
        return verdict
    if executor.ask_load is not None:
        executor.heard(executor.ask_load())
    slots, gives = 0.0, int(Priority.CRITICAL)
    for running, yielded in enumerate(executor.yielding):
        if yielded > 0 and yields(running, priority):
            slots += yielded
            gives = min(gives, running)
    room = int((slots + SLACK) // max(shape.cpu, SLACK)) if shape.cpu > 0 else 0
    if room <= 0:
        return verdict
    why = WAY.format(Priority(gives).name)
    return Verdict(executor.id, executor.name, room, 0.0, why, True, displaces=True, gives=gives)


def _judge(executor: Executor, shape: Shape, mean_s: float | None) -> Verdict:
    if executor.draining:
        return Verdict(executor.id, executor.name, 0, 0.0, DRAINS, False)
    misfit, fitting = executor.fit(shape)
    if misfit:
        return Verdict(executor.id, executor.name, 0, 0.0, misfit, False)
    if executor.suspect:
        return Verdict(executor.id, executor.name, 0, 0.0, SILENT, False)
    width = fitting + executor.blocked
    if executor.withheld:
        width = max(1, width - int(executor.withheld / max(shape.cpu, SLACK)) if shape.cpu > 0 else width)
    # Tasks of ours are counted here, since what was heard is older than what was sent; those of others it tells.
    ours, others = executor.ours, executor.others
    here = executor.inflight.get(shape.counted, 0)
    mine = max(here, min(ours, width))
    seconds = mean_s if mean_s is not None else 1.0
    speed = executor.pace.speed
    queued = ours + others - width + 1
    wait = queued / max(width, 1) * seconds / speed if queued > 0 else 0.0
    lag = seconds / speed - seconds if mean_s is not None and speed != 1.0 else 0.0
    if mean_s is not None and mean_s < DEEP_BELOW_S:
        window = max(
            2 * width, min(WINDOW_TASKS_MAX * width, int(width * speed * WINDOW_HORIZON_S / max(mean_s, 1e-6)))
        )
        why = "" if window > here else FULL
        return Verdict(executor.id, executor.name, max(0, window - here), wait, why, True, lag)
    room = width - mine - int(others)
    return Verdict(executor.id, executor.name, max(0, room), wait, "" if room > 0 else FULL, True, lag)


Order = tuple[bool, bool, int, float, bool, float, int, bytes]


def order(verdict: Verdict, executor: Executor) -> Order:
    """Where an executor stands among the others, the least first: room that nobody has to give up, or else that of the lowest
    class, then the shortest wait (and run, where nodes differ in speed), then ourselves, then the fastest (of
    tasks of which nothing is known this decides), then the most room."""
    room, late = verdict.room, verdict.wait_s + verdict.lag_s
    return (
        room == 0, verdict.displaces, verdict.gives, round(late, 3) if late else 0.0, not executor.local, -executor.pace.speed,
        -room, executor.id,
    )  # fmt: skip


def rank(
    executors: list[Executor], shape: Shape, mean_s: float | None, priority: int = Priority.STANDARD
) -> list[Verdict]:
    """Every executor's verdict, best first. `swarm.protocol.ranking` comes to the same, and judges only who has changed."""
    verdicts = [(judge(executor, shape, mean_s, priority), executor) for executor in executors]
    verdicts.sort(key=lambda pair: order(*pair))
    return [verdict for verdict, _ in verdicts]
