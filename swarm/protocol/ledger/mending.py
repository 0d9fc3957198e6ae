"""Mending: what logs name is on this node's disk, or is fetched; what none of them names is given up. A pure state machine.

That is how a new member comes to have what its log's state names, how a file that was damaged or removed is had again, and
how the third member gets what two have. After a restart the names are in the states, and nothing else has to be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swarm.protocol.ledger.copying import UNNAMED_S
from swarm.protocol.ledger.records import KeptBlob

FETCHES_MAX = 4
"""At once."""
PAUSE_S, PAUSE_S_MAX = 0.5, 60.0


@dataclass(slots=True)
class Fetch:
    """Have a blob from whoever has it: `Mending.here` or `failed` is to be told."""

    blob: KeptBlob


@dataclass(slots=True)
class Remove:
    """No log names it: its file goes."""

    id: bytes


Effect = Fetch | Remove


class Mending:
    """The files of one node beside its logs. `found` are those that were there at the start."""

    def __init__(self, now: float, found: Iterable[bytes] = (), unnamed_s: float = UNNAMED_S) -> None:
        self._unnamed_s = unnamed_s
        self._needed: Mapping[bytes, KeptBlob] = {}
        self._here = set(found)
        self._loose: dict[bytes, float] = dict.fromkeys(sorted(self._here), now)
        """What is here and not named -> since when, or when somebody last said that he needs it."""
        self._missing: dict[bytes, tuple[float, float]] = {}
        """id -> (when to fetch it, the pause after that)."""
        self._fetching: dict[bytes, float] = {}
        """id -> the pause if it fails."""
        self._effects: list[Effect] = []

    @property
    def missing(self) -> int:
        """How much is named and not here."""
        return len(self._missing) + len(self._fetching.keys() & self._needed.keys())

    def needed(self, now: float, blobs: Mapping[bytes, KeptBlob]) -> None:
        """All that the logs name."""
        for id in sorted(self._needed.keys() - blobs.keys()):
            if id in self._here:
                self._loose[id] = now
        for id in self._loose.keys() & blobs.keys():
            del self._loose[id]
        self._needed = blobs
        for id in sorted(self._missing.keys() - blobs.keys()):
            del self._missing[id]
        for id in sorted(blobs.keys() - self._here - self._missing.keys() - self._fetching.keys()):
            self._missing[id] = (now, PAUSE_S)
        self.tick(now)

    def here(self, now: float, id: bytes) -> None:
        """It is on the disk, whoever wanted it."""
        self._here.add(id)
        if id not in self._needed:
            self._loose[id] = now
        self._missing.pop(id, None)
        self._fetching.pop(id, None)
        self.tick(now)

    def gone(self, now: float, id: bytes) -> None:
        """It is not, or is not what it was."""
        self._here.discard(id)
        self._loose.pop(id, None)
        if id in self._needed and id not in self._fetching:
            self._missing.setdefault(id, (now, PAUSE_S))
        self.tick(now)

    def failed(self, now: float, id: bytes) -> None:
        """Nobody has it at the moment, or there is no room for it."""
        pause_s = self._fetching.pop(id, PAUSE_S)
        if id in self._needed and id not in self._here:
            self._missing[id] = (now + pause_s, min(PAUSE_S_MAX, 2 * pause_s))
        self.tick(now)

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        for id, (at, pause_s) in sorted(self._missing.items(), key=lambda row: (row[1][0], row[0])):
            if at > now or len(self._fetching) >= FETCHES_MAX:
                break
            del self._missing[id]
            self._fetching[id] = pause_s
            self._effects.append(Fetch(self._needed[id]))
        for id in [id for id, at in self._loose.items() if now - at >= self._unnamed_s]:
            del self._loose[id]
            self._here.discard(id)
            self._effects.append(Remove(id))

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""
        times = [at + self._unnamed_s for at in self._loose.values()]
        if len(self._fetching) < FETCHES_MAX:
            times += [at for at, _ in self._missing.values()]
        return min(times, default=None)

    def take(self) -> list[Effect]:
        """What is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects
