"""Durable batches that were handed over here, and are not taken yet: what they need is being brought from other nodes.

What comes meanwhile and is about one of them waits for it: a cancel, or a batch that depends on it. Else the first would find
nothing to cancel, and the second that what it waits for is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from swarm.protocol import ids

Do = Callable[[], object]
Bring = Callable[[Do], object]
"""Calls what it is given, at once or later, and in any case once: `WorkerRequests.with_needs`."""


class Arriving:
    """What waits for them, by their keys."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Do]] = {}

    def take(self, key: bytes, deps: Iterable[bytes], bring: Bring, submit: Do) -> None:
        """Have a batch brought what it needs, and then taken: after those on whose tasks it depends."""
        for dep in deps:
            if self.after(ids.split(dep)[0], partial(self.take, key, deps, bring, submit)):
                return
        self._waiting.setdefault(key, [])
        bring(partial(self._here, key, submit))

    def after(self, key: bytes, do: Do) -> bool:
        """Do something when a batch has been taken. False when none with this key is on its way."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return False
        waiting.append(do)
        return True

    def _here(self, key: bytes, submit: Do) -> None:
        waiting = self._waiting.pop(key, ())
        try:
            submit()
        finally:
            for do in waiting:
                do()
