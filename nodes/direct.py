"""Direct slots: a client of this host that calls one task after the other is granted a worker to talk to itself.

The node says which worker, and hands both a path and a ticket; from then on the calls do not pass through it. It hears
of them afterwards, so that they count, and takes the slot back as soon as other work waits for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodes.fabric import Fabric
from nodes.incoming import client_key
from nodes.queries import Switchboard
from swarm.errors import SwarmError
from swarm.protocol import ids
from swarm.protocol.direct import TICKET_BYTES
from swarm.protocol.effects import Fact
from swarm.protocol.owner import direct_calls
from swarm.protocol.states import Status
from transport.links import Link

READY_WITHIN_S = 2.0
ASK_AGAIN_S = 1.0
SESSION_BYTES = 8
SUFFIX_BYTES = 4
TRIES = 8
TRY_EVERY_S = 0.001
GONE_GRACE_S = 1.0
"""How long the last call of a client that is gone may go on."""
PATH_BYTES_MAX = 107
"""What the address of a Unix socket holds (unix(7): 108 with the zero at its end)."""
RECORDS_KEPT_MAX = 4096
OUTPUT_KEPT_BYTES_MAX = 1 << 20


class NotGranted(SwarmError):
    """There is no slot to spare; calls go through the node as ever."""


@dataclass(slots=True, eq=False)
class Grant:
    """A worker in a client's hands."""

    worker: int
    client: bytes
    author: str
    session: bytes
    path: Path
    ready: asyncio.Future[None]
    output: list[tuple[str, bytes]] = field(default_factory=list)
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A direct call that has ended."""

    name: str
    status: int
    run_us: int
    author: str
    worker: int
    at: float


class DirectSlots:
    """Grants workers' slots to clients of this host."""

    def __init__(
        self,
        fabric: Fabric,
        switchboard: Switchboard,
        socket_path: Path,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        self._fabric = fabric
        self._socket_path = socket_path
        self._loop = loop
        self._now = now
        self._grants: dict[int, Grant] = {}
        self.records: OrderedDict[bytes, Record] = OrderedDict()
        """The last direct calls, by task id."""
        fabric.direct = self
        for left in socket_path.parent.glob(f"{socket_path.stem}.{'?' * 2 * SUFFIX_BYTES}"):
            left.unlink(missing_ok=True)  # of a node that was killed while a client was on its way
        fabric.ownership.heeding.stirred = self._stirred
        self._shut: frozenset[bytes] | None = frozenset()
        switchboard.serve("slot.grant", self._grant)
        switchboard.serve("slot.cancel", self._cancel)

    # --- clients ------------------------------------------------------------------------------------------------------

    async def _grant(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        session = bytes(args["session"])
        if link.reach == "lan" or link.identity.role != "client" or len(session) != SESSION_BYTES:
            raise NotGranted("slots are granted to clients of this host", hint="calls go through the node")
        if self._shut is None:
            return {"after_s": ASK_AGAIN_S}  # lessons about all callables are heeded by the node alone
        path = self._socket_path.with_suffix(f".{os.urandom(SUFFIX_BYTES).hex()}")
        if len(os.fsencode(path)) > PATH_BYTES_MAX:
            raise NotGranted(f"{path} is too long for a socket", hint="SWARM_HOME may name a shorter one")
        worker = self._fabric.execution.grant(client_key(link))
        for _ in range(TRIES):
            if worker is not None:
                break
            # The client has the outcome of its last call; that the worker is through with it may be known in a moment.
            await asyncio.sleep(TRY_EVERY_S)
            worker = self._fabric.execution.grant(client_key(link))
        if worker is None:
            return {"after_s": ASK_AGAIN_S}
        ticket = os.urandom(TICKET_BYTES)
        grant = Grant(worker, client_key(link), link.identity.name, session, path, self._loop.create_future())
        self._grants[worker] = grant
        granted = "code" in link.identity.grants
        self._fabric.pool.send_grant(
            worker,
            {"path": str(path), "ticket": ticket, "session": session, "granted": granted, "shut": sorted(self._shut)},
        )
        self._fabric.turn()
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await grant.ready
        except (TimeoutError, asyncio.CancelledError):
            self.revoke(worker)
            return {"after_s": ASK_AGAIN_S}
        return {"path": str(path), "ticket": ticket, "worker": worker}

    def _cancel(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """End the worker with the call that it runs: the only cancel that always holds."""
        worker = int(args["worker"])
        grant = self._grants.get(worker)
        if grant is not None and grant.client == client_key(link):
            self._fabric.execution.granted_kill(worker, "its call was cancelled")
            self._fabric.turn()
        return {}

    def client_gone(self, client: bytes) -> None:
        """A client's link is down: what it was granted comes back."""
        for grant in list(self._grants.values()):
            if grant.client == client:
                self.revoke(grant.worker)
                self._loop.call_later(GONE_GRACE_S, self._end, grant)

    def _end(self, grant: Grant) -> None:
        if self._grants.get(grant.worker) is grant:
            self._fabric.execution.granted_kill(grant.worker, "the client of its call is gone")
            self._fabric.turn()

    def _stirred(self) -> None:
        """Other lessons are known: callables that there are some about are not called directly any more."""
        shut = direct_calls.shut(self._fabric.ownership.heeding)
        before, self._shut = self._shut, shut
        if shut is None or before is None or not shut <= before:
            for worker in list(self._grants):
                self.revoke(worker)

    def revoke(self, worker: int) -> None:
        """Have a worker return after the call that it runs."""
        self._fabric.pool.send_revoke(worker)

    # --- workers ------------------------------------------------------------------------------------------------------

    def ready(self, worker: int) -> None:
        """A worker waits for its client."""
        grant = self._grants.get(worker)
        if grant is not None and not grant.ready.done():
            grant.ready.set_result(None)

    def over(self, worker: int) -> None:
        """A worker is the node's again, or it is gone."""
        grant = self._grants.pop(worker, None)
        if grant is None:
            return
        if not grant.ready.done():
            grant.ready.cancel()
        grant.path.unlink(missing_ok=True)
        for stream, data in grant.output:
            self._fabric.stray_output(worker, stream, data)

    def recorded(self, worker: int, records: list[Any]) -> None:
        """Calls have ended. ValueError when that is not what is said."""
        grant = self._grants.get(worker)
        if grant is None:
            return
        task = b""
        counts: dict[int, int] = {}
        taught = [record for record in records if len(record) == 6]
        for number, name, status, run_us, *_ in records:
            task = ids.task_id(ids.batch_key(grant.session, int(number)), 0)
            self.records[task] = Record(str(name), int(status), int(run_us), grant.author, worker, self._now())
            counts[int(status)] = counts.get(int(status), 0) + 1
            self._fabric.run_times.record(int(run_us) * 1000)
        while len(self.records) > RECORDS_KEPT_MAX:
            self.records.popitem(last=False)
        for stream, data in grant.output:
            self._fabric.logs.add(task, stream, data)
        grant.output.clear()
        grant.output_bytes = 0
        for status, count in counts.items():
            labels = {"status": Status(status).name.lower(), "kind": "call"}
            self._fabric.happened(Fact("task.finished", labels, {"direct": True}, count))
        owner = self._fabric.ownership
        for _, name, _, _, fn, told in taught:
            if isinstance(fn, list) and len(fn) == 3:
                it = owner.executors[self._fabric.me]
                direct_calls.taught(owner.heeding, it, self._now(), time.time(), str(name), fn, memoryview(told))
        if taught:
            self._fabric.turn()

    def output(self, worker: int, stream: str, data: bytes) -> bool:
        """A granted worker's call printed something: it is kept until the record says whose it is. False if not granted."""
        grant = self._grants.get(worker)
        if grant is None:
            return False
        if grant.output_bytes < OUTPUT_KEPT_BYTES_MAX:
            grant.output.append((stream, data))
            grant.output_bytes += len(data)
        return True

    def find(self, prefix: str) -> list[tuple[bytes, Record]]:
        """Direct calls whose text id begins with `prefix`, the newest first, at most two."""
        found: list[tuple[bytes, Record]] = []
        for task in reversed(self.records):
            if ids.text(task).startswith(prefix):
                found.append((task, self.records[task]))
                if len(found) == 2:
                    break
        return found

    def explain(self, task: bytes, record: Record) -> list[str]:
        """What became of a direct call, for people."""
        age_s = self._now() - record.at
        status = Status(record.status).name.lower()
        return [
            f"{ids.text(task)[:8]} {record.name}  {status}, called {age_s:.3g} s ago by {record.author}",
            f"ran directly on worker {record.worker}, whose slot its client had been granted, for {record.run_us} us",
        ]
