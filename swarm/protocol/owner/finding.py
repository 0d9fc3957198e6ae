"""Finding tasks by what people type."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from swarm.protocol import ids
from swarm.protocol.owner.batches import Batch

SEARCHED_PER_BATCH_MAX = 65536
_STATES = ("ready", "placed", "done", "held")


def find(batches: OrderedDict[bytes, Batch], prefix: str, most: int) -> list[tuple[Batch, int]]:
    """Tasks whose text id begins with `prefix`, at most `most`, the latest first; a full id is found at once."""
    if len(prefix) == ids.TEXT_LENGTH:
        try:
            key, index = ids.split(ids.parse(prefix))
        except ValueError:
            return []
        batch = batches.get(key)
        return [(batch, index)] if batch is not None and index < batch.calls.count else []
    found: list[tuple[Batch, int]] = []
    for batch in reversed(batches.values()):
        for index in range(min(batch.calls.count, SEARCHED_PER_BATCH_MAX)):
            if ids.text(ids.task_id(batch.key, index)).startswith(prefix):
                found.append((batch, index))
                if len(found) >= most:
                    return found
    return found


def states(batch: Batch) -> Iterator[tuple[int, str]]:
    """(index, state in words) of each task of a batch."""
    for index in range(batch.calls.count):
        yield index, _STATES[batch.columns.state(index)]
