"""What a node answers about batches: which there are, how far they are, and their outcomes, wherever in the fleet they are.

A batch without durability is known to the node that it was handed to. A durable one is known to who leads its log, which
its id names: so any node can be asked, and asks on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from nodes.fabric import Fabric, boottime_s
from nodes.queries import AskFailed, Method, Switchboard
from swarm.errors import NoQuorum, NotFound, UsageError
from swarm.protocol import ids
from swarm.protocol.ledger.records import Durability
from swarm.protocol.owner.batches import Batch
from swarm.protocol.states import Priority, Status
from swarm.tasks import DURABILITIES
from transport.links import Link

LISTED_MAX = 10_000
OUTCOME_BYTES = 1 << 20
"""Of outcomes in one answer, at least one report."""
WAIT_S_MAX = 20.0
PAUSE_S, PAUSE_S_MAX = 0.01, 0.25
PEER_TIMEOUT_S = 5.0
CONFIRM_TIMEOUT_S = 2.0
LEVELS = (Durability.NODE, Durability.FLEET)
assert CONFIRM_TIMEOUT_S * len(LEVELS) < PEER_TIMEOUT_S


class Asked(Protocol):
    """What these answers need of a node."""

    name: str
    fabric: Fabric
    switchboard: Switchboard

    def connect(self, node: bytes) -> None:
        """Open a link to a member."""

    def unheard(self) -> bool:
        """Whether the fleet has nodes that are away, or were not heard of since this one started."""


class BatchAnswers:
    """Registers the methods of questions about batches on a node's switchboard."""

    def __init__(self, node: Asked) -> None:
        self._node = node
        serve = node.switchboard.serve
        serve("batches", self._batches)
        for method in ("batch", "batch.outcomes", "batch.cancel", "batch.nice"):
            serve(method, self._method(method))

    def _method(self, method: str) -> Method:
        return lambda link, args, body: self._about(method, args)

    # --- all of them --------------------------------------------------------------------------------------------------

    def _batches(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        here = self._here(args)
        if args.get("here") or not self._node.fabric.node_links:
            return {"batches": here}
        return self._everywhere(args, here)

    def _here(self, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        limit, prefix = max(1, min(LISTED_MAX, int(args.get("limit") or 100))), str(args.get("prefix") or "").lower()
        found: list[dict[str, Any]] = []
        for batch in reversed(self._node.fabric.ownership.batches.values()):
            if args.get("durable") and batch.durable is None:
                continue
            if prefix and not ids.batch_text(batch.key).startswith(prefix):
                continue
            found.append(self._shown(batch))
            if len(found) >= limit:
                break
        return found

    async def _everywhere(self, args: Mapping[str, Any], here: list[dict[str, Any]]) -> dict[str, Any]:
        links = [link for _, link in sorted(self._node.fabric.node_links.items()) if link.up]
        found = {batch["id"]: batch for batch in here}
        for value, _ in await asyncio.gather(
            *(self._ask(link, "batches", dict(args) | {"here": True}) for link in links)
        ):
            if isinstance(value, dict):
                for batch in value.get("batches", ()):
                    found.setdefault(str(batch.get("id")), batch)
        listed = sorted(found.values(), key=lambda batch: (float(batch.get("age_s") or 0.0), str(batch.get("id"))))
        return {"batches": listed[: max(1, min(LISTED_MAX, int(args.get("limit") or 100)))]}

    def _shown(self, batch: Batch) -> dict[str, Any]:
        now, durable = boottime_s(), batch.durable
        done = sum(outcomes.count for outcomes, _ in batch.outcomes)
        shown: dict[str, Any] = {
            "id": ids.batch_text(batch.key),
            "name": batch.spec.name,
            "by": batch.author,
            "count": batch.calls.count,
            "done": done,
            "state": "done" if batch.finished_at is not None else "running" if batch.columns.dispatched else "waiting",
            "outcomes": {Status(status).name.lower(): count for status, count in sorted(_counts(batch).items())},
            "node": self._node.name,
            "age_s": now - batch.submitted_at,
            "durability": DURABILITIES[0] if durable is None else DURABILITIES[durable.level],
            "copies": 0 if durable is None else durable.copies,
            "hosts": 0 if durable is None else durable.hosts,
            "chunked": batch.spec.chunked,
            "priority": Priority(batch.own[0]).name.lower(),
            "nice": batch.own[1],
        }
        if durable is not None:
            shown["epoch"] = durable.leads
            shown["retention_s"] = durable.retention_s
        if batch.finished_at is not None:
            shown["ended_s"] = now - batch.finished_at
        return shown

    # --- one of them --------------------------------------------------------------------------------------------------

    async def _about(self, method: str, args: Mapping[str, Any]) -> Any:
        """Answer about one batch, wherever it is known."""
        key = args.get("batch")
        if not isinstance(key, bytes) or len(key) != ids.BATCH_KEY_BYTES:
            raise UsageError(
                "a batch is named by its key", hint="swarm batch list shows the ids of those that there are"
            )
        fabric = self._node.fabric
        batch = fabric.ownership.batches.get(key)
        if batch is not None:
            return await self._one(method, batch, args)
        absent = set(await self._absent_levels(key))
        batch = fabric.ownership.batches.get(key)
        if batch is not None:  # it came while that was found out
            return await self._one(method, batch, args)
        if args.get("here"):
            return {"known": False, "absent": sorted(absent)}
        where = fabric.where(key)
        for node in where:
            if node not in fabric.node_links:
                self._node.connect(node)  # who asks will ask again
        nodes = [node for node in where if node in fabric.node_links] or sorted(fabric.node_links)
        timeout_s = min(WAIT_S_MAX, float(args.get("wait_s") or 0.0)) + PEER_TIMEOUT_S
        answers = await asyncio.gather(
            *(
                self._ask(fabric.node_links[node], method, dict(args) | {"here": True}, timeout_s)
                for node in nodes
                if fabric.node_links[node].up
            )
        )
        for value, answer in answers:
            if isinstance(value, dict) and value.get("known") is not False:
                return value, answer
            if isinstance(value, dict):
                absent.update(value.get("absent", ()))
        # Where nobody is known to keep a log that it could be in, those who do may be away, all of them.
        silent = len(answers) < len(nodes) or any(value is None for value, _ in answers)
        if not absent.issuperset(LEVELS) if where else silent or self._node.unheard():
            raise NoQuorum(
                f"who leads the log of {ids.batch_text(key)[:8]} is not known at the moment",
                hint="ask again when two of the three hosts that keep it are there; nothing of it is lost meanwhile",
            )
        raise NotFound(
            f"no batch {ids.batch_text(key)[:8]} is kept in this fleet",
            hint="it was not accepted, or its outcomes were kept for their time; swarm batch list shows what there is",
        )

    async def _absent_levels(self, key: bytes) -> list[int]:
        """Levels of durability at which no such batch is kept for certain: the log in which it would be is led here, and
        nobody has led it since. A home always leads the log that is its own alone, so that one says nothing of the other."""
        fabric, found = self._node.fabric, []
        for level in LEVELS:
            log = fabric.ownership.log_of(key, level)
            if log is not None and await self._leads_still(log):
                found.append(int(level))
        return found

    async def _leads_still(self, log: bytes) -> bool:
        """Whether a majority of a log's hosts confirms that nobody else leads it (a linearizable read)."""
        ledger = self._node.fabric.ledger
        if ledger is None:
            return False
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def confirm(ready: bool) -> None:
            if not confirmed.done():
                confirmed.set_result(ready)

        if ledger.read(log, confirm) is not None:
            return False
        self._node.fabric.turn()
        try:
            return await asyncio.wait_for(confirmed, CONFIRM_TIMEOUT_S)
        except TimeoutError:
            return False

    async def _one(self, method: str, batch: Batch, args: Mapping[str, Any]) -> Any:
        if method == "batch.cancel":
            index = args.get("index")
            wanted = None if index is None else [(int(index), int(index) + 1)]
            self._node.fabric.ownership.cancel(boottime_s(), batch.key, wanted)
            self._node.fabric.turn()
        elif method == "batch.nice":
            index = args.get("index")
            wanted = None if index is None else [(int(index), int(index) + 1)]
            self._node.fabric.ownership.reprioritize(boottime_s(), batch.key, wanted, *urgency_in(args))
            self._node.fabric.turn()
        elif batch.durable is not None and not _has_news(method, batch, args):
            # What has ended has ended, but that it has not may be old: another may lead the log by now, and know better.
            confirmed = await self._leads_still(batch.durable.group)
            if not confirmed or self._node.fabric.ownership.batches.get(batch.key) is not batch:
                return {"known": False, "absent": []}
        if method != "batch.outcomes":
            return self._shown(batch)
        return await self._outcomes(batch, args)

    async def _outcomes(self, batch: Batch, args: Mapping[str, Any]) -> Any:
        """Outcomes beyond a cursor, as soon as there are any; those of one task with `index`."""
        cursor, index = int(args.get("cursor") or 0), args.get("index")
        if cursor < 0 or (index is not None and not 0 <= int(index) < batch.calls.count):
            raise NotFound(f"the batch has {batch.calls.count} tasks", hint="the first is number 0")
        ends = boottime_s() + min(WAIT_S_MAX, max(0.0, float(args.get("wait_s") or 0.0)))
        pause_s = PAUSE_S
        while True:
            one = batch.outcome(int(index)) if index is not None else None
            if one is not None or (index is None and len(batch.outcomes) > cursor):
                break
            if batch.finished_at is not None or boottime_s() >= ends:
                break
            await asyncio.sleep(min(pause_s, max(0.0, ends - boottime_s())))
            pause_s = min(PAUSE_S_MAX, pause_s * 1.5)
            if self._node.fabric.ownership.batches.get(batch.key) is not batch:
                return {"known": False, "absent": []}  # another leads by now
        shown = self._shown(batch)
        if index is not None:
            return shown | {"status": None if one is None else one[0]}, b"" if one is None else bytes(one[1])
        parts: list[list[int]] = []
        body: list[Any] = []
        size = 0
        for outcomes, columns in batch.outcomes[cursor:]:
            if parts and size + len(columns) > OUTCOME_BYTES:
                break
            parts.append([outcomes.count, len(columns)])
            body.append(columns)
            size += len(columns)
        cursor += len(parts)
        over = batch.finished_at is not None and cursor >= len(batch.outcomes)
        return shown | {"parts": parts, "cursor": cursor, "over": over}, b"".join(body)

    async def _ask(
        self, link: Link, method: str, args: Mapping[str, Any], timeout_s: float = PEER_TIMEOUT_S
    ) -> tuple[Any, bytes]:
        try:
            return await self._node.switchboard.asked(link, method, args, timeout_s=timeout_s)
        except AskFailed:
            return None, b""


def urgency_in(args: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(class, nice) that somebody asks for; None of what is to stay as it is. UsageError for what there is not."""
    priority, nice = args.get("priority"), args.get("nice")
    if priority is not None and (type(priority) is not int or not 0 <= priority <= Priority.CRITICAL):
        raise UsageError(f"there is no priority {priority!r}", hint="there are LOW, STANDARD, HIGH and CRITICAL")
    if nice is not None and (type(nice) is not int or not -20 <= nice <= 19):
        raise UsageError(f"there is no nice {nice!r}", hint="it is a whole number from -20 to 19")
    if priority is None and nice is None:
        raise UsageError("neither a priority nor a nice is given")
    return priority, nice


def _has_news(method: str, batch: Batch, args: Mapping[str, Any]) -> bool:
    """Whether there is something to answer that stays as it is."""
    index = args.get("index")
    if batch.finished_at is not None:
        return True
    if method != "batch.outcomes":
        return False
    if index is None:
        return len(batch.outcomes) > int(args.get("cursor") or 0)
    return not 0 <= int(index) < batch.calls.count or batch.outcome(int(index)) is not None


def _counts(batch: Batch) -> dict[int, int]:
    """How the tasks ended whose outcomes stand."""
    if batch.durable is None:
        return batch.counts
    counts: dict[int, int] = {}
    for outcomes, _ in batch.outcomes:
        if outcomes.all_ok:
            counts[0] = counts.get(0, 0) + outcomes.count
            continue
        for row in range(outcomes.count):
            counts[outcomes.status(row)] = counts.get(outcomes.status(row), 0) + 1
    return counts
