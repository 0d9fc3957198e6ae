"""A journal in each place that there is for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import postgres
from tests.unit.journal.places import FilesPlace, Place, PostgresPlace

__all__ = ["place", "postgres"]


@pytest.fixture(params=["files", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a test's journal is."""
    if request.param == "files":
        return FilesPlace(tmp_path)
    return PostgresPlace(tmp_path, request.getfixturevalue("postgres"))
