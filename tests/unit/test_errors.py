"""Errors: facts as attributes, the standard library's kinship, and the way through a pickle."""

from __future__ import annotations

import concurrent.futures
import pickle

import pytest

from swarm import errors
from swarm.errors import NotAccepted, RemoteTraceback, SwarmError, TaskCancelled, TaskTimeout
from swarm.exit_codes import ExitCode, of_command

TYPES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SwarmError)]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_each_error_survives_a_pickle_with_its_facts(kind: type[SwarmError]) -> None:
    error = kind("what", hint="do this", node="oak", attempt=2)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.hint, copy.node, copy.attempt) == ("what", "do this", "oak", 2)


def test_a_fact_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="colour"):
        _ = SwarmError("x", size=1).colour


def test_code_for_the_standard_library_goes_on_working() -> None:
    assert isinstance(TaskTimeout("x"), TimeoutError)
    assert isinstance(TaskCancelled("x"), concurrent.futures.CancelledError)
    assert pickle.loads(pickle.dumps(NotAccepted("full", retry_after_s=2.5))).retry_after_s == 2.5


def test_a_remote_traceback_prints_its_text() -> None:
    assert "line 3" in str(RemoteTraceback("Traceback\n  line 3\n"))
    assert str(pickle.loads(pickle.dumps(RemoteTraceback("a")))) == str(RemoteTraceback("a"))


def test_every_exit_status_is_its_own_and_says_what_it_means() -> None:
    assert len({int(code) for code in ExitCode}) == len(list(ExitCode))
    assert all(0 <= code < 256 and code.meaning for code in ExitCode)


@pytest.mark.parametrize(("status", "number", "shown"), [(0, None, 0), (3, None, 3), (None, 9, 137), (-1, 15, 143)])
def test_the_status_of_a_command_is_that_of_a_shell(status: int | None, number: int | None, shown: int) -> None:
    assert of_command(status, number) == shown
