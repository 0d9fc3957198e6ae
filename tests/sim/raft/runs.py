"""Runs of consensus alone."""

from __future__ import annotations

from tests.sim.raft.plan import draw
from tests.sim.raft.world import World
from tests.sim.runs import Runs

runs = Runs(draw, World, shrinks_max=300)
run = runs.run
