"""Runs of the ledger, with owners and executors that do what the worst ones would."""

from __future__ import annotations

from tests.sim.ledger.plan import draw
from tests.sim.ledger.world import LedgerWorld
from tests.sim.runs import Runs

runs = Runs(draw, LedgerWorld, shrinks_max=150)
run = runs.run
