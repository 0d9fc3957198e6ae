"""Stealing: a node with free slots asks a loaded one for work that waits there, and the owner moves it.

Owners hand out work ahead of need where tasks are short, and go by averages. So work can come to wait behind tasks that turn out
to be long, on a machine that has become slower, or that others have filled meanwhile, while slots elsewhere are free. Then

1. the idle node looks at two of the loaded ones, drawn at random, and asks the more loaded of them (`Thief`);
2. that one says which of its waiting work would go last, in *lots*, each with what it expects of it (`lots`);
3. the idle node leaves what does not pay for its transfer (`pays`), and asks the owner of each other lot for it;
4. the owner approves a lot once, by the number (nonce) that the busy node gave it, and recalls it from there; what comes back as
   never begun goes to the idle node under a new fencing token (`swarm.protocol.owner.approvals`).

Nothing moves between two executors directly, so at no time two of them hold a task under valid tokens, and a lot that began
meanwhile stays where it is.

Sources: M. Mitzenmacher, "The power of two choices in randomized load balancing" (IEEE TPDS 2001); M. Harchol-Balter, A. Downey,
"Exploiting process lifetime distributions for dynamic load balancing" (ACM TOCS 1997): what has run for some time is expected to
run as long again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kernels.batch import Calls
from kernels.tasks import TaskColumns
from swarm.protocol.execution import Execution
from swarm.protocol.executor.runs import Run
from swarm.protocol.placement import DEEP_BELOW_S, Executor
from swarm.protocol.resources import Shape
from swarm.protocol.spec import Spec

IDLE_S = 0.010
"""A slot has to be free for so long before work is asked for: between two messages every slot is."""
AGAIN_S = 0.020
AGAIN_MAX_S = 1.0
"""When to ask again after nothing was to be had; it doubles each time, up to this."""
PROMISED_S = 0.5
"""A lot that was told to one idle node is not told to another for so long."""
LOTS_MAX = 8
TASKS_MAX = 1024
"""In one lot: as in one dispatch."""
BLOBS_MAX = 64
"""Blobs named in a lot; what further ones weigh counts as its own bytes."""
HORIZON_S = 0.050
"""How much work, in seconds of its slots, an idle node takes at once where tasks are short."""
WAYS_S = 0.004
"""What the messages of a theft take, on a LAN that is at work."""
LINK_BYTES_S = 100e6
"""Gigabit Ethernet, at what is left of it."""
PAYS_FACTOR = 2.0
"""The wait that is saved has to be so many times what the transfer costs."""


class Dice(Protocol):
    """Injected randomness (`random.Random`)."""

    def sample(self, population: list[Executor], k: int) -> list[Executor]: ...
    def getrandbits(self, k: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Lot:
    """Tasks that wait at a busy node, side by side in their batch, and what it thinks of them."""

    nonce: int
    owner: bytes
    dispatch: int
    start: int
    stop: int
    wait_s: float
    """In how many seconds the first of them would begin there."""
    run_s: float
    """How long one runs, as far as is known."""
    nbytes: int
    blobs: tuple[tuple[bytes, int], ...] = ()
    """Blobs that they refer to: (id, bytes)."""

    def encode(self) -> list[Any]:
        """As it is told."""
        blobs = [list(blob) for blob in self.blobs]
        return [
            self.nonce,
            self.owner,
            self.dispatch,
            self.start,
            self.stop,
            self.wait_s,
            self.run_s,
            self.nbytes,
            blobs,
        ]


def read_lot(said: Any) -> Lot:
    """A lot as another node told it. ValueError when it is malformed."""
    if not isinstance(said, list | tuple) or len(said) != 9:
        raise ValueError("a lot has nine fields")
    nonce, owner, dispatch, start, stop, wait_s, run_s, nbytes, blobs = said
    whole = all(type(number) is int and 0 <= number < 1 << 64 for number in (nonce, dispatch, start, stop, nbytes))
    if not whole or not isinstance(owner, bytes) or not 0 < stop - start <= TASKS_MAX:
        raise ValueError("a lot is named by numbers, its owner and its tasks")
    if not all(isinstance(seconds, int | float) and seconds >= 0 for seconds in (wait_s, run_s)):
        raise ValueError("a lot is told with two times")
    found: list[tuple[bytes, int]] = []
    for blob in blobs if isinstance(blobs, list | tuple) and len(blobs) <= BLOBS_MAX else [None]:
        match blob:
            case [bytes(id), int(size)] if size >= 0:
                found.append((id, size))
            case _:
                raise ValueError("the blobs of a lot are told by id and size")
    return Lot(nonce, owner, dispatch, start, stop, float(wait_s), float(run_s), nbytes, tuple(found))


def transfer_s(lot: Lot, is_here: Callable[[bytes], bool]) -> float:
    """What it costs to bring a lot to this node, in seconds; blobs that are here already cost nothing."""
    missing = sum(size for id, size in lot.blobs if not is_here(id))
    return WAYS_S + (lot.nbytes + missing) / LINK_BYTES_S


def pays(lot: Lot, is_here: Callable[[bytes], bool]) -> bool:
    """Whether the wait that is saved is worth the transfer."""
    return lot.wait_s >= PAYS_FACTOR * transfer_s(lot, is_here)


class Thief:
    """When an idle node asks, and whom. One ask is under way at a time."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._at: float | None = None
        self._not_before = 0.0
        self._failures = 0
        self.asking = False

    def next_deadline(self) -> float | None:
        """When `ask` wants to be called, or None."""
        return self._at

    def turn(self, now: float, idle: bool) -> None:
        """Something happened on this node. Cheap: called in every turn."""
        if not idle:
            self._at = None
        elif self._at is None and not self.asking:
            self._at = max(now + IDLE_S, self._not_before)

    def ask(self, now: float, executors: Collection[Executor]) -> Executor | None:
        """Whom to ask now: of two loaded nodes the one with the longer queue a slot. None: nobody has work that waits."""
        if self._at is None or now < self._at:
            return None
        self._at = None
        loaded = sorted((it for it in executors if it.waiting > 0 and not it.local), key=lambda it: it.id)
        if not loaded or self.asking:
            return None
        two = self._dice.sample(loaded, 2) if len(loaded) > 2 else loaded
        self.asking = True
        return max(two, key=lambda it: (it.waiting / max(1.0, it.slots), it.id))

    def answered(self, now: float, tasks: int) -> None:
        """What came of it: so many tasks were approved."""
        self.asking = False
        self._failures = 0 if tasks else self._failures + 1
        self._not_before = now + (IDLE_S if tasks else min(AGAIN_MAX_S, AGAIN_S * 2 ** min(self._failures, 10)))
        self._at = self._not_before


