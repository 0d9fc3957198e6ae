"""Large arguments when the node's store is full: whoever submits waits, or is told, as for any other room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from swarm.client.batches import Room
from swarm.errors import NotAccepted, StoreFull

T = TypeVar("T")

PAUSE_MIN_S = 0.01
PAUSE_MAX_S = 1.0
"""Between two attempts, if nothing of this client ends meanwhile: it may be others' that is in the way."""


class Storing:
    """Puts something into the node's store, patiently; `unfinished` are the client's tasks that have no outcome."""

    def __init__(self, room: Room, unfinished: Callable[[], int]) -> None:
        self._room = room
        self._unfinished = unfinished

    def put(self, put: Callable[[], T], holds: bool) -> T:
        """What `put` returns, as soon as there is room for it.

        NotAccepted when there is none in the time that this thread has for a submit (`Room.patience`), and at once where waiting
        would hold up a loop, which may be what room waits for. StoreFull when waiting is of no use: the caller `holds` some of the
        store itself, for a task that is not handed over yet, and nothing else of this client is under way.
        """
        pause_s, began = PAUSE_MIN_S, time.monotonic()
        while True:
            try:
                return put()
            except StoreFull as full:
                if holds and not self._unfinished():
                    raise
                left_s = self._left_s(began)
                if left_s is not None and left_s <= 0:
                    hint = "take results before submitting more, or raise limits.blob_bytes of the node"
                    raise NotAccepted(str(full), retry_after_s=max(pause_s, 0.1), hint=hint) from full
            before = self._unfinished()
            self._room.wait_for(lambda before=before: self._unfinished() < before, min(pause_s, left_s or pause_s))  # type: ignore[misc]
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _left_s(self, began: float) -> float | None:
        """How long may still be waited; None is for ever."""
        if threading.get_ident() == self._room.thread_id or _in_loop():
            return 0.0
        timeout_s = self._room.timeout_s
        return None if timeout_s is None else began + timeout_s - time.monotonic()


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
