"""What an executor has in hand: runs of owners, slices of them in the hands of workers, and these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kernels.batch import Calls
from kernels.tasks import TaskColumns
from swarm.protocol.ledger.records import Token
from swarm.protocol.resources import Shape
from swarm.protocol.spec import Spec

if TYPE_CHECKING:
    from swarm.protocol.executor.suspension import Suspension


class ClaimPage(Protocol):
    """The node's side of the page that it shares with a worker (`kernels.slots.SlotPage`)."""

    def offer(self, slot: int, count: int) -> None: ...
    def recall(self, slot: int, keep: int = 0) -> tuple[int, int]: ...
    def progress(self, slot: int) -> tuple[int, int]: ...
    def current(self) -> tuple[int, int, int] | None: ...


@dataclass(slots=True, eq=False)
class Run:
    """A range of a batch that this node runs for its owner."""

    number: int
    owner: bytes
    dispatch: int
    batch: bytes
    spec: Spec
    raw: bytes
    granted: bool
    shape: Shape
    calls: Calls
    first: int
    columns: TaskColumns
    attempts: int
    extra: dict[str, Any]
    queued_at: float
    left: int = 0
    """Tasks counted as being here: not reported yet."""
    verdicts: dict[int, int] = field(default_factory=dict)
    """Index -> the status to report when the worker that runs it has been killed for that reason."""
    priority: int = -1
    """Its class now: its spec's, unless it was changed."""
    nice: int = 0
    thought_s: float = 0.0
    """How long a task of it was thought to run, when some were handed over last."""
    waited_s: float = 0.0
    """For how long they had waited at their owner, as it says."""
    user: str = ""
    """Whose tasks they are; the empty text where the owner does not say."""
    apart: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Index -> (class, nice) of tasks that run, and whose urgency was changed by itself."""
    own: dict[int, int] = field(default_factory=dict)
    """Index -> the class that one of them was given, whoever waits for it; `own_class` of all others."""

    def __post_init__(self) -> None:
        if self.priority < 0:
            self.priority, self.nice = self.spec.priority, self.spec.nice

    @property
    def own_class(self) -> int:
        """The class that it was given, whoever waits for its tasks."""
        said = self.extra.get("priority")
        return said if isinstance(said, int) and 0 <= said <= 3 else self.spec.priority

    def given(self, ranges: list[tuple[int, int]] | None, own: int | None) -> None:
        """It was given another class, or those of its tasks in these ranges were."""
        if own is not None and ranges is None:
            self.extra = self.extra | {"priority": own}
            self.own.clear()
        elif own is not None:
            for start, stop in ranges or ():
                for index in range(max(start, self.first), min(stop, self.first + self.calls.count)):
                    self.own[index] = own

    # Indices are those in the batch; the columns count from the first task of the run.

    def holds(self, index: int, token: int) -> bool:
        """Whether a task is out in the slice of this token."""
        return 0 <= index - self.first < self.calls.count and self.columns.holds(index - self.first, token)

    def finish(self, index: int) -> bool:
        """Note that a task is reported; False if it was before."""
        return self.columns.finish(index - self.first)

    def outstanding(self, token: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) out in the slice of this token."""
        first = self.first
        return [(first + start, first + start + count) for start, count in self.columns.outstanding(token)]

    @property
    def token(self) -> Token | None:
        """Of a durable batch the fencing token under which it runs; None of others."""
        said = self.extra.get("token")
        return Token(*said) if isinstance(said, list | tuple) and len(said) == 2 else None

    def pending(self) -> list[tuple[int, int]]:
        """Ranges (start, stop) not reported yet."""
        return [(self.first + start, self.first + start + count) for start, count in self.columns.pending()]


@dataclass(slots=True, eq=False)
class Slice:
    """A range of a run in a worker's hands."""

    run: Run
    slot: int
    token: int
    start: int
    stop: int
    handed_at: float


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process as the executor sees it."""

    number: int
    python: str
    page: ClaimPage | None
    state: str = "starting"
    """starting, ready, blocked, suspended or stopping."""
    slices: dict[int, Slice] = field(default_factory=dict)
    shape: Shape | None = None
    """The shape whose needs are taken for this worker now."""
    specs: dict[tuple[bytes, bool], int] = field(default_factory=dict)
    done: int = 0
    started_at: float = 0.0
    reason: str = ""
    """Why it is being stopped."""
    granted: bytes = b""
    """The client that has its slot for a while, and sends it calls without this node between."""
    revoked: bool = False
    """That client's time is over; the call that runs may end."""
    slow: bool = False
    """What it runs takes longer than was thought: nothing is put behind it."""
    low: bool = False
    """What it was handed last is LOW: it has a lower share of the processors, and has to be raised for anything else."""

    suspension: Suspension | None = None
    """Since when it is suspended, and for whom."""
    evictions: int = 0
    """How often what it has in hand was suspended."""
    immune_until: float = 0.0
    paused: tuple[tuple[int, int] | None, float] = (None, 0.0)
    """(number of the run, index) of the task that was suspended last, and the seconds for which it stood still in all."""

    def current(self) -> tuple[Slice, int, float] | None:
        """(slice, index in the batch, started at) of the task that runs, by the page. A guest has none: its slices are
        of one task, which runs from when it was handed over."""
        if self.page is None:
            part = next(iter(self.slices.values()), None)
            return (part, part.start, part.handed_at) if part is not None else None
        said = self.page.current()
        part = self.slices.get(said[0]) if said is not None else None
        if said is None or part is None or not 0 <= said[1] < part.stop - part.start:
            return None
        # The worker counts from the start of its slice.
        return part, part.start + said[1], said[2] / 1e9
