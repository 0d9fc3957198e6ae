"""Which attempt of a task may commit, and which tasks have committed, kept beside the files that they change.

A task that is taken over while its old attempt still runs has a greater fencing token there (M. Kleppmann, 2016, "How to do
distributed locking"). The attempt says its token when it begins, before it waits for the directory; a commit looks whether a
greater one was said.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .disk import PRIVATE, Disk

TASKS_MAX = 1024
"""Tasks that are remembered, the latest ones."""
_BYTES_MAX = 1 << 20
_FENCES = PRIVATE + "/fences"
_LOCK = PRIVATE + "/fences.lock"

Token = tuple[int, ...]


def current_attempt() -> tuple[str, Token] | None:
    """(task id in hex, token) of the task that the caller runs in."""
    for name in ("swarm.tasks", "swarm"):  # the second is a guest's stand-in
        ask = getattr(sys.modules.get(name), "current_task", None)
        if ask is not None:
            task = ask()
            return None if task is None else (bytes(task.id).hex(), tuple(task.token))
    return None


def later(one: Token, other: Token | None) -> bool:
    """Whether a token is of a later attempt than another. Tokens of different lengths are of different kinds of owners."""
    return other is not None and len(one) == len(other) and one > other


@contextmanager
def held(disk: Disk) -> Iterator[None]:
    """While nobody else says a token."""
    fd = os.open(os.path.join(disk.root, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def say(disk: Disk, task: str, token: Token) -> None:
    """An attempt begins, or is about to wait."""
    with held(disk):
        known = _load(disk, _FENCES)
        if not later(known.get(task, ()), token) and known.get(task) != token:
            _save(disk, _FENCES, keep(known, task, token))


def newest(disk: Disk, task: str) -> Token | None:
    """The greatest token that was said for a task."""
    return _load(disk, _FENCES).get(task)


def keep(known: dict[str, Token], task: str, token: Token) -> dict[str, Token]:
    """A table with one more, without the oldest beyond TASKS_MAX."""
    rows = [(key, value) for key, value in known.items() if key != task]
    return dict([*rows, (task, token)][-TASKS_MAX:])


def load(disk: Disk, name: str) -> dict[str, Token]:
    """A table from a file; what is not one counts as empty, since nothing but a refusal depends on it."""
    return _load(disk, name)


def encode(table: dict[str, Token]) -> bytes:
    """The bytes of a table."""
    return json.dumps({task: list(token) for task, token in table.items()}, separators=(",", ":")).encode()


def _load(disk: Disk, name: str) -> dict[str, Token]:
    try:
        fields: Any = json.loads(disk.read(name, _BYTES_MAX))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    return {
        task: tuple(token)
        for task, token in fields.items()
        if isinstance(token, list) and all(isinstance(part, int) for part in token)
    }


def _save(disk: Disk, name: str, table: dict[str, Token]) -> None:
    disk.write(name + ".making", encode(table))
    disk.rename(name + ".making", name)