class Promises:
    """Which lots a busy node has told, so that two idle nodes are not told the same."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._told: list[tuple[float, int, int, int]] = []

    def free_of(self, now: float, run: int, indices: list[int]) -> list[int]:
        """Those of a run's waiting tasks that nobody was told of just now."""
        self._told = [told for told in self._told if told[0] > now]
        mine = [(start, stop) for _, number, start, stop in self._told if number == run]
        return (
            [index for index in indices if not any(start <= index < stop for start, stop in mine)] if mine else indices
        )

    def tell(self, now: float, run: int, start: int, stop: int) -> int:
        """Put a lot on record; its nonce."""
        self._told.append((now + PROMISED_S, run, start, stop))
        return self._dice.getrandbits(63)


Blobs = Callable[[Spec, Calls], Mapping[bytes, int]]


def lots(
    execution: Execution, promises: Promises, now: float, slots: float, fits: Callable[[Shape], bool], blobs_of: Blobs
) -> list[Lot]:
    """What waits here and could go to a node with so many free slots: what would begin last goes first."""
    waiting = [(run, _waiting(run)) for run in execution.runs if run.columns.ready]
    if not waiting or slots <= 0:
        return []
    ages = _ages(execution, now)
    expected = {run.number: expected_s(execution, run, ages) for run, _ in waiting}
    width = max(1, execution.slots)
    ahead = first_free_s(execution, ages, still_s(execution, [run for run, _ in waiting], now))
    ahead += sum(expected[run.number] * len(indices) for run, indices in waiting) / width
    found: list[Lot] = []
    seconds = slots * HORIZON_S
    whole = slots
    waiting.sort(key=lambda pair: (pair[0].priority, -pair[0].queued_at, -pair[0].number))
    for run, indices in waiting:
        run_s = expected[run.number]
        each = run.shape.cpu if run.shape.cpu > 0 else 1.0
        total = len(indices)
        ahead -= total * run_s / width
        indices = promises.free_of(now, run.number, indices) if fits(run.shape) else []
        # Long ones: as many as begin at once there. Short ones: a share by slots, and what its slots do in a moment.
        most = int(whole / each + 1e-9)
        if run_s < DEEP_BELOW_S:
            most = max(most, min(int(total * slots / (slots + width)), int(seconds / max(run_s, 1e-6))))
        tail = _tail(indices, min(most, TASKS_MAX))
        if not tail or len(found) == LOTS_MAX:
            continue
        start, stop = tail
        count = stop - start
        whole -= count * each
        seconds -= count * each * run_s
        wait_s = max(0.0, ahead + (total - count) * run_s / width)
        lengths, payloads = run.calls.slice(start - run.first, stop - run.first)
        blobs = sorted(blobs_of(run.spec, Calls(b"".join((lengths, payloads)), count)).items())
        nbytes = len(payloads) + sum(size for _, size in blobs[BLOBS_MAX:])
        nonce = promises.tell(now, run.number, start, stop)
        found.append(
            Lot(nonce, run.owner, run.dispatch, start, stop, wait_s, run_s, nbytes, tuple(blobs[:BLOBS_MAX]))
        )  # fmt: skip
        if whole <= 0 and seconds <= 0:
            break
    return found


