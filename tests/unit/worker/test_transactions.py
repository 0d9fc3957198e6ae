"""Callables that run within transactions of files, by home workers and by guests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from swarm.payload_failure import Failure, Notice
from swarm.protocol.states import Status
from tests.unit.worker.driver import Driver


@pytest.fixture(params=["home", "guest"])
def driver(request: pytest.FixtureRequest, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    if request.param == "home":
        with Driver(modules=["transacted"], path=[str(samples)]) as driver:
            yield driver
        return
    # an environment that has cloudpickle, for callables by value, and nothing of ours
    import cloudpickle

    there = tmp_path_factory.mktemp("guest")
    (there / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    with Driver(modules=["transacted"], python=_bare(), path=[str(there), str(samples)]) as driver:
        yield driver


def _bare() -> str:
    """A Python of the same minor version in which there is no nanoswarm."""
    base = os.path.join(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    found = subprocess.run([base, "-c", "import swarm"], capture_output=True, cwd="/", env={"PATH": os.environ["PATH"]})
    assert found.returncode, "the base interpreter has nanoswarm installed"
    return base


@pytest.fixture(autouse=True)
def _module(samples: Path) -> None:
    (samples / "transacted.py").write_text(
        "import swarm\n"
        "@swarm.task(transaction='given')\n"
        "def named(fails):\n"
        "    swarm.StateTransaction.current().write_text('made', 'x')\n"
        "    if fails: raise ValueError('no')\n"
    )


def one(driver: Driver, fn: Any, *args: Any, extra: dict[str, Any] | None = None, **options: Any) -> Any:
    """The value of one call, or (status, what it says)."""
    return driver.values(driver.spec(fn, **options), [args], extra=extra)[0]


def files(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".swarm-transaction" not in path.parts
    }


def appends(fails: Any = None) -> str:
    with swarm.StateTransaction.current().open("log", "a") as file:
        file.write("line\n")
    if fails is not None:
        raise fails
    return "done"


async def appends_async(fails: Any = None) -> str:
    import asyncio

    await asyncio.sleep(0)
    return appends(fails)


@pytest.mark.parametrize("fn", [appends, appends_async])
def test_a_task_that_returns_commits_and_one_that_raises_does_not(
    driver: Driver, tmp_path: Path, fn: Callable[..., Any]
) -> None:
    (tmp_path / "log").write_text("before\n")
    for error in (ValueError("no"), KeyboardInterrupt(), SystemExit(3)):
        status, told = one(driver, fn, error, transaction=str(tmp_path))
        assert status == Status.FAILED and told.type == f"builtins:{type(error).__name__}", told
        if driver.page or fn is appends:  # in a guest asyncio's own frames come before those of a coroutine
            assert "swarm/transactions" not in told.traceback, "a traceback is the task's"
        assert files(tmp_path) == {"log": "before\n"}
    assert one(driver, fn, transaction=str(tmp_path)) == "done"
    assert files(tmp_path) == {"log": "before\nline\n"}


def test_several_calls_of_a_slice_have_a_transaction_each(driver: Driver, tmp_path: Path) -> None:
    spec = driver.spec(appends, transaction=str(tmp_path))
    spec_async = driver.spec(appends_async, transaction=str(tmp_path))
    slices: list[list[Any]] = [[(), (ValueError("no"),), ()]] if driver.page else [[()], [(ValueError("no"),)], [()]]
    for calls in slices:
        driver.values(spec, calls)
        driver.values(spec_async, calls)
    assert files(tmp_path) == {"log": "line\n" * 4}


def unsendable(kind: str) -> Any:
    import threading

    swarm.StateTransaction.current().write_text("made", "x")
    return threading.Lock() if kind == "lock" else (x for x in "abc")


@pytest.mark.parametrize("kind", ["lock", "generator"])
def test_a_result_that_cannot_be_sent_is_a_failure_before_the_commit(driver: Driver, tmp_path: Path, kind: str) -> None:
    status, told = one(driver, unsendable, kind, transaction=str(tmp_path))
    assert status == Status.FAILED and isinstance(told, Failure | Notice)
    assert files(tmp_path) == {}


def large() -> Any:
    swarm.StateTransaction.current().write_text("made", "x")
    return {1, 2, 3}, "text"


def test_results_are_what_they_are_without_a_transaction(driver: Driver, tmp_path: Path) -> None:
    assert one(driver, large, transaction=str(tmp_path)) == ({1, 2, 3}, "text")
    assert files(tmp_path) == {"made": "x"}


def test_a_directory_that_is_not_there_is_told(driver: Driver, tmp_path: Path) -> None:
    status, told = one(driver, appends, transaction=str(tmp_path / "gone"))
    assert status == Status.FAILED and "is not a directory" in told.message


def test_a_callable_that_was_marked_has_its_transaction_when_it_is_only_named(
    driver: Driver, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # the mark's directory is relative: to the worker's own
    given = Path(__file__).resolve().parents[3] / "given"
    given.mkdir()
    try:
        status, _ = one(driver, "transacted:named", True)
        assert status == Status.FAILED and files(given) == {}
        assert one(driver, "transacted:named", False) is None
        assert files(given) == {"made": "x"}
    finally:
        subprocess.run(["rm", "-r", str(given)], check=True)


def said_before() -> Any:
    tx = swarm.StateTransaction.current()
    tx.write_text("made", "x")
    return tx.committed_before


def test_a_later_attempt_knows_what_an_earlier_one_committed_and_an_earlier_one_is_fenced(
    driver: Driver, tmp_path: Path
) -> None:
    options = {"transaction": str(tmp_path)}
    assert one(driver, said_before, extra={"token": [1, 7]}, **options) is False
    assert one(driver, said_before, extra={"token": [1, 9], "attempt": 2}, **options) is True
    (tmp_path / "made").unlink()
    status, told = one(driver, said_before, extra={"token": [1, 8]}, **options)
    assert status == Status.FAILED and "later attempt" in told.message
    assert files(tmp_path) == {}
