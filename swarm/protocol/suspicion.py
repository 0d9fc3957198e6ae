"""Suspicion with dynamic timeouts, and the local health score (Lifeguard: Dadgar, Phillips, Currey; DSN-W 2018)."""

from __future__ import annotations

import math

from swarm.protocol.membership_config import MembershipConfig


class Suspicion:
    """A member that did not answer somebody. Every further independent accuser shortens the time until it is dead:
    the first accuser may be at fault itself, so its word alone counts least (Lifeguard, section 4.2)."""

    __slots__ = ("accusers", "began", "condemned", "incarnation", "looked", "max_s", "min_s", "needed")

    def __init__(self, incarnation: int, began: float, needed: int, min_s: float, max_s: float) -> None:
        self.incarnation = incarnation
        self.began = began
        self.needed = needed
        """Confirmations after which the timeout is at its shortest."""
        self.min_s = min_s
        self.max_s = max_s
        self.accusers: list[bytes] = []
        self.condemned = False
        """Somebody else has seen its own suspicion through to the end."""
        self.looked: float | None = None
        """When this node looked for the last time before the end."""

    def accuse(self, accuser: bytes) -> bool:
        """Counts an accuser; True if it is a new one and still matters."""
        if accuser in self.accusers or len(self.accusers) > self.needed:
            return False
        self.accusers.append(accuser)
        return True

    @property
    def deadline(self) -> float:
        """When the member is dead unless it refutes."""
        confirmed = max(len(self.accusers) - 1, 0)
        if confirmed >= self.needed or self.condemned:
            return self.began + self.min_s
        fraction = math.log(confirmed + 1) / math.log(self.needed + 1)
        return self.began + max(self.min_s, self.max_s - fraction * (self.max_s - self.min_s))

    def renew(self, now: float, accusers: list[bytes]) -> None:
        """Starts anew, with these accusers."""
        self.began = now
        self.accusers = accusers
        self.condemned = False
        self.looked = None

    def postpone(self, gap_s: float) -> None:
        """This node did not run for so long: that counts against nobody."""
        self.began += gap_s
        self.looked = None


class LocalHealth:
    """How little this node can trust its own view (Lifeguard, section 4.1): 0 is well."""

    __slots__ = ("_max", "score")

    def __init__(self, config: MembershipConfig) -> None:
        self._max = config.health_max
        self.score = 0

    def worse(self, by: int = 1) -> None:
        """Missed answers, an own refutation, or own lateness."""
        self.score = min(self._max, self.score + by)

    def better(self) -> None:
        """A probe was answered in time."""
        if self.score:
            self.score -= 1

    @property
    def factor(self) -> int:
        """By which own periods and timeouts are stretched."""
        return 1 + self.score
