"""joblib finds the fleet by its name, whichever of the two is imported first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

joblib = pytest.importorskip("joblib")

from swarm.client import joblib_backend  # noqa: E402
from tests.unit.client.fake_node import World  # noqa: E402


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with World() as made:
        monkeypatch.setattr(joblib_backend, "connect", lambda home: made.fleet)
        monkeypatch.setattr(joblib_backend, "_fleets", {})
        yield made


def square(x: int) -> int:
    return x * x


def test_parallel_calls_run_in_the_fleet(world: World) -> None:
    with joblib.parallel_config("swarm"):
        assert joblib.Parallel()(joblib.delayed(square)(x) for x in range(300)) == [x * x for x in range(300)]
        assert joblib.Parallel(n_jobs=3)(joblib.delayed(pow)(x, 2) for x in range(5)) == [0, 1, 4, 9, 16]
        found = joblib.Parallel(return_as="generator")(joblib.delayed(square)(x) for x in range(4))
        assert list(found) == [0, 1, 4, 9]
    assert world.nodes[0].ran


def test_a_failure_is_raised_and_the_backend_goes_on(world: World) -> None:
    with joblib.parallel_config("swarm", priority="LOW"):
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(divmod)(1, x) for x in (1, 0, 1))
        assert joblib.Parallel()([joblib.delayed(square)(2)]) == [4]


def test_the_number_of_jobs_follows_the_slots(world: World) -> None:
    backend = joblib_backend.SwarmBackend()
    assert [backend.effective_n_jobs(n) for n in (-1, -2, -9, 5)] == [2, 1, 1, 5]
    with pytest.raises(ValueError):
        backend.effective_n_jobs(0)


@pytest.mark.parametrize("order", ["import swarm, joblib", "import joblib, swarm", "import joblib, swarm.joblib"])
def test_the_name_is_known_without_the_client_being_loaded(order: str) -> None:
    script = (
        f"{order}\nimport sys\n"
        "from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS\n"
        "assert 'swarm' in BACKENDS or 'swarm' in EXTERNAL_BACKENDS\n"
        f"assert ('swarm.client.engine' in sys.modules) == {'swarm.joblib' in order}\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
