"""A population of genomes that evolves: selection, crossover, mutation, elites, and the way back where it went
astray.

In the field's terms: a generational genetic algorithm (Holland, 1975; Goldberg, 1989) with tournament selection and
elites, over real vectors or programs (genetic programming, Koza, 1992), whose mutation strength follows the
one-fifth rule (Rechenberg, 1973).

What it is not: no guarantee of the best, no gradients (where there are some, use them), and no smaller number of
evaluations than a method made for the problem, such as CMA-ES for smooth functions of some tens of numbers. Against
random search at equal evaluations it wins where good genomes are near good genomes;
`tests/unit/nano/test_evolving.py` shows where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from swarm.nano.improver import Change
from swarm.nano.minds.agent import WORKED, Bus, as_f64
from swarm.nano.minds.genomes import Genomes

G = TypeVar("G")
Fitness = Callable[[G], float]
Map = Callable[[Callable[[Any], float], Sequence[Any]], Iterable[float]]
STRENGTHS = (1e-4, 0.5)  # of mutation, least and most
FAILED = -math.inf


class Guarded(Generic[G]):
    """A fitness that is not a number where the function raises, so that one genome does not end the work of all
    others."""

    def __init__(self, fitness: Fitness[G]) -> None:
        self.fitness = fitness

    def __call__(self, genome: G) -> float:
        """The fitness, or NaN."""
        try:
            return float(self.fitness(genome))
        except Exception:
            return math.nan


@dataclass(frozen=True, slots=True)
class Champion(Generic[G]):
    """The best genome so far: `fitness` is what it was selected by, `score` what it was confirmed by."""

    genome: G
    fitness: float
    score: float
    generation: int


class EvolvingPopulation(Generic[G]):
    """`size` genomes; each `step` is a generation. Greater fitness is better; one that is not a number, or raises,
    is the worst.

    `map` evaluates a list of genomes, in order: the builtin, an executor's, or `swarm.connect().map` for the whole
    fleet; fitness must then be importable or sent with code. It depends on the genome alone: elites are not
    evaluated again.

    `confirm`, if given, scores the best of each generation by something that selection does not see (a held-out
    set, a longer run). Where it falls more than `tolerance` below the champion's, the population goes back to the
    generation of the champion, with half the mutation strength. A run depends on the seed (and the version of
    NumPy) alone, wherever fitness is computed.
    """

    def __init__(
        self,
        genomes: Genomes[G],
        fitness: Fitness[G],
        *,
        size: int = 64,
        seed: int = 0,
        elites: int = 2,
        tournament: int = 3,
        crossover: float = 0.8,
        strength: float = 0.1,
        map: Map = map,
        confirm: Fitness[G] | None = None,
        tolerance: float = 0.0,
        writes: str | None = None,
    ) -> None:
        if size < 2 or not 0 <= elites < size or not 1 <= tournament <= size:
            raise ValueError(f"{size} genomes, {elites} elites and tournaments of {tournament} do not go together")
        if not 0 <= crossover <= 1 or not STRENGTHS[0] <= strength <= STRENGTHS[1] or not 0 <= tolerance < math.inf:
            raise ValueError(f"crossover {crossover}, strength {strength} or tolerance {tolerance} is out of bounds")
        self._genomes, self._fitness, self._map = genomes, Guarded(fitness), map
        self._confirm = None if confirm is None else Guarded(confirm)
        self._size, self._elites, self._tournament = size, elites, tournament
        self._crossover, self._tolerance, self._writes = crossover, tolerance, writes
        self.seed, self.strength = seed, strength
        self.generation = 0
        """How many were made."""
        self.evaluations = 0
        """Calls of fitness so far."""
        self.failures = 0
        """Of these, how many gave no number."""
        self.rollbacks = 0
        self.champion: Champion[G] | None = None
        self.population: list[G] = []
        self.fitness: list[float] = []
        """Of each of the population, which is ordered by it, best first."""
        self._back: tuple[list[G], list[float]] = ([], [])

    def step(self) -> Champion[G]:
        """One generation; the champion after it."""
        random = np.random.Generator(np.random.PCG64([self.seed, self.generation]))
        if self.population:
            children, to_beat = self._children(random)
        else:
            children, to_beat = [self._genomes.fresh(random) for _ in range(self._size)], []
        values = self._evaluated(children)
        if to_beat:
            self._adapt(sum(value > beat for value, beat in zip(values, to_beat, strict=True)) / len(values))
        kept = self._elites if self.population else 0
        everybody = list(zip(self.fitness[:kept] + values, self.population[:kept] + children, strict=True))
        everybody.sort(key=lambda one: -one[0])  # stable: an elite stays before a child as good
        self.fitness = [value for value, _ in everybody]
        self.population = [genome for _, genome in everybody]
        self.generation += 1
        return self._confirmed()

    def run(self, generations: int) -> Champion[G]:
        """Some generations; the champion after them."""
        for _ in range(generations):
            self.step()
        if self.champion is None:
            raise ValueError("no generation has been made")
        return self.champion

    def tick(self, now_ns: int, bus: Bus) -> int:
        """As an agent: a generation a tick; the champion's score goes to the topic `writes`."""
        champion = self.step()
        if self._writes is not None:
            bus.publish(self._writes, as_f64(champion.score))
        return WORKED

    def change(self, subject: str, author: str = "evolution") -> Change:
        """The champion as a change for the Improver. ValueError while there is none."""
        if self.champion is None:
            raise ValueError("no generation has been made")
        best = self.champion
        reason = f"fitness {best.fitness:.6g}, confirmed {best.score:.6g}, after {self.evaluations} evaluations"
        return Change(subject, self._genomes.plain(best.genome), reason, author)

    def save(self) -> dict[str, Any]:
        """State as plain values."""
        plain = self._genomes.plain
        best = self.champion
        return {
            "counts": [self.seed, self.generation, self.evaluations, self.failures, self.rollbacks],
            "strength": self.strength,
            "population": [plain(genome) for genome in self.population],
            "fitness": list(self.fitness),
            "back": [[plain(genome) for genome in self._back[0]], list(self._back[1])],
            "champion": best and [plain(best.genome), best.fitness, best.score, best.generation],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where one made with the same arguments was saved."""
        read = self._genomes.of_plain
        self.seed, self.generation, self.evaluations, self.failures, self.rollbacks = saved["counts"]
        self.strength = saved["strength"]
        self.population, self.fitness = [read(one) for one in saved["population"]], list(saved["fitness"])
        self._back = [read(one) for one in saved["back"][0]], list(saved["back"][1])
        best = saved["champion"]
        self.champion = None if best is None else Champion(read(best[0]), *best[1:])

    def _children(self, random: Any) -> tuple[list[G], list[float]]:
        """New genomes, and for each the fitness of its better parent."""
        children, to_beat = [], []
        for _ in range(self._size - self._elites):
            first, second = self._parent(random), self._parent(random)
            child = self.population[first]
            if random.random() < self._crossover:
                child = self._genomes.cross(child, self.population[second], random)
                first = min(first, second)
            children.append(self._genomes.mutate(child, self.strength, random))
            to_beat.append(self.fitness[first])
        return children, to_beat

    def _parent(self, random: Any) -> int:
        """The place of the best of some: the population is ordered."""
        return int(random.integers(0, self._size, self._tournament).min())

    def _evaluated(self, genomes: list[G]) -> list[float]:
        values = [float(value) for value in self._map(self._fitness, genomes)]
        if len(values) != len(genomes):
            raise ValueError(f"map gave {len(values)} results for {len(genomes)} genomes")
        self.evaluations += len(values)
        self.failures += sum(math.isnan(value) for value in values)
        return [FAILED if math.isnan(value) else value for value in values]

    def _adapt(self, part: float) -> None:
        """The one-fifth rule: more children than that are better than their parents, so greater steps are worth
        while."""
        least, most = STRENGTHS
        self.strength = min(most, max(least, self.strength * math.exp((part - 0.2) / 3)))

    def _confirmed(self) -> Champion[G]:
        """Take the best as the champion, go on without, or go back."""
        best, value = self.population[0], self.fitness[0]
        score = value if self._confirm is None else self._confirm(best)
        score = FAILED if math.isnan(score) else score
        if self.champion is None or score > self.champion.score:
            self.champion = Champion(best, value, score, self.generation)
            self._back = list(self.population), list(self.fitness)
        elif score < self.champion.score - self._tolerance:
            self.population, self.fitness = list(self._back[0]), list(self._back[1])
            self.strength = max(STRENGTHS[0], self.strength / 2)
            self.rollbacks += 1
        return self.champion
