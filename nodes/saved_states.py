"""Large states of tasks that are moved: blobs, which have to be with the owner before the node that wrote them may go.

A state over 64 KiB is written into the shared memory of the node where its task ran. The owner brings it into its own, and holds
it there until the task has its outcome, before it takes the report: until then the attempt counts as out, so that a state that
is lost on the way is as if its node had been. The node that wrote it does not end before the owner has said that it has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kernels.batch import Outcomes
from nodes.blobs import BlobStore
from nodes.fabric import Fabric
from nodes.queries import Switchboard
from swarm.errors import SwarmError
from swarm.payload import PayloadError, Ref, refs_of
from swarm.protocol.effects import Fact
from swarm.protocol.owner.batches import Batch, Dispatch
from swarm.protocol.states import Status
from transport.links import Link

WAIT_S = 60.0
"""A node that is about to end waits so long for who wants a state of a task that ran there."""
LOOK_EVERY_S = 5.0
"""How often it is looked whether states are still needed."""

Holder = tuple[str, bytes, int]
Fetch = Callable[[bytes, bytes | None], Any]
Take = Callable[[memoryview], None]


class SavedStates:
    """What this node, as an owner, holds of the tasks that it has moved; and, as an executor, what is still to be fetched."""

    def __init__(
        self,
        fabric: Fabric,
        store: BlobStore,
        fetch: Fetch,
        switchboard: Switchboard,
        loop: asyncio.AbstractEventLoop,
        fact: Callable[[Fact], None],
    ) -> None:
        self._fabric = fabric
        self._store = store
        self._fetch = fetch
        self._switchboard = switchboard
        self._loop = loop
        self._fact = fact
        self._held: dict[Holder, tuple[bytes, ...]] = {}
        self._wanted: dict[bytes, float] = {}
        """States that were written here and nobody has fetched yet -> until when they are waited for."""
        self._coming: dict[tuple[bytes, int], set[int]] = {}
        """(executor, dispatch) -> tasks whose states are being fetched."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._look: asyncio.TimerHandle | None = None
        fabric.states = self
        switchboard.serve("state.kept", self._kept)

    async def close(self) -> None:
        """Bring nothing more."""
        if self._look is not None:
            self._look.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- where it ran -------------------------------------------------------------------------------------------------

    def wrote(self, outcomes: Outcomes) -> None:
        """Tasks here report; whoever owns those that ended with a state fetches what that refers to."""
        for _, ref in _states(outcomes):
            self._wanted[ref.id] = self._loop.time() + WAIT_S

    @property
    def unfetched(self) -> bool:
        """Whether states are here that are still to be fetched."""
        now = self._loop.time()
        self._wanted = {id: until for id, until in self._wanted.items() if until > now}
        return bool(self._wanted)

    def _kept(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        for id in args["ids"]:
            self._wanted.pop(bytes(id), None)
        return {}

    # --- where it is owned --------------------------------------------------------------------------------------------

    def holds_back(self, executor: bytes, dispatch: Dispatch, count: int, body: memoryview, take: Take) -> bool:
        """Whether a report waits until the states in it are here; `take` is called with it then."""
        report = Outcomes(body, count)
        if report.all_ok:
            return False
        refs = list(_states(report))
        if not refs:
            return False
        copy = memoryview(bytes(body))
        rows = {report.index(row) for row in range(count)}
        task = self._loop.create_task(self._bring(executor, dispatch, rows, refs, lambda: take(copy)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._coming.setdefault((executor, dispatch.number), set()).update(rows)
        return True

    def with_coming(self, executor: bytes, held: dict[int, list[tuple[int, int]]]) -> dict[int, list[tuple[int, int]]]:
        """What an executor still has, and what it has reported with states that are on their way."""
        for (node, number), rows in self._coming.items():
            if node == executor:
                held[number] = [*held.get(number, []), *((row, row + 1) for row in sorted(rows))]
        return held

    async def _bring(
        self, executor: bytes, dispatch: Dispatch, rows: set[int], refs: list[tuple[int, Ref]], take: Callable[[], None]
    ) -> None:
        batch, local = dispatch.batch, executor == self._fabric.me
        try:
            for index, ref in refs:
                await self._fetch(ref.id, executor)
                self._hold(batch, index, [one.id for at, one in refs if at == index])
        except (SwarmError, OSError, ValueError) as error:
            # Its task ends nowhere: whoever waits for it is told that it was lost on the way, and it runs again if it may.
            fields = {"batch": batch.key.hex(), "error": str(error)}
            self._fact(Fact("state.lost", {}, fields))
            self._over(executor, dispatch, rows)
            self._fabric.lost_on_the_way(executor, dispatch.number, sorted(rows))
            return
        self._over(executor, dispatch, rows)
        ids = [ref.id for _, ref in refs]
        if local:
            for id in ids:
                self._wanted.pop(id, None)
        elif (link := self._fabric.node_links.get(executor)) is not None and link.up:
            self._switchboard.ask(link, "state.kept", {"ids": ids}, lambda value, error, body: None)
        take()
        self._fabric.turn()

    def _over(self, executor: bytes, dispatch: Dispatch, rows: set[int]) -> None:
        coming = self._coming.get((executor, dispatch.number))
        if coming is not None:
            coming -= rows
            if not coming:
                del self._coming[executor, dispatch.number]

    def _hold(self, batch: Batch, index: int, ids: Iterable[bytes]) -> None:
        holder = ("state", batch.key, index)
        wanted = tuple(ids)
        old = self._held.get(holder, ())
        for id in wanted:
            if id not in old:
                self._store.hold(id, holder)
        # What it went on from before is let go of when the new state counts, or never did: see `_tidy`.
        self._held[holder] = tuple(dict.fromkeys((*old, *wanted)))
        if self._look is None:
            self._look = self._loop.call_later(LOOK_EVERY_S, self._tidy)

    def _tidy(self) -> None:
        """Let go of what no task goes on from any more."""
        self._look = None
        for holder, ids in list(self._held.items()):
            _, key, index = holder
            batch = self._fabric.ownership.batches.get(key)
            saved = batch.saved.get(index) if batch is not None else None
            out = (
                batch is not None and batch.finished_at is None and any(index in rows for rows in self._coming.values())
            )
            needed = {ref.id for ref in _refs(saved[1])} if saved is not None else set()
            left = ids if out else tuple(id for id in ids if id in needed)
            for id in ids:
                if id not in left:
                    self._store.let_go(id, holder)
            if left:
                self._held[holder] = left
            else:
                del self._held[holder]
        if self._held:
            self._look = self._loop.call_later(LOOK_EVERY_S, self._tidy)


def _refs(payload: bytes | memoryview) -> list[Ref]:
    try:
        return refs_of(payload)
    except PayloadError:
        return []  # whoever goes on from it says what is wrong with it


def _states(report: Outcomes) -> Iterable[tuple[int, Ref]]:
    """(index, blob) of what states in a report refer to."""
    for row in range(report.count):
        if report.status(row) == Status.SAVED:
            for ref in _refs(report.payload(row)):
                yield report.index(row), ref
