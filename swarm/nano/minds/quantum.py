"""An agent that chooses by measuring a simulated register: options are basis states, preferences are amplitudes.

In the field's terms: amplitude encoding, Born's rule, amplitude amplification (Brassard, Høyer, Mosca and Tapp,
"Quantum amplitude amplification and estimation", 2000) and the search with an unknown number of solutions (Boyer,
Brassard, Høyer and Tapp, "Tight bounds on quantum searching", 1998), on the exact state vector of
`kernels.register`.

What it is not: there is no quantum computer, and no speed. The simulation costs time in proportion to the number of
options for each step, so a search of N options asks sqrt(N) questions in the model and takes N sqrt(N) steps here;
a loop over the options is faster. What it gives is a choice that follows a declared distribution, with interference
(a phase can make an option less likely that no mixture of probabilities could), from a seed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from kernels.register import QUBITS_MAX, Register
from swarm.nano.minds.agent import IDLE, WORKED, Bus

OPTION = struct.Struct("<I")
OPTIONS_MAX = 1 << QUBITS_MAX


def weights_of(payload: bytes) -> Sequence[float]:
    """A payload as numbers of 8 bytes, little-endian: the usual form of a request, for up to 7 options."""
    return struct.unpack(f"<{len(payload) // 8}d", payload[: len(payload) // 8 * 8])


class QuantumDecision:
    """Chooses one of `options` (1 to 2^20) by measurement; at first each is as likely as any other.

    As an agent it answers each message on the topic `reads`, weights of the options, with the number of an option
    (4 bytes, little-endian) on `writes`; without `reads` it chooses once a tick by what it prefers. `draws` of its
    `register` counts the random numbers taken: a choice depends on seed, stream and that number alone.
    """

    def __init__(
        self,
        options: int,
        seed: int = 0,
        stream: int = 0,
        *,
        reads: str | None = None,
        writes: str = "choice",
        decode: Callable[[bytes], Sequence[float]] = weights_of,
    ) -> None:
        if not 1 <= options <= OPTIONS_MAX:
            raise ValueError(f"{options} options; 1 to {OPTIONS_MAX} can be chosen from")
        self.options = options
        self.register = Register(max(1, (options - 1).bit_length()), seed, stream)
        self._reads, self._writes, self._decode = reads, writes, decode
        self.questions = 0
        """Oracle calls of all searches so far, in the model: rounds, and one check of each candidate."""
        self.dropped = 0
        """Choices for which the bus had no room."""
        self.prefer([1.0] * options)

    def prefer(self, weights: Sequence[float]) -> None:
        """Choose option i with probability weights[i] / sum from now on; all phases are 0. ValueError unless one is
        over 0."""
        given = np.zeros(len(self.register))
        given[: self.options] = weights if len(weights) == self.options else self._refuse(weights)
        total = float(given.sum())
        if not (given >= 0).all() or not 0 < total < math.inf:
            raise ValueError("weights are finite and not negative, and not all of them 0")
        self._load(np.sqrt(given / total).astype(complex))

    def turn(self, angles: Sequence[float]) -> None:
        """Turn the phase of option i by angles[i], radians. No probability changes until amplitudes are mixed."""
        given = np.zeros(len(self.register))
        given[: self.options] = angles if len(angles) == self.options else self._refuse(angles)
        self._load(np.asarray(self.register) * np.exp(1j * given))

    def mix(self, angle: float) -> None:
        """Let amplitude flow between options whose numbers differ in one bit: RX(angle) on each qubit (the mixer of
        QAOA, Farhi, Goldstone and Gutmann, 2014). ValueError unless the number of options is a power of two, since
        it would leave them."""
        if self.options != len(self.register):
            raise ValueError(f"{self.options} options can not be mixed; a power of two can")
        for qubit in range(self.register.qubits):
            self.register.rx(angle, qubit)

    def distribution(self) -> list[float]:
        """The probability of each option."""
        amplitudes = np.asarray(self.register)[: self.options]
        return [float(p) for p in amplitudes.real**2 + amplitudes.imag**2]

    def choose(self) -> int:
        """An option, drawn by Born's rule from a copy of the state, which stays as it is."""
        return self.register.sample(1)[0]

    def amplify(self, good: Iterable[int], rounds: int | None = None) -> int:
        """Make the good options more likely: amplitude amplification from the present state; how many rounds were
        made.

        With p the probability of all good ones, it becomes sin((2 rounds + 1) asin(sqrt(p)))^2; their shares among
        each other stay. Without `rounds`, as many as bring it nearest to 1. ValueError where p is 0.
        """
        marked = np.unique(np.fromiter(good, dtype=np.int64))
        if marked.size == 0 or marked[0] < 0 or marked[-1] >= self.options:
            raise ValueError(f"good options are some of 0 to {self.options - 1}")
        start = np.array(self.register)
        p = float((np.abs(start[marked]) ** 2).sum())
        if p <= 0:
            raise ValueError("none of the good options is possible; nothing can be amplified")
        if rounds is None:
            rounds = max(0, round(math.pi / (4 * math.asin(min(1.0, math.sqrt(p)))) - 0.5))
        if rounds < 0:
            raise ValueError(f"{rounds} rounds")
        self._load(self._amplified(start, marked, rounds))
        return rounds

    def search(self, good: Callable[[int], bool]) -> int | None:
        """An option that is good, not knowing how many are; None where there is none. The state stays as it is.

        Asks, in the model, some 9/2 sqrt(options / good ones) questions on average at most, counted in `questions`;
        where none is good, it gives up after three times what one would take. Here, `good` is called once for each
        option, to simulate the oracle.
        """
        n = self.options
        marked = np.array([option for option in range(n) if good(option)], dtype=np.int64)
        even: Any = np.zeros(len(self.register), dtype=complex)
        even[:n] = 1 / math.sqrt(n)
        trial = Register(self.register.qubits, self.register.seed, self.register.stream)
        trial.draws = self.register.draws
        pick = np.random.Generator(np.random.PCG64([self.register.seed, self.register.stream, trial.draws]))
        most, asked, chosen = 1.0, 0, None
        while chosen is None and asked <= 3 * 4.5 * math.sqrt(n) + 3:
            rounds = int(pick.integers(0, max(1, math.ceil(most))))
            trial.load(self._amplified(even, marked, rounds))
            candidate = trial.measure()
            asked += rounds + 1
            if marked.size and bool((marked == candidate).any()):
                chosen = candidate
            most = min(most * 6 / 5, math.sqrt(n))
        self.questions += asked
        self.register.draws = trial.draws
        return chosen

    def tick(self, now_ns: int, bus: Bus) -> int:
        """Answer each request, or choose once where none is awaited."""
        if self._reads is None:
            self._publish(bus)
            return WORKED
        answered = IDLE
        for message in bus.read(self._reads):
            self.prefer(self._decode(message.payload)[: self.options])
            self._publish(bus)
            answered = WORKED
        return answered

    def save(self) -> dict[str, Any]:
        """State as plain values: 16 bytes an amplitude."""
        counts = [self.questions, self.dropped, self.register.draws]
        return {"amplitudes": np.asarray(self.register).tobytes(), "counts": counts}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where one with the same arguments was saved."""
        self.register.load(saved["amplitudes"])
        self.questions, self.dropped, self.register.draws = saved["counts"]

    def _publish(self, bus: Bus) -> None:
        if not bus.publish(self._writes, OPTION.pack(self.choose())):
            self.dropped += 1

    def _amplified(self, start: Any, marked: Any, rounds: int) -> Any:
        state = start.copy()
        for _ in range(rounds):
            state[marked] *= -1
            state = 2 * np.vdot(start, state) * start - state
        return state

    def _load(self, amplitudes: Any) -> None:
        """Rounding off the norm, so that it does not grow over many operations."""
        self.register.load(amplitudes / np.linalg.norm(amplitudes))

    def _refuse(self, values: Sequence[float]) -> Any:
        raise ValueError(f"{len(values)} numbers for {self.options} options")
