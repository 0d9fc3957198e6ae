"""For all tests: the same environment, and Hypothesis judges by what is found, never by how fast this machine happens to be."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

FIRST = "tests/e2e/test_wheel.py"
"""It builds all kernels anew, which takes minutes: so others run beside it, and none waits for it in the end."""

# Processes of tests buffer what they print as those of users do, whatever the shell of who runs the tests says.
os.environ.pop("PYTHONUNBUFFERED", None)

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first; else as they were found, by folders, those of users before those of parts."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
