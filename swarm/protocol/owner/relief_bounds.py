"""The bounds by which tasks are moved without being asked, in one place, with the formulas between them."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.protocol.executor.memory import LEAVE_S
from swarm.protocol.executor.suspension import AGEING_S


@dataclass(frozen=True, slots=True)
class ReliefBounds:
    """When a task that offers checkpoints goes on elsewhere by itself. Units: seconds, tasks; factors have none.

    What is waited for, in all of them, is that what has lasted for some time is expected to last as long again (M. Harchol-Balter,
    A. Downey, "Exploiting process lifetime distributions for dynamic load balancing", ACM TOCS 1997). To move when the wait so far
    is what the move costs is at most twice as dear as to have known the end (the ski-rental argument; A. Karlin et al., "Competitive
    snoopy caching", Algorithmica 1988).
    """

    stood_s: float = 2.0
    """A suspended task stands still for so long before it is moved. Most urgent tasks end within it, and what they displaced
    goes on with its caches; it is well below the time after which what stands rises by a class, which moves it on anyway."""
    ran_s: float = 0.5
    """A task has run for so long on its node before it is moved off it for balance: it is expected to run as long again, and that
    pays or does not. Most tasks are over by then, and cost nothing here."""
    over_s: float = 3.0
    """A node runs more than it offers slots for so long before something leaves it: a task that waited for others and goes on
    makes it so for a moment."""
    pays_factor: float = 2.0
    """What is won is so many times what the move is thought to cost."""
    faster_factor: float = 1.5
    """An idle node is so many times as fast as the one that a task leaves for it. Less may be the mix of tasks."""
    cost_guess_s: float = 0.5
    """What a move costs while none of this kind of task has been seen."""
    again_s: float = 30.0
    """A task that was moved, or could not be, is left alone for so long; it doubles with each time."""
    again_s_max: float = 3600.0
    moves_max: int = 32
    """So often is one task moved without being asked, in its life."""
    rest_s: float = 30.0
    """Nothing is moved to a node that something left for so long: what left it would come back."""
    leave_s: float = LEAVE_S
    """A suspended task goes on for so long at most, beside what has its slot, to come to a safe point."""
    within_s: float = 10.0
    """A running one is given so long; the slot at the other node is kept meanwhile."""
    look_s: float = 1.0
    """How often it is looked whether a node runs more than it offers. Each look moves one task off it, and sees what comes of it."""
    hasten_s: float = 0.1
    """How often it is looked whether a faster node has a slot free for what runs on a slow one. All that runs on slow nodes is looked
    at, where tasks offer checkpoints and a node is so much faster."""
    try_s: float = 0.010
    """How often at most it is tried whether there is room for what stands still."""
    under_way_max: int = 8
    """Moves of one owner at a time, that nobody asked for."""
    tasks_max: int = 4096
    """Tasks of which it is known that they were moved; what is beyond that is not moved by itself."""

    def __post_init__(self) -> None:
        assert 0 < self.try_s <= self.hasten_s <= self.look_s
        assert self.stood_s < AGEING_S, "what stands for longer has risen by a class, and goes on where it is"
        assert self.leave_s <= self.within_s, "what goes on beside urgent work does so for the shorter time"
        assert self.again_s >= 2 * self.look_s, "a move is seen in the loads that are told before the next"
        assert self.again_s <= self.again_s_max
        assert self.pays_factor >= 1 and self.faster_factor > 1
        assert self.rest_s >= self.over_s, "else what left a node could come back before it is known to be at ease"
