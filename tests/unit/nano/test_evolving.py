"""It beats random search at equal evaluations, keeps its best, goes back from where it went astray, and is the same
for a seed."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.nano.improver import Improver, RunTest
from swarm.nano.minds.agent import WORKED, f64_of
from swarm.nano.minds.evolving import EvolvingPopulation
from swarm.nano.minds.genomes import ArrayGenomes, Formula, ProgramGenomes
from tests.unit.nano.fake_bus import FakeBus

LENGTH = 10


def sphere(x):
    return -float((x**2).sum())


def rastrigin(x):
    return -float(10 * len(x) + (x**2 - 10 * np.cos(2 * math.pi * x)).sum())


def rosenbrock(x):
    return -float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def random_search(genomes, fitness, evaluations, seed):
    random = np.random.Generator(np.random.PCG64([seed, 999]))
    values = (fitness(genomes.fresh(random)) for _ in range(evaluations))
    return max(value for value in values if not math.isnan(value))


@pytest.mark.parametrize("function", [sphere, rastrigin, rosenbrock])
def test_arrays_beat_random_search_at_equal_evaluations(function):
    genomes = ArrayGenomes(LENGTH, -5.12, 5.12)
    evolved, searched = [], []
    for seed in range(5):
        population = EvolvingPopulation(genomes, function, size=40, seed=seed)
        evolved.append(population.run(50).fitness)
        searched.append(random_search(genomes, function, population.evaluations, seed))
    print(f"{function.__name__}: evolved {-np.median(evolved):.3g}, random search {-np.median(searched):.3g} (0 is best), "
          f"{population.evaluations} evaluations")  # fmt: skip
    assert min(evolved) > max(searched)
    assert np.median(evolved) > 0.25 * np.median(searched)


def error_of(target, seed=1):
    rows = np.random.default_rng(seed).uniform(-2, 2, (40, 2))
    wanted = target(rows[:, 0], rows[:, 1])

    def fitness(formula):
        return -float(np.sqrt(np.mean((formula(rows) - wanted) ** 2)))

    return fitness


@pytest.mark.parametrize(
    "target",
    [lambda x, y: x * x + x * y + 1, lambda x, y: np.abs(x - y) * 2, lambda x, y: np.maximum(x, y) - y * y * x],
    ids=["polynomial", "distance", "kink"],
)
def test_programs_beat_random_search_at_equal_evaluations(target):
    genomes, fitness = ProgramGenomes(2), error_of(target)
    evolved, searched = [], []
    for seed in range(5):
        population = EvolvingPopulation(genomes, fitness, size=100, seed=seed, tournament=4)
        evolved.append(population.run(20).fitness)
        searched.append(random_search(genomes, fitness, population.evaluations, seed))
    print(f"root mean square error: evolved {-np.median(evolved):.3g}, random search {-np.median(searched):.3g}")
    assert np.median(evolved) > np.median(searched)
    assert np.mean(np.array(evolved) >= searched) >= 0.8


def test_the_best_never_gets_worse_and_evaluations_are_counted():
    called = []
    population = EvolvingPopulation(ArrayGenomes(3), lambda x: called.append(1) or sphere(x), size=10, elites=2, seed=1)
    best = [population.step().fitness for _ in range(30)]
    assert best == sorted(best)
    assert population.evaluations == len(called) == 10 + 29 * 8
    assert population.fitness == sorted(population.fitness, reverse=True) and len(population.population) == 10
    assert [sphere(genome) for genome in population.population] == population.fitness


def test_without_elites_the_champion_is_kept_all_the_same():
    population = EvolvingPopulation(ArrayGenomes(3), sphere, size=10, elites=0, seed=1, tolerance=100)
    scores = [population.step().score for _ in range(20)]
    assert scores == sorted(scores) and population.rollbacks == 0
    assert sphere(population.champion.genome) == population.champion.fitness


def test_it_goes_back_from_where_it_went_astray():
    """What selection sees grows without end; what counts is good near 1 and falls beyond: a planted way to overfit."""

    def seen(x):
        return float(x[0])

    def counts(x):
        return -abs(float(x[0]) - 1.0)

    start = {"strength": 0.002, "size": 20, "seed": 3}

    class Near(ArrayGenomes):
        def fresh(self, random):
            return random.uniform(0.0, 0.5, 1)

    near = Near(1, 0.0, 100.0)
    astray = EvolvingPopulation(near, seen, **start)
    astray.run(40)
    guided = EvolvingPopulation(near, seen, confirm=counts, tolerance=0.2, **start)
    guided.run(40)
    assert counts(astray.population[0]) < -3
    assert guided.rollbacks > 0
    assert counts(guided.population[0]) >= guided.champion.score - 0.2
    assert guided.champion.score > -0.2


def test_genomes_whose_fitness_fails_are_the_worst_and_counted():
    def fitness(x):
        if x[0] > 0:
            raise RuntimeError("no")
        return math.nan if x[1] > 0 else sphere(x)

    population = EvolvingPopulation(ArrayGenomes(2), fitness, size=20, seed=1)
    champion = population.run(10)
    assert champion.genome[0] <= 0 and champion.genome[1] <= 0
    assert 0 < population.failures < population.evaluations
    hopeless = EvolvingPopulation(ArrayGenomes(2), lambda x: math.nan, size=4)
    assert hopeless.run(3).fitness == -math.inf


def test_any_map_gives_the_same_run():
    def run(**options):
        population = EvolvingPopulation(ArrayGenomes(4), rastrigin, size=16, seed=5, **options)
        population.run(5)
        return population.save()

    with ThreadPoolExecutor(4) as pool:
        assert run() == run(map=pool.map) == run(map=lambda fitness, genomes: [fitness(g) for g in genomes])
    with pytest.raises(ValueError, match="map gave 1 results for 16 genomes"):
        run(map=lambda fitness, genomes: [0.0])


@pytest.mark.parametrize("genomes", [ArrayGenomes(4), ProgramGenomes(1)], ids=["arrays", "programs"])
def test_saved_and_restored_it_goes_on_the_same(genomes):
    def fitness(genome):
        return float(genome(np.ones((1, 1)))[0]) if isinstance(genome, Formula) else rastrigin(genome)

    def made():
        return EvolvingPopulation(genomes, fitness, size=12, seed=5, confirm=fitness)

    whole, first, second = made(), made(), made()
    whole.run(8)
    first.run(4)
    second.restore(msgpack.unpackb(msgpack.packb(first.save())))
    second.run(4)
    assert second.save() == whole.save()
    other = EvolvingPopulation(genomes, fitness, size=12, seed=6, confirm=fitness)
    other.run(8)
    assert other.save()["population"] != whole.save()["population"]


def test_a_champion_goes_to_the_improver():
    population = EvolvingPopulation(ArrayGenomes(2), sphere, size=8, seed=1)
    with pytest.raises(ValueError, match="no generation"):
        population.change("gains")
    population.run(3)
    change = population.change("gains")
    effects = Improver({"gains": b""}).propose(change, 0)
    assert any(isinstance(effect, RunTest) for effect in effects)
    assert np.array_equal(ArrayGenomes(2).of_plain(change.value), population.champion.genome)


def test_as_an_agent_it_makes_a_generation_a_tick():
    bus = FakeBus()
    population = EvolvingPopulation(ArrayGenomes(2), sphere, size=8, seed=1, writes="best")
    assert [population.tick(now, bus) for now in range(3)] == [WORKED] * 3
    bus.turn()
    scores = [f64_of(line.payload) for line in bus.read("best")]
    assert len(scores) == 3 and scores == sorted(scores) and scores[-1] == population.champion.score


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-4, 0.5))
def test_children_of_programs_are_programs(seed, strength):
    random = np.random.Generator(np.random.PCG64(seed))
    genomes = ProgramGenomes(2, length_max=40, steps_max=500)
    left, right = genomes.fresh(random), genomes.fresh(random)
    for _ in range(10):
        left, right = (
            genomes.mutate(genomes.cross(left, right, random), strength, random),
            genomes.mutate(left, strength, random),
        )
        for formula in (left, right):
            assert formula.program().steps <= 500 and len(formula.code) <= 80
            assert formula(np.ones((3, 2))).shape == (3,)
            assert genomes.of_plain(genomes.plain(formula)) == formula


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.floats(1e-4, 0.5))
def test_children_of_arrays_stay_within_their_bounds(seed, length, strength):
    random = np.random.Generator(np.random.PCG64(seed))
    genomes = ArrayGenomes(length, 2.0, 3.0)
    left, right = genomes.fresh(random), genomes.fresh(random)
    for _ in range(20):
        left, right = genomes.cross(left, right, random), genomes.mutate(right, strength, random)
        for genome in (left, right):
            assert genome.shape == (length,) and (genome >= 2.0).all() and (genome <= 3.0).all()


def test_programs_use_loops_and_variables():
    random = np.random.Generator(np.random.PCG64(1))
    genomes = ProgramGenomes(2)
    codes = [genomes.fresh(random).code[::2] for _ in range(200)]
    for operation in (3, 4, 24, 25):  # load, store, loop, end
        assert any(operation in code for code in codes)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere, size=1), "do not go together"),
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere, size=4, elites=4), "4 elites"),
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere, tournament=0), "tournaments of 0"),
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere, crossover=1.1), "crossover 1.1"),
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere, strength=0.0), "strength 0.0"),
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere, tolerance=-1.0), "tolerance -1.0"),
        (lambda: EvolvingPopulation(ArrayGenomes(1), sphere).run(0), "no generation"),
        (lambda: ArrayGenomes(0), "0 numbers"),
        (lambda: ArrayGenomes(1, 1.0, 1.0), "between 1.0 and 1.0"),
        (lambda: ArrayGenomes(1, 0.0, math.inf), "finite"),
        (lambda: ArrayGenomes(2).of_plain(b"12345678"), "8 bytes for 2 numbers"),
        (lambda: ProgramGenomes(0), "1 to 255 inputs"),
        (lambda: ProgramGenomes(1).of_plain([b"\x09\x00", [0.0] * 8]), "add on a stack of 0"),
        (lambda: ProgramGenomes(1).of_plain([b"\x02\x00", [0.0]]), "1 constants; 8 are expected"),
    ],
)
def test_what_cannot_be_asked(make, what):
    with pytest.raises(ValueError, match=what):
        make()
