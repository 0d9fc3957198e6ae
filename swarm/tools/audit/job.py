"""The audit itself: read, look up, hand out what is new, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from swarm.tools.audit.cache import Cache
from swarm.tools.audit.collect import SKIPPED, Source, find, read
from swarm.tools.audit.measure import measure_many

CHUNK_CHARACTERS = 96 * 1024
"""Source in one task: large enough that a task's cost vanishes, small enough to share evenly."""


class Maps(Protocol):
    """What is needed of a fleet."""

    def map(self, fn: Any, /, *iterables: Iterable[Any], **options: Any) -> Iterator[Any]: ...


@dataclass(slots=True)
class Progress:
    """How far an audit is."""

    files: int = 0
    done: int = 0
    known: int = 0
    nodes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """What an audit found."""

    files: dict[str, dict[str, Any]]
    errors: dict[str, str]
    known: int
    nodes: Counter[str]

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
    fleet: Maps,
    paths: Iterable[str],
    cache: Cache,
    tell: Callable[[Progress], None] = lambda progress: None,
    skip: frozenset[str] = SKIPPED,
) -> Report:
    """Audit trees. Raises what reading `paths` raises; files that cannot be read or parsed are in the report."""
    found = list(find(paths, skip))
    progress = Progress(files=len(found))
    files: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}

    def take(source: Source, figures: dict[str, Any]) -> None:
        progress.done += 1
        if "error" in figures:
            errors[source.path] = f"line {figures['line']}: {figures['error']}" if figures["line"] else figures["error"]
        else:
            files[source.path] = figures

    def chunks() -> Iterator[list[Source]]:
        part: list[Source] = []
        size = 0
        for shown, path in found:
            source = read(shown, path)
            if source.text is None:
                take(source, {"error": source.error, "line": 0})
                continue
            known = cache.get(source.digest)
            if known is not None:
                progress.known += 1
                take(source, known)
                continue
            part.append(source)
            size += len(source.text)
            if size >= CHUNK_CHARACTERS:
                yield part
                part, size = [], 0
        if part:
            yield part

    out: list[list[Source]] = []

    def arguments() -> Iterator[list[str]]:
        for part in chunks():
            out.append(part)
            yield [source.text or "" for source in part]

    results = fleet.map(measure_many, arguments(), name="audit", window=64)
    for at, result in enumerate(results):
        part = out[at]
        for source, figures in zip(part, result["files"], strict=True):
            take(source, figures)
        progress.nodes[result["node"]] += len(part)
        cache.put((source.digest, figures) for source, figures in zip(part, result["files"], strict=True))
        tell(progress)
    tell(progress)
    ordered = dict(sorted(files.items()))
    return Report(ordered, dict(sorted(errors.items())), progress.known, progress.nodes)
