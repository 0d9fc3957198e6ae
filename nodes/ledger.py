"""The ledger of a node, put to work: consensus over links, its journal on disk, and the owner above it.

`swarm.protocol.ledger` decides; this shell carries. What comes over links goes in, what it wants sent goes out as messages
of kind LEDGER, what it wants written goes to the journal's thread, and what became of proposals goes to the owner. Nothing is lost by
a message that does not arrive: consensus sends again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nodes.journal.errors import JournalRefused
from nodes.journal.errors import Reason as Refused
from nodes.journal.files import WITNESS, RealFiles
from nodes.journal.format import JournalId
from nodes.journal.interface import AnyJournal
from nodes.journal.journal import DEFAULT, Journal, JournalConfig
from nodes.journal.writer import JournalWriter, Reservation
from nodes.settings import LedgerSection
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.effects import (
    Announce,
    Close,
    Committed,
    Drained,
    Dropped,
    Follow,
    Lead,
    Loss,
    Named,
    Reason,
    Refusal,
)
from swarm.protocol.ledger.homes import TAG_BYTES, Announcement, fleet_group, home_of, home_tag, is_local, node_group
from swarm.protocol.ledger.ledger import Ledger
from swarm.protocol.ledger.members import Presence
from swarm.protocol.ledger.records import Durability, Submitted
from swarm.protocol.member import Member, State
from swarm.protocol.messages import Kind, encode
from swarm.protocol.owner.batches import Propose
from swarm.protocol.ownership import Ownership
from swarm.protocol.raft.effects import ReadLost, ReadReady, Send, Sync
from swarm.protocol.raft.entries import Recovered
from transport.certificates import id_text
from transport.links import Link, LinkClosed, LinkOverflow

TAGS_MAX = 16
"""Homes that are named in a node's own record: three is usual."""
WALL_EVERY_S = 10.0
"""How often the ledger hears what the wall clock shows; a clock that is set is noticed so soon."""
DRAIN_S = 10.0
LEAVING_S = 1.0
"""So long before a node hands over for good, its record says that it will."""
MEMBERS_EVERY_S = 0.1
ROOMS_EVERY_S = 0.5
SHORT_FOR_S = 5.0
"""For so long after the disk was full nothing new is accepted."""
ROOM_A_TASK_BYTES = 256
"""Kept free on the disk for each task without an outcome: what the ledger reserves for it, and the record around."""
SEGMENT_STEP = 1 << 20


class Around(Protocol):
    """What the ledger needs of the rest of the node."""

    def connect(self, node: bytes) -> None:
        """Open a link to a member."""

    def fact(self, fact: Fact) -> None:
        """Something worth knowing."""

    def load_changed(self) -> None:
        """The own record says something else."""


