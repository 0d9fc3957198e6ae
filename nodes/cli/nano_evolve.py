"""`swarm nano evolve`: genomes that get better at what a function of the user's scores."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nodes.cli.arguments import duration, whole
from nodes.cli.files import check_writable, write_whole
from nodes.cli.interrupts import Interrupts
from nodes.cli.screen import print_json, say, to_json
from swarm.errors import SwarmError, UsageError
from swarm.exit_codes import ExitCode

if TYPE_CHECKING:
    from swarm.nano.minds import EvolvingPopulation, RandomSearch

HINT: Final = "name the function that scores a genome: FILE.py:NAME, or package.module:NAME; more is better"
DEFAULTS: Final[dict[str, Any]] = {
    "population": 64, "seed": 0, "elites": 2, "tournament": 3, "crossover": 0.8, "mutation": 0.1, "baseline": False,
    "array": None, "bounds": [-1.0, 1.0], "program": None,
}  # fmt: skip
"""What a checkpoint keeps, so that `--resume` goes on with the same."""
REASONS_SHOWN: Final = 3
ABOUT: Final = """Evolve genomes by selection, crossover, mutation and elites.

  swarm nano evolve fit.py:fitness --array 10 --bounds -5 5 --generations 100
  swarm nano evolve fit.py:error --program 2 --fleet --baseline

The function takes a genome and returns a number; more is better. A genome is a NumPy array of LENGTH float64s, or a
program of the stack machine that is called with rows of inputs: `formula(rows)`. A genome for which the function
raises, or returns NaN, fails alone; failures are counted and shown. The result depends on the seed, wherever it is
computed. After Ctrl-C, what the last whole generation came to is printed, and its checkpoint stays.
"""


def add_arguments(actions: Any) -> argparse.ArgumentParser:
    """The command line."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "evolve", help="evolve genomes that a function scores, here or over the fleet", description=ABOUT
    )
    parser._negative_number_matcher = re.compile(
        r"-\.?\d"
    )  # argparse takes -1e3 for an option, where -1000 is a number
    parser.add_argument("fitness", metavar="FILE:NAME", help="a script or a module, and the function in it")
    kind = parser.add_argument_group("the genome")
    kind.add_argument("--array", type=whole(1), metavar="LENGTH", help="so many numbers")
    kind.add_argument("--bounds", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of the numbers (-1 1)")
    kind.add_argument(
        "--program", type=whole(1), metavar="INPUTS", help="bytecode of so many inputs, in place of an array"
    )
    how = parser.add_argument_group("the evolution")
    how.add_argument(
        "--generations", type=whole(1), default=50, metavar="N", help="so many, counted from the first (50)"
    )
    how.add_argument("--population", type=whole(2), metavar="N", help="genomes of a generation (64)")
    how.add_argument("--seed", type=whole(0), metavar="N", help="of all that is random (0)")
    how.add_argument("--elites", type=whole(0), metavar="N", help="the best, kept as they are (2)")
    how.add_argument("--tournament", type=whole(1), metavar="N", help="a parent is the best of so many (3)")
    how.add_argument("--crossover", type=float, metavar="PART", help="children of two parents, 0 to 1 (0.8)")
    how.add_argument("--mutation", type=float, metavar="STRENGTH", help="at the beginning, 0.0001 to 0.5 (0.1)")
    how.add_argument(
        "--baseline", action="store_true", default=None, help="random search at equal evaluations beside it"
    )
    where = parser.add_argument_group("where it is computed")
    where.add_argument("--fleet", action="store_true", help="score genomes in parallel over the fleet")
    where.add_argument(
        "--node", action="append", default=[], metavar="HOST:PORT", help="a node to ask, where multicast does not reach"
    )
    where.add_argument(
        "--connect-timeout", type=duration, default=3.0, metavar="TIME", help="how long to look for a fleet (3s)"
    )
    where.add_argument(
        "--timeout", type=duration, metavar="TIME", help="for one genome, with --fleet: what takes longer fails"
    )
    files = parser.add_argument_group("files")
    files.add_argument("--checkpoint", metavar="FILE", help="kept up to date after each generation")
    files.add_argument("--resume", action="store_true", help="go on from the checkpoint, where there is one")
    files.add_argument("--save", metavar="FILE", help="write the result there, as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Do it; returns 0, 1 where no genome had a fitness, or 128 + the signal that ended it."""
    from swarm.nano.minds import over

    if args.timeout is not None and not args.fleet:
        raise UsageError("--timeout needs --fleet", hint="what runs here cannot be ended alone; Ctrl-C ends all of it")
    if args.resume and not args.checkpoint:
        raise UsageError("--resume needs --checkpoint FILE", hint="it names what to go on from")
    for file in filter(None, (args.checkpoint, args.save)):
        check_writable(file)
    saved = _read(args.checkpoint) if args.resume and Path(args.checkpoint).exists() else None
    chosen = _chosen(args, saved)
    from nodes.nano_scripts import function_of

    fitness = function_of(args.fitness, HINT)
    with _fleet(args) if args.fleet else nullcontext() as fleet:
        by = map if fleet is None else over(fleet, timeout_s=args.timeout)
        population, search = _made(chosen, fitness, by)
        if saved is not None:
            _restore(args, population, search, saved)
        return _Evolution(args, chosen, population, search).all()


@contextmanager
def _fleet(args: argparse.Namespace) -> Iterator[Any]:
    import swarm

    fleet = swarm.connect(seeds=list(args.node), timeout_s=args.connect_timeout)
    cancel = True
    try:
        yield fleet
        cancel = False
    finally:
        fleet.close(cancel=cancel)


def _chosen(args: argparse.Namespace, saved: dict[str, Any] | None) -> dict[str, Any]:
    """The options that make the evolution what it is: given, those of the checkpoint, or the usual ones."""
    given = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) is not None}
    chosen = dict(DEFAULTS | (saved["chosen"] if saved is not None else {}))
    if saved is not None:
        for name, value in given.items():
            if chosen.get(name) != value:
                raise UsageError(
                    f"--{name}: the checkpoint {args.checkpoint} was made with {chosen.get(name)}, not {value}",
                    hint="leave the option out to go on, or begin anew without --resume",
                )
    chosen |= given
    if (chosen["array"] is None) == (chosen["program"] is None):
        raise UsageError("say what a genome is", hint="--array LENGTH or --program INPUTS, one of them")
    if chosen["program"] is not None and "bounds" in given:
        raise UsageError("--bounds are those of --array", hint="leave it out with --program")
    return chosen


