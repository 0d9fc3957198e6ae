"""Minds: agents that forecast, choose, evolve, criticise and model themselves. Each is a plain class.

Whoever drives one calls its methods, or spawns it as an agent: `tick(now_ns, bus)` reads and publishes messages. What each
is, and is not, stands at the head of its module. NumPy is needed: NanoError with a hint where it is not installed.
"""

from swarm.nano.arrays import numpy

numpy()

from swarm.nano.minds.credit import EligibilityTraces  # noqa: E402
from swarm.nano.minds.critic import CriticReflector  # noqa: E402
from swarm.nano.minds.evolving import EvolvingPopulation, RandomSearch, over  # noqa: E402
from swarm.nano.minds.genomes import ArrayGenomes, Formula, ProgramGenomes  # noqa: E402
from swarm.nano.minds.lipschitz import Watch, check  # noqa: E402
from swarm.nano.minds.predictive import PredictiveAgent  # noqa: E402
from swarm.nano.minds.quantum import QuantumDecision  # noqa: E402
from swarm.nano.minds.strange_loop import StrangeLoop  # noqa: E402

__all__ = [
    "ArrayGenomes", "CriticReflector", "EligibilityTraces", "EvolvingPopulation", "Formula", "PredictiveAgent",
    "ProgramGenomes", "QuantumDecision", "RandomSearch", "StrangeLoop", "Watch", "check", "over",
]  # fmt: skip
