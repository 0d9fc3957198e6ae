"""A register of qubits chooses: each group is a basis state, and how often it runs is the square of its amplitude.

Before each choice the register (`kernels.register`, at most 10 qubits, so 1,024 groups) is put into the superposition of the
groups that have work, with amplitudes sqrt(weight); it is then measured, and the group found gets a slice of the pass (Born's
rule). Groups that have waited for longer than `patience_ns` are found sooner: they are marked and amplified, as the items sought by
Grover's algorithm are (Brassard, Hoyer, Mosca and Tapp, "Quantum amplitude amplification and estimation", 2002): if their
probability was sin^2(a), it is sin^2((2r + 1) a) after r rounds, and as many rounds are made as raise it, 16 at most.

What it is not: faster. It is a simulation on an ordinary processor, a lottery (Waldspurger and Weihl, "Lottery scheduling",
1994) whose tickets are amplitudes; the amplification is what a lottery does not have. Draws are by counter, so a seed gives one run.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from kernels.register import Register
from swarm.errors import ConfigError
from swarm.nano.topologies.contract import Allowance, Due, Grant, checked, oldest_first, positive

NAME: Final = "quantum"
QUBITS_MAX: Final = 10
ROUNDS_MAX: Final = 16
STREAM: Final = 0xF1017001
"""Of the random numbers: a register of an agent with the same seed has another."""


class Quantum:
    """Groups by measurement.

    Args:
        weights: Of groups, numbers above 0: probabilities while none is impatient. 1 for those that are not named.
        patience_ns: Who has waited for longer is amplified.
        slices: A choice is worth such a part of what a pass may cost, and an agent at least.
    """

    def __init__(
        self, weights: Mapping[str, float] | None = None, patience_ns: int = 10_000_000, slices: int = 16
    ) -> None:
        self._weights = {group: float(weight) for group, weight in (weights or {}).items()}
        for group, weight in self._weights.items():
            if not 0 < weight < 1e18:
                raise ConfigError(f"the weight of {group!r} is {weight!r}", hint="it is a number above 0")
        self._patience_ns = positive("patience_ns", patience_ns)
        self._slices = positive("slices", slices)
        self._states: dict[str, int] = {}
        self._seed = 0
        self._register: Register | None = None
        self._allowance = Allowance()

    def bind(self, groups: Sequence[str], seed: int) -> None:
        """A basis state for each group, in the order in which they come. ConfigError for more than 1,024."""
        fresh = [group for group in dict.fromkeys(groups) if group not in self._states]
        if len(self._states) + len(fresh) > 1 << QUBITS_MAX:
            raise ConfigError(
                f"{len(self._states) + len(fresh)} groups for {QUBITS_MAX} qubits",
                hint=f"there may be {1 << QUBITS_MAX}; put agents of one purpose into one group",
            )
        for group in fresh:
            self._states[group] = len(self._states)
        draws = self._register.draws if self._register is not None and self._seed == seed else 0
        self._seed = seed
        self._register = Register(max(1, (len(self._states) - 1).bit_length()), seed, STREAM)
        self._register.draws = draws

    def begin(self, now_ns: int, capacity_ns: int) -> None:
        """A pass of so much begins."""
        self._allowance.begin(capacity_ns)

    def superposition(self, working: Mapping[str, bool]) -> list[float]:
        """The probability of each basis state when these groups have work: of each, whether it is impatient.

        The register is left in that state.
        """
        assert self._register is not None, "bind() comes first"
        register = self._register
        weights = [0.0] * len(register)
        for group in working:
            weights[self._states[group]] = self._weights.get(group, 1.0)
        total = sum(weights)
        prepared = [(weight / total) ** 0.5 for weight in weights]
        _load(register, prepared)
        marked = [self._states[group] for group, impatient in working.items() if impatient]
        if 0 < len(marked) < len(working):
            _amplify(register, prepared, marked)
        return [register.probability(state) for state in range(len(register))]

    def order(self, now_ns: int, due: Sequence[Due]) -> Iterator[Grant]:
        """Group by group as measured, in each the longest waiting first."""
        queues: dict[str, deque[list[Any]]] = {}
        for one in oldest_first(due):
            if one.group not in self._states:
                raise KeyError(one.group)
            queues.setdefault(one.group, deque()).append([one, one.agents])
        names = list(self._states)
        slice_ns = max(1, min(self._allowance.left_ns, sum(one.cost_ns for one in due)) // self._slices)
        while queues and not self._allowance.over:
            group = names[self._choose(now_ns, queues)]
            queue = queues[group]
            budget_ns = slice_ns
            while queue and budget_ns > 0 and not self._allowance.over:
                one, left = queue[0]
                agents = min(left, one.within(min(budget_ns, self._allowance.left_ns)))
                grant = Grant(one, agents)
                budget_ns -= grant.cost_ns
                self._allowance.spend(grant.cost_ns)
                queue[0][1] -= agents
                if agents == left:
                    queue.popleft()
                yield grant
            if not queue:
                del queues[group]

    def _choose(self, now_ns: int, queues: Mapping[str, deque[list[Any]]]) -> int:
        assert self._register is not None
        if len(queues) == 1:
            return self._states[next(iter(queues))]
        since = {group: queue[0][0].waiting_since_ns for group, queue in queues.items()}
        self.superposition({group: now_ns - at > self._patience_ns for group, at in sorted(since.items())})
        return self._register.measure()

    def ran(self, grant: Grant, cost_ns: int) -> None:
        """A pass is full by what was spent."""
        self._allowance.correct(cost_ns - grant.cost_ns)

    def save(self) -> dict[str, Any]:
        """Settings, the groups' basis states, and how many draws were made."""
        return {
            "topology": NAME,
            "weights": dict(sorted(self._weights.items())),
            "patience_ns": self._patience_ns,
            "slices": self._slices,
            "groups": list(self._states),
            "seed": self._seed,
            "draws": 0 if self._register is None else self._register.draws,
            "owed_ns": self._allowance.owed_ns,
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """Where `save` was."""
        saved = checked(saved, NAME)
        one = cls(saved["weights"], saved["patience_ns"], saved["slices"])
        one.bind(saved["groups"], saved["seed"])
        assert one._register is not None
        one._register.draws = saved["draws"]
        one._allowance.owed_ns = saved["owed_ns"]
        return one


def _load(register: Register, amplitudes: Sequence[float]) -> None:
    register.load(array("d", [part for amplitude in amplitudes for part in (amplitude, 0.0)]))


def _amplify(register: Register, prepared: Sequence[float], marked: Collection[int]) -> None:
    """Rounds of Grover's: the marked change sign, and all is reflected about the state that was prepared."""
    for _ in range(ROUNDS_MAX):
        before = sum(register.probability(state) for state in marked)
        register.mark(marked)
        now = [register.amplitude(state).real for state in range(len(register))]
        overlap = sum(a * b for a, b in zip(prepared, now))
        turned = [2.0 * overlap * a - b for a, b in zip(prepared, now)]
        if sum(turned[state] ** 2 for state in marked) <= before:
            register.mark(marked)  # one round more would have turned past them
            return
        _load(register, turned)
