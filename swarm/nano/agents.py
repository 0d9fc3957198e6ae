"""The agents that one `spawn` made, as arrays and as handles."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kernels.population import Population
from swarm.nano.arrays import numpy
from swarm.nano.errors import NanoError
from swarm.nano.kinds import Kind
from swarm.nano.numbers import instant

if TYPE_CHECKING:
    from swarm.nano.scheduling import NanoSwarm

Rows = range | array  # type: ignore[type-arg]


class KindState:
    """A kind in one swarm: its rows, and views of its fields over the whole capacity, which never moves."""

    __slots__ = ("kind", "number", "population", "views")

    def __init__(self, kind: type[Kind], number: int, population: Population) -> None:
        self.kind = kind
        self.number = number
        self.population = population
        self.views = tuple(
            memoryview(population.column(index, 0, population.capacity)) for index in range(len(kind.fields))
        )

    def handle(self, row: int) -> Kind:
        """An object of the kind for one row."""
        agent = self.kind.__new__(self.kind)
        agent._row, agent._generation, agent._views = row, self.population.generation(row), self.views
        return agent


class Gathered:
    """A field of rows that do not follow each other: as an array to read and to write, by copies."""

    __slots__ = ("_column", "_rows")

    def __init__(self, column: Any, rows: Any) -> None:
        self._column, self._rows = column, rows

    def __getitem__(self, which: Any) -> Any:
        return self._column[self._rows[which]]

    def __setitem__(self, which: Any, values: Any) -> None:
        self._column[self._rows[which]] = values

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return numpy().asarray(self._column[self._rows], dtype=dtype)


class Agents(Sequence[Kind]):
    """Rows of one kind that were spawned together.

    `agents.field` is a NumPy array over the very memory; `agents[i]` is a handle, whose attributes are the fields. Both stay
    good as long as the agents live; `alive` tells which do.
    """

    __slots__ = ("_rows", "_state", "_swarm", "cohort")

    _rows: Rows
    _state: KindState
    _swarm: NanoSwarm
    cohort: int

    def __init__(self, swarm: NanoSwarm, state: KindState, rows: Rows, cohort: int) -> None:
        for name, value in (("_swarm", swarm), ("_state", state), ("_rows", rows), ("cohort", cohort)):
            object.__setattr__(self, name, value)

    @property
    def rows(self) -> Rows:
        """Their rows in the kind's columns, ascending."""
        return self._rows

    @property
    def kind(self) -> type[Kind]:
        """Their kind."""
        return self._state.kind

    @property
    def alive(self) -> list[bool]:
        """Which of them live: a row that was freed, or given to another cohort since, counts as dead."""
        state, passes, number = self._state.population.state, self._swarm.passes, self._state.number
        if not self._swarm.lives(self):
            return [False] * len(self._rows)
        return [state(row) != 0 and passes.cohort_of(number, row) == self.cohort for row in self._rows]

    def kill(self, which: Iterable[int] | None = None) -> None:
        """End some of them (by position), or all: their rows are freed."""
        self._swarm.outside("ended")
        mine = self._mine(which)
        if mine:
            self._swarm.passes.remove(self._state.number, mine)
            self._swarm.left(self.cohort)

    def suspend(self, which: Iterable[int] | None = None) -> None:
        """Have some of them, or all, not ticked until `resume`."""
        self._swarm.outside("suspended")
        self._swarm.passes.suspend(self._state.number, self._mine(which))

    def resume(self, which: Iterable[int] | None = None, *, at_ns: int | None = None) -> None:
        """Have suspended or sleeping ones ticked again, now or from an instant on."""
        self._swarm.outside("resumed")
        self._swarm.passes.resume(self._state.number, self._mine(which), instant("at_ns", at_ns))

    def _mine(self, which: Iterable[int] | None) -> list[int]:
        population, passes, number = self._state.population, self._swarm.passes, self._state.number
        rows = self._rows if which is None else [self._rows[at] for at in which]
        if not self._swarm.lives(self):
            return []
        return [row for row in rows if population.state(row) and passes.cohort_of(number, row) == self.cohort]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return [self._state.handle(row) for row in self._rows[which]]
        return self._state.handle(self._rows[which])

    def __iter__(self) -> Iterator[Kind]:
        return map(self._state.handle, self._rows)

    def __getattr__(self, name: str) -> Any:
        field = list(self._state.kind.fields)
        if name not in field:
            raise AttributeError(f"{self._state.kind.__name__} has no field {name!r}; there are {', '.join(field)}")
        index = field.index(name)
        if isinstance(self._rows, range):
            return numpy().asarray(self._state.population.column(index, self._rows.start, self._rows.stop))
        column = numpy().asarray(self._state.population.column(index))
        return Gathered(column, numpy().frombuffer(self._rows, dtype="u4"))

    def __setattr__(self, name: str, values: Any) -> None:
        if name not in self._state.kind.fields:
            raise NanoError(
                f"{self._state.kind.__name__} has no field {name!r}", hint="fields are declared by the kind"
            )
        getattr(self, name)[:] = values

    def __repr__(self) -> str:
        return f"<{len(self)} agents of {self._state.kind.__name__}>"
