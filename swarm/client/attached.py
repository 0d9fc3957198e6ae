"""Attaching: a task or a batch by its id, from any node and any later script."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kernels.batch import Outcomes
from swarm.client.chunks import opened
from swarm.errors import FleetNotFound, NoQuorum, NotFound
from swarm.payload_failure import error_of
from swarm.protocol import ids
from swarm.protocol.states import Status
from swarm.tasks import waiting

if TYPE_CHECKING:
    from swarm.client.sync import Fleet
    from swarm.paths import Home

WAIT_S = 10.0
"""How long a node is asked to wait for something new; then it is asked again."""
AGAIN_S, AGAIN_S_MAX = 0.1, 2.0
ATTACH_TIMEOUT_S = 10.0


class Attached:
    """A task or a batch that somebody handed over: how far it is, and its results. It goes on whether somebody is attached
    or not.

    What is not known for the moment, since a node is gone or too few of the hosts that keep it are there, is asked again
    until the timeout of the call.
    """

    def __init__(
        self, fleet: Fleet, key: bytes, index: int | None, shown: Mapping[str, Any], *, owns: bool = False
    ) -> None:
        self._fleet = fleet
        self._owns = owns
        self.key = key
        """The key of the batch, 12 bytes."""
        self.index = index
        """The task's place in its batch; None for a batch."""
        self.count = int(shown["count"])
        """Tasks of the batch."""
        self._chunked = bool(shown.get("chunked"))
        self.name = str(shown["name"])
        """What it runs."""

    @property
    def id(self) -> str:
        """Its id, as people see it."""
        return ids.batch_text(self.key) if self.index is None else ids.text(ids.task_id(self.key, self.index))

    def status(self, timeout: float | None = ATTACH_TIMEOUT_S) -> dict[str, Any]:
        """What is known of its batch: count, done, state, outcomes by kind, durability, copies, hosts, node and more."""
        return dict(self._ask("batch", {}, _ends(timeout))[0])

    def done(self) -> bool:
        """Whether it has ended."""
        if self.index is None:
            return bool(self.status()["state"] == "done")
        return self._ask("batch.outcomes", {"index": self.index}, _ends(ATTACH_TIMEOUT_S))[0]["status"] is not None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, whatever its outcome. TimeoutError after `timeout` seconds."""
        ends = _ends(timeout)
        if self.index is not None:
            self._outcome(ends)
            return
        for _ in self._reports(ends):
            pass

    def result(self, timeout: float | None = None) -> Any:
        """The result of a task; raises what it raised. Of a batch, the results of its tasks in their order; raises the
        first failure among them. TimeoutError after `timeout` seconds."""
        ends = _ends(timeout)
        if self.index is not None:
            status, payload = self._outcome(ends)
            return _raised(self._value(self.index, status, payload))
        found = dict(self._outcomes(ends))
        values = [_raised(found[index]) for index in sorted(found)]
        return [value for chunk in values for value in chunk] if self._chunked else values

    def outcomes(self, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        """(index, value or exception) of each task of a batch, as they end, those that have ended first. What `map` has put
        together is one task: its value is the list of their values."""
        ends = _ends(timeout)
        if self.index is None:
            yield from self._outcomes(ends)
        else:
            status, payload = self._outcome(ends)
            yield self.index, self._value(self.index, status, payload)

    def cancel(self) -> None:
        """Cancel it: what waits ends now, what runs is ended."""
        self._ask("batch.cancel", {} if self.index is None else {"index": self.index}, _ends(ATTACH_TIMEOUT_S))

    def reprioritize(self, priority: int | None = None, nice: int | None = None) -> None:
        """Have it sooner or later from now on, whether it waits or runs: of another priority, another nice, or both. In the
        log of a durable batch, too, so that it stays so whoever leads that next."""
        index = {} if self.index is None else {"index": self.index}
        self._ask("batch.nice", index | asked_urgency(priority, nice), _ends(ATTACH_TIMEOUT_S))

    def close(self) -> None:
        """Leave it, with the connection, if `swarm.attach` made one for it. It goes on."""
        if self._owns:
            self._fleet.close(cancel=True)

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _ask(self, method: str, args: Mapping[str, Any], ends: float | None) -> tuple[dict[str, Any], bytes]:
        """Ask until there is an answer that stands."""
        pause_s = AGAIN_S
        while True:
            try:
                value, body = self._fleet._engine.query(method, {"batch": self.key, **args})
                if isinstance(value, dict) and value.get("known") is not False:
                    return value, body
                error: Exception = NoQuorum(f"who leads the log of {self.id[:8]} is not known at the moment")
            except (NoQuorum, FleetNotFound) as why:
                error = why
            if not self._fleet.usable:
                raise error
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"{self.id[:8]}: {error}") from error
            with waiting():
                time.sleep(pause_s if ends is None else max(0.0, min(pause_s, ends - time.monotonic())))
            pause_s = min(AGAIN_S_MAX, pause_s * 1.5)

    def _outcome(self, ends: float | None) -> tuple[int, bytes]:
        while True:
            wait_s = WAIT_S if ends is None else max(0.0, min(WAIT_S, ends - time.monotonic()))
            with waiting():
                shown, payload = self._ask("batch.outcomes", {"index": self.index, "wait_s": wait_s}, ends)
            if shown["status"] is not None:
                return int(shown["status"]), payload
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"task {self.id[:8]} has no outcome yet")

    def _reports(self, ends: float | None) -> Iterator[Outcomes]:
        cursor = 0
        while True:
            wait_s = WAIT_S if ends is None else max(0.0, min(WAIT_S, ends - time.monotonic()))
            with waiting():
                shown, body = self._ask("batch.outcomes", {"cursor": cursor, "wait_s": wait_s}, ends)
            at = 0
            for count, size in shown["parts"]:
                yield Outcomes(body[at : at + size], count)
                at += size
            cursor = int(shown["cursor"])
            if shown["over"]:
                return
            if not shown["parts"] and ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"batch {self.id[:8]} has not ended: {shown['done']} of {self.count} tasks have")

    def _outcomes(self, ends: float | None) -> Iterator[tuple[int, Any]]:
        seen = bytearray(self.count)
        for report in self._reports(ends):
            for row in range(report.count):
                index = report.index(row)
                if index < self.count and not seen[index]:
                    seen[index] = 1
                    yield index, self._value(index, report.status(row), bytes(report.payload(row)))

    def _value(self, index: int, status: int, payload: bytes) -> Any:
        task, trusted = ids.text(ids.task_id(self.key, index)), self._fleet.trusts
        if status != Status.OK:
            return error_of(status, payload, trusted=trusted, task=task)
        value = self._fleet.decode(payload)
        if not self._chunked:
            return value
        values, error, _ = opened(value, trusted=trusted, task=task)
        return values if error is None else error


def attach_to(fleet: Fleet, task: str | bytes, timeout: float | None, *, owns: bool = False) -> Attached:
    """Attach to a task or batch by its text, or its id of 16 or 12 bytes."""
    if isinstance(task, str):
        try:
            key, index = ids.parse_any(task)
        except ValueError as error:
            raise NotFound(
                f"{task!r} is no id: {error}", hint="ids have 26 characters; swarm batch list shows them"
            ) from None
    elif len(task) == ids.BATCH_KEY_BYTES:
        key, index = task, None
    elif len(task) == ids.TASK_ID_BYTES:
        key, index = ids.split(task)
    else:
        raise NotFound(f"an id of {len(task)} bytes", hint="those of tasks have 16, those of batches 12")
    attached = Attached(fleet, key, index, {"count": 0, "name": ""}, owns=owns)
    try:
        shown, _ = attached._ask("batch", {}, _ends(timeout))
    except TimeoutError as error:
        raise error.__cause__ or error from None
    if index is not None and index >= int(shown["count"]):
        raise NotFound(f"the batch of {attached.id[:8]} has {shown['count']} tasks", hint="is the id complete?")
    return Attached(fleet, key, index, shown, owns=owns)


def attach(
    task: str | bytes, home: Home | str | Path | None = None, *, timeout_s: float = ATTACH_TIMEOUT_S, **options: Any
) -> Attached:
    """Attach to a task or a batch by its id, from any machine of the fleet, in whichever script submitted it.

    `options` are those of `swarm.connect`; the connection is the handle's own: leave it by ``with`` or ``close()``. NotFound
    when nothing with that id is kept, NoQuorum when that cannot be known at the moment.
    """
    from swarm.client.sync import connect

    fleet = connect(home, **options)
    try:
        return attach_to(fleet, task, timeout_s, owns=True)
    except BaseException:
        fleet.close(cancel=True)
        raise


def _ends(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _raised(value: Any) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value


def asked_urgency(priority: int | None, nice: int | None) -> dict[str, int]:
    """The arguments of a query that changes how urgent something is. TypeError when nothing is to change."""
    if priority is None and nice is None:
        raise TypeError("neither a priority nor a nice is given")
    asked = {} if priority is None else {"priority": int(priority)}
    return asked if nice is None else asked | {"nice": int(nice)}
