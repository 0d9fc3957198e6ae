"""What really happened: which attempts began where, how they ended, and under which tokens they were handed out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from swarm.protocol import ids
from swarm.protocol.states import Status

Task = tuple[bytes, int]
"""(batch key, index)."""


@dataclass(slots=True)
class Attempt:
    """A task began in a worker."""

    number: int
    task: Task
    node: int
    worker: int
    token: int
    at: float
    ended_at: float | None = None
    status: int | None = None
    """What its worker says of it; None while it runs, and for ever when its worker is gone."""
    worker_died: bool = False
    killed: bool = False
    """Its worker was ended by its node."""
    begun_at_step: int = 0
    steps: int = 0
    """Steps that were taken in all when it ended, those before it was moved included."""
    moved: int = 0
    """How often its task was moved before."""


@dataclass(slots=True)
class Owner:
    """One life of an owner."""

    node: int
    boot: int
    last_token: int = -1
    tokens: dict[Task, list[int]] = field(default_factory=dict)


class Truth:
    """The record of one run."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.by_task: dict[Task, list[Attempt]] = {}
        self.owners: dict[tuple[int, int], Owner] = {}
        self.owner_of_token: dict[int, Owner] = {}
        self.unrepeatable: set[bytes] = set()
        """Keys of batches whose tasks begin once at most."""
        self.facts: dict[str, int] = {}
        self.suspensions = 0
        self.moves: dict[str, int] = {}
        """How many moves that were asked for came to what."""
        self.moves_of: Counter[tuple[str, str]] = Counter()
        """The same of all, by why."""
        self.resumed = 0
        """Attempts that went on from a state."""
        self.events: list[tuple[float, str]] = []

    def note(self, at: float, text: str) -> None:
        """For the reader of a failure."""
        self.events.append((at, text))

    def dispatched(self, node: int, boot: int, token: int, key: bytes, first: int, count: int) -> None:
        """An owner hands a range out. Its tokens only grow, over all its lives."""
        owner = self.owners.get((node, boot))
        if owner is None:
            owner = self.owners[node, boot] = Owner(node, boot)
            before = [one.last_token for one in self.owners.values() if one.node == node]
            owner.last_token = max(before)
        assert token > owner.last_token, f"node {node} hands out token {token} after {owner.last_token}"
        assert token not in self.owner_of_token, f"token {token} was given before"
        owner.last_token = token
        self.owner_of_token[token] = owner
        for index in range(first, first + count):
            owner.tokens.setdefault((key, index), []).append(token)

    def began(
        self, task: Task, node: int, worker: int, token: int, at: float, saved: Any = None, calm: bool = False
    ) -> Attempt:
        """A worker begins a task, or goes on with it from what was `saved` (how often it was moved, state). `calm`: nothing
        has gone wrong so far that could cost a node or a report."""
        attempt = Attempt(len(self.attempts), task, node, worker, token, at)
        self.attempts.append(attempt)
        earlier = self.by_task.setdefault(task, [])
        left = [one for one in earlier if one.status == Status.SAVED]
        earlier.append(attempt)
        if calm:
            over = [one.ended_at is not None or one.worker_died for one in earlier[:-1]]
            assert all(over), f"{shown(task)} runs twice, under two tokens: {earlier}"
        if saved is not None:
            self.resumed += 1
            attempt.moved, state = saved
            number, attempt.begun_at_step = (int.from_bytes(part, "little") for part in (state[1:5], state[5:]))
            source = self.attempts[number]
            assert source.task == task, f"{shown(task)} goes on from the state of {shown(source.task)}"
            assert source.status == Status.SAVED, (
                f"{shown(task)} goes on from an attempt that ended otherwise: {source}"
            )
            assert source.steps == attempt.begun_at_step, f"{shown(task)}: not the state that was saved: {source}"
            assert source.token < token or self.owner_of_token.get(source.token) is not self.owner_of_token.get(
                token
            ), f"{shown(task)} goes on under token {token}, its state is of {source.token}"
            assert source.moved == attempt.moved - 1, (
                f"{shown(task)} was moved {attempt.moved} times, says its state: {source}"
            )
        if task[0] in self.unrepeatable:
            others = [one for one in earlier[:-1] if one.status != Status.SAVED]
            assert not others, f"{shown(task)}, not repeatable, began again: {earlier}"
            assert not left or saved is not None, f"{shown(task)}, not repeatable, began anew: {earlier}"
        if calm:
            latest = left[-1].number if left else None
            assert (latest is None) == (saved is None), f"{shown(task)} does not go on from its state: {earlier}"
            assert saved is None or number == latest, f"{shown(task)} goes on from {number}, {latest} saved later"
        assert token in self.owner_of_token, f"{shown(task)} began under token {token}, which nobody gave"
        return attempt

    def begun(self, task: Task) -> list[Attempt]:
        """All attempts of a task."""
        return self.by_task.get(task, [])

    def check_ok(self, task: Task, payload: Any) -> None:
        """An OK outcome is the value of an attempt that ended so, and of the last one that its owner handed out."""
        number = int.from_bytes(bytes(payload)[1:], "little")
        assert number < len(self.attempts), f"{shown(task)}: a value from nowhere"
        attempt = self.attempts[number]
        assert attempt.task == task, f"{shown(task)}: the value of {shown(attempt.task)}"
        assert attempt.status == Status.OK, f"{shown(task)}: the value of an attempt that ended otherwise: {attempt}"
        handed = self.owner_of_token[attempt.token].tokens[task]
        assert handed[-1] == attempt.token, (
            f"{shown(task)}: an outcome under token {attempt.token} counts, though {handed[-1]} was given later"
        )


def value_of(attempt: Attempt) -> bytes:
    """The payload of an attempt's value: which attempt it was."""
    return b"M" + attempt.number.to_bytes(4, "little")


def state_of(attempt: Attempt) -> bytes:
    """What an attempt ends with at a safe point: which it was, and how far it had come."""
    return b"M" + attempt.number.to_bytes(4, "little") + attempt.steps.to_bytes(4, "little")


def shown(task: Task) -> str:
    """A task in words."""
    return f"task {task[1]} of batch {task[0][:3].hex()}…{int.from_bytes(task[0][8:], 'big')}" + (
        f" ({ids.text(ids.task_id(*task))[:6]})"
    )
