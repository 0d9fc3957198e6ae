"""Clients of an owner: what they are told, what they are asked, and their leases."""

from __future__ import annotations

from typing import Any

from kernels.tasks import TaskColumns
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Batch, Durable, Holdings
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.returning import leave
from swarm.protocol.owner.words import ranges

OTHERS_MAX = 7
"""Clients of one durable batch beside the latest; of more, those that came first are told nothing."""
CLIENT = 3
"""The timer of a client's lease."""


class Clients:
    """Who handed over what."""

    def __init__(self, holdings: Holdings, placing: Placing) -> None:
        self._holdings = holdings
        self._placing = placing
        self._gone: dict[bytes, float] = {}

    def refuse(
        self, client: bytes, key: bytes, reason: str, message: str, hint: str, after_s: float | None = None,
        untaken: bool = False,
    ) -> None:  # fmt: skip
        """Say why a batch is not taken; `after_s` when it is worth trying again. `untaken` says that it is in no log because of
        what was answered to now."""
        header: dict[str, Any] = {"b": key, "reason": reason, "message": message, "hint": hint, "after": after_s}
        if untaken:
            header["t"] = False
        self._holdings.emit(Tell(client, Kind.REFUSED, header))
        self._holdings.emit(Fact("batch.refused", {"reason": reason}, {"batch": key.hex(), "message": message}))

    def unknown(self, client: bytes, key: bytes, untaken: bool = False) -> None:
        """A durable batch belongs to a log that this node does not lead: nothing starts afresh here."""
        self.refuse(
            client, key, "unknown", "who leads the log of this batch is not known at the moment",
            "it goes on, and can be attached to, as soon as two of its log's three hosts are there",
            self._holdings.config.unknown_after_s, untaken,
        )  # fmt: skip

    def attach(self, now: float, batch: Batch, client: bytes) -> None:
        """The same batch again: its client has a new link. What is known is told again."""
        if batch.durable is not None:
            # Another one may have said the same key; or the attempt of a task that submitted it is not known to be over.
            batch.others = tuple(one for one in batch.clients if one != client)[:OTHERS_MAX]
        batch.client, batch.attached_at = client, now
        if batch.durable is not None and batch.durable.copies:
            self.accepted(batch, batch.durable, (client,))
        for report, body in batch.outcomes:
            self._holdings.emit(Tell(client, Kind.OUTCOMES, {"b": batch.key, "n": report.count}, (body,)))
        if batch.durable is None and not batch.spec.rerun and not any(value is None for value in batch.deps.values()):
            # The question may have been lost with the old link.
            held = [
                index
                for start, stop in batch.pending()
                for index in range(start, stop)
                if batch.columns.state(index) == TaskColumns.HELD and index not in batch.may_start
                and not batch.waits_apart(index)
            ]  # fmt: skip
            if held:
                self._ask_start(batch, client, held)

    def not_kept(self, batch: Batch) -> None:
        """Nobody asked for a batch to be kept, and it is not, but run all the same."""
        for client in batch.clients:
            self._holdings.emit(
                Tell(client, Kind.ACCEPTED, {"b": batch.key, "copies": 0, "hosts": 0, "e": 0, "r": 0.0})
            )

    def accepted(self, batch: Batch, durable: Durable, clients: tuple[bytes, ...] | None = None) -> None:
        """The receipt of a durable batch, to these clients or to all."""
        for client in batch.clients if clients is None else clients:
            header = {
                "b": batch.key,
                "copies": durable.copies,
                "hosts": durable.hosts,
                "e": durable.epoch,
                "r": durable.retention_s,
            }
            self._holdings.emit(Tell(client, Kind.ACCEPTED, header))

    def may_start(self, batch: Batch) -> bool:
        """Tasks that may not be repeated start only when the client has noted it. False: all of them were held."""
        columns, asked = batch.columns, []
        kept = 0
        for start, stop in batch.pending():
            for index in range(start, stop):
                if columns.state(index) != TaskColumns.READY:
                    continue
                if index in batch.may_start:
                    kept += 1
                elif batch.client is not None:
                    columns.hold(index)
                    asked.append(index)
                else:
                    batch.may_start.add(index)
                    kept += 1
        if asked:
            self._placing.withdraw(batch)
            if batch.columns.ready:
                self._placing.push(batch, batch.submitted_at, batch.columns.ready)
            assert batch.client is not None
            self._ask_start(batch, batch.client, asked)
        return kept > 0

    def _ask_start(self, batch: Batch, client: bytes, indices: list[int]) -> None:
        header = {"b": batch.key, "r": [list(pair) for pair in ranges(indices)]}
        self._holdings.emit(Tell(client, Kind.ASK_START, header))

    def grant_start(self, batch: Batch, wanted: list[tuple[int, int]]) -> None:
        """The client has noted that these may start now."""
        ready, apart = 0, bool(batch.lanes)
        if apart:
            # What waits in these is held, too, and not for the client's word.
            self._placing.withdraw(batch)
        for start, stop in wanted:
            for index in range(start, min(stop, batch.calls.count)):
                if index not in batch.may_start:
                    batch.may_start.add(index)
                    if batch.columns.state(index) == TaskColumns.HELD:
                        batch.columns.release(index)
                        ready += 1
        if apart:
            ready = batch.columns.ready
        if ready:
            self._placing.push(batch, batch.submitted_at, ready)

    def lost(self, now: float, client: bytes) -> None:
        """A client's link is down: its lease runs."""
        if any(batch.client == client for batch in self._holdings.batches.values()):
            self._gone[client] = now
            self._holdings.timers.at(now + self._holdings.config.client_lease_s, CLIENT, client)

    def is_away(self, client: bytes) -> bool:
        """Whether a client that has something here is gone, and may come back for it."""
        return client in self._gone

    def lease_over(self, now: float, client: bytes) -> list[Batch]:
        """A client's lease is over: the batches that nobody wants any more."""
        since = self._gone.get(client)
        if since is None or now < since + self._holdings.config.client_lease_s:
            return []  # Lost once more meanwhile: that has its own timer.
        del self._gone[client]
        abandoned = []
        # One that came back has handed over again what it still wants.
        for batch in [it for it in self._holdings.batches.values() if it.client == client and it.attached_at <= since]:
            batch.client, batch.others = (batch.others[0], batch.others[1:]) if batch.others else (None, ())
            if batch.finished_at is None and batch.durable is None:
                batch.abandoned = True
                leave(batch)
                batch.log(now, "abandoned", 0, batch.calls.count, "", "its client is gone")
                self._holdings.emit(Fact("batch.abandoned", {}, {"batch": batch.key.hex()}))
                abandoned.append(batch)
        return abandoned
