"""Genomes: arrays of numbers between bounds, and verified programs of the stack machine. How each is made, crossed
and changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from kernels.stackvm import OPERATIONS, VARIABLES_MAX, Program

G = TypeVar("G")
ATTEMPTS = 8  # at a child that the verifier accepts, before its parent is taken as it is
DEPTH_MAX = 4  # of a fresh expression
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
UNARY = ("neg", "abs", "sqrt", "floor")
BINARY = ("add", "sub", "mul", "div", "min", "max", "lt", "eq")
TAKES = {NUMBER[name]: 1 for name in UNARY} | {NUMBER[name]: 2 for name in BINARY} | {NUMBER["select"]: 3}
LEAVES = (NUMBER["const"], NUMBER["input"], NUMBER["load"])
Code = list[tuple[int, int]]


class Genomes(Protocol[G]):
    """How the genomes of a population are made. `random` is a numpy.random.Generator; nothing else may be drawn
    from."""

    def fresh(self, random: Any) -> G:
        """A genome at random."""

    def cross(self, left: G, right: G, random: Any) -> G:
        """A child of two."""

    def mutate(self, genome: G, strength: float, random: Any) -> G:
        """A changed copy; strength is over 0 and at most 1."""

    def plain(self, genome: G) -> Any:
        """It as a plain value, to be saved."""

    def of_plain(self, saved: Any) -> G:
        """It again. ValueError where it is none."""


class ArrayGenomes:
    """`length` float64s in [low, high). Crossover takes each gene from either parent or between both (BLX-0,
    Eshelman and Schaffer, 1993); mutation adds a normal number of `strength` times the range to some of them,
    reflected at the bounds."""

    def __init__(self, length: int, low: float = -1.0, high: float = 1.0) -> None:
        if length < 1 or not -np.inf < low < high < np.inf or high - low == np.inf:
            raise ValueError(
                f"{length} numbers between {low} and {high}; at least one, and bounds that are finite and ascend"
            )
        self.length, self.low, self.high = length, low, high

    def fresh(self, random: Any) -> Any:
        """Uniform within the bounds."""
        return random.uniform(self.low, self.high, self.length)

    def cross(self, left: Any, right: Any, random: Any) -> Any:
        """Gene by gene: the left one's, the right one's, or a number between."""
        share = random.random(self.length)
        kind = random.integers(0, 3, self.length)
        return np.where(kind == 0, left, np.where(kind == 1, right, share * left + (1 - share) * right))

    def mutate(self, genome: Any, strength: float, random: Any) -> Any:
        """One gene at least, two of them on average."""
        chosen = random.random(self.length) < 1 / self.length
        chosen[random.integers(self.length)] = True
        moved = genome + chosen * random.normal(0, strength * (self.high - self.low), self.length)
        width = self.high - self.low
        folded = np.abs((moved - self.low) % (2 * width))
        return self.low + np.minimum(folded, 2 * width - folded)

    def diversity(self, genomes: Sequence[Any]) -> float:
        """The genes' standard deviation over that of genes at random, on average."""
        spread = np.std(np.array(genomes), axis=0) / (self.high - self.low)
        return float(np.mean(spread) * np.sqrt(12))

    def plain(self, genome: Any) -> bytes:
        """Its bytes, little-endian."""
        raw: bytes = genome.astype("<f8").tobytes()
        return raw

    def of_plain(self, saved: Any) -> Any:
        """From bytes."""
        if len(saved) != 8 * self.length:
            raise ValueError(f"{len(saved)} bytes for {self.length} numbers")
        return np.frombuffer(saved, dtype="<f8").astype(float)


