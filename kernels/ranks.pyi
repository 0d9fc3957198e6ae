"""Ranks: which of many executors gets the next tasks of one kind, judged column by column."""

from collections.abc import Iterable, Iterator, Sequence

SHOWN_MAX: int

class Ranked:
    """What was thought of the best rows when it was decided: rendered when somebody asks."""

    def lines(self) -> list[tuple[str, int, float, str]]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[str, int, float, str]]: ...

class Ranks:
    """Rows, one an executor, for tasks that take `cpu` slots each."""

    room: int
    passed_over: bool
    def __init__(
        self,
        cpu: float,
        ways: int,
        words: Sequence[str],
        slack: float,
        deep_below_s: float,
        horizon_s: float,
        window_max: int,
    ) -> None: ...
    def __len__(self) -> int: ...
    def insert(self, row: int) -> None: ...
    def remove(self, row: int) -> None: ...
    def put(
        self,
        row: int,
        name: str,
        never: str,
        linked: bool,
        local: bool,
        draining: bool,
        suspect: bool,
        fitting: int,
        blocked: int,
        withheld: float,
        others: float,
        ours: int,
        here: int,
        speed: float,
        free: float,
        low: Iterable[float],
    ) -> None: ...
    def give(self, row: int, low: Iterable[float]) -> None: ...
    def sent(self, row: int, count: int) -> None: ...
    def is_short(self, row: int, mean_s: float | None) -> bool: ...
    def refresh(self, mean_s: float | None) -> None: ...
    def best(self, mean_s: float | None, waiting: int, step_max: int) -> tuple[int, int, bool, Ranked]: ...
    def unreached(self, best: int) -> list[int]: ...
    def order(self) -> list[int]: ...
    def verdict(self, row: int) -> tuple[int, float, str, bool, float, bool, int]: ...
