"""Tasks within transactions of files, on real nodes: what fails, is ended or killed in its commit, and what the next attempt finds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm
from tests.e2e.fleets import Nodes, until

FILES = 4


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    settings = {"SWARM_LEDGER_ENABLED": "false", "SWARM_HTTP_ENABLED": "false"}
    nodes = Nodes(tmp_path_factory.mktemp("w") / "w", settings=settings)
    nodes.start("oak", "--workers", "2")
    yield nodes
    assert set(nodes.stop_all().values()) <= {0}


def counts(there: Path) -> list[str]:
    """What each of the files says that are changed together."""
    return [(there / f"n{number}").read_text() for number in range(FILES)]


def make(there: Path) -> None:
    there.mkdir()
    for number in range(FILES):
        (there / f"n{number}").write_text("0")


def add_one() -> int:
    """Add one to all of them."""
    tx = swarm.StateTransaction.current()
    value = int(tx.read_text("n0")) + 1
    for number in range(FILES):
        assert tx.read_text(f"n{number}") == str(value - 1)
        tx.write_text(f"n{number}", str(value))
    return value


def killed_in_commit(log: Path, at: int) -> tuple[int, bool]:
    """Adds one, unless an earlier attempt did; the first attempt is killed at the `at`-th rename of its commit."""
    with open(log, "a") as file:
        file.write(f"{swarm.current_task().attempt}\n")
    tx = swarm.StateTransaction.current()
    if tx.committed_before:
        return int(tx.read_text("n0")), True
    value = add_one()
    if swarm.current_task().attempt == 1:
        left, rename = at, os.rename

        def counted(*args: object, **kwargs: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*args, **kwargs)  # type: ignore[arg-type]

        os.rename = counted  # type: ignore[assignment]
    return value, False


@pytest.mark.parametrize("at", (1, 2, 3, FILES + 2))
def test_a_worker_that_is_killed_in_the_middle_of_a_commit_leaves_all_or_nothing_to_the_next_attempt(
    nodes: Nodes, tmp_path: Path, at: int
) -> None:
    there = tmp_path / "d"
    make(there)
    with nodes.connect("oak") as fleet:
        done = fleet.submit(killed_in_commit, tmp_path / "log", at, transaction=there).result(60)
    attempts = (tmp_path / "log").read_text().split()
    # one rename makes the journal, which is the commit; the others put files in their places
    assert done == (1, at > 1)
    assert attempts == ["1", "2"] and counts(there) == ["1"] * FILES


def fails_twice(log: Path) -> int:
    value = add_one()
    with open(log, "a") as file:
        file.write(f"{value}\n")
    if swarm.current_task().attempt < 3:
        raise OSError("not yet")
    return value


def test_a_retried_attempt_finds_the_files_as_they_were(nodes: Nodes, tmp_path: Path) -> None:
    there = tmp_path / "d"
    make(there)
    with nodes.connect("oak") as fleet:
        assert fleet.submit(fails_twice, tmp_path / "log", transaction=there, retries=3, backoff_s=0.01).result(60) == 1
    assert (tmp_path / "log").read_text().split() == ["1", "1", "1"] and counts(there) == ["1"] * FILES


def waits(began: Path) -> None:
    add_one()
    began.touch()
    time.sleep(60)


async def waits_async(began: Path) -> None:
    import asyncio

    add_one()
    began.touch()
    await asyncio.sleep(60)


@pytest.mark.parametrize("fn", [waits, waits_async])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_what_is_ended_while_it_runs_changes_nothing(nodes: Nodes, tmp_path: Path, fn: object, how: str) -> None:
    there = tmp_path / "d"
    make(there)
    with nodes.connect("oak") as fleet:
        future = fleet.submit(fn, tmp_path / "began", transaction=there, timeout_s=3.0 if how == "timeout" else None)
        until((tmp_path / "began").exists, 60)
        if how == "cancel":
            assert future.cancel()
        else:
            with pytest.raises(swarm.TaskTimeout):
                future.result(60)
        assert counts(there) == ["0"] * FILES
        assert fleet.submit(add_one, transaction=there).result(60) == 1  # nobody has the directory any more
    assert counts(there) == ["1"] * FILES


def test_many_calls_at_once_are_one_after_the_other(nodes: Nodes, tmp_path: Path) -> None:
    there = tmp_path / "d"
    make(there)

    @swarm.task(transaction=there)
    def marked(_: int) -> int:
        return add_one()

    with nodes.connect("oak") as fleet:
        assert sorted(fleet.map(marked, range(20))) == list(range(1, 21))
        assert sorted(fleet.map(marked, range(20), chunksize=5)) == list(range(21, 41))
    assert counts(there) == ["40"] * FILES


def test_what_does_not_go_together_is_told() -> None:
    for wrong in ({"stream": True}, {"checkpoint": True}):
        with pytest.raises(swarm.ConfigError, match="transaction= does not go with"):
            swarm.task(transaction="d", **wrong)
    for bad in ("", 5, b"d", "a\0b"):
        with pytest.raises(swarm.ConfigError, match="path of a directory"):
            swarm.task(transaction=bad)


def test_commands_and_streams_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    with nodes.connect("oak") as fleet:
        with pytest.raises(swarm.SwarmError, match="can be transactions"):
            fleet.submit_command(["true"], transaction=tmp_path).result(60)
