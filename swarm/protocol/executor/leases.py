"""Leases: for how long this node goes on with the tasks of an owner of whom it hears nothing.

An owner that is linked renews its leases by that. While a node itself stood still (its process was stopped, its machine slept)
an owner may have given its tasks to others, so nothing that stands still goes on before its owner was heard of again.
"""

from __future__ import annotations

OWNER_LEASE_S = 10.0
"""How long this node goes on with the tasks of an owner to which there is no link."""
LOOKED_S_MAX = 5.0
"""Whoever looks every second and finds that so much time has passed has stood still meanwhile."""


class Leases:
    """Owners that are away, and owners of whom it is not known whether they still count on this node. Seconds of the boot-time
    clock, which goes on while a machine sleeps."""

    def __init__(self, lease_s: float = OWNER_LEASE_S) -> None:
        self._lease_s = lease_s
        self._away: dict[bytes, float] = {}
        self._unsure: set[bytes] = set()
        self._looked_at: float | None = None

    def looked(self, now: float) -> bool:
        """Somebody looks at what stands still, every second from the first time on until `rest`. Whether this node has stood still
        since the last time."""
        before, self._looked_at = self._looked_at, now
        return before is not None and now - before > LOOKED_S_MAX

    def rest(self) -> None:
        """Nothing stands still: nobody looks."""
        self._looked_at = None

    def doubted(self) -> list[bytes]:
        """Owners to be asked."""
        return sorted(self._unsure)

    def away(self, now: float, owner: bytes) -> None:
        """There is no link to an owner any more."""
        self._away.setdefault(owner, now)

    def unsure(self, owner: bytes) -> None:
        """This node stood still: its owner may have given up what it has here."""
        self._unsure.add(owner)

    def renewed(self, owner: bytes) -> None:
        """An owner is linked, and was heard of."""
        self._away.pop(owner, None)
        self._unsure.discard(owner)

    def forget(self, owner: bytes) -> None:
        """Nothing of an owner's is here any more."""
        self.renewed(owner)

    def may_go_on(self, now: float, owner: bytes) -> bool:
        """Whether what stands still for an owner may go on."""
        late = self._looked_at is not None and now - self._looked_at > LOOKED_S_MAX
        return not late and owner not in self._unsure and not self._is_over(now, owner)

    def over(self, now: float) -> list[bytes]:
        """Owners whose leases are over."""
        return [owner for owner in sorted(self._away) if self._is_over(now, owner)]

    def _is_over(self, now: float, owner: bytes) -> bool:
        since = self._away.get(owner)
        return since is not None and now - since >= self._lease_s
