"""What a task needs of a machine, and what a machine has: shapes and their accounting.

A *shape* is what tasks have in common as far as placement is concerned: interpreter, needs, labels. Tasks of one shape
wait in one queue, so whether a machine can take them is asked once a shape, not once a task.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapify, heappop, heappush

from swarm.protocol.fair import EQUAL, FairQueue, Rank, Shares
from swarm.protocol.spec import Spec

SLACK = 1e-9
"""Rounding that sums of fractional needs may leave behind."""
WRONG_BY_S = 0.001
"""By so much a guess of how long tasks run has to be wrong to be corrected."""
AVOIDED = "a lesson says not here"
NODE_LABEL = "node:"
"""With its name behind it, a label that every node has: what asks for it runs there."""
INTERPRETER_LABEL = "interpreter:"
"""With "cpython-3.11" behind it, say: what home workers run under."""
PACKAGES_LABEL = "packages:"
"""With a digest behind it, in hex: of what home workers can import."""


@dataclass(frozen=True, order=True)
class Shape:
    """The part of a spec that decides where a task fits."""

    python: str
    needs: tuple[tuple[str, float], ...]
    labels: tuple[str, ...]
    avoids: tuple[str, ...] = ()
    """Labels of machines where it shall not run, by what was learned (`swarm.protocol.owner.heeding`)."""
    asked: Shape | None = field(default=None, compare=False, repr=False)
    """What the spec itself asks for, where lessons added to it."""
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __hash__(self) -> int:
        # Shapes are keys all the time; the tuples in them need not be hashed anew each time.
        return self._hash

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.python, self.needs, self.labels, self.avoids)))

    @property
    def cpu(self) -> float:
        """Slots that one running task of this shape takes."""
        return dict(self.needs)["cpu"]

    @property
    def counted(self) -> Shape:
        """The shape under which tasks that are out are counted: that of the spec."""
        return self if self.asked is None else self.asked

    def heeding(self, needs: Mapping[str, float], labels: Collection[str], avoids: Collection[str]) -> Shape:
        """This shape with what lessons add to it: least needs, labels, and labels to stay away from."""
        had = dict(self.needs)
        more = {name: amount for name, amount in needs.items() if amount > had.get(name, 0.0)}
        wanted = tuple(sorted({*self.labels, *labels}))
        if not more and wanted == self.labels and not avoids:
            return self
        return Shape(self.python, tuple(sorted((had | more).items())), wanted, tuple(sorted(avoids)), self)


@lru_cache(maxsize=4096)
def _shape(python: str, needs: tuple[tuple[str, float], ...], labels: tuple[str, ...]) -> Shape:
    return Shape(python, needs, labels)


PLAIN = _shape("", (("cpu", 1.0),), ())
"""The shape of a task that asks for nothing: one slot of the node's own interpreter."""


