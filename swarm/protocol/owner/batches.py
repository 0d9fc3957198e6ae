"""What an owner holds: batches as columns, the ranges of them that are out, its bounds, and what it wants done."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import Any

from kernels.batch import Calls, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol.drain import Drain
from swarm.protocol.effects import Fact
from swarm.protocol.fair import EQUAL
from swarm.protocol.ledger.records import Record, Token
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner.put_away import Event, PutAway
from swarm.protocol.owner.relief_bounds import ReliefBounds
from swarm.protocol.placement import Executor
from swarm.protocol.resources import Shape
from swarm.protocol.spec import Spec
from swarm.protocol.timers import Timers

TRACE_KEPT_MAX = 512
_INDEX_END = 1 << 32


@dataclass(frozen=True, slots=True)
class OwnershipConfig:
    """Bounds of what an owner holds. Units: tasks, bytes, seconds."""

    tasks_max: int = 2_000_000
    bytes_max: int = 1 << 30
    batches_max: int = 100_000
    """Unfinished ones: each takes some KiB beside its calls."""
    retention_s: float = 900.0
    retained_batches_max: int = 10_000
    retained_bytes_max: int = 16 << 20
    """For outcomes of what has ended, with all that is known of its tasks (`swarm.protocol.owner.put_away`)."""
    client_lease_s: float = 10.0
    refuse_after_s: float = 0.2
    durable_retention_s: float = 86_400.0
    """How long outcomes of durable batches are kept."""
    adopt_s: float = 1.0
    """How long a new leader waits for executors to say what they still have of its batches."""
    shares: Mapping[str, float] = field(default_factory=lambda: EQUAL)
    """Weights of users by name; 1 where nothing is said."""
    unknown_after_s: float = 0.25
    """When to ask again, where it is not known who leads a batch's log."""
    relief: ReliefBounds | None = field(default_factory=ReliefBounds)
    """When tasks that offer checkpoints are moved without being asked; None: never."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a link to a node: there is work for it."""

    node: bytes


@dataclass(slots=True)
class ToExecutor:
    """Hand a range of a batch to an executor. For this very node the shell calls its executor directly."""

    executor: bytes
    dispatch: int
    batch: bytes
    spec: Spec
    raw: bytes
    granted: bool
    first: int
    count: int
    attempts: int
    extra: dict[str, Any]
    lengths: memoryview
    payloads: memoryview
    urgency: tuple[int, int] | None = None
    """(class, nice), where they are not those of the spec."""
    user: str = ""
    """Whose tasks they are."""


@dataclass(slots=True)
class Propose:
    """Have a record written into a group's log. The shell says under `ticket` what came of it: `Ownership.committed`,
    `dropped` or `not_taken`."""

    ticket: int
    group: bytes
    record: Record


@dataclass(slots=True)
class Keep:
    """Have a majority of a log's members keep blobs on their disks, this node among them. The shell says under `ticket` what
    came of it: `Ownership.kept` or `not_kept`. `source` is an executor that has them; None: they are here."""

    ticket: int
    group: bytes
    ids: tuple[bytes, ...]
    source: bytes | None


@dataclass(slots=True)
class KeepNoMore:
    """Nobody waits for the answer to a `Keep`."""

    ticket: int


@dataclass(slots=True)
class AskHeld:
    """Ask an executor what it has of these batches, whoever handed it over; `Ownership.held` is to be told."""

    executor: bytes
    group: bytes
    epoch: int
    batches: list[bytes]


@dataclass(slots=True)
class Adopt:
    """Tell an executor that a run that another owner handed over is this owner's from now on, under a new number. Its
    token stays. What the executor still has of it then is told by `Ownership.executor_relinked`."""

    executor: bytes
    owner: bytes
    dispatch: int
    number: int


@dataclass(slots=True)
class MoveOver:
    """What came of a move (`Ownership.move`). `reason` is empty when the task goes on at `node`, else one of the words of
    `swarm.protocol.owner.moving`; `message` is for people."""

    ticket: int
    reason: str
    message: str
    node: str
    took_s: float


@dataclass(slots=True)
class Learn:
    """Say in the knowledge log what this owner knows of a lesson now."""

    key: str
    value: dict[str, Any]
    task: bytes | None = None
    """The task by which it was learned."""


OwnershipEffect = Learn | Tell | ToExecutor | Connect | Fact | Propose | Keep | KeepNoMore | AskHeld | Adopt | MoveOver


