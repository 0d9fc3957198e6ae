"""Members that are to vote in a log: before they do, they have what lies beside it, as far as that can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from swarm.protocol.ledger.copying import Answer
from swarm.protocol.ledger.ledger import Ledger
from swarm.protocol.ledger.records import KeptBlob

PROVIDE_S = 60.0
"""One is waited for no longer: what it lacks may be nowhere."""
PROVIDED_S = 30.0
"""How long its word counts; what was not asked about for twice as long is another beginning."""

Ask = Callable[[bytes, bytes, tuple[KeptBlob, ...]], Awaitable[Answer]]
"""Asks (node, group, blobs) to keep them."""


@dataclass(slots=True)
class _Learner:
    since: float
    seen_at: float
    until: float = float("-inf")
    """So long it counts as having all of it."""
    asking: asyncio.Task[None] | None = None


class KeptLearners:
    """The learners of logs that this node leads."""

    def __init__(self, ledger: Ledger, ask: Ask, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._ask = ask
        self._loop = loop
        self._now = now
        self._learners: dict[tuple[bytes, bytes], _Learner] = {}
        ledger.wait_for(self.provided)

    def provided(self, group: bytes, node: bytes) -> bool:
        """Whether a learner has what its log names. It is asked, and not waited for beyond `PROVIDE_S`, nor where its disk is
        full, or its version keeps nothing: a group of few voters is in more danger than what such a one lacks."""
        state = self._ledger.state(group)
        if state is None or not state.pins.blobs:
            return True
        now = self._now()
        it = self._learners.get((group, node))
        if it is None or now - it.seen_at > 2 * PROVIDED_S:
            it = self._learners[group, node] = _Learner(now, now)
        it.seen_at = now
        if now < it.until or now - it.since > PROVIDE_S:
            return True
        if it.asking is None or it.asking.done():
            it.asking = self._loop.create_task(self._provide(group, node, tuple(state.pins.blobs.values()), it))
        return False

    async def _provide(self, group: bytes, node: bytes, blobs: tuple[KeptBlob, ...], it: _Learner) -> None:
        answer = await self._ask(node, group, blobs)
        if answer in (Answer.KEPT, Answer.FULL, Answer.UNABLE):
            it.until = self._now() + PROVIDED_S

    async def close(self) -> None:
        """Ask nobody any more."""
        asking = [it.asking for it in self._learners.values() if it.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
