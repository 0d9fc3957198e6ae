"""Twelve faults as they are met: each is a callable that goes well on most machines of a fleet, and not on one, or not at first.

What a machine lacks is in its environment (`benchmarks.lesson_families` makes five of them). Every call writes down that it began, and
that it went well, so that what is counted is what happened and not what the fleet says of it.
"""

from __future__ import annotations

import os
import time
from typing import Final

TOOL: Final = "planted-tool"
MEMORY_BYTES: Final = 3 << 30
"""What a call of `out_of_memory` takes, without touching it."""
LONG_S: Final = 0.4
"""How long a call of `timeout` takes."""


def _mark(what: str, family: str, phase: str, number: int) -> None:
    node = os.environ.get("SWARM_NODE", "?")
    line = f"{what} {family} {phase} {number} {node} {time.time():.6f}\n"
    opened = os.open(os.environ["PLANTED_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(opened, line.encode())
    finally:
        os.close(opened)
    if what == "begun":
        time.sleep(0.01)


def missing_module(phase: str, number: int) -> int:
    """Needs a module that one machine has not got."""
    _mark("begun", "missing-module", phase, number)
    import planted_module  # type: ignore[import-not-found]

    assert planted_module.VALUE == 7
    _mark("well", "missing-module", phase, number)
    return number


def missing_command(phase: str, number: int) -> int:
    """Needs a program that one machine has not got."""
    import subprocess

    _mark("begun", "missing-command", phase, number)
    subprocess.run([TOOL], check=True)
    _mark("well", "missing-command", phase, number)
    return number


def missing_library(phase: str, number: int) -> int:
    """Needs a shared library that one machine has not got."""
    import ctypes

    _mark("begun", "missing-library", phase, number)
    ctypes.CDLL("libplanted.so.1")
    _mark("well", "missing-library", phase, number)
    return number


def wrong_interpreter(phase: str, number: int) -> int:
    """Needs a module that on one machine was compiled by another Python."""
    _mark("begun", "wrong-interpreter", phase, number)
    import planted_compiled  # type: ignore[import-not-found]

    assert planted_compiled.VALUE == 8
    _mark("well", "wrong-interpreter", phase, number)
    return number


def no_permission(phase: str, number: int) -> int:
    """Runs a program that on one machine is not executable."""
    import subprocess

    _mark("begun", "no-permission", phase, number)
    subprocess.run([os.path.join(os.environ["PLANTED_TOOLS"], "owned-tool")], check=True)
    _mark("well", "no-permission", phase, number)
    return number


def full_disk(phase: str, number: int) -> int:
    """Writes where one machine has no space."""
    _mark("begun", "full-disk", phase, number)
    with open(os.environ["PLANTED_SCRATCH"], "w") as file:
        file.write("something")
    _mark("well", "full-disk", phase, number)
    return number


def refused_connection(phase: str, number: int) -> int:
    """Asks a daemon that does not run on one machine."""
    import socket

    _mark("begun", "refused-connection", phase, number)
    with socket.create_connection(("localhost", int(os.environ["PLANTED_PORT"])), 5) as connection:
        connection.sendall(b"GET /fine HTTP/1.0\r\n\r\n")
        connection.recv(100)
    _mark("well", "refused-connection", phase, number)
    return number


def segfault(phase: str, number: int) -> int:
    """Uses a driver that on one machine is broken."""
    import ctypes

    _mark("begun", "segfault", phase, number)
    if os.environ.get("PLANTED_DRIVER") == "broken":
        ctypes.string_at(0)
    _mark("well", "segfault", phase, number)
    return number


def out_of_memory(phase: str, number: int) -> int:
    """Takes more memory than one machine gives, which says that it has little."""
    import mmap

    _mark("begun", "out-of-memory", phase, number)
    mmap.mmap(-1, MEMORY_BYTES).close()  # not touched: it costs addresses, and nobody else any memory
    _mark("well", "out-of-memory", phase, number)
    return number


def timeout(phase: str, number: int) -> int:
    """Takes longer than whoever submits it thinks."""
    _mark("begun", "timeout", phase, number)
    time.sleep(LONG_S)
    _mark("well", "timeout", phase, number)
    return number


def rate_limit(phase: str, number: int) -> int:
    """Asks a service that takes nobody's question before a certain time."""
    import urllib.error
    import urllib.request

    _mark("begun", "rate-limit", phase, number)
    try:
        with urllib.request.urlopen(os.environ["PLANTED_SERVICE"], timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error}, Retry-After: {error.headers['Retry-After']}") from None
    _mark("well", "rate-limit", phase, number)
    return number


def poison_task(phase: str, number: int) -> int:
    """Ends its worker wherever it runs."""
    import signal

    _mark("begun", "poison-task", phase, number)
    os.kill(os.getpid(), signal.SIGABRT)
    return number


def healthy(phase: str, number: int) -> int:
    """Goes well everywhere."""
    _mark("begun", "healthy", phase, number)
    _mark("well", "healthy", phase, number)
    return number


def one_bad_apple(phase: str, number: int) -> int:
    """Ends its worker for one number of all."""
    import signal

    _mark("begun", "one-bad-apple", phase, number)
    if number == -1:
        os.kill(os.getpid(), signal.SIGABRT)
    _mark("well", "one-bad-apple", phase, number)
    return number


def one_bad_name(phase: str, number: int) -> int:
    """Reads a file that there is not, for one number of all."""
    _mark("begun", "one-bad-name", phase, number)
    if number == -1:
        open("/nonexistent/planted/file").close()
    _mark("well", "one-bad-name", phase, number)
    return number
