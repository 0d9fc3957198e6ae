"""Runs seeds until one fails: ``python -m tests.sim.knowledge [--seeds 1000] [--start 0] [--fault NAME]`` (`tests.sim.runs.main`).

With ``--fault`` one of the planted faults is in the knowledge log.
"""

from __future__ import annotations

import sys

from tests.sim.knowledge import faults
from tests.sim.runs import main

if __name__ == "__main__":
    sys.exit(main("tests.sim.knowledge", faults.FAULTS, faults.plant))
