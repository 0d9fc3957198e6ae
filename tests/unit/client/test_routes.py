"""Routes: which callables share a spec, what it says, and which session a task's own client has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from swarm import tasks
from swarm.client import routes
from swarm.client.routes import Route, Routes, command_route, is_lasting, session_for_here
from swarm.errors import ConfigError
from swarm.protocol.spec import parse_spec
from swarm.tasks import TaskOptions


class Running:
    def __init__(self, attempt: int = 1, task: bytes = b"t" * 16) -> None:
        self.attempt = attempt
        self.token: tuple[int, ...] = (1,)
        self.task = task

    def describe(self) -> Mapping[str, Any]:
        return {
            "id": self.task, "token": self.token, "attempt": self.attempt, "lineage": (b"r" * 16, b"p" * 16, 3),
            "name": "parent", "node": "oak",
        }  # fmt: skip

    def progress(self, done: float, total: float | None, note: str) -> None: ...

    def waiting(self, begins: bool) -> None: ...


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    tasks.bind(made)
    yield made
    tasks.bind(None)


def test_a_function_is_looked_up_and_options_make_another_route() -> None:
    routes = Routes()

    def double(x: int) -> int:
        return 2 * x

    plain = routes.of(double, TaskOptions())
    assert routes.of(double, TaskOptions()) is plain
    needy = TaskOptions.of(needs={"gpu": 1, "memory": "1KB"})
    assert routes.of(double, needy) is routes.of(double, TaskOptions.of(needs={"memory": 1000, "gpu": 1}))
    assert routes.of(double, needy) is not plain
    assert parse_spec(routes.of(double, needy).raw).needs == {"gpu": 1, "memory": 1000}
    assert routes.of(double, TaskOptions(), 1e9, -3).raw != plain.raw


def test_lengths_that_are_about_the_same_share_a_route_and_long_calls_are_not_quick() -> None:
    routes = Routes()

    def told(seconds: float) -> Route:
        return routes.of(abs, TaskOptions.of(expected_s=seconds))

    assert told(8.0) is told(8.5) and told(8.0) is not told(10.0)
    assert parse_spec(told(8.0).raw).expected_s == 8.0
    for seconds in (1e-9, 0.003, 1.0, 12345.6, 1e9):
        found = parse_spec(told(seconds).raw).expected_s
        assert found is not None and max(seconds, 1e-6) / 1.1 < found < max(seconds, 1e-6) * 1.1
    assert told(0.001).quick and not told(1.0).quick
    assert parse_spec(routes.chunked(abs, TaskOptions.of(expected_s=1.0)).raw).expected_s is None
    for wrong in (0, -1, True, "5", float("nan"), 1e10):
        with pytest.raises(ConfigError, match="expected_s"):
            TaskOptions.of(expected_s=wrong)  # type: ignore[arg-type]


def test_what_carries_state_is_written_anew_and_the_same_content_shares_a_route() -> None:
    class Model:
        weight = 1

        def predict(self) -> int:
            return self.weight

    routes, model = Routes(), Model()
    first = routes.of(model.predict, TaskOptions())
    assert routes.of(model.predict, TaskOptions()) is first
    model.weight = 2
    assert routes.of(model.predict, TaskOptions()) is not first
    assert not is_lasting(model.predict)
    assert not is_lasting([].append)
    assert is_lasting(len)
    assert is_lasting(dict)
    assert is_lasting(test_what_carries_state_is_written_anew_and_the_same_content_shares_a_route)


def test_callables_by_name_need_no_code() -> None:
    route = Routes().of("package.module:Class.method", TaskOptions())
    assert route.code is None
    spec = parse_spec(route.raw)
    assert spec.fn == ("name", "package.module:Class.method", "Class.method")
    with pytest.raises(ConfigError):
        Routes().of("no colon", TaskOptions())


def test_a_command_is_not_run_twice_unless_that_is_asked() -> None:
    assert not command_route("make", TaskOptions()).rerun
    assert command_route("make", TaskOptions(rerun=True)).rerun
    assert parse_spec(command_route("make", TaskOptions(name="build")).raw).name == "build"


def test_a_tasks_children_know_their_lineage(running: Running) -> None:
    spec = parse_spec(Routes().of(len, TaskOptions()).raw)
    assert (spec.root, spec.parent, spec.depth) == (b"r" * 16, b"t" * 16, 4)


def test_each_connection_of_each_attempt_of_a_task_has_its_own_session(running: Running) -> None:
    running.task = b"own" + bytes(13)
    first, second = session_for_here(), session_for_here()
    running.attempt = 2
    third = session_for_here()
    running.task = b"other" + bytes(11)
    fourth = session_for_here()
    found = [first, second, third, fourth]
    assert len(set(found)) == 4
    assert all(one is not None and len(one) == 8 for one in found)


def test_attempts_of_one_number_have_sessions_of_their_own(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two owners, each may have such an attempt run for a while, under its own token, and both hand over to one node."""
    found = set()
    for token in ((7,), (8,), (3, 8), (8, 3)):
        monkeypatch.setattr(routes, "_sessions", OrderedDict())  # each is in a process of its own
        running.token = token
        found.add(session_for_here())
    assert len(found) == 4


def test_outside_a_task_there_is_no_session_to_derive() -> None:
    assert session_for_here() is None
