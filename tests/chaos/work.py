"""The tasks of the chaos run. Each attempt says that it begins and that it ends, in a file of the node that runs it."""

from __future__ import annotations

import os
import time

import swarm

_files: dict[str, int] = {}


def attempt(seconds: float, folder: str) -> list[object]:
    """Takes some time. What it returns names the very attempt: token, number of the attempt, a mark of its own, node."""
    task = swarm.current_task()
    assert task is not None
    mark = os.urandom(5).hex()
    token = ".".join(map(str, task.token))
    about = f"{task.id.hex()} {token} {task.attempt} {mark}"
    _say(folder, task.node, f"begins {time.monotonic():.3f} {about}\n")
    time.sleep(seconds)
    _say(folder, task.node, f"ends {time.monotonic():.3f} {about}\n")
    return [token, task.attempt, mark, task.node]


def weigh(bulk: bytes) -> int:
    """How much was given."""
    return len(bulk)


def _say(folder: str, node: str, line: str) -> None:
    # One write to a file that is only appended to: it is there whole or not at all, whoever is killed.
    path = f"{folder}/{node}.ran"
    if path not in _files:
        _files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_files[path], line.encode())
