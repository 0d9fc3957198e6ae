"""Runs of the knowledge log."""

from __future__ import annotations

from tests.sim.knowledge.plan import draw
from tests.sim.knowledge.world import KnowledgeWorld
from tests.sim.runs import Runs

runs = Runs(draw, KnowledgeWorld, shrinks_max=150)
run = runs.run
