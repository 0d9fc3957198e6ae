"""Records that others have and this node lacks: fetched from them, a few at a time."""

from __future__ import annotations

from swarm.protocol import membership_wire as wire
from swarm.protocol.member import Rng, Table
from swarm.protocol.membership_config import WANTS_MAX, MembershipConfig
from swarm.protocol.outbox import Outbox, sample
from swarm.protocol.timers import Timer, Timers


class Wants:
    """Records that others have and this node lacks: a few are asked for at a time, others of others when they fail."""

    __slots__ = ("_asked", "_config", "_outbox", "_rng", "_table", "_ticking", "_timers", "wanted")

    def __init__(self, config: MembershipConfig, rng: Rng, table: Table, outbox: Outbox, timers: Timers) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._outbox = outbox
        self._timers = timers
        self.wanted: dict[bytes, tuple[bytes, int]] = {}
        """Id to (who has it, how often it was asked for)."""
        self._asked: dict[bytes, float] = {}
        self._ticking = False

    def add(self, id: bytes, source: bytes) -> None:
        """Wants the record of `id`, which `source` has."""
        if id not in self.wanted and len(self.wanted) < self._config.members_max:
            self.wanted[id] = (source, 0)

    def got(self, id: bytes) -> None:
        """The record of `id` came, one way or another."""
        if self.wanted:
            self.wanted.pop(id, None)
            self._asked.pop(id, None)

    def ask(self, now: float) -> None:
        """Asks for as many as the window allows."""
        if not self.wanted or len(self._asked) >= self._config.want_window:
            return
        by_source: dict[bytes, list[bytes]] = {}
        for id in sorted(self.wanted):
            if len(self._asked) >= self._config.want_window:
                break
            if id in self._asked:
                continue
            source, tries = self.wanted[id]
            if tries >= self._config.want_tries:
                del self.wanted[id]
                continue
            if tries % 2 and self._table.live:
                source = sample(self._rng, self._table.live, 1)[0]
            self.wanted[id] = (source, tries + 1)
            if self._table.get(source) is not None:
                self._asked[id] = now
                by_source.setdefault(source, []).append(id)
        for source in sorted(by_source):
            ids = by_source[source]
            for start in range(0, len(ids), WANTS_MAX):
                self._outbox.send(self._table.at(source), wire.WANT, [ids[start : start + WANTS_MAX]])
        if self.wanted and not self._ticking:
            self._ticking = True
            self._timers.at(now + self._config.want_retry_s, Timer.WANT)

    def tick(self, now: float) -> None:
        """Asks again for what did not come in time."""
        self._ticking = False
        overdue = now - self._config.want_retry_s * 0.999
        for id in [id for id, asked in self._asked.items() if asked <= overdue]:
            del self._asked[id]
        self.ask(now)