class LedgerShell:
    """The ledger, its journal and what they are connected to. Made once the journal could be opened."""

    def __init__(
        self,
        journal: AnyJournal,
        me: bytes,
        name: str,
        boot: bytes,
        zone: bytes,
        ownership: Ownership,
        links: Mapping[bytes, Link],
        around: Around,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        turn: Callable[[], None],
        disown: Callable[[frozenset[bytes]], None],
    ) -> None:
        self.me = me
        self._names_me = name
        self.journal = journal
        self._ownership = ownership
        self._links = links
        self._around = around
        self._loop = loop
        self._now = now
        self._turn = turn
        self._disown = disown
        self._writer = JournalWriter(journal, loop, self._synced, self._space)
        self._members: Callable[[], list[Member]] = list
        self._removed: set[bytes] = set()
        self.announcements: dict[bytes, tuple[frozenset[bytes], frozenset[bytes]]] = {}
        """Of each live member: tags of the homes in whose groups it votes, and which it leads."""
        self._own = Announcement()
        self._owner_tickets: dict[int, int] = {}
        """The ledger's number of a proposal -> the owner's."""
        self._reads: dict[bytes, Callable[[bool], None]] = {}
        self._read_number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._wall_at = 0.0
        self._drained: asyncio.Future[tuple[bytes, ...]] | None = None
        self._closing = False
        self._leaving = False
        self.counted = False
        """Whether another member has had this process take part in what a log decides."""
        self._halted = False
        self._rooms: deque[tuple[Reservation, int]] = deque()
        self._rooms_bytes = 0
        self._rooms_at = 0.0
        self._short_until = 0.0
        self._told = True
        """Something that may have effects."""
        self._look_timer: asyncio.TimerHandle | None = None
        self.ledger = Ledger(
            now(), me, boot, random.Random(), recovered=journal.take_recovered(), host=zone, wall=time.time()
        )
        for group in journal.damaged_at_start:
            around.fact(Fact("ledger.damaged", {}, {"group": group}))
        ownership.refusals.keeps_ledger = True
        ownership.refusals.no_space = self.no_space
        self.carry_out: dict[type, Callable[[Any], object]] = {
            Propose: self._propose, Send: self._send, Sync: lambda it: self._writer.submit(it.number, it.writes),
            Committed: self._committed, Dropped: self._dropped, Lead: self._lead, Follow: self._follow,
            Announce: self._announce, Close: self._close_group, Drained: self._on_drained,
            Named: lambda it: None,
            ReadReady: lambda it: self._read_over(it.context, True), ReadLost: lambda it: self._read_over(it.context, False),
        }  # fmt: skip

    # --- what the fabric asks -------------------------------------------------------------------------------------------

    def take(self) -> list[Any]:
        """What is to be done now, in order. Costs nothing in the turns in which nobody told the ledger anything."""
        if not self._told or self._halted:
            return []
        effects = self.ledger.take()
        self._told = bool(effects)
        return effects

    def arm(self) -> None:
        """Be called again when the ledger wants to be."""
        at = self.ledger.next_deadline()
        if at is None or self._closing or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self._now()), self._on_timer)

    def receive(self, sender: bytes, payload: memoryview) -> None:
        """A frame of consensus came over an authenticated link."""
        self._told = self.counted = True
        self.ledger.receive(self._now(), sender, payload)

    def _on_timer(self) -> None:
        self._timer = None
        self._told = True
        now = self._now()
        if now - self._wall_at > WALL_EVERY_S:
            self._wall_at = now
            self.ledger.tell_wall(now, time.time())
        self._give_room_back()
        self.ledger.tick(now)
        self._turn()

    # --- members ----------------------------------------------------------------------------------------------------------

    def watch(self, members: Callable[[], list[Member]]) -> None:
        """From now on these are the members."""
        self._members = members
        self._look_at_members()

    def removed(self, node: bytes) -> None:
        """A member was turned away for good."""
        self._removed.add(node)
        self.members_changed()

    def members_changed(self) -> None:
        """Somebody came, went, or says something else of itself. In a large fleet somebody always does: it is looked at now and
        then."""
        if self._look_timer is None and not self._closing:
            self._look_timer = self._loop.call_later(MEMBERS_EVERY_S, self._look)

    def _look(self) -> None:
        self._look_timer = None
        if self._closing:
            return
        self._give_room_back()
        self._look_at_members()
        self._turn()

    def _look_at_members(self) -> None:
        rows, found = [], {}
        for member in self._members():
            info = member.info
            zone = info.get("z")
            presence = Presence.ALIVE if member.state == State.ALIVE else Presence.AWAY
            if presence is Presence.ALIVE and (info.get("v") or info.get("d")):
                presence = Presence.LEAVING if info.get("v") else Presence.DRAINING
            if member.id in self._removed:
                presence = Presence.GONE
            rows.append((member.id, zone if isinstance(zone, bytes) and zone else member.id, presence))
            if member.state in (State.ALIVE, State.SUSPECT):
                found[member.id] = (_tags(info.get("j")), _tags(info.get("k")))
        self.announcements = found
        now = self._now()
        self._told = True
        self.ledger.members_seen(now, rows)
        for group in self.ledger.groups:
            raft = self.ledger.raft(group)
            for other in raft.members.all if raft is not None else ():
                if other != self.me and other not in self._links and other in found:
                    self._around.connect(other)

    def info(self) -> dict[str, object]:
        """What goes into this node's own record."""
        said: dict[str, object] = {"v": 1} if self._leaving else {}
        for key, homes in (("j", self._own.voting), ("k", self._own.leading)):
            if homes:
                said[key] = b"".join(home_tag(home) for home in homes[:TAGS_MAX])
        return said

    def where(self, key: bytes) -> list[bytes]:
        """Which nodes to ask for a batch or task: those that lead a log with its tag first, then those that vote in one."""
        tag = bytes(key[:TAG_BYTES])
        mine = (
            frozenset(map(home_tag, self._own.voting)), frozenset(map(home_tag, (*self._own.leading, self.me))),
        )  # fmt: skip
        known = {**self.announcements, self.me: mine}
        leaders = [node for node, (_, led) in sorted(known.items()) if tag in led]
        voters = [node for node, (voted, _) in sorted(known.items()) if tag in voted]
        return list(dict.fromkeys((*leaders, *voters)))

    def partners(self) -> set[bytes]:
        """Who else keeps the logs that this node keeps, alive or not: known from the first moment, out of the journal."""
        rafts = [self.ledger.raft(group) for group in self.ledger.groups]
        return {id for raft in rafts if raft is not None for id in raft.members.all} - {self.me}

    def unled(self) -> int:
        """Of how many logs that this node keeps a leader is not known, or not to be reached: one is gone, and there is no next one
        yet."""
        found = [self.ledger.raft(group) for group in self.ledger.groups if not is_local(group)]
        links = self._links
        return sum(
            1
            for raft in found
            if raft is not None
            and not raft.leads
            and (raft.leader is None or (link := links.get(raft.leader)) is None or not link.up)
        )

    def report(self) -> dict[str, Any]:
        """For people: what this node keeps, with whom, and what it survives."""
        names = {member.id: member.name for member in self._members()}
        groups = []
        for group in self.ledger.groups:
            raft, state = self.ledger.raft(group), self.ledger.state(group)
            if raft is None or state is None or is_local(group):
                continue
            members = raft.members
            groups.append({
                "home": id_text(home_of(group)), "home_name": self._name(home_of(group), names), "own": home_of(group) == self.me,
                "voters": [self._name(id, names) for id in members.voters],
                "learners": [self._name(id, names) for id in members.learners],
                "absent": [self._name(id, names) for id in raft.absent] if raft.leads else [],
                "leader": "" if raft.leader is None else self._name(raft.leader, names), "leads": raft.leads,
                "batches": len(state.batches), "unfinished": state.unfinished, "damaged": raft.damaged, "full": raft.full,
            })  # fmt: skip
        return {
            "groups": groups,
            "journal_bytes": self.journal.bytes,
            "journal_full": self.journal.full,
            "journal": self.journal.where,
        }

    def _name(self, id: bytes, names: Mapping[bytes, str]) -> str:
        return self._names_me if id == self.me else names.get(id, id_text(id)[:6])

    def blob(self, id: bytes) -> bytes | None:
        """What some log has under this id, if a copy of the log is here."""
        for group in self.ledger.groups:
            state = self.ledger.state(group)
            found = None if state is None else state.blobs.get(id)
            if found is not None:
                return found
        return None

    def no_space(self, key: bytes, level: int) -> bool:
        """Whether nobody can take a batch, since its log is this node's alone, and its disk is full. What the log has is not
        such a batch: that is attached to once there is space."""
        if not (self.journal.full or self._now() < self._short_until) or key[:TAG_BYTES] != home_tag(self.me):
            return False
        group = node_group(self.me) if level == Durability.NODE else fleet_group(self.me)
        raft = self.ledger.raft(group)
        return raft is not None and raft.members.voters == (self.me,) and not self.ledger.may_have(group, key)

    def has_blob(self, group: bytes, id: bytes) -> bool:
        """Whether a log has a blob."""
        state = self.ledger.state(group)
        return state is not None and id in state.blobs

    # --- reads --------------------------------------------------------------------------------------------------------------

    def read(self, group: bytes, done: Callable[[bool], None]) -> Refusal | None:
        """Call `done(True)` when `ledger.state(group)` has all that was committed before now, `done(False)` if that cannot be
        known here; why not, if it is known at once."""
        self._read_number += 1
        context = self._read_number.to_bytes(8, "big")
        self._told = True
        refused = self.ledger.read(self._now(), group, context)
        if refused is None:
            self._reads[context] = done
        return refused

    def _read_over(self, context: bytes, ready: bool) -> None:
        done = self._reads.pop(context, None)
        if done is not None:
            done(ready)

    # --- effects --------------------------------------------------------------------------------------------------------------

    def _send(self, it: Send) -> None:
        link = self._links.get(it.to)
        if link is None or not link.up:
            if it.to in self.announcements:
                self._around.connect(it.to)
            return
        try:
            link.send(encode(Kind.LEDGER, {}), it.payload)
        except LinkClosed:
            pass
        except LinkOverflow:
            # What is left out is sent again by the next heartbeat's answer; the link has enough to do.
            self._around.fact(Fact("ledger.overflow", {}, {"peer": link.identity.name}))

    def _propose(self, it: Propose) -> None:
        now = self._now()
        self._told = True
        found: int | Refusal
        if isinstance(it.record, Submitted) and (now < self._short_until or not self._make_room(it.record.count)):
            found = Refusal(Reason.DISK_FULL, "there is no space for it, or for its outcomes, on the disk of this node")
        else:
            found = self.ledger.propose(now, it.group, it.record)
        if isinstance(found, Refusal):
            self._ownership.not_taken(now, it.ticket, found)
        else:
            self._owner_tickets[found] = it.ticket

    def _make_room(self, tasks: int) -> bool:
        """Have the journal keep space for the outcomes of so many tasks; False where there is none."""
        self._give_room_back()
        size = tasks * ROOM_A_TASK_BYTES
        room = self._writer.reserve(size)
        if room is None:
            return False
        self._rooms.append((room, size))
        self._rooms_bytes += size
        return True

    def _give_room_back(self) -> None:
        """Space is kept for what has no outcome yet, and no more. Looked at now and then."""
        now = self._now()
        if now - self._rooms_at < ROOMS_EVERY_S or not self._rooms:
            return
        self._rooms_at = now
        wanted = sum(
            state.unfinished * ROOM_A_TASK_BYTES
            for group in self.ledger.groups
            if self.ledger.leads(group) is not None and (state := self.ledger.state(group)) is not None
        )
        while self._rooms and self._rooms_bytes - self._rooms[0][1] >= wanted:
            room, size = self._rooms.popleft()
            room.release()
            self._rooms_bytes -= size

    def _committed(self, it: Committed) -> None:
        ticket = self._owner_tickets.pop(it.ticket, None)
        if ticket is not None:
            self._ownership.committed(self._now(), ticket, it.copies, it.hosts, it.applied)

    def _dropped(self, it: Dropped) -> None:
        ticket = self._owner_tickets.pop(it.ticket, None)
        if ticket is not None:
            self._ownership.dropped(self._now(), ticket, it.why, it.unknown)

    def _lead(self, it: Lead) -> None:
        voters, learners = self.ledger.copies_to_expect(it.group)
        copies = voters // 2 + 1 if voters else 1
        self._ownership.lead(
            self._now(), time.time(), it.group, it.epoch, it.state.batches, copies, copies if learners or voters else 1
        )
        self._around.fact(Fact("ledger.leads", {}, {"group": it.group.hex(), "epoch": it.epoch}))

    def _follow(self, it: Follow) -> None:
        # What runs here of it waits for who leads now.
        mine = [
            batch.key for batch in self._ownership.batches.values()
            if batch.durable is not None and batch.durable.group == it.group and batch.finished_at is None
        ]  # fmt: skip
        if mine:
            self._disown(frozenset(mine))
        self._ownership.follow(self._now(), it.group)

    def _announce(self, it: Announce) -> None:
        self._own = it.announcement
        self._around.load_changed()

    def _close_group(self, it: Close) -> None:
        self._around.fact(Fact("ledger.closed", {}, {"group": it.group.hex()}))

    def _on_drained(self, it: Drained) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(it.left)

    # --- the journal ------------------------------------------------------------------------------------------------------------

    def _synced(self, number: int, again: Mapping[bytes, Recovered]) -> None:
        now = self._now()
        self._told = True
        for group, recovered in again.items():
            self._around.fact(Fact("ledger.restarted", {}, {"group": group.hex()}))
            self.ledger.restart(now, group, recovered)
        if number:
            self.ledger.synced(now, number)
        self._turn()

    def _space(self, full: bool) -> None:
        self._around.fact(Fact("journal.full") if full else Fact("journal.space"))
        self._told = True
        if full:
            # A little space comes and goes on a full disk, as segments are given up. Who hands over again what did not fit
            # is told so, instead of being tried, and failed, for ever.
            self._short_until = self._now() + SHORT_FOR_S
        self.ledger.space(self._now(), full)
        self._turn()

    def recover(self, group: bytes) -> Loss | Refusal:
        """Go on alone with a log whose majority is lost for good."""
        self._told = True
        return self.ledger.recover_accept_loss(self._now(), group)

    # --- leaving ------------------------------------------------------------------------------------------------------------------

    async def drain(self, for_good: bool = False, timeout_s: float = DRAIN_S) -> tuple[bytes, ...] | None:
        """Hand over leadership, and with `for_good` all parts; groups that nobody could take over, or None when it took too
        long."""
        self._drained = self._loop.create_future()
        if for_good:
            self._leaving = True
            self._around.load_changed()
            # Who leads next is to know that by then: it would take this node for one that stays, and give up its successor.
            await asyncio.sleep(LEAVING_S)
        self._told = True
        self.ledger.drain(self._now(), for_good)
        self._turn()
        try:
            return await asyncio.wait_for(asyncio.shield(self._drained), timeout_s)
        except TimeoutError:
            return None

    def halt(self) -> None:
        """From now on nothing is voted, acknowledged or told: another process speaks for this node."""
        self._halted = True

    async def close(self) -> None:
        """What waits is written; nothing is sent any more."""
        self._closing = True
        for timer in (self._timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        await self._writer.close()


def open_journal(
    directory: Path, fleet: bytes, node: bytes, settings: LedgerSection, waiting: Callable[[str], None] | None = None
) -> AnyJournal:
    """The journal of a node. JournalRefused, with what to do, when it is not this node's or cannot be used.

    `waiting` is told which database is waited for, if one is.
    """
    size, id = settings.journal_bytes, JournalId(fleet, node)
    if settings.journal_url:
        if _files_in(directory):
            raise JournalRefused(
                Refused.FOREIGN,
                f"this node has its journal in files, in {directory}, and ledger.journal_url names a database",
                hint="take the setting out; a node that is to use a database from now on needs a new identity",
            )
        from nodes.journal.postgres.journal import PostgresJournal

        return PostgresJournal.open(settings.journal_url, id, directory, size, waiting=waiting)
    if (directory / WITNESS).exists():
        raise JournalRefused(
            Refused.MISSING,
            "this node has its journal in a database, and ledger.journal_url does not say where",
            hint=f"{directory / WITNESS} names it; a node without its journal needs a new identity",
        )
    # A small journal is of small files: what is given up and what is kept ready is a part of it, not the half.
    config = JournalConfig(
        bytes_max=size, segment_bytes=min(DEFAULT.segment_bytes, size // 16 // SEGMENT_STEP * SEGMENT_STEP)
    )
    return Journal.open(RealFiles(directory), id, config)


def journal_in(directory: Path) -> bool:
    """Whether a journal was begun there: something may have been promised."""
    return (directory / WITNESS).exists() or _files_in(directory)


def _files_in(directory: Path) -> bool:
    return directory.is_dir() and any(path.name.startswith(("segment-", "state-")) for path in directory.iterdir())


def _tags(value: object) -> frozenset[bytes]:
    if not isinstance(value, bytes) or len(value) % TAG_BYTES or len(value) > TAG_BYTES * TAGS_MAX:
        return frozenset()
    return frozenset(value[at : at + TAG_BYTES] for at in range(0, len(value), TAG_BYTES))


__all__ = ["Around", "JournalRefused", "LedgerShell", "journal_in", "open_journal"]
