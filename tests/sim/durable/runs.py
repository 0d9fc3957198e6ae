"""Runs of the ledger under the owners of a node."""

from __future__ import annotations

from tests.sim.durable.world import DurableWorld
from tests.sim.ledger.plan import draw
from tests.sim.runs import Runs

runs = Runs(draw, DurableWorld, shrinks_max=150)
run = runs.run
