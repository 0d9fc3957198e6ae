"""What an owner does not take of what clients hand over, and what they are told: no grant, no room, no log to keep it in."""

from __future__ import annotations

from collections.abc import Callable

from swarm.protocol.ledger.records import Durability, digest_of
from swarm.protocol.owner.admission import Admission
from swarm.protocol.owner.batches import Durable, Holdings
from swarm.protocol.owner.clients import Clients
from swarm.protocol.owner.leading import Leading
from swarm.protocol.owner.recording import Recording
from swarm.protocol.spec import Spec


class Refusals:
    """Says whether a batch is taken, and as what. Whose batch is not, has been told why."""

    def __init__(
        self, holdings: Holdings, admission: Admission, clients: Clients, recording: Recording, leading: Leading
    ) -> None:
        self._holdings = holdings
        self._admission = admission
        self._clients = clients
        self._recording = recording
        self._leading = leading
        self.draining = False
        """Whether this node stops, and takes nothing more."""
        self.keeps_ledger = False
        """Whether this node has a journal: without one nothing durable is taken."""
        self.no_space: Callable[[bytes, int], bool] = lambda key, level: False
        """Whether a batch's log is this node's alone, has not got it, and leads nothing for want of space."""

    def durable(
        self,
        client: bytes,
        key: bytes,
        raw: bytes,
        count: int,
        columns: memoryview | bytes,
        deps: list[bytes],
        level: int,
        retention_s: float | None,
        soft: bool,
    ) -> Durable | str | None:
        """What is to be known of a durable batch; None when it is not taken, and its client has been told why. If it is `soft`, a
        text says why it cannot be kept, and is run without."""
        digest, known = digest_of(raw, count, columns, deps), self._holdings.batches.get(key)
        if known is not None:
            there = known.durable
            if there is not None and there.digest == digest and there.level == level:
                return there
            self._clients.refuse(
                client, key, "conflict",
                f"there is a batch with this id and other content: its digest is {_digest(there)}, this one's {digest.hex()}",
                "give each batch an id of its own; the one that is there was left as it is",
            )  # fmt: skip
            return None
        if soft and not self.keeps_ledger:
            return "this node keeps no journal"
        if not self.keeps_ledger or level not in (Durability.NODE, Durability.FLEET):
            self._clients.refuse(
                client, key, "durability", "this node keeps no journal, so it can promise nothing for later",
                "durability='none' has tasks that live as long as the script that submitted them",
            )  # fmt: skip
            return None
        group = self._leading.group_of(key, level)
        if group is None and soft and self.no_space(key, level):
            return "the disk of this node is full"
        if group is None and self.no_space(key, level):
            self._clients.refuse(
                client, key, "disk-full", "not accepted: the disk of this node is full, and nobody else keeps its log",
                "make room there; it takes durable tasks again by itself",
            )  # fmt: skip
            return None
        if group is None:
            self._clients.unknown(client, key, untaken=True)
            return None
        epoch = self._leading.led[group]
        kept = self._holdings.config.durable_retention_s if retention_s is None else retention_s
        begun = self._recording.has_begun(group, key)
        return Durable(group, level, digest, epoch, epoch, count, kept, begun, soft=soft)

    def has_room(
        self, now: float, client: bytes, author: str, granted: bool, key: bytes, spec: Spec, count: int, nbytes: int,
        deps: list[bytes],
    ) -> bool:  # fmt: skip
        """Whether a batch may and can be taken; if not, its client has been told why."""
        config, refuse = self._holdings.config, self._clients.refuse
        if (spec.pickled or (spec.fn is not None and spec.fn[0] == "blob") or spec.kind == "command") and not granted:
            refuse(
                client, key, "not-granted", f"{author} may not run code of its own here (no grant 'code')",
                "use functions that the nodes load by name, or ask an admin for a certificate with the grant 'code'",
            )  # fmt: skip
        elif self.draining:
            refuse(client, key, "draining", "this node is stopping", "another node takes the batch", 0.0)
        elif count > config.tasks_max or nbytes > config.bytes_max:
            refuse(
                client, key, "too-large", f"a batch of {count} tasks ({nbytes} bytes); this node never holds so much",
                "hand over less at once, or raise queue_tasks and queue_bytes in the node's settings",
            )  # fmt: skip
        elif (full := self._admission.refusal(now, client, key, spec, count, nbytes, deps)) is not None:
            refuse(client, key, "full", full[0], "try again then, or use more nodes", full[1])
        else:
            return True
        return False


def _digest(durable: Durable | None) -> str:
    return "not known" if durable is None else durable.digest.hex()
