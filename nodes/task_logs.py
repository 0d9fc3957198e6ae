"""What tasks wrote to their standard output and error, kept for a while: the last of each, bounded in all."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

TASK_BYTES_MAX = 64 * 1024
"""Kept of one task; what is older is dropped and said to be."""
ALL_BYTES_MAX = 16 * 1024 * 1024


class TaskLogs:
    """The last output of tasks that ran on this node, by task id."""

    def __init__(self, task_bytes_max: int = TASK_BYTES_MAX, all_bytes_max: int = ALL_BYTES_MAX) -> None:
        self._task_bytes_max = task_bytes_max
        self._all_bytes_max = all_bytes_max
        self._logs: OrderedDict[bytes, _Log] = OrderedDict()
        self._bytes = 0

    def add(self, task: bytes, stream: str, data: bytes) -> None:
        """Keep what a task wrote to "out" or "err"."""
        log = self._logs.get(task)
        if log is None:
            log = self._logs[task] = _Log()
        else:
            self._logs.move_to_end(task)
        log.chunks.append((stream, data[-self._task_bytes_max :]))
        log.nbytes += len(data)
        self._bytes += len(data)
        if len(data) > self._task_bytes_max:
            self._drop(log, 0, len(data) - self._task_bytes_max)
        while log.nbytes > self._task_bytes_max and len(log.chunks) > 1:
            self._drop(log, 1, len(log.chunks[0][1]))
        while self._bytes > self._all_bytes_max and len(self._logs) > 1:
            _, oldest = self._logs.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _drop(self, log: _Log, chunks: int, nbytes: int) -> None:
        for _ in range(chunks):
            log.chunks.popleft()
        log.nbytes -= nbytes
        log.dropped += nbytes
        self._bytes -= nbytes

    def get(self, task: bytes) -> tuple[list[tuple[str, bytes]], int]:
        """([(stream, bytes)…] in the order written, bytes dropped before them)."""
        log = self._logs.get(task)
        return ([], 0) if log is None else (list(log.chunks), log.dropped)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._logs)


class _Log:
    __slots__ = ("chunks", "dropped", "nbytes")

    def __init__(self) -> None:
        self.chunks: deque[tuple[str, bytes]] = deque()
        self.nbytes = 0
        self.dropped = 0