def _made(
    chosen: dict[str, Any], fitness: Callable[[Any], float], by: Any
) -> tuple[EvolvingPopulation[Any], RandomSearch[Any] | None]:
    from swarm.nano.minds import ArrayGenomes, EvolvingPopulation, ProgramGenomes, RandomSearch

    try:
        genomes: Any = (
            ProgramGenomes(chosen["program"])
            if chosen["array"] is None
            else ArrayGenomes(chosen["array"], *chosen["bounds"])
        )
        population = EvolvingPopulation(
            genomes, fitness, size=chosen["population"], seed=chosen["seed"], elites=chosen["elites"],
            tournament=chosen["tournament"], crossover=chosen["crossover"], strength=chosen["mutation"], map=by,
        )  # fmt: skip
    except (ValueError, OverflowError, MemoryError) as error:
        raise UsageError(str(error), hint="`swarm nano evolve --help`") from None
    return population, RandomSearch(genomes, fitness, seed=chosen["seed"], map=by) if chosen["baseline"] else None


class _Evolution:
    """The generations, one by one, with what is said and kept after each."""

    def __init__(
        self, args: argparse.Namespace, chosen: dict[str, Any], population: EvolvingPopulation[Any],
        search: RandomSearch[Any] | None,
    ) -> None:  # fmt: skip
        self._args, self._chosen, self._population, self._search = args, chosen, population, search
        self._history: list[dict[str, Any]] = []
        self._computing = self._stopping = False

    def all(self) -> int:
        population = self._population
        if population.generation >= self._args.generations:
            say(f"{population.generation} generations have been made; --generations counts them from the first")
        status = 0
        with Interrupts(self._interrupted, "ending") as interrupts:
            try:
                while population.generation < self._args.generations and not self._stopping:
                    self._generation()
            except _Stopped:
                pass
            status = interrupts.exit_status
        if status:
            say(f"interrupted after {self._population.generation} generations")
        ended = self._end()
        return status or ended

    def _generation(self) -> None:
        population, before = self._population, self._population.evaluations
        try:
            self._computing = True
            population.step()
            if self._search is not None:
                self._search.step(population.evaluations - before)
        except SwarmError:
            raise
        except Exception as error:
            if not self._args.fleet:
                raise
            from swarm.nano.errors import NanoError

            raise NanoError(
                f"the fleet could not score a genome: {type(error).__name__}: {error}",
                hint="its nodes need NumPy, and what the function imports",
            ) from error
        finally:
            self._computing = False
        self._history.append(self._line())
        if self._args.checkpoint:
            _write(self._args.checkpoint, self._args.fitness, self._chosen, population, self._search)
        if not self._args.json:
            self._say(self._history[-1])

    def _interrupted(self, number: int) -> None:
        self._stopping = True
        if self._computing:  # a function that takes its time; what a generation changes, it changes at its end
            raise _Stopped

    def _line(self) -> dict[str, Any]:
        population = self._population
        known = [value for value in population.fitness if math.isfinite(value)]
        return {
            "generation": population.generation, "best": _finite(population.fitness[0]),
            "mean": sum(known) / len(known) if known else None, "diversity": population.diversity,
            "evaluations": population.evaluations, "failures": population.failures,
            **({"random": _finite(self._search.best)} if self._search is not None else {}),
        }  # fmt: skip

    def _say(self, line: dict[str, Any]) -> None:
        said = f"{line['generation']:>5}  best {_shown(line['best'])}  mean {_shown(line['mean'])}  diversity {line['diversity']:5.3f}"
        if "random" in line:
            said += f"  random {_shown(line['random'])}"
        say(said + (f"  {line['failures']:,} failed" if line["failures"] else ""))

    def _end(self) -> int:
        result = self._result()
        if self._args.save:
            write_whole(self._args.save, (to_json(result) + "\n").encode())
        if self._args.json:
            print_json({**result, "history": self._history})
        elif result["fitness"] is not None:
            self._print(result)
        elif self._population.generation:
            say("no genome had a fitness")
        population = self._population
        if population.failures and not self._args.json:
            say(f"{population.failures:,} of {population.evaluations:,} evaluations gave no number:")
            for why, count in population.reasons.most_common(REASONS_SHOWN):
                say(f"  {count:,} × {why}")
        return ExitCode.OK if result["fitness"] is not None else ExitCode.FAILED

    def _result(self) -> dict[str, Any]:
        population, champion = self._population, self._population.champion
        known = champion is not None and math.isfinite(champion.fitness)
        result: dict[str, Any] = {
            "fitness": champion.fitness if champion is not None and known else None,
            "genome": _genome(champion.genome) if champion is not None and known else None,
            "generation": champion.generation if champion is not None else None,
            "generations": population.generation, "evaluations": population.evaluations,
            "failures": population.failures, "reasons": dict(population.reasons.most_common()),
            "seed": population.seed, "function": self._args.fitness,
        }  # fmt: skip
        if self._search is not None:
            result["baseline"] = {"random": _finite(self._search.best), "evaluations": self._search.evaluations}
        return result

    def _print(self, result: dict[str, Any]) -> None:
        print(
            f"best {result['fitness']:.9g} of generation {result['generation']}, after {result['evaluations']:,} evaluations"
        )
        if self._search is not None:
            print(f"random search at equal evaluations: {_shown(result['baseline']['random']).strip()}")
        genome = result["genome"]
        if isinstance(genome, list):
            print(" ".join(f"{value:.9g}" for value in genome))
        else:
            print(", ".join(genome["text"].split("\n")))
            print("constants:", " ".join(f"{value:.9g}" for value in genome["constants"]))


