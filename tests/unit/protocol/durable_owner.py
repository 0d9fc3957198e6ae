"""Owners of durable batches under test, and a log between them that commits when it is told to."""

from __future__ import annotations

from typing import Any

from kernels.batch import OutcomeBuilder
from swarm.protocol import ids
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.homes import durable_session, fleet_group, node_group
from swarm.protocol.ledger.records import Durability, pack, pack_entry
from swarm.protocol.ledger.state import LedgerState
from swarm.protocol.owner.batches import Adopt, AskHeld, Propose
from swarm.protocol.ownership import Batch, Ownership, OwnershipConfig
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from tests.unit.protocol.owner import CLIENT, ME, WALL, Owner, columns_of, spec_of

GROUP = fleet_group(ME)
OWN_GROUP = node_group(ME)
DURABLE_SESSION = durable_session(ME, b"12345")


def durable_key(number: int) -> bytes:
    """The key of a durable batch whose home is `ME`."""
    return ids.batch_key(DURABLE_SESSION, number)


class Log:
    """A group's log. What is proposed waits until `commit`; the state is what every replica would have."""

    def __init__(self) -> None:
        self.state = LedgerState()
        self.term = 0
        self.index = 0
        self.waiting: list[Propose] = []
        self.owner: DurableOwner | None = None
        self.copies = 2

    def lead(self, owner: DurableOwner, group: bytes = GROUP) -> None:
        """Another leader, in a later term. What the last one had under way comes to nothing, unless it was committed."""
        last, self.owner = self.owner, owner
        if last is not None:
            for one in self.waiting:
                last.it.dropped(last.now, one.ticket)
            last.it.follow(last.now, group)
            last.take()
        self.waiting.clear()
        self.term += 1
        owner.logs[group] = self
        owner.it.lead(owner.now, WALL + owner.now, group, self.term, self.state.batches, 2, 2)
        owner.take()

    def commit(self, most: int | None = None) -> None:
        """Commit what waits, or as many records as given; what follows from it waits in turn."""
        assert self.owner is not None
        part, self.waiting = self.waiting[:most], self.waiting[len(self.waiting) if most is None else most :]
        for one in part:
            self.index += 1
            (applied,) = self.state.apply(self.index, self.term, pack_entry([pack(one.record)]))
            self.owner.it.committed(self.owner.now, one.ticket, self.copies, self.copies, applied)
        self.owner.take()

    def commit_all(self) -> None:
        """Commit until nothing waits."""
        while self.waiting:
            self.commit()

    def refuse(self, reason: Reason, after_s: float | None = None) -> None:
        """Take none of what waits."""
        assert self.owner is not None
        part, self.waiting = self.waiting, []
        for one in part:
            self.owner.it.not_taken(self.owner.now, one.ticket, Refusal(reason, "because", retry_after_s=after_s))
        self.owner.take()

    def kinds(self) -> list[str]:
        """What waits, by the names of the records."""
        return [type(one.record).__name__ for one in self.waiting]


class DurableOwner(Owner):
    """An owner with a ledger."""

    def __init__(
        self, slots: float = 2.0, me: bytes = ME, config: OwnershipConfig | None = None, epoch: int = 0
    ) -> None:
        super().__init__(slots, config, epoch)
        self.it = Ownership(config or OwnershipConfig(), me, "me", Capacity({"cpu": slots}), epoch)
        self.it.refusals.keeps_ledger = True
        self.logs: dict[bytes, Log] = {}
        self.asked: list[AskHeld] = []
        self.adopts: list[Adopt] = []

    def take(self) -> None:
        """Sort what it left."""
        super().take()
        for effect in self.others:
            if isinstance(effect, Propose):
                self.logs[effect.group].waiting.append(effect)
            elif isinstance(effect, AskHeld):
                self.asked.append(effect)
            elif isinstance(effect, Adopt):
                self.adopts.append(effect)
        self.others = [it for it in self.others if not isinstance(it, Propose | AskHeld | Adopt)]

    def hand(
        self, number: int, count: int = 1, spec: Spec | None = None, level: int = Durability.FLEET, **options: Any
    ) -> Batch | None:
        """Hand a durable batch over; the owner's record of it, None if it was refused."""
        raw = (spec or spec_of()).encode()
        columns = options.pop("columns", None) or columns_of(count)
        client, key = options.pop("client", CLIENT), options.pop("key", durable_key(number))
        self.it.submit(
            self.now, WALL + self.now, client, "ann", True, key, raw, count, columns, durability=int(level), **options
        )
        self.take()
        return self.it.batches.get(key)


def outcomes_of(rows: dict[int, int], size: int = 2) -> tuple[int, bytes]:
    """(count, columns) of outcomes with payloads of a size."""
    builder = OutcomeBuilder()
    for index, status in rows.items():
        builder.add(index, status, 1000, b"M" + bytes(size - 1))
    return len(rows), builder.take()
