"""Twin of :mod:`kernels.register`: each gate is one matrix of 2 x 2, applied to a list of complex numbers."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Iterable, Sequence

from kernels.reference.draws import uniform_at

Matrix = Sequence[Sequence[complex]]
HALF = math.sqrt(0.5)


def grover_rounds(states: int, marked: int) -> int:
    """The number of rounds after which (2 rounds + 1) theta is nearest to a quarter of a turn."""
    theta = math.asin(math.sqrt(marked / states))
    return max(0, math.floor(math.pi / (4 * theta)))


class Register:
    """The state as a list, index = number of the basis state, qubit 0 its lowest bit."""

    def __init__(self, qubits: int, seed: int = 0, stream: int = 0) -> None:
        self.qubits, self.seed, self.stream, self.draws = qubits, seed, stream, 0
        self.amplitudes: list[complex] = [1.0, *[0.0] * (2**qubits - 1)]

    def apply(self, matrix: Matrix, target: int, controls: Iterable[int] = ()) -> None:
        """The gate on each pair of states that differ in the target alone and have all the controls."""
        (a, b), (c, d) = matrix
        wanted = sum(1 << control for control in controls)
        for zero, amplitude in enumerate(list(self.amplitudes)):
            one = zero | 1 << target
            if zero != one and zero & wanted == wanted:
                other = self.amplitudes[one]
                self.amplitudes[zero] = a * amplitude + b * other
                self.amplitudes[one] = c * amplitude + d * other

    def h(self, target: int) -> None:
        """Hadamard."""
        self.apply(((HALF, HALF), (HALF, -HALF)), target)

    def x(self, target: int) -> None:
        """Not."""
        self.cnots((), target)

    def y(self, target: int) -> None:
        """Pauli's Y."""
        self.apply(((0, -1j), (1j, 0)), target)

    def z(self, target: int) -> None:
        """Pauli's Z."""
        self.apply(((1, 0), (0, -1)), target)

    def s(self, target: int) -> None:
        """Phase i."""
        self.apply(((1, 0), (0, 1j)), target)

    def t(self, target: int) -> None:
        """An eighth of a turn."""
        self.phase(math.pi / 4, target)

    def phase(self, angle: float, target: int, controls: Iterable[int] = ()) -> None:
        """exp(i angle) on 1."""
        self.apply(((1, 0), (0, cmath.exp(1j * angle))), target, controls)

    def rx(self, angle: float, target: int) -> None:
        """exp(-i angle X / 2)."""
        c, s = math.cos(angle / 2), math.sin(angle / 2)
        self.apply(((c, -1j * s), (-1j * s, c)), target)

    def ry(self, angle: float, target: int) -> None:
        """exp(-i angle Y / 2)."""
        c, s = math.cos(angle / 2), math.sin(angle / 2)
        self.apply(((c, -s), (s, c)), target)

    def rz(self, angle: float, target: int) -> None:
        """exp(-i angle Z / 2)."""
        self.apply(((cmath.exp(-0.5j * angle), 0), (0, cmath.exp(0.5j * angle))), target)

    def cnots(self, controls: Iterable[int], target: int) -> None:
        """Not, where all the controls are 1."""
        self.apply(((0, 1), (1, 0)), target, controls)

    def cnot(self, control: int, target: int) -> None:
        """Not, where the control is 1."""
        self.cnots((control,), target)

    def toffoli(self, first: int, second: int, target: int) -> None:
        """Not, where both controls are 1."""
        self.cnots((first, second), target)

    def cz(self, one: int, other: int) -> None:
        """The sign turns where both are 1."""
        self.phase(math.pi, one, (other,))

    def swap(self, one: int, other: int) -> None:
        """Three controlled nots."""
        for control, target in ((one, other), (other, one), (one, other)):
            self.cnot(control, target)

    def mark(self, states: Iterable[int]) -> None:
        """Turn the sign of these states."""
        for state in set(states):
            self.amplitudes[state] *= -1

    def reflect(self) -> None:
        """Inversion about the mean."""
        mean = sum(self.amplitudes) / len(self.amplitudes)
        self.amplitudes = [2 * mean - amplitude for amplitude in self.amplitudes]

    def draw(self) -> float:
        """Uniform in [0, 1), from the seed, the stream and the number of the draw."""
        drawn = uniform_at(self.seed, 0xFFFF, self.stream, self.draws)
        self.draws += 1
        return drawn

    def probabilities(self) -> list[float]:
        """Born's rule."""
        return [amplitude.real**2 + amplitude.imag**2 for amplitude in map(complex, self.amplitudes)]

    def measure(self) -> int:
        """The first state at which the running sum of probabilities passes the draw; the register becomes it."""
        probabilities = self.probabilities()
        wanted = self.draw() * sum(probabilities)
        sums = enumerate(itertools.accumulate(probabilities))
        state = next((state for state, total in sums if wanted < total), len(probabilities) - 1)
        self.amplitudes = [complex(i == state) for i in range(len(probabilities))]
        return state

    def measure_qubit(self, qubit: int) -> int:
        """Measure one qubit and project on what was found."""
        probabilities = self.probabilities()
        one = sum(p for state, p in enumerate(probabilities) if state >> qubit & 1)
        value = int(self.draw() * sum(probabilities) < one)
        weight = math.sqrt(sum(p for state, p in enumerate(probabilities) if state >> qubit & 1 == value))
        self.amplitudes = [a / weight if i >> qubit & 1 == value else 0.0 for i, a in enumerate(self.amplitudes)]
        return value
