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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from swarm.errors import TaskFailed, TaskLost, TaskTimeout, WorkerCrashed
from swarm.nano.improver import Change
from swarm.nano.minds.agent import WORKED, Bus, as_f64
from swarm.nano.minds.genomes import Genomes

G = TypeVar("G")
Fitness = Callable[[G], float]
Map = Callable[[Callable[[Any], float | str], Sequence[Any]], Iterable[float | str]]
STRENGTHS = (1e-4, 0.5)  # of mutation, least and most
FAILED = -math.inf
REASONS_MAX = 16
REASON_CHARACTERS = 200


class Guarded(Generic[G]):
    """A fitness that says why where the function raises or gives no number, so that one genome does not end the work
    of all others. It is given a copy of an array, so that it cannot change what is evolved."""

    def __init__(self, fitness: Fitness[G]) -> None:
        self.fitness = fitness

    def __call__(self, genome: G) -> float | str:
        """The fitness, or why there is none."""
        try:
            given: Any = genome.copy() if isinstance(genome, np.ndarray) else genome
            value = float(self.fitness(given))
        except Exception as error:
            return reason(error)
        return "it returned NaN" if math.isnan(value) else value


def reason(error: BaseException) -> str:
    """What is said of an evaluation that went wrong: a line."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return said if len(said) <= REASON_CHARACTERS else said[: REASON_CHARACTERS - 1] + "…"


def _number(value: float | str) -> float:
    """What selection goes by."""
    number = FAILED if isinstance(value, str) else float(value)
    return FAILED if math.isnan(number) else number


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
    fleet (`over(fleet)`, where a fitness may end its process or hang); fitness must then be importable or sent with
    code. It depends on the genome alone: elites are not evaluated again. `failures` counts those that gave no number,
    and `reasons` says why.

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
        self.reasons: Counter[str] = Counter()
        """Why, and how often; of reasons without end the first few."""
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

    @property
    def diversity(self) -> float:
        """How unlike the genomes are: about 1 when made at random, 0 when all are the same."""
        if not self.population:
            return 0.0
        of_kind = getattr(self._genomes, "diversity", None)
        if of_kind is not None:
            return float(of_kind(self.population))
        plain = [repr(self._genomes.plain(genome)) for genome in self.population]
        return (len(set(plain)) - 1) / max(1, len(plain) - 1)

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
            "reasons": dict(self.reasons),
            "population": [plain(genome) for genome in self.population],
            "fitness": list(self.fitness),
            "back": [[plain(genome) for genome in self._back[0]], list(self._back[1])],
            "champion": best and [plain(best.genome), best.fitness, best.score, best.generation],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where one made with the same arguments was saved."""
        read = self._genomes.of_plain
        self.seed, self.generation, self.evaluations, self.failures, self.rollbacks = saved["counts"]
        self.strength, self.reasons = saved["strength"], Counter(saved.get("reasons", {}))
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
        found = list(self._map(self._fitness, genomes))
        if len(found) != len(genomes):
            raise ValueError(f"map gave {len(found)} results for {len(genomes)} genomes")
        self.evaluations += len(found)
        for value in found:
            if isinstance(value, str) or math.isnan(value):
                self.failures += 1
                why = value if isinstance(value, str) else "it returned NaN"
                if why in self.reasons or len(self.reasons) < REASONS_MAX:
                    self.reasons[why] += 1
        return [_number(value) for value in found]

    def _adapt(self, part: float) -> None:
        """The one-fifth rule: more children than that are better than their parents, so greater steps are worth
        while."""
        least, most = STRENGTHS
        self.strength = min(most, max(least, self.strength * math.exp((part - 0.2) / 3)))

    def _confirmed(self) -> Champion[G]:
        """Take the best as the champion, go on without, or go back."""
        best, value = self.population[0], self.fitness[0]
        score = value if self._confirm is None else _number(self._confirm(best))
        if self.champion is None or score > self.champion.score:
            self.champion = Champion(best, value, score, self.generation)
            self._back = list(self.population), list(self.fitness)
        elif score < self.champion.score - self._tolerance:
            self.population, self.fitness = list(self._back[0]), list(self._back[1])
            self.strength = max(STRENGTHS[0], self.strength / 2)
            self.rollbacks += 1
        return self.champion


class RandomSearch(Generic[G]):
    """The baseline: the best of as many genomes made at random. What evolves is worth its while where it beats this at
    equal evaluations."""

    def __init__(self, genomes: Genomes[G], fitness: Fitness[G], *, seed: int = 0, map: Map = map) -> None:
        self._genomes, self._fitness, self._map, self.seed = genomes, Guarded(fitness), map, seed
        self.rounds = self.evaluations = 0
        self.best = FAILED

    def step(self, count: int) -> float:
        """So many genomes more; the best fitness after them. Depends on the seed and the counts alone."""
        random = np.random.Generator(np.random.PCG64([self.seed, self.rounds, 1]))
        genomes = [self._genomes.fresh(random) for _ in range(count)]
        values = [_number(value) for value in self._map(self._fitness, genomes)]
        self.rounds, self.evaluations = self.rounds + 1, self.evaluations + count
        self.best = max(self.best, *values) if values else self.best
        return self.best

    def save(self) -> list[Any]:
        """State as plain values."""
        return [self.seed, self.rounds, self.evaluations, self.best]

    def restore(self, saved: list[Any]) -> None:
        """Go on there."""
        self.seed, self.rounds, self.evaluations, self.best = saved


def over(fleet: Any, *, timeout_s: float | None = None) -> Map:
    """A `map` over a fleet (`swarm.connect()`) which goes on where a fitness ends its worker, or takes longer than
    `timeout_s`: that genome alone has failed. What concerns all of them (nobody may run code, there is no fleet any
    more) is raised."""
    by = fleet if timeout_s is None else fleet.options(timeout_s=timeout_s)
    of_one = (TaskFailed, TaskTimeout, WorkerCrashed, TaskLost)

    def mapped(fitness: Callable[[Any], float | str], genomes: Sequence[Any]) -> list[float | str]:
        found: list[float | str] = []
        try:
            found.extend(by.map(fitness, genomes))
        except of_one as error:
            found.append(reason(error))
        else:
            return found
        for future in [by.submit(fitness, genome) for genome in genomes[len(found) :]]:
            try:
                found.append(future.result())
            except of_one as error:
                found.append(reason(error))
        return found

    return mapped
