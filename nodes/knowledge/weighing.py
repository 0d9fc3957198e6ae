"""What a running node does about facts that fade: it gathers what is used here, says it now and then, and prunes what it is steward of."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from nodes.knowledge.shell import KnowledgeShell
from swarm.errors import NotFound, SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.beliefs import BELIEFS, Belief, belief_of
from swarm.protocol.knowledge.bounds import RETENTION_MS
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.fading import Fading
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.weights import NotPruned, Weights

LOOK_S: Final = 2.0
"""How often the clock is looked at."""
USES_EVERY_S: Final = 600.0
"""What was used is said so often at most, and once a cycle where that is shorter."""
USES_MAX: Final = 5000
"""Facts of which it is said at one time; the rest is next."""


class Weighing:
    """The weights on one node. Methods that take a keeper are for the desk's thread, the others for the node's loop."""

    def __init__(self, shell: KnowledgeShell, loop: asyncio.AbstractEventLoop) -> None:
        self._shell = shell
        self._loop = loop
        self._weights: Weights | None = None
        self._tending: asyncio.Task[None] | None = None
        self._said_at = time.monotonic()
        self._pruned_in = -1

    def start(self) -> None:
        """Tend the weights from now on."""
        self._tending = self._loop.create_task(self._tend())

    async def close(self) -> None:
        """What was used is said."""
        if self._tending is not None:
            self._tending.cancel()
        try:
            await self._shell.ask(self._say, says=True)
        except SwarmError:
            pass  # there is no room for it

    # --- in the thread --------------------------------------------------------------------------------------------------

    def weights(self, keeper: Keeper) -> Weights:
        """All weights; made when they are asked for first."""
        if self._weights is None:
            self._weights = Weights(keeper.knowledge)
        return self._weights

    def fading(self, keeper: Keeper) -> Fading:
        """How facts fade now, by the policy."""
        return self.weights(keeper).fading

    def use(self, keeper: Keeper, key: str) -> float:
        """A fact is used: said at once. What it weighs then. NotFound."""
        try:
            return self.weights(keeper).use_now(key, wall_ms())
        except KeyError:
            raise no_such_fact(key, self.weights(keeper).is_pruned(key)) from None

    def restore(self, keeper: Keeper, key: str) -> float:
        """Brings a pruned fact back; what it weighs then. NotFound."""
        weights = self.weights(keeper)
        try:
            weights.restore(key, wall_ms())
        except NotPruned:
            raise no_such_pruned(key) from None
        return weights.weight(key, wall_ms())

    def pruned(self, keeper: Keeper) -> list[tuple[str, int, int]]:
        """(key, when it was pruned, until when it may be brought back; milliseconds since 1970)."""
        return [(key, at_ms, at_ms + RETENTION_MS) for key, at_ms in self.weights(keeper).pruned()]

    def belief(self, keeper: Keeper, key: str) -> Belief:
        """What is believed now."""
        fading, knowledge = self.fading(keeper), keeper.knowledge
        knowledge.flush()
        shard = knowledge.shards.get(shard_of(BELIEFS, key, knowledge.shards_count))
        slot = None if shard is None else shard.slot(BELIEFS, key)
        return belief_of(slot, fading.cycle(wall_ms()), fading)

    def _say(self, keeper: Keeper) -> int:
        return self.weights(keeper).say_uses(wall_ms(), USES_MAX)

    def _prune(self, keeper: Keeper) -> int:
        return len(self.weights(keeper).prune(wall_ms(), keeper.leads))

    # --- in the loop ----------------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        while not self._shell.closing:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except SwarmError as error:
                # No room: what was used waits, what has faded stays.
                self._shell.around.fact(Fact("knowledge.untended", {}, {"error": str(error)}))
                await asyncio.sleep(30 * LOOK_S)

    async def _look(self) -> None:
        fading: Fading = await self._shell.ask(self.fading)
        now, cycle = time.monotonic(), fading.cycle(wall_ms())
        if now - self._said_at >= min(USES_EVERY_S, fading.cycle_ms / 1000):
            self._said_at = now
            await self._shell.ask(self._say, says=True)
        if cycle != self._pruned_in and fading.threshold > 0:
            pruned: Any = await self._shell.ask(self._prune, says=True)
            if pruned:
                self._shell.around.fact(Fact("knowledge.pruned", {}, {}, float(pruned)))
            else:  # as many as go at one time may be followed by others
                self._pruned_in = cycle


def no_such_fact(key: str, pruned: bool) -> NotFound:
    """Nobody can use it."""
    if pruned:
        return NotFound(f"the fact {key!r} was pruned", hint=f"swarm knowledge restore {key} brings it back")
    return NotFound(f"there is no fact {key!r}", hint="swarm knowledge query facts")


def no_such_pruned(key: str) -> NotFound:
    """Nobody can bring it back."""
    return NotFound(
        f"no fact {key!r} is pruned", hint="swarm knowledge pruned shows those that are; after 30 days they are gone"
    )


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
