"""Names of durable batches that may be submitted again by somebody who does not know that they were before.

A task that is run again, since its machine died, submits what it submitted before. So the keys of its durable batches
are derived: from its own id, whatever the attempt, and from the place of each call among its calls. Where calls have no
order (in threads other than the task's own, and in coroutines) they are told apart by what they ask for: the first call
of these bytes, the second of them, and so on. A task that was moved while it ran goes on behind calls that it has made, so
that from then on how often it was moved belongs to the names. With ``key=`` the caller says the name himself, in tasks and elsewhere.

A batch with a name has one call, since how calls fall into batches depends on the moment.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from swarm.client.routes import Route
from swarm.errors import ConfigError
from swarm.protocol.ids import LOG_TAG_BYTES, child_key
from swarm.protocol.ledger.homes import home_tag, named_key
from swarm.tasks import CurrentTask, current_task, forked

TASKS_KEPT = 4096
"""Tasks of this process whose calls are counted, the latest; at most some dozens run at a time."""
KEY_CHARACTERS_MAX = 256
KEYED_HOME_FILE = "keyed-home"


class _Calls:
    """The calls of one attempt of a task so far."""

    __slots__ = ("count", "same")

    def __init__(self) -> None:
        self.count = 0
        self.same: dict[bytes, int] = {}


_calls: OrderedDict[tuple[bytes, tuple[int, ...]], _Calls] = OrderedDict()
_lock = threading.Lock()


def _of(task: CurrentTask) -> _Calls:
    """Under the lock."""
    key = (task.id, task.token)
    found = _calls.get(key)
    if found is None:
        found = _calls[key] = _Calls()
        while len(_calls) > TASKS_KEPT:
            _calls.popitem(last=False)
    else:
        _calls.move_to_end(key)
    return found


def _part(task: CurrentTask) -> bytes:
    """With what the names begin of calls that a task makes since it was moved."""
    return b"@%d" % task.moved if task.moved else b""


def durable_parent() -> CurrentTask | None:
    """The durable task that the caller runs in. None elsewhere, and in processes that a task has forked: what these do has
    no order that would be the same the next time."""
    task = current_task()
    return task if task is not None and task.durable and not forked() else None


def _in_order() -> bool:
    return threading.current_thread() is threading.main_thread() and asyncio._get_running_loop() is None


def keyed(route: Route, key: str) -> Route:
    """A route for the one call that goes by this key. ConfigError."""
    if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARACTERS_MAX:
        raise ConfigError(
            f"key={key!r} is not a text of up to {KEY_CHARACTERS_MAX} characters",
            hint="key= names the task; an argument of that name is given by `fleet.options(…).submit`",
        )
    if not route.durability:
        raise ConfigError(
            f"key={key!r}: a task that is kept nowhere is not found again", hint="say durability='node' or 'fleet', too"
        )
    return replace(route, name=b"k" + key.encode("utf-8", "surrogatepass"), open=None, quick=False, soft=False)


def part_of_map(route: Route) -> bytes:
    """The name of a map whose tasks have names of their own, each after the place of its first item; else empty."""
    if not route.durability:
        return b""
    if route.name:
        return b"m" + route.name + b"\0"
    task = durable_parent()
    if task is None or not _in_order():
        return b""
    with _lock:
        calls = _of(task)
        calls.count += 1
        return b"m%b#%d\0" % (_part(task), calls.count)


class Names:
    """What gives the durable batches of one connection their names. `keyed_home` says whose log has what clients name, as
    (home id, client id)."""

    def __init__(self, keyed_home: Callable[[], tuple[bytes, bytes]]) -> None:
        self._keyed_home = keyed_home

    def apply(self, route: Route) -> bool:
        """Whether a call of this route has a name."""
        return bool(route.durability) and (bool(route.name) or durable_parent() is not None)

    def log_tag(self, route: Route) -> bytes | None:
        """With what the keys of the calls of a route begin that have names; None for those that have none."""
        if not self.apply(route):
            return None
        task = durable_parent()
        return task.id[:LOG_TAG_BYTES] if task is not None else home_tag(self._keyed_home()[0])

    def key_of(self, route: Route, payload: bytes, deps: list[bytes]) -> bytes | None:
        """The key of the batch for this call, or None for what has no name."""
        if not route.durability:
            return None
        task = durable_parent()
        if route.name:
            return named_key(*self._keyed_home(), route.name) if task is None else child_key(task.id, route.name)
        if task is None:
            return None
        if _in_order():
            with _lock:
                calls = _of(task)
                calls.count += 1
                name = b"%b#%d" % (_part(task), calls.count)
        else:
            content = blake3(route.raw, derive_key_context="nanoswarm call v1").update(payload).update(b"".join(deps))
            digest = content.digest()
            with _lock:
                same = _of(task).same
                same[digest] = again = same.get(digest, 0) + 1
            name = b"%b=%d\0" % (_part(task), again) + digest
        return child_key(task.id, name)


def kept_home(file: Path, fleet: bytes, home: bytes) -> bytes:
    """The home of what the clients of this user name by keys: that of the first one, whichever node they use later."""
    mine = f"{fleet.hex()} {home.hex()}\n"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        try:
            said = file.read_text().split()
        except FileNotFoundError:
            said = []
        if len(said) == 2 and said[0] == fleet.hex():
            return bytes.fromhex(said[1])
        temporary = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_text(mine)
        if said:
            temporary.replace(file)  # of another fleet, which this user has left
            continue
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass  # another was first: it is read
        finally:
            temporary.unlink()


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
