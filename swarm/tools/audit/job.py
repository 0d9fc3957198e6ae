"""The audit itself: read, look up, hand out what is new, put together."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from swarm.errors import TaskError
from swarm.tools.audit.cache import Cache
from swarm.tools.audit.collect import SKIPPED, Found, Source, find, read
from swarm.tools.audit.measure import measure_many, measured_by

CHUNK_CHARACTERS: Final = 96 * 1024
"""Source in one task: large enough that a task's cost vanishes, small enough to share evenly."""
WINDOW: Final = 64
"""Tasks under way at once: enough for a few dozen workers, few enough that a large tree is not in memory at once."""


class Submits(Protocol):
    """What is needed of a fleet: a future of a task."""

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> concurrent.futures.Future[Any]: ...


@dataclass(slots=True)
class Progress:
    """How far an audit is."""

    files: int = 0
    done: int = 0
    known: int = 0
    again: int = 0
    nodes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """What an audit found."""

    files: dict[str, dict[str, Any]]
    errors: dict[str, str]
    known: int
    nodes: Counter[str]
    again: int = 0
    """Files whose task was handed out more than once: as when a node or a worker ends that has it."""

    @property
    def functions(self) -> list[tuple[int, str, int, str]]:
        """(complexity, path, line, name), the worst first."""
        found = [
            (complexity, path, line, name)
            for path, figures in self.files.items()
            for name, line, complexity in figures["functions"]
        ]
        found.sort(key=lambda one: (-one[0], one[1], one[2]))
        return found

    def packages(self) -> list[dict[str, Any]]:
        """Totals by top-level directory (or file), the largest first."""
        rows: dict[str, dict[str, Any]] = {}
        for path, figures in self.files.items():
            name = path.split("/", 1)[0] if "/" in path else "."
            row = rows.setdefault(
                name, {"package": name, "files": 0, "sloc": 0, "functions": 0, "complexity": 0, "mi": 0.0}
            )
            row["files"] += 1
            row["sloc"] += figures["sloc"]
            row["functions"] += len(figures["functions"])
            row["complexity"] += sum(one[2] for one in figures["functions"])
            row["mi"] += figures["mi"]
        for row in rows.values():
            row["mi"] = round(row["mi"] / row["files"], 2)
            row["mean"] = round(row["complexity"] / row["functions"], 2) if row["functions"] else 0.0
        return sorted(rows.values(), key=lambda row: (-row["sloc"], row["package"]))

    def totals(self) -> dict[str, Any]:
        """Sums over everything."""
        functions = sum(len(figures["functions"]) for figures in self.files.values())
        complexity = sum(one[2] for figures in self.files.values() for one in figures["functions"])
        return {
            "files": len(self.files) + len(self.errors),
            "measured": len(self.files),
            "errors": len(self.errors),
            "known": self.known,
            "sloc": sum(figures["sloc"] for figures in self.files.values()),
            "comments": sum(figures["comments"] for figures in self.files.values()),
            "functions": functions,
            "complexity": complexity,
            "mean_complexity": round(complexity / functions, 3) if functions else 0.0,
            "mi": round(sum(f["mi"] for f in self.files.values()) / len(self.files), 2) if self.files else 0.0,
        }

    def as_json(self, worst: int) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "totals": self.totals(),
            "packages": self.packages(),
            "worst": [
                {"complexity": complexity, "path": path, "line": line, "name": name}
                for complexity, path, line, name in self.functions[:worst]
            ],
            "errors": self.errors,
            "nodes": dict(self.nodes),
            "files": self.files,
        }


def audit(
    fleet: Submits,
    paths: Iterable[str],
    cache: Cache,
    tell: Callable[[Progress], None] = lambda progress: None,
    skip: frozenset[str] = SKIPPED,
    window: int = WINDOW,
) -> Report:
    """Audit trees, with at most `window` tasks under way. Raises what finding `paths` raises.

    Files that cannot be read or parsed are in the report's errors; so is one that a worker does not survive.
    """
    return audit_files(fleet, find(paths, skip), cache, tell, window)


def audit_files(
    fleet: Submits,
    found: list[Found],
    cache: Cache,
    tell: Callable[[Progress], None] = lambda progress: None,
    window: int = WINDOW,
) -> Report:
    """Audit files that were found before."""
    work = _Work(cache, tell, Progress(files=len(found)))
    # The largest first: what is left to do at the end is small, and no worker is alone with a large file then.
    chunks = work.chunks(sorted(found, key=lambda one: (-one.size, one.shown)))
    going: dict[concurrent.futures.Future[Any], list[Source]] = {}
    alone: list[Source] = []
    try:
        while True:
            while len(going) < window:
                part = [alone.pop()] if alone else next(chunks, None)
                if part is None:
                    break
                texts = [source.text or "" for source in part]
                going[fleet.submit(measure_many, texts, name="audit")] = part
            if not going:
                break
            for future in concurrent.futures.wait(going, return_when=concurrent.futures.FIRST_COMPLETED).done:
                alone += work.settle(future, going.pop(future))
    finally:
        for future in going:
            future.cancel()
    return work.report()


class _Work:
    """What is known of an audit under way."""

    def __init__(self, cache: Cache, tell: Callable[[Progress], None], progress: Progress) -> None:
        self._cache = cache
        self._tell = tell
        self._progress = progress
        self._by = measured_by()
        self._files: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}

    def chunks(self, found: Iterable[Found]) -> Iterator[list[Source]]:
        """Files that are not known yet, some at a time."""
        part: list[Source] = []
        size = 0
        for one in found:
            source = Source(one.shown, b"", None, one.error) if one.error else read(one.shown, one.path)
            if source.text is None:
                self._fail(source.path, source.error)
            elif (known := self._cache.get(source.digest)) is not None:
                self._progress.known += 1
                self._take(source, known)
            else:
                part.append(source)
                size += len(source.text)
                if size >= CHUNK_CHARACTERS:
                    yield part
                    part, size = [], 0
        if part:
            yield part

    def settle(self, future: concurrent.futures.Future[Any], part: list[Source]) -> list[Source]:
        """Take what a task found. Returns files to try again, each alone."""
        try:
            result = future.result()
        except TaskError as error:
            if len(part) > 1:
                return part  # one of them ended the worker; the others are not to blame
            self._fail(part[0].path, f"can not be measured: {error.message or type(error).__name__}")
            return []
        progress = self._progress
        progress.nodes[result["node"]] += len(part)
        if result["attempt"] > 1:
            progress.again += len(part)
        if result["by"] == self._by:  # figures of another Python or radon hold for this report only
            self._cache.put((source.digest, figures) for source, figures in zip(part, result["files"], strict=True))
        for source, figures in zip(part, result["files"], strict=True):
            self._take(source, figures)
        return []

    def report(self) -> Report:
        """All that was found."""
        progress = self._progress
        files, errors = dict(sorted(self._files.items())), dict(sorted(self._errors.items()))
        return Report(files, errors, progress.known, progress.nodes, progress.again)

    def _take(self, source: Source, figures: dict[str, Any]) -> None:
        if "error" in figures:
            line = figures["line"]
            self._fail(source.path, f"line {line}: {figures['error']}" if line else figures["error"])
            return
        self._files[source.path] = figures
        self._step()

    def _fail(self, path: str, why: str) -> None:
        self._errors[path] = why
        self._step()

    def _step(self) -> None:
        self._progress.done += 1
        self._tell(self._progress)
