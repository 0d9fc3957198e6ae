"""Slots that are granted to clients of this host: a worker is set apart for one, which sends it calls without the node between."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarm.protocol.executor.effects import ExecutionEffect, RevokeSlot
from swarm.protocol.executor.runs import Worker
from swarm.protocol.resources import PLAIN, Account


class SlotGrants:
    """Grants of the executor's workers. `workers` and `account` are its own."""

    def __init__(
        self, workers: Mapping[int, Worker], account: Account, emit: Callable[[ExecutionEffect], None]
    ) -> None:
        self._workers = workers
        self._account = account
        self._emit = emit

    def grant(self, client: bytes) -> int | None:
        """Set an idle worker apart for a client; its number, or None while none can be spared."""
        if not self._account.fits(PLAIN):
            return None
        idle: Worker | None = None
        for worker in self._workers.values():
            if worker.granted == client:
                return None  # one each
            if worker.state == "ready" and not worker.python and not worker.slices and not worker.granted:
                idle = idle or worker
        if idle is None:
            return None
        idle.granted, idle.revoked, idle.shape = client, False, PLAIN
        self._account.take(PLAIN)
        return idle.number

    def revoke(self, worker: Worker) -> None:
        """Ask for a granted worker back."""
        if not worker.revoked:
            worker.revoked = True
            self._emit(RevokeSlot(worker.number))

    def over(self, worker: int) -> Worker | None:
        """A granted worker is this node's again; None if it was not granted."""
        it = self._workers.get(worker)
        if it is None or not it.granted:
            return None
        it.granted, it.revoked = b"", False
        return it