@dataclass(frozen=True, slots=True)
class Formula:
    """A program as a genome: plain data, so that it can be sent anywhere."""

    code: bytes
    constants: tuple[float, ...]
    inputs: int
    outputs: int = 1
    steps_max: int = 65536

    def program(self) -> Program:
        """It, verified."""
        return Program(self.code, self.constants, self.inputs, self.outputs, self.steps_max)

    def __call__(self, rows: Any) -> Any:
        """Its results for an array of rows of inputs."""
        given = np.ascontiguousarray(rows, dtype=float)
        out = np.empty((given.size // self.inputs if self.inputs else len(given), self.outputs))
        self.program().run(given, out)
        return out[:, 0] if self.outputs == 1 else out


class ProgramGenomes:
    """Programs of one output: some statements (an expression into a variable, once or in a loop), then an
    expression.

    Crossover puts an expression of one parent in the place of one of the other (Koza, "Genetic Programming", 1992,
    on postfix code); mutation changes a constant, an operation, an expression or a statement. Every child is
    verified before it is one.
    """

    def __init__(self, inputs: int, *, length_max: int = 64, constants: int = 8, steps_max: int = 2000) -> None:
        if not 1 <= inputs <= 255 or not 8 <= length_max <= 4096 or not 1 <= constants <= 255:
            raise ValueError("1 to 255 inputs and constants, and 8 to 4096 instructions")
        self.inputs, self.length_max, self.constants, self.steps_max = inputs, length_max, constants, steps_max

    def fresh(self, random: Any) -> Formula:
        """An expression, and at times a statement before it."""
        table = tuple(float(value) for value in random.normal(0, 2, self.constants))
        while True:
            statements = self._statement(random) if random.random() < 0.2 else []
            formula = self._formula(
                statements + self._expression(random, int(random.integers(1, DEPTH_MAX + 1))), table
            )
            if formula is not None:
                return formula

    def cross(self, left: Formula, right: Formula, random: Any) -> Formula:
        """The left one with an expression of the right one."""
        into, out_of = _instructions(left.code), _instructions(right.code)
        table = tuple(a if random.random() < 0.5 else b for a, b in zip(left.constants, right.constants, strict=True))
        for _ in range(ATTEMPTS):
            start, end = _expression_at(into, random)
            first, last = _expression_at(out_of, random)
            child = self._formula(into[:start] + out_of[first:last] + into[end:], table)
            if child is not None:
                return child
        return left

    def mutate(self, genome: Formula, strength: float, random: Any) -> Formula:
        """Constants a little, and in half of the cases the code."""
        moved = random.normal(0, 2 * strength, self.constants) * (random.random(self.constants) < 0.5)
        table = tuple(float(value) for value in np.array(genome.constants) + moved)
        if random.random() < 0.5:
            return Formula(genome.code, table, self.inputs, 1, self.steps_max)
        for _ in range(ATTEMPTS):
            child = self._formula(self._changed(_instructions(genome.code), random), table)
            if child is not None:
                return child
        return genome

    def plain(self, genome: Formula) -> list[Any]:
        """Code and constants."""
        return [genome.code, list(genome.constants)]

    def of_plain(self, saved: Any) -> Formula:
        """Verified again."""
        code, constants = saved
        formula = Formula(bytes(code), tuple(constants), self.inputs, 1, self.steps_max)
        formula.program()
        if len(formula.constants) != self.constants:
            raise ValueError(f"{len(formula.constants)} constants; {self.constants} are expected")
        return formula

    def _formula(self, code: Code, table: Sequence[float]) -> Formula | None:
        """It, where the verifier takes it."""
        if len(code) > self.length_max:
            return None
        formula = Formula(bytes(b for pair in code for b in pair), tuple(table), self.inputs, 1, self.steps_max)
        try:
            formula.program()
        except ValueError:
            return None
        return formula

    def _leaf(self, random: Any) -> tuple[int, int]:
        kind = LEAVES[int(random.choice(3, p=(0.3, 0.6, 0.1)))]
        room = {"const": self.constants, "input": self.inputs, "load": 2}[OPERATIONS[kind]]
        return kind, int(random.integers(room))

    def _expression(self, random: Any, depth: int) -> Code:
        if depth <= 0 or random.random() < 0.15:
            return [self._leaf(random)]
        shape = random.random()
        name = (
            random.choice(UNARY)
            if shape < 0.15
            else "select"
            if shape < 0.2
            else random.choice(BINARY[: 4 if shape < 0.85 else 8])
        )
        number = NUMBER[str(name)]
        parts: Code = []
        for _ in range(TAKES[number]):
            parts += self._expression(random, depth - 1)
        return [*parts, (number, 0)]

    def _statement(self, random: Any) -> Code:
        body = [*self._expression(random, 2), (NUMBER["store"], int(random.integers(2)))]
        if random.random() < 0.5:
            return body
        return [(NUMBER["loop"], int(random.integers(2, 9))), *body, (NUMBER["end"], 0)]

    def _changed(self, code: Code, random: Any) -> Code:
        kind = random.random()
        if kind < 0.4:  # another expression in place of one
            start, end = _expression_at(code, random)
            return code[:start] + self._expression(random, int(random.integers(0, 3))) + code[end:]
        if kind < 0.6:  # an expression becomes a part of a greater one
            start, end = _expression_at(code, random)
            other = self._expression(random, 1)
            return code[:end] + other + [(NUMBER[str(random.choice(BINARY[:4]))], 0)] + code[end:]
        if kind < 0.7:
            return self._statement(random) + code
        if kind < 0.75:  # the first statement goes
            ends = [at for at, (op, _) in enumerate(code) if op in (NUMBER["store"], NUMBER["end"])]
            return code[ends[0] + 1 :] if ends else code
        at = int(random.integers(len(code)))  # another operation or argument of the same shape
        op = code[at][0]
        if op in LEAVES:
            return [*code[:at], self._leaf(random), *code[at + 1 :]]
        alike = [other for other, takes in TAKES.items() if takes == TAKES.get(op)]
        return [*code[:at], (int(random.choice(alike)), 0), *code[at + 1 :]] if alike else code


def _instructions(code: bytes) -> Code:
    return list(zip(code[::2], code[1::2], strict=True))


def _expression_at(code: Code, random: Any) -> tuple[int, int]:
    """Where an expression begins and ends, one of those in the code: in postfix, it ends with its operation."""
    ends = [at for at, (op, _) in enumerate(code) if op in TAKES or op in LEAVES]
    last = ends[int(random.integers(len(ends)))]
    start, wanted = last + 1, 1
    while wanted:
        start -= 1
        wanted += TAKES.get(code[start][0], 0) - 1
    return start, last + 1


assert VARIABLES_MAX >= 2