@dataclass(slots=True, eq=False)
class Durable:
    """What an owner knows of a batch that is in a ledger."""

    group: bytes
    level: int
    digest: bytes
    epoch: int
    """In which it was submitted: first attempts of this epoch need no grant."""
    leads: int
    """The epoch in which this owner leads."""
    open: int
    """Tasks whose outcome is not committed."""
    retention_s: float
    again: bool = False
    """Whether a task of it was out and came back: further attempts are granted in the log first."""
    begun: bool = False
    """Whether something of it was handed out without a grant, in this epoch."""
    copies: int = 0
    """Disks that have it; 0 until it is committed."""
    hosts: int = 0
    blobs: int = 0
    """Of what it needs, pieces that are not committed yet."""
    beside: tuple[int, int] | None = None
    """(disks, hosts) that have what it needs beside the log."""
    kept: set[bytes] = field(default_factory=set)
    """Blobs beside the log to which outcomes may refer."""
    unwritten: list[tuple[Record, Any]] | None = None
    """Records that wait until the batch itself is written, which waits until what it needs is kept."""
    soft: bool = False
    """Nobody asked for it to be kept: where it can not be, it is run without."""


NOBODY: Mapping[bytes, int] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class Batch:
    """A batch of tasks in the owner's hands."""

    number: int
    key: bytes
    client: bytes | None
    author: str
    spec: Spec
    raw: bytes
    granted: bool
    shape: Shape
    calls: Calls
    columns: TaskColumns
    submitted_at: float
    submitted_wall: float
    attached_at: float
    """When its client handed it over, or did so again."""
    expires_at: float | None = None
    cancelled: list[tuple[int, int]] = field(default_factory=list)
    killed: list[tuple[int, int]] = field(default_factory=list)
    """Those of the cancelled that shall be ended where they run."""
    retries: dict[int, int] = field(default_factory=dict)
    may_start: set[int] = field(default_factory=set)
    """Indices of a batch that is not repeatable whose start the client has granted."""
    deps: dict[bytes, bytes | None] = field(default_factory=dict)
    """Task ids that the one task of this batch waits for -> result payload, None while it waits."""
    dep_order: list[bytes] = field(default_factory=list)
    outcomes: list[tuple[Outcomes, Bytes]] = field(default_factory=list)
    outcome_bytes: int = 0
    trace: deque[Event] | PutAway = field(default_factory=lambda: deque(maxlen=TRACE_KEPT_MAX))
    finished_at: float | None = None
    counts: dict[int, int] = field(default_factory=dict)
    last_words: dict[int, str] = field(default_factory=dict)
    progress: dict[int, Any] = field(default_factory=dict)
    saved: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """Index -> (how often it was moved while it ran, the state that it goes on from), until it has its outcome."""
    unwritten: set[int] = field(default_factory=set)
    """Tasks that have left with a state which is not in their log yet. They are HELD until then."""
    attempt: int = 0
    abandoned: bool = False
    """Cancelled because its client was gone for too long."""
    given_up: list[tuple[int, int]] = field(default_factory=list)
    """What of it its client had cancelled before that."""
    durable: Durable | None = None
    """None for one that lives as long as this process."""
    others: tuple[bytes, ...] = ()
    """Clients of a durable batch that handed it over before `client` did, and are told what becomes of it, too."""
    priority: int = -1
    """Its class now: its spec's, unless it was changed."""
    nice: int = 0
    apart: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(class, nice) of tasks for which they differ from the batch's."""
    lanes: dict[tuple[int, int], Lane] = field(default_factory=dict)
    """Of these what waits, by that."""
    own: tuple[int, int] = (-1, 0)
    """(class, nice) as it was told, whoever waits for it."""
    own_apart: dict[int, tuple[int, int]] = field(default_factory=dict)
    awaited: dict[int, dict[bytes, int]] = field(default_factory=dict)
    """Tasks that others wait for: who, and of which class."""
    parent_waits: int = -1
    """The class of the task that submitted it, while that waits; -1 while it does not."""
    queued: Shape = None  # type: ignore[assignment]
    """Its shape with what lessons add to it, by which it waits and is placed."""
    untied: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a node ("" for any), or "#" and the number of a dispatch -> keys of lessons that were not heeded there: that it goes well
    there speaks against them. "@" and an index: a task of which `blame` wants to know whether it goes well; "*": of any of them."""
    held_back: bool = False
    """Nothing of it waits for an executor, until it has waited as long as a lesson says."""
    given: tuple[Spec, bytes] | None = None
    """The spec, and its bytes, under which what is ready goes out, where lessons give more than was asked for."""
    lessons: tuple[str, ...] = ()
    """What it was told of lessons, in words."""

    def __post_init__(self) -> None:
        if self.queued is None:
            self.queued = self.shape
        if self.priority < 0:
            self.priority, self.nice = self.own = self.spec.priority, self.spec.nice

    def waits_apart(self, index: int) -> bool:
        """Whether a task waits for an executor in a lane."""
        return any(index in lane.waiting for lane in self.lanes.values())

    def urgency(self, index: int) -> tuple[int, int]:
        """(class, nice) of a task now."""
        priority, nice = self.own_apart.get(index, self.own)
        return max(priority, self.parent_waits, *self.awaited.get(index, NOBODY).values()), nice

    @property
    def clients(self) -> tuple[bytes, ...]:
        """Who is told what becomes of it."""
        return self.others if self.client is None else (self.client, *self.others)

    def wall(self, now: float) -> float:
        """The wall clock now, as it goes from the batch's submission on."""
        return self.submitted_wall + now - self.submitted_at

    def is_cancelled(self, index: int) -> bool:
        """Whether the client gave this task up; `cancelled` is sorted and without overlaps."""
        at = bisect_right(self.cancelled, (index, _INDEX_END)) - 1
        return at >= 0 and index < self.cancelled[at][1]

    def outstanding(self, token: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) that are out under a token."""
        return [(start, start + count) for start, count in self.columns.outstanding(token)]

    def pending(self) -> list[tuple[int, int]]:
        """Ranges (start, stop) without an outcome."""
        return [(start, start + count) for start, count in self.columns.pending()]

    def log(self, now: float, what: str, start: int, stop: int, node: str = "", detail: Any = None) -> None:
        """Put on record what happened to a range."""
        self.trace.append((now, what, start, stop, node, detail))

    def outcome(self, index: int) -> tuple[int, memoryview] | None:
        """(status, payload) of a finished task while it is kept."""
        for outcomes, _ in reversed(self.outcomes):
            for row in range(outcomes.count):
                if outcomes.index(row) == index:
                    return outcomes.status(row), outcomes.payload(row)
        return None


@dataclass(slots=True, eq=False)
class Lane:
    """Tasks of a batch that wait out of its turn, since they are more or less urgent than the others. In the columns they are
    HELD."""

    number: int
    batch: Batch
    priority: int
    nice: int
    waiting: list[int] = field(default_factory=list)
    """Ascending."""


@dataclass(slots=True, eq=False)
class Dispatch:
    """A range that is out at an executor under one fencing token."""

    number: int
    batch: Batch
    executor: Executor
    start: int
    stop: int
    left: int
    sent_at: float
    token: Token | None = None
    """The fencing token of a durable batch's attempt."""
    sent: bool = True
    """False while it waits for its grant to be committed."""
    stood_us: int = 0
    """For how long tasks of it stood still that were reported, and not counted yet: that is no part of their run time."""
    priority: int = 1
    nice: int = 0
    thought_s: float = 0.0
    """How long a task of it was thought to run."""
    spec: Spec = None  # type: ignore[assignment]
    """Under which it went out: its batch's, or with what lessons gave."""

    def __post_init__(self) -> None:
        if self.spec is None:
            self.spec = self.batch.spec


