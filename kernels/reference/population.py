"""What `kernels.population` does, in readable Python: which rows are handed out, and what becomes of freed ones."""

from __future__ import annotations

FREE, READY, SLEEPING, SUSPENDED = range(4)


class Population:
    """Rows for at most `capacity` agents, each a dictionary of its fields."""

    def __init__(self, capacity: int, fields: list[tuple[str, str]]) -> None:
        self.capacity = capacity
        self.fields = fields
        self.rows: list[dict[str, float]] = []
        self.states: list[int] = []
        self.generations: list[int] = []

    @property
    def top(self) -> int:
        """Rows that were ever used."""
        return len(self.rows)

    @property
    def alive(self) -> int:
        """Rows in use."""
        return sum(state != FREE for state in self.states)

    def claim(self, count: int) -> list[int]:
        """Rows that were never used while they last, as one range; else freed ones, the lowest first, then the rest."""
        if count > self.capacity - self.alive:
            raise OverflowError(count)
        freed = [row for row, state in enumerate(self.states) if state == FREE]
        again = [] if count <= self.capacity - self.top else freed[:count]
        for row in again:
            self.rows[row] = self._blank()
            self.states[row] = READY
        fresh = range(self.top, self.top + count - len(again))
        for _ in fresh:
            self.rows.append(self._blank())
            self.states.append(READY)
            self.generations.append(0)
        return [*again, *fresh]

    def release(self, row: int) -> bool:
        """Free a row; its next agent is of the next generation."""
        if not 0 <= row < self.top or self.states[row] == FREE:
            return False
        self.states[row] = FREE
        self.generations[row] += 1
        return True

    def _blank(self) -> dict[str, float]:
        return {name: 0 for name, _ in self.fields}
