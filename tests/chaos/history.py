"""What happened, as it was written down by those who saw it: clients what they were told, tasks that they ran.

A history is a folder: ``*.seen`` are lines of JSON that clients wrote, one event each, ``*.ran`` what attempts of tasks
said of themselves. All times are CLOCK_MONOTONIC of the one machine on which all hosts are, in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BATCH_HEX = 24
"""Digits of a batch key, with which the ids of its tasks begin."""

Token = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run of a task's code that began."""

    token: Token
    number: int
    mark: str
    node: str
    began_s: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How somebody was told that a task ended: a value, or the kind and text of an error."""

    value: tuple[Any, ...] | None = None
    error: str = ""
    text: str = ""

    @property
    def token(self) -> Token:
        """The token that the outcome names; empty when it is no value."""
        return token_of(str(self.value[0])) if self.value is not None else ()

    @property
    def shown(self) -> str:
        """In a line."""
        return f"value {list(self.value)}" if self.value is not None else f"{self.error}: {self.text[:120]}"


@dataclass(frozen=True, slots=True)
class Told:
    """An answer to somebody who asked for a task: from `asked_s` to `told_s`, at a host. `answer` is an outcome, "pending",
    "unknown" (too few of the hosts that have it are reached) or "none" (there is no such task)."""

    host: str
    asked_s: float
    told_s: float
    answer: Outcome | str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was promised of a batch."""

    at_s: float
    copies: int
    hosts: int
    epoch: int


@dataclass(slots=True)
class Task:
    """All that is known of a task."""

    id: str
    host: str = ""
    submitted_s: float = 0.0
    outcomes: list[Told] = field(default_factory=list)
    """What its own client was told; more than one is more than should be."""
    told: list[Told] = field(default_factory=list)
    """What others were told who asked."""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    """By their marks."""


@dataclass(slots=True)
class History:
    """All of a run."""

    tasks: dict[str, Task] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    """By batch keys."""
    refused: dict[str, str] = field(default_factory=dict)
    """Batches that got no receipt, and why."""
    not_submitted: int = 0
    """Calls of `submit` that raised."""
    settled: set[str] = field(default_factory=set)
    """Hosts whose client had all outcomes in the end."""
    asked_last: bool = False
    """Every task was asked for in the end, when all faults were over."""

    def receipt(self, task: str) -> Receipt | None:
        """The receipt that covers a task."""
        return self.receipts.get(task[:BATCH_HEX])

    def see(self, events: Iterable[dict[str, Any]]) -> None:
        """What a client wrote down."""
        for event in events:
            match event["event"]:
                case "submitted":
                    for id in event["tasks"]:
                        task = self._task(id)
                        task.host, task.submitted_s = event["host"], event["at_s"]
                case "receipt":
                    self.receipts[event["batch"]] = Receipt(
                        event["at_s"], event["copies"], event["hosts"], event["epoch"]
                    )
                case "no receipt":
                    self.refused[event["batch"]] = event["why"]
                case "outcome":
                    at_s = event["at_s"]
                    self._task(event["task"]).outcomes.append(Told(event["host"], at_s, at_s, outcome(event["said"])))
                case "told":
                    said = event["said"]
                    answer = said if isinstance(said, str) else outcome(said)
                    self._task(event["task"]).told.append(Told(event["host"], event["asked_s"], event["at_s"], answer))
                case "not submitted":
                    self.not_submitted += 1
                case "settled":
                    self.settled.add(event["host"])
                case "asked all":
                    self.asked_last = True

    def ran(self, node: str, lines: Iterable[str]) -> None:
        """What attempts on a node said."""
        for line in lines:
            what, at, id, token, number, mark = line.split()
            task = self._task(id)
            known = task.attempts.get(mark)
            began_s = known.began_s if known is not None else float(at)
            task.attempts[mark] = Attempt(token_of(token), int(number), mark, node, began_s, what == "ends")

    def _task(self, id: str) -> Task:
        return self.tasks.setdefault(id, Task(id))


def token_of(text: str) -> Token:
    """A token as it is written down."""
    return tuple(int(part) for part in text.split(".") if part)


def outcome(said: dict[str, Any]) -> Outcome:
    """An outcome as it is written down."""
    if "value" in said:
        return Outcome(value=tuple(said["value"]))
    return Outcome(error=str(said["error"]), text=str(said["text"]))


def read(folder: Path) -> History:
    """The history that a folder holds."""
    history = History()
    for path in sorted(folder.glob("*.seen")):
        history.see(json.loads(line) for line in _whole(path))
    for path in sorted(folder.glob("*.ran")):
        history.ran(path.stem, _whole(path))
    return history


def _whole(path: Path) -> list[str]:
    """Lines that are there to their ends."""
    return path.read_text().rpartition("\n")[0].splitlines()
