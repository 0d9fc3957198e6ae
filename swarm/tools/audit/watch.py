"""Watching trees: which files changed, and a report that is brought up to date with them alone.

By asking the file system again, which works on every one (network mounts and containers tell of no changes): a file
whose inode, size and times are as before is not read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from swarm.tools.audit.cache import Cache
from swarm.tools.audit.collect import SKIPPED, Found, find_below, roots
from swarm.tools.audit.job import WINDOW, Progress, Report, Submits, audit_files

Stamp = tuple[int, int, int, int] | str


@dataclass(frozen=True, slots=True)
class Changes:
    """What is not as it was: files to measure, new ones among them, and names of files that are gone."""

    changed: list[Found]
    gone: list[str]

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone)


class Watch:
    """Trees whose report is kept up to date. FileNotFoundError for a path that is not there at the beginning."""

    def __init__(self, paths: Iterable[str], cache: Cache, skip: frozenset[str] = SKIPPED) -> None:
        self._tops, self._base = roots(paths)
        self._cache = cache
        self._skip = skip
        self._stamps: dict[str, Stamp] = {}
        self.report = Report({}, {}, 0, Counter())

    def look(self) -> Changes:
        """What changed since the last `look`. At the first one that is everything."""
        before, self._stamps = self._stamps, {}
        changed: list[Found] = []
        # a tree that is taken away and put back (a checkout of another branch) is empty meanwhile
        for one in find_below([top for top in self._tops if os.path.lexists(top)], self._base, self._skip):
            stamp = self._stamps[one.shown] = _stamp(one)
            if before.get(one.shown) != stamp:
                changed.append(one)
        return Changes(changed, sorted(before.keys() - self._stamps.keys()))

    def update(
        self,
        fleet: Submits,
        changes: Changes,
        tell: Callable[[Progress], None] = lambda progress: None,
        window: int = WINDOW,
    ) -> Report:
        """Measure what changed; the report of everything. Its `known` and `nodes` are of this update alone."""
        part = audit_files(fleet, changes.changed, self._cache, tell, window)
        names = {one.shown for one in changes.changed} | set(changes.gone)
        files = {name: figures for name, figures in self.report.files.items() if name not in names} | part.files
        errors = {name: why for name, why in self.report.errors.items() if name not in names} | part.errors
        self.report = Report(
            dict(sorted(files.items())), dict(sorted(errors.items())), part.known, part.nodes, part.again
        )
        return self.report


def differences(before: Report, after: Report, names: Iterable[str]) -> list[tuple[int, int | None, str, int, str]]:
    """Functions of these files whose complexity is another: (complexity, was, path, line, name), the worst first.

    What it was is None for a function that is new.
    """
    found = []
    for path in names:
        was = {name: complexity for name, _, complexity in before.files.get(path, {}).get("functions", ())}
        for name, line, complexity in after.files.get(path, {}).get("functions", ()):
            if was.get(name) != complexity:
                found.append((complexity, was.get(name), path, line, name))
    found.sort(key=lambda one: (-one[0], one[2], one[3]))
    return found


def _stamp(one: Found) -> Stamp:
    try:
        status = os.stat(one.path)
    except OSError as error:
        return f"{one.error or error.strerror}"
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
