"""A handful of the stops of which ``make stops`` performs a hundred: nothing of a node is left, whatever it was at."""

from __future__ import annotations

import pytest

from tests.stops.one import run

pytestmark = pytest.mark.timeout(300)  # a guard against hangs: machines are slow at times


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("mid-start", 0), ("second", 4), ("goodbye", 1), ("busy", 6), ("command", 7), ("blobs", 10), ("guest", 11)],
)
def test_a_stop_leaves_nothing(kind: str, seed: int) -> None:
    stop = run(kind, seed)
    assert not stop.wrong, "\n".join(stop.wrong)
