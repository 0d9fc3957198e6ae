"""Twin of :mod:`kernels.ranks`: the same rows and words, each row judged when it is asked about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

SHOWN_MAX = 16
BOUND, FAR = 1 << 24, 1 << 40
DRAINS, SILENT, FULL, WAY, WORDS = 1, 2, 3, 4, 7


@dataclass
class Row:
    """An executor, for tasks of one kind."""

    name: str = ""
    never: str = ""
    linked: bool = False
    local: bool = False
    draining: bool = False
    suspect: bool = False
    fitting: int = 0
    blocked: int = 0
    withheld: float = 0.0
    others: float = 0.0
    ours: int = 0
    here: int = 0
    speed: float = 1.0
    free: float = 0.0
    low: list[float] = field(default_factory=list)


@dataclass
class Judged:
    """What is thought of it."""

    room: int = 0
    wait_s: float = 0.0
    why: str = ""
    fits: bool = True
    lag_s: float = 0.0
    displaces: bool = False
    gives: int = 0


class Ranked:
    """What was thought of the best rows when it was decided."""

    def __init__(self, best: list[tuple[Row, Judged]]) -> None:
        self._lines = [(row.name, it.room, round(it.wait_s, 3), it.why) for row, it in best]

    def lines(self) -> list[tuple[str, int, float, str]]:
        """[(name, room in tasks, wait in seconds, why there is none or whose it is), ...], the best first."""
        return self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[tuple[str, int, float, str]]:
        return iter(self._lines)


class Ranks:
    """Rows for tasks that take `cpu` slots each; see the kernel for what is given."""

    def __init__(
        self, cpu: float, ways: int, words: Sequence[str], slack: float, deep_below_s: float, horizon_s: float, window_max: int
    ) -> None:  # fmt: skip
        if not cpu >= 0 or not slack > 0 or len(words) != WORDS or not 0 <= ways < 8:
            raise ValueError(f"no such kind of tasks: {cpu} slots each, {ways:#b} make way, {len(words)} words")
        self.cpu, self.ways, self.words, self.slack = cpu, ways, words, slack
        self.deep_below_s, self.horizon_s, self.window_max = deep_below_s, horizon_s, window_max
        self.rows: list[Row] = []
        self.mean_s: float | None = None
        self.passed_over = False

    def __len__(self) -> int:
        return len(self.rows)

    def insert(self, row: int) -> None:
        """One more row, before this one."""
        if not 0 <= row <= len(self.rows):
            raise IndexError(f"row {row} of {len(self.rows)}")
        self.rows.insert(row, Row())

    def remove(self, row: int) -> None:
        """A row less."""
        self._row(row)
        del self.rows[row]

    def put(
        self, row: int, name: str, never: str, linked: bool, local: bool, draining: bool, suspect: bool, fitting: int,
        blocked: int, withheld: float, others: float, ours: int, here: int, speed: float, free: float, low: Iterable[float],
    ) -> None:  # fmt: skip
        """What is known of an executor now."""
        self._row(row)
        counts, tasks = (fitting, blocked, withheld, others), (ours, here)
        if (
            not all(0 <= it <= BOUND for it in counts)
            or not all(-FAR <= it <= FAR for it in tasks)
            or not 0 < speed <= BOUND
        ):
            raise ValueError(f"no executor is like this: {(*counts, *tasks, speed)}")
        self.rows[row] = Row(
            name, never, linked, local, draining, suspect, fitting, blocked, withheld, others, ours, here, speed, free
        )  # fmt: skip
        self.give(row, low)

    def give(self, row: int, low: Iterable[float]) -> None:
        """Slots there whose tasks make way are these now."""
        self._row(row).low = [min(slots, float(BOUND)) for slots in list(low)[:3]]

    def sent(self, row: int, count: int) -> None:
        """So many tasks of this kind were sent to an executor."""
        it = self._row(row)
        it.ours += count
        it.here += count

    def is_short(self, row: int, mean_s: float | None) -> bool:
        """Whether urgent tasks would find no free slot there, unless somebody makes way."""
        self.mean_s = mean_s
        it = self._row(row)
        judged = self._plainly(it)
        return self.ways > 0 and judged.fits and not (judged.room > 0 and it.free >= self.cpu)

    def refresh(self, mean_s: float | None) -> None:
        """What tasks take on average is this from now on."""
        self.mean_s = mean_s

    def best(self, mean_s: float | None, waiting: int, step_max: int) -> tuple[int, int, bool, Ranked]:
        """(row, tasks, whether others are suspended for them, what was thought of the best); row -1 when nobody has room."""
        self.mean_s, waiting = mean_s, min(waiting, BOUND)
        order = self.order()
        ranked = Ranked([(self.rows[row], self._judge(self.rows[row])) for row in order[:SHOWN_MAX]])
        self.passed_over = False
        for row in order:
            it = self._judge(self.rows[row])
            self.passed_over |= it.room > 0 and not self.rows[row].linked
            if it.room and self.rows[row].linked:
                share = -(-waiting * it.room // self.room) if self.room > it.room else waiting
                return row, max(1, min(it.room, share, step_max)), it.displaces, ranked
        return -1, 0, False, ranked

    @property
    def room(self) -> int:
        """Of all together, in tasks."""
        return sum(self._judge(row).room for row in self.rows)

    def unreached(self, best: int) -> list[int]:
        """Rows with room that stand before this one (-1: all with room) and have no link, the best first."""
        order = self.order()
        ahead = order[: order.index(best)] if best >= 0 else order
        return [row for row in ahead if self._judge(self.rows[row]).room and not self.rows[row].linked]

    def order(self) -> list[int]:
        """All rows, the best first."""

        def key(row: int) -> tuple[bool, bool, int, float, bool, float, int, int]:
            it = self._judge(self.rows[row])
            late = round(it.wait_s + it.lag_s, 3)
            local, speed = self.rows[row].local, self.rows[row].speed
            return it.room == 0, it.displaces, it.gives, late, not local, -speed, -it.room, row

        return sorted(range(len(self.rows)), key=key)

    def verdict(self, row: int) -> tuple[int, float, str, bool, float, bool, int]:
        """What is thought of a row."""
        it = self._judge(self._row(row))
        return it.room, it.wait_s, it.why, it.fits, it.lag_s, it.displaces, it.gives

    def _row(self, row: int) -> Row:
        if not 0 <= row < len(self.rows):
            raise IndexError(f"row {row} of {len(self.rows)}")
        return self.rows[row]

    def _plainly(self, it: Row) -> Judged:
        """Room where nobody makes way."""
        if it.draining or it.never or it.suspect:
            why = self.words[DRAINS] if it.draining else it.never or self.words[SILENT]
            return Judged(why=why, fits=False)
        width = it.fitting + it.blocked
        if it.withheld:
            width = max(1, width - (int(it.withheld / max(self.cpu, self.slack)) if self.cpu > 0 else 0))
        mean, known = (self.mean_s, True) if self.mean_s is not None else (1.0, False)
        queued = it.ours + it.others - width + 1
        wait_s = queued / max(width, 1) * mean / it.speed if queued > 0 else 0.0
        lag_s = mean / it.speed - mean if known and it.speed != 1.0 else 0.0
        if known and mean < self.deep_below_s:
            window = min(self.window_max * width, int(width * it.speed * self.horizon_s / max(mean, 1e-6)))
            room = max(2 * width, window) - it.here
        else:
            room = width - max(it.here, min(it.ours, width)) - int(it.others)
        return Judged(max(0, room), wait_s, self.words[FULL] if room <= 0 else self.words[0], True, lag_s)

    def _judge(self, it: Row) -> Judged:
        """Room, be it that of others."""
        judged = self._plainly(it)
        if not self.ways or not judged.fits or self.cpu <= 0 or (judged.room and it.free >= self.cpu):
            return judged
        ways = [running for running, slots in enumerate(it.low) if slots > 0 and self.ways >> running & 1]
        room = int((sum(it.low[running] for running in ways) + self.slack) // max(self.cpu, self.slack))
        if room <= 0:
            return judged
        return Judged(room, 0.0, self.words[WAY + ways[0]], True, 0.0, True, ways[0])
