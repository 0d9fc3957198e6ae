"""What must hold of moves that nobody asked for, looked at from beside the owner at the moment when it begins one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernels.tasks import TaskColumns
from swarm.protocol.owner.moving import Move
from swarm.protocol.owner.relief import PREEMPTION, SPEED
from swarm.protocol.placement import DEEP_BELOW_S, judge
from tests.sim.fabric.truth import shown

if TYPE_CHECKING:
    from swarm.protocol.ownership import Ownership
    from tests.sim.fabric.node import SimNode

ROUNDING = 1e-6
SENT_AHEAD_S = 0.12
"""What is at a node for longer is not there because it was sent ahead."""


def watch_relief(node: SimNode, ownership: Ownership) -> None:
    """Has each move that an owner begins by itself looked at."""
    moving: Any = ownership._moving
    means = ownership.runtimes
    bounds = ownership.config.relief
    begin, over = moving.relieve, moving.ended
    last: dict[tuple[bytes, int], float] = {}

    def slot_soon(now: float, target: Any, batch: Any) -> bool:
        """What is there was sent ahead just now, but for less than has its slots."""
        mean_s = means.mean_s(batch.raw)
        kept = [it for it in moving.under_way() if it.target is target]
        older = sum(
            one.left for one in target.dispatches.values() if now - one.sent_at > SENT_AHEAD_S
        )  # fmt: skip
        slots = target.fit(batch.shape)[1] - target.withheld - target.others
        return mean_s is not None and mean_s < DEEP_BELOW_S and older + len(kept) < slots

    def relieve(now: float, dispatch: Any, index: int, target: Any, within_s: float, why: str, words: str) -> None:
        batch, task = dispatch.batch, (dispatch.batch.key, index)
        assert bounds is not None, f"{node.name} moves {shown(task)}, and is not to move any"
        where = f"{node.name} moves {shown(task)} to {target.name} ({why}: {words})"
        assert batch.spec.checkpoint and batch.columns.state(index) == TaskColumns.DISPATCHED, where
        assert not batch.is_cancelled(index), f"{where}: it was given up"
        # It is kept there before it is asked to leave: nobody is displaced for it, and nobody behind it waits longer.
        room = judge(target, batch.shape, None).room >= 1 or (why == SPEED and slot_soon(now, target, batch))
        assert room, f"{where}: there is no room"
        assert not target.capacity.misfit(batch.queued), f"{where}: it does not fit there"
        assert now - last.get(task, -1e9) >= bounds.again_s - ROUNDING, f"{where}: it was moved only just"
        others = [it for it in moving.under_way() if it.dispatch.executor is dispatch.executor and it.why != PREEMPTION]
        assert why == PREEMPTION or not others, f"{where}: others are leaving {dispatch.executor.name}"
        if why == SPEED:
            ratio = target.pace.speed / dispatch.executor.pace.speed
            assert ratio >= bounds.faster_factor, f"{where}: it is {ratio} times as fast"
        node.world.truth.note(node.world.sim.now, where)
        begin(now, dispatch, index, target, within_s, why, words)

    def ended(now: float, it: Move, reason: str) -> None:
        last[it.batch.key, it.index] = now
        over(now, it, reason)

    moving.relieve, moving.ended = relieve, ended
