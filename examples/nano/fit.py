"""Functions that score genomes, for `swarm nano evolve`: more is better.

swarm nano evolve fit.py:rastrigin --array 10 --bounds -5.12 5.12 --generations 200 --baseline
swarm nano evolve fit.py:kink --program 2 --population 200 --baseline --fleet
"""

from __future__ import annotations

import numpy as np

ROWS = np.random.default_rng(1).uniform(-2, 2, (40, 2))
WANTED = np.maximum(ROWS[:, 0], ROWS[:, 1]) - ROWS[:, 1] ** 2 * ROWS[:, 0]


def rastrigin(x):
    """A bowl with a dent at each whole number: 0 at the origin is the best."""
    return -float(10 * len(x) + (x**2 - 10 * np.cos(2 * np.pi * x)).sum())


def kink(formula):
    """How near a formula of two inputs comes to max(x, y) - x y², by the root mean square error."""
    return -float(np.sqrt(np.mean((formula(ROWS) - WANTED) ** 2)))