class _Stopped(BaseException):
    """Raised by a signal, out of a function that computes."""


def _genome(genome: Any) -> Any:
    from kernels.stackvm import disassemble
    from swarm.nano.minds import Formula

    if isinstance(genome, Formula):
        return {
            "code": genome.code.hex(), "constants": list(genome.constants), "inputs": genome.inputs,
            "text": disassemble(genome.code),
        }  # fmt: skip
    return genome.tolist()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return f"{value:>12.6g}" if value is not None else f"{'none':>12}"


# --- the checkpoint -----------------------------------------------------------------------------------------------------


def _write(
    where: str,
    function: str,
    chosen: dict[str, Any],
    population: EvolvingPopulation[Any],
    search: RandomSearch[Any] | None,
) -> None:
    import blake3
    import msgpack

    content = bytes(msgpack.packb({
        "function": function, "chosen": chosen, "state": population.save(), "search": search and search.save(),
    }))  # fmt: skip
    write_whole(where, _MARK, blake3.blake3(content).digest(), content)


_MARK: Final = b"SWARMEVOLVE\x00\x00\x00\x00\x01"
_DIGEST: Final = 32


def _read(where: str) -> dict[str, Any]:
    import blake3
    import msgpack

    raw = Path(where).read_bytes()
    head, digest, content = raw[: len(_MARK)], raw[len(_MARK) : len(_MARK) + _DIGEST], raw[len(_MARK) + _DIGEST :]
    if head[:-1] != _MARK[:-1]:
        raise UsageError(f"{where} is no checkpoint of an evolution", hint="name another, or begin without --resume")
    if head != _MARK:
        raise UsageError(
            f"{where} was written by another version ({head[-1]})", hint="go on with the version that wrote it"
        )
    if blake3.blake3(content).digest() != digest:
        raise UsageError(
            f"{where} is damaged: its digest is another", hint="take a copy of it, or begin without --resume"
        )
    found: dict[str, Any] = msgpack.unpackb(content, strict_map_key=False)
    return found


def _restore(
    args: argparse.Namespace,
    population: EvolvingPopulation[Any],
    search: RandomSearch[Any] | None,
    saved: dict[str, Any],
) -> None:
    population.restore(saved["state"])
    if search is not None and saved["search"] is not None:
        search.restore(saved["search"])
    if saved["function"] != args.fitness:
        say(f"the checkpoint was made with {saved['function']}; it goes on with {args.fitness}")
    if sys.stderr.isatty() and not args.json:
        say(f"going on after generation {population.generation}")
