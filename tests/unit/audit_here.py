"""A fleet of this very process, for tests of the audit."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from swarm.errors import WorkerCrashed


class Here:
    """Counts what it is given; a source that holds the word poison ends its worker."""

    def __init__(self, by: str = "") -> None:
        self.given: list[str] = []
        self._by = by

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        (sources,) = args
        self.given.extend(sources)
        if any("poison" in source for source in sources):
            future.set_exception(WorkerCrashed("its worker ended by signal 11"))
        else:
            result = fn(sources)
            future.set_result(result | ({"by": self._by} if self._by else {}))
        return future
