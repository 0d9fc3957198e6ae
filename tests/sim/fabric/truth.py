"""What really happened: which attempts began where, how they ended, and under which tokens they were handed out."""

from __future__ import annotations

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

    def began(self, task: Task, node: int, worker: int, token: int, at: float) -> Attempt:
        """A worker begins a task."""
        attempt = Attempt(len(self.attempts), task, node, worker, token, at)
        self.attempts.append(attempt)
        earlier = self.by_task.setdefault(task, [])
        earlier.append(attempt)
        if task[0] in self.unrepeatable:
            assert len(earlier) == 1, f"{shown(task)}, not repeatable, began again: {earlier}"
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


def shown(task: Task) -> str:
    """A task in words."""
    return f"task {task[1]} of batch {task[0][:3].hex()}…{int.from_bytes(task[0][8:], 'big')}" + (
        f" ({ids.text(ids.task_id(*task))[:6]})"
    )