def shape_of(spec: Spec) -> Shape:
    """The shape of a spec. A need for `cpu` that is not given is 1."""
    if not spec.needs and not spec.labels and not spec.python:
        return PLAIN
    needs = tuple(sorted(({"cpu": 1.0} | dict(spec.needs)).items()))
    return _shape(spec.python or "", needs, tuple(sorted(spec.labels)))


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine offers: totals by resource, labels, interpreters. `cpu` is its number of slots."""

    totals: Mapping[str, float]
    labels: frozenset[str] = frozenset()
    pythons: frozenset[str] = frozenset()

    def misfit(self, shape: Shape) -> str:
        """Why no task of this shape can ever run here, or the empty text."""
        if shape.labels:
            missing = sorted(set(shape.labels) - self.labels)
            if missing:
                return f"has no label {', '.join(missing)}"
        if shape.avoids and not self.labels.isdisjoint(shape.avoids):
            return AVOIDED
        if shape.python and shape.python not in self.pythons:
            return f"has no interpreter named {shape.python!r}"
        for name, amount in shape.needs:
            total = self.totals.get(name, 0.0)
            if amount > total + SLACK:
                return f"has {total:g} of {name}, {amount:g} needed" if total else f"has no {name}"
        return ""


@dataclass(slots=True)
class Account:
    """What of a machine's capacity is free now."""

    capacity: Capacity
    used: dict[str, float] = field(default_factory=dict)
    withheld: float = 0.0
    """Slots that are not offered now, though the machine has them."""

    def limit(self, name: str) -> float:
        """How much of a resource is offered."""
        total = self.capacity.totals.get(name, 0.0)
        return total - self.withheld if name == "cpu" else total

    def fits(self, shape: Shape) -> bool:
        """Whether one more task of this shape fits beside what runs."""
        totals, used, withheld = self.capacity.totals, self.used, self.withheld
        for name, amount in shape.needs:
            total = totals.get(name, 0.0)
            if withheld and name == "cpu":
                # What needs more than is offered now runs alone, rather than never.
                total = max(total - withheld, 0.0 if used.get(name) else amount)
            if used.get(name, 0.0) + amount > total + SLACK:
                return False
        return True

    def take(self, shape: Shape) -> None:
        """Count one task of this shape in."""
        for name, amount in shape.needs:
            self.used[name] = self.used.get(name, 0.0) + amount

    def give(self, shape: Shape) -> None:
        """Count one task of this shape out."""
        for name, amount in shape.needs:
            rest = self.used[name] - amount
            self.used[name] = rest if abs(rest) > SLACK else 0.0

    def lend(self, shape: Shape, names: Collection[str]) -> None:
        """What a task of this shape takes of these resources is free for others, while it stands still."""
        for name, amount in shape.needs:
            if name in names:
                rest = self.used[name] - amount
                self.used[name] = rest if abs(rest) > SLACK else 0.0

    def reclaim(self, shape: Shape, names: Collection[str]) -> None:
        """It goes on, and takes that again."""
        for name, amount in shape.needs:
            if name in names:
                self.used[name] = self.used.get(name, 0.0) + amount

    def fits_again(self, shape: Shape, names: Collection[str]) -> bool:
        """Whether a task that stands still could go on."""
        used = self.used
        return all(
            used.get(name, 0.0) + amount <= max(self.limit(name), 0.0 if used.get(name) else amount) + SLACK
            for name, amount in shape.needs
            if name in names
        )

    @property
    def free_cpu(self) -> float:
        """Slots not taken."""
        return max(0.0, self.limit("cpu") - self.used.get("cpu", 0.0))

    @property
    def over_cpu(self) -> float:
        """Slots taken beyond those that are offered."""
        return max(0.0, self.used.get("cpu", 0.0) - self.limit("cpu"))


