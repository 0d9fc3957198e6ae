"""Rumours: updates that are passed on a bounded number of times, the least told first (SWIM, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter


class Rumour:
    """One update about one subject; a newer one about the same subject takes its place."""

    __slots__ = ("packed", "rank", "subject")

    def __init__(self, subject: bytes, packed: bytes, order: int, routine: bool) -> None:
        self.subject = subject
        self.packed = packed
        self.rank = (routine, 0, order)
        """Routine or not, how often told, which came first: the least goes out first."""


_RANK: Callable[[Rumour], tuple[bool, int, int]] = attrgetter("rank")


class Rumours:
    """What is still to be passed on. Routine updates (load) give way to all others."""

    __slots__ = ("_by_subject", "_count")

    def __init__(self) -> None:
        self._by_subject: dict[bytes, Rumour] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_subject)

    def add(self, subject: bytes, packed: bytes, routine: bool = False) -> None:
        """Starts passing on an update; one about the same subject is out of date and dropped."""
        self._count += 1
        self._by_subject[subject] = Rumour(subject, packed, self._count, routine)

    @property
    def urgent(self) -> bool:
        """Whether any of them is not routine."""
        return any(not rumour.rank[0] for rumour in self._by_subject.values())

    def drop(self, subject: bytes) -> None:
        """Stops passing on what there is about a subject."""
        self._by_subject.pop(subject, None)

    def take(self, room_bytes: int, count_max: int, copies: int, limit: int) -> list[bytes]:
        """Updates that fit into `room_bytes`, least told first; each is noted as told `copies` times more and dropped
        after `limit`, a routine one after a third of that: the next one comes anyway."""
        rumours = self._by_subject
        if not rumours:
            return []
        chosen: list[bytes] = []
        for rumour in sorted(rumours.values(), key=_RANK) if len(rumours) > 1 else tuple(rumours.values()):
            size = len(rumour.packed)
            if size > room_bytes:
                if room_bytes < 32:
                    break
                continue
            room_bytes -= size
            chosen.append(rumour.packed)
            routine, told, order = rumour.rank
            if told + copies >= (limit // 3 if routine else limit):
                del rumours[rumour.subject]
            else:
                rumour.rank = (routine, told + copies, order)
            if len(chosen) == count_max:
                break
        return chosen