def expected_s(execution: Execution, run: Run, ages: Mapping[bytes, list[float]]) -> float:
    """How long a task of a run is expected to take: the mean of its kind; while none has ended, as long as those that run have
    run."""
    mean = execution.runtimes.mean_s(run.raw)
    if mean is not None:
        return mean
    known = ages.get(run.raw) or [age for each in ages.values() for age in each]
    return sum(known) / len(known) if known else 0.0


def first_free_s(execution: Execution, ages: Mapping[bytes, list[float]], still_s: float) -> float:
    """In how many seconds a slot is free here. What has run for longer than its kind does is expected to run as long again; and where
    that is not known, of a slot that was granted to a client or of a worker that has not begun, a queue in which nothing has moved for
    `still_s` seconds is expected to stand for as long again."""
    if execution.account.free_cpu >= 1.0:
        return still_s
    left = []
    for raw, each in ages.items():
        mean = execution.runtimes.mean_s(raw)
        left += [age if mean is None or age >= mean else mean - age for age in each]
    taken = sum(1 for worker in execution.workers.values() if worker.state == "ready" and worker.shape is not None)
    if len(left) < taken:
        left.append(still_s)
    return min(left, default=still_s)


def still_s(execution: Execution, waiting: Collection[Run], now: float) -> float:
    """For how long these wait, and nothing was handed to a worker nor begun by one."""
    since = min(run.queued_at for run in waiting)
    for worker in execution.workers.values():
        current = worker.current() if worker.state == "ready" else None
        since = max(since, *(part.handed_at for part in worker.slices.values()), current[2] if current else since)
    return max(0.0, now - since)


def _ages(execution: Execution, now: float) -> dict[bytes, list[float]]:
    ages: dict[bytes, list[float]] = {}
    for worker in execution.workers.values():
        current = worker.current() if worker.state == "ready" else None
        if current is not None:
            part, index, since = current
            stood_s = worker.paused[1] if worker.paused[0] == (part.run.number, index) else 0.0
            ages.setdefault(part.run.raw, []).append(max(0.0, now - since - stood_s))
    return ages


def _waiting(run: Run) -> list[int]:
    columns, first = run.columns, run.first
    return [
        index for start, stop in run.pending() for index in range(start, stop)
        if columns.state(index - first) == TaskColumns.READY
    ]  # fmt: skip


def _tail(indices: list[int], most: int) -> tuple[int, int] | None:
    """The last of these, side by side, at most so many."""
    if not indices or most < 1:
        return None
    start = stop = indices[-1] + 1
    for index in reversed(indices[-most:]):
        if index != start - 1:
            break
        start = index
    return start, stop