class ReadyShapes:
    """Run queues by shape: what is ready, most urgent shape first."""

    def __init__(self, weights: Mapping[str, float] = EQUAL) -> None:
        self._queues: dict[Shape, FairQueue] = {}
        self._shares = Shares(weights)
        self.tasks = 0
        """Tasks waiting, in all shapes."""

    def push(
        self, shape: Shape, key: int, priority: int, nice: int, now_ns: int, count: int, user: str = "",
        job: Hashable = b"", deadline: float | None = None, expected_s: float | None = None,
    ) -> None:  # fmt: skip
        """Add a run of `count` tasks known by `key`; a run that waits already grows by `count`. Whose it is, and what it is a part
        of, decide on its share; how long one is said to take, which of the parts is first."""
        queue = self._queues.get(shape)
        if queue is None:
            queue = self._queues[shape] = FairQueue(self._shares)
        queue.push(key, priority, nice, now_ns, count, user, job, deadline, expected_s)
        self.tasks += count

    def remove(self, shape: Shape, key: int) -> int:
        """Take a run out; how many of its tasks waited."""
        queue = self._queues.get(shape)
        if queue is None:
            return 0
        waiting = queue.remove(key)
        self.tasks -= waiting
        if not queue.tasks and shape is not PLAIN:
            del self._queues[shape]
        return waiting

    def take(self, shape: Shape, key: int, count: int, seconds: float | None = None) -> None:
        """Count `count` tasks of a run out of the queue, each of which takes its slots for so long (None: not known)."""
        queue = self._queues[shape]
        slots = None if seconds is None else seconds * max(shape.cpu, 0.01)
        self.tasks -= queue.take_from(key, count, slots)
        if not queue.tasks and shape is not PLAIN:
            del self._queues[shape]

    def take_ranges(self, shape: Shape, key: int, counts: list[int], seconds: float | None = None) -> None:
        """The same for ranges of a run that were handed over one after the other."""
        queue = self._queues[shape]
        slots = None if seconds is None else seconds * max(shape.cpu, 0.01)
        self.tasks -= queue.take_ranges(key, counts, slots)
        if not queue.tasks and shape is not PLAIN:
            del self._queues[shape]

    def settle(self, shape: Shape, user: str, priority: int, thought_s: float, ran_s: float) -> None:
        """Tasks of a user have run: they were thought to take so long, and did so long, all together."""
        over_s = (ran_s - thought_s) * max(shape.cpu, 0.01)
        queue = self._queues.get(shape)
        if queue is not None and abs(over_s) > WRONG_BY_S:
            queue.settle(user, priority, over_s)

    def head(self, shape: Shape, now_ns: int) -> tuple[int, int] | None:
        """The run to start next of this shape, as (key, waiting tasks)."""
        queue = self._queues.get(shape)
        return None if queue is None else queue.peek(now_ns)

    def turns(self, now_ns: int) -> Turns:
        """Whose turn it is, over all shapes: one order of all that waits, whatever it asks for."""
        return Turns(self._queues, now_ns)

    def waiting(self, priority: int) -> int:
        """Tasks waiting in one class."""
        return sum(queue.waiting(priority) for queue in self._queues.values())

    def waiting_of(self, shape: Shape) -> int:
        """Tasks waiting of one shape."""
        queue = self._queues.get(shape)
        return 0 if queue is None else queue.tasks


class Turns:
    """Shapes in the order in which their heads are next, for one look at what waits: a shape comes up again after what was taken of it,
    until it is said to have no room. Ranks only grow meanwhile, since who is served comes later, so a look costs what is taken."""

    __slots__ = ("_left", "_now_ns", "_queues", "_ranked", "_shape")

    def __init__(self, queues: Mapping[Shape, FairQueue], now_ns: int) -> None:
        self._queues = queues
        self._now_ns = now_ns
        self._shape: Shape | None = None
        """Whose turn it is; None before the first, and when it has no room."""
        self._left = [shape for shape, queue in queues.items() if queue.tasks]
        self._ranked: list[tuple[Rank, Shape]] | None = None
        """A heap of the others; None where there is one shape only."""
        if len(self._left) > 1:
            self._ranked = [(queues[shape].rank(now_ns), shape) for shape in self._left]
            heapify(self._ranked)

    @property
    def alone(self) -> bool:
        """Whether nothing waits of any other shape, or what does has no room."""
        return not self._ranked

    def next(self) -> Shape | None:
        """The shape whose head is next, of those that have room; None when there is none."""
        if self._ranked is None:
            shape, self._left = self._left[0] if self._left else None, []
            if shape is None and self._shape is not None and self._waits(self._shape):
                shape = self._shape
            self._shape = shape
            return shape
        if self._shape is not None and self._waits(self._shape):
            heappush(self._ranked, (self._queues[self._shape].rank(self._now_ns), self._shape))
        self._shape = None
        while self._ranked:
            _, shape = heappop(self._ranked)
            if not self._waits(shape):
                continue
            rank = self._queues[shape].rank(self._now_ns)
            if self._ranked and (rank, shape) > self._ranked[0]:
                heappush(self._ranked, (rank, shape))
                continue
            self._shape = shape
            break
        return self._shape

    def full(self) -> None:
        """There is no room for the shape whose turn it is."""
        self._shape = None

    def _waits(self, shape: Shape) -> bool:
        queue = self._queues.get(shape)
        return queue is not None and queue.tasks > 0