class Holdings:
    """What the parts of an owner share: its batches, what of them is unfinished, its timers and effects."""

    __slots__ = (
        "batches",
        "by_number",
        "bytes",
        "config",
        "drain",
        "effects",
        "emit",
        "numbers",
        "outcome_bytes",
        "retained",
        "retained_bytes",
        "tasks",
        "timers",
        "wanted",
    )

    def __init__(self, config: OwnershipConfig) -> None:
        self.config = config
        self.batches: OrderedDict[bytes, Batch] = OrderedDict()
        self.by_number: dict[int, Batch] = {}
        self.retained: OrderedDict[bytes, int] = OrderedDict()
        """Finished batches, the oldest first -> bytes that they take."""
        self.retained_bytes = 0
        self.wanted: OrderedDict[bytes, float] = OrderedDict()
        """Batches that are kept, if they have ended, until then: what depends on them was refused, and shall come again."""
        self.tasks = 0
        """Without an outcome."""
        self.bytes = 0
        """Of the calls of batches that are not finished."""
        self.outcome_bytes = 0
        """Of the outcomes so far of batches that are not finished."""
        self.drain = Drain()
        """How fast tasks end."""
        self.numbers = count(1)
        """Of batches, each given once."""
        self.timers = Timers()
        self.effects: list[OwnershipEffect] = []
        self.emit = self.effects.append

    def take(self) -> list[OwnershipEffect]:
        """The effects so far, in order."""
        taken = self.effects.copy()
        self.effects.clear()
        return taken
