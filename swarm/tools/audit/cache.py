"""Figures of files by their content, so that a second audit measures only what changed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack

from swarm.tools.audit.measure import measured_by

KEPT_MAX = 500_000


class Cache:
    """A file of figures by digest. One that cannot be opened or is damaged is done without, and said in `problem`."""

    def __init__(self, path: Path | None) -> None:
        self.problem = ""
        self._rows: sqlite3.Connection | None = None
        if path is None:
            return
        self._version = measured_by().encode()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._rows = sqlite3.connect(path, timeout=5.0)
            self._rows.execute("pragma journal_mode=wal")
            self._rows.execute("create table if not exists figures (key blob primary key, value blob) without rowid")
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def get(self, digest: bytes) -> dict[str, Any] | None:
        """The figures of a content, if they are known."""
        if self._rows is None:
            return None
        try:
            row = self._rows.execute("select value from figures where key = ?", (digest + self._version,)).fetchone()
            found = None if row is None else msgpack.unpackb(row[0])
        except (sqlite3.Error, ValueError) as error:
            self._give_up(error)
            return None
        return found if isinstance(found, dict) else None

    def put(self, figures: Iterable[tuple[bytes, dict[str, Any]]]) -> None:
        """Keep figures. They must have been measured with what `measured_by` says here."""
        if self._rows is None:
            return
        try:
            with self._rows:
                self._rows.executemany(
                    "insert or replace into figures values (?, ?)",
                    [(digest + self._version, msgpack.packb(value)) for digest, value in figures],
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def _give_up(self, error: Exception) -> None:
        self.problem = f"{type(error).__name__}: {error}"
        self.close()


def cache_file(directory: Path) -> Path:
    """Where the cache is, in a home's cache directory."""
    return directory / f"audit-{os.getuid() if hasattr(os, 'getuid') else 0}.sqlite"
