"""Admission: what an owner takes when it has much already, and when who was refused shall ask again.

* Urgent work, and what running tasks wait for, is taken up to the bound; anything else only while an eighth of the room is free.
* When more than half of the room is taken, nobody who has more than an equal part of it is given more. So one flood leaves room for others,
  and who asks again now and then is not beaten for ever by those who hand over something as soon as something has ended.
* Who is refused is told when there will be room for it, as fast as things end now, and after those who were refused before. So what is handed
  over again comes one after the other, and not all at once.
* What depends on a batch that was refused is refused with it, until that has come again: it is not unknown, but late. And what a refused
  batch depends on is kept for it, if it has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from swarm.protocol import ids
from swarm.protocol.states import Priority

if TYPE_CHECKING:
    from swarm.protocol.owner.batches import Batch, Holdings
    from swarm.protocol.spec import Spec

RESERVE = 8
"""One part in so many is for urgent work."""
AFTER_S_MAX = 5.0
"""Nobody is sent away for longer."""
INVITED = 1.5
"""So many times as much is called back as ends: nobody can be called back earlier than he was told, should tasks end faster than they did,
and to refuse a few once more costs less than to have nothing to do."""
AWAY_S = 3 * AFTER_S_MAX
"""Who was sent away and has not come again for so long does not come."""
AWAY_MAX = 16_384


class Admission:
    """Who has how much of an owner's room."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._of: dict[bytes, int] = {}
        """Tasks of the unfinished batches that each client handed over."""
        self._by: dict[int, tuple[bytes, int]] = {}
        self._due = 0.0
        """When all that was refused so far has had its turn."""
        self._away: OrderedDict[bytes, float] = OrderedDict()
        """Keys of batches that were refused and shall come again, and when that was."""

    def taken(self, batch: Batch) -> None:
        """A client's batch was taken."""
        self._away.pop(batch.key, None)
        if batch.client is not None:
            self._by[batch.number] = (batch.client, batch.calls.count)
            self._of[batch.client] = self._of.get(batch.client, 0) + batch.calls.count

    def over(self, number: int) -> None:
        """A batch is finished, or somebody else's."""
        client, count = self._by.pop(number, (b"", 0))
        left = self._of.get(client, 0) - count
        if left > 0:
            self._of[client] = left
        else:
            self._of.pop(client, None)

    def held(self, client: bytes) -> int:
        """Tasks of a client's unfinished batches."""
        return self._of.get(client, 0)

    def refusal(
        self, now: float, client: bytes, key: bytes, spec: Spec, count: int, nbytes: int, deps: Iterable[bytes] = ()
    ) -> tuple[str, float] | None:
        """Why a batch is not taken now, and in how many seconds to ask again; None when it is taken."""
        if self._away and any(now - self._away.get(ids.split(dep)[0], -AWAY_S) < AWAY_S for dep in deps):
            found: tuple[str, float] | None = ("what it depends on was not taken yet", self._after_s(now, 0.0, count))
        else:
            found = self._full(now, client, spec, count, nbytes)
        if found is not None:
            self._away[key] = now
            self._away.move_to_end(key)
            if len(self._away) > AWAY_MAX:
                self._away.popitem(last=False)
            self._keep(now, deps)
        return found

    def _keep(self, now: float, deps: Iterable[bytes]) -> None:
        wanted = self._holdings.wanted
        for dep in deps:
            key = ids.split(dep)[0]
            wanted.pop(key, None)
            wanted[key] = now + AWAY_S
        while wanted and (len(wanted) > AWAY_MAX or next(iter(wanted.values())) <= now):
            wanted.popitem(last=False)

    def _full(self, now: float, client: bytes, spec: Spec, count: int, nbytes: int) -> tuple[str, float] | None:
        holdings, config = self._holdings, self._holdings.config
        urgent = spec.priority >= Priority.HIGH or spec.depth > 0
        short, most_taken = 0.0, 0.0
        for has, more, most in (
            (holdings.tasks, count, config.tasks_max),
            (holdings.bytes + holdings.outcome_bytes, nbytes, config.bytes_max),
            (len(holdings.by_number), 1, config.batches_max),
        ):
            most_taken = max(most_taken, has / most)
            lacks = has + more - most
            if not urgent:
                lacks = max(lacks, has + 1 - (most - most // RESERVE))
            if lacks > 0:
                short = max(short, lacks / max(has, 1))
        mine = self.held(client)
        if short > 0.0:
            why = f"this node holds {holdings.tasks} unfinished tasks ({holdings.bytes + holdings.outcome_bytes} bytes)"
        elif most_taken > 0.5 and mine and not urgent and mine + count > config.tasks_max // max(1, len(self._of)):
            why = f"this node is more than half full, and {mine} tasks of this client are more than its part"
            short = count / max(holdings.tasks, 1)
        else:
            return None
        return why, self._after_s(now, short * holdings.tasks, count)

    def _after_s(self, now: float, short: float, count: int) -> float:
        drain, least = self._holdings.drain, self._holdings.config.refuse_after_s
        drain.full(now, self._holdings.tasks)
        turn_s = max(0.0, self._due - now)
        after_s = max(least, min(AFTER_S_MAX, turn_s + drain.after_s(now, short, least, AFTER_S_MAX)))
        rate = drain.rate(now)
        if rate > 0.0:
            self._due = min(max(self._due, now) + count / (INVITED * rate), now + AFTER_S_MAX)
        return after_s
