"""Rumours: updates that are passed on a bounded number of times, the least told first (SWIM, section 4.1)."""

from __future__ import annotations


class Rumour:
    """One update about one subject; a newer one about the same subject takes its place."""

    __slots__ = ("order", "packed", "rank", "told")

    def __init__(self, packed: bytes, order: int, routine: bool) -> None:
        self.packed = packed
        self.order = order
        self.told = 0
        self.rank = (routine, 0, order)


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
        self._by_subject[subject] = Rumour(packed, self._count, routine)

    def drop(self, subject: bytes) -> None:
        """Stops passing on what there is about a subject."""
        self._by_subject.pop(subject, None)

    def take(self, room_bytes: int, count_max: int, copies: int, limit: int) -> list[bytes]:
        """Updates that fit into `room_bytes`, least told first; each is noted as told `copies` times more and dropped
        after `limit`."""
        rumours = self._by_subject
        if not rumours:
            return []
        items = sorted(rumours.items(), key=lambda item: item[1].rank) if len(rumours) > 1 else list(rumours.items())
        chosen: list[bytes] = []
        for subject, rumour in items:
            size = len(rumour.packed)
            if size > room_bytes:
                if room_bytes < 32:
                    break
                continue
            room_bytes -= size
            chosen.append(rumour.packed)
            rumour.told += copies
            if rumour.told >= limit:
                del rumours[subject]
            else:
                rumour.rank = (rumour.rank[0], rumour.told, rumour.order)
            if len(chosen) == count_max:
                break
        return chosen
