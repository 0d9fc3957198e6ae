"""The real `Ownership` between a ledger and executors, as a node's shell has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from kernels.batch import Calls, Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.effects import Committed, Dropped, Reason, Refusal
from swarm.protocol.ledger.records import Forgotten, KeptBlob, Saved, Submitted, Token
from swarm.protocol.ledger.state import LedgerState, Verdict
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.owner.batches import Adopt, AskHeld, Keep, KeepNoMore, Propose
from swarm.protocol.ownership import Connect, Ownership, OwnershipConfig, ToExecutor
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import Status
from tests.sim.process import id_of, number_of
from tests.sim.raft.truth import Broken

if TYPE_CHECKING:
    from tests.sim.durable.world import DurableMember
    from tests.sim.ledger.world import Wanted

CLIENT = b"client"
SLOTS = 4.0
LOST_S = 1.5
"""A dispatch of which its executor knows nothing so long after it was sent did not arrive."""


class Owner:
    """The owner of the logs that its node leads."""

    def __init__(self, member: DurableMember) -> None:
        self.member = member
        boots = member.world.boots
        config = OwnershipConfig(adopt_s=0.4, client_lease_s=1e9, unknown_after_s=0.2)
        self.it = Ownership(config, id_of(member.number), f"n{member.number}", Capacity({"cpu": SLOTS}), epoch=boots)
        self.it.refusals.keeps_ledger = True
        self.tickets: dict[int, Any] = {}
        self.heard_at: dict[int, float] = {}
        """Executors, and when they last said something."""
        self.groups: dict[bytes, bytes] = {}
        """Batch key -> its group."""
        self.keeps: dict[int, tuple[float, Keep]] = {}
        """What is being copied to other disks, by ticket, and until when."""
        self.it.know_blobs(needs_of, lambda id: None, lambda group, id: False, lambda id: False, refs_of)

    @property
    def now(self) -> float:
        """On the node's clock."""
        return self.member.now

    # What the ledger says.

    def lead(self, group: bytes, epoch: int, state: LedgerState) -> None:
        """Its node leads a log."""
        for key, batch in state.batches.items():
            self.groups[key] = group
            for index, (moved, token, content) in batch.saved.items():
                self.member.world.left(Saved(key, index, moved, token, content), Verdict.DONE)
        self.it.lead(self.now, self.member.world.wall(self.member.number), group, epoch, state.batches, 2, 2)

    def follow(self, group: bytes) -> None:
        """It does not."""
        self.it.follow(self.now, group)

    def committed(self, effect: Committed) -> None:
        """A record is committed."""
        ticket = self.tickets.pop(effect.ticket, None)
        record = effect.applied.record
        if isinstance(record, Submitted):
            forged = isinstance(ticket, tuple)
            self.member.world.accepted(self.member, effect, ticket[1] if forged else self.groups[record.key])
        if isinstance(record, Saved):
            self.member.world.left(record, effect.applied.verdict)
        if isinstance(ticket, int):
            self.it.committed(self.now, ticket, effect.copies, effect.hosts, effect.applied)

    def dropped(self, ticket: int, effect: Dropped) -> None:
        """Nothing came of one, as far as is known."""
        mine = self.tickets.pop(ticket, None)
        if isinstance(mine, int):
            self.it.dropped(self.now, mine, effect.why, effect.unknown)

    # What clients want.

    def submit(self, want: Wanted) -> None:
        """A client hands a batch over, for the first time or again."""
        record = want.record
        self.groups[record.key] = want.group
        self.it.submit(
            self.now, self.member.world.wall(self.member.number), CLIENT, record.author, True, record.key, record.raw,
            record.count, record.columns, durability=record.durability, retention_s=record.retention_s,
        )  # fmt: skip

    def cancel(self, key: bytes) -> None:
        """A client gives a batch up."""
        self.it.cancel(self.now, key, None)

    def forget(self, group: bytes, key: bytes) -> None:
        """A client has all it wants."""
        self.member.ledger.propose(self.now, group, Forgotten((key,)))

    # What is too large for a log.

    def _keep(self, it: Keep) -> None:
        rng = self.member.world.rng
        self.keeps[it.ticket] = (self.now + 0.02 + rng.random() ** 4 * 2.0, it)

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, on the node's clock."""
        times = [at for at, _ in self.keeps.values()]
        mine = self.it.next_deadline()
        return min(times if mine is None else [*times, mine], default=None)

    def on_timer(self) -> None:
        """What was to be copied is, or is nowhere any more."""
        world = self.member.world
        for ticket, (at, it) in list(self.keeps.items()):
            if at > self.now:
                continue
            del self.keeps[ticket]
            drawn = world.rng.random()
            if it.source is not None and drawn < 0.15 and not world.quiet:
                self.it.not_kept(self.now, ticket, Refusal(Reason.GONE, "nobody has it"))
            elif it.source is None and drawn < 0.05 and not world.quiet:
                self.it.not_kept(self.now, ticket, Refusal(Reason.DISK_FULL, "no room"))
            else:
                world.copied |= {(it.group, id) for id in it.ids}
                self.it.kept(self.now, ticket, tuple(KeptBlob(id, 1 << 20, id) for id in it.ids), 3, 3)
        self.it.on_timer(self.now)

    def _named(self, group: bytes, key: bytes, ids: Iterable[bytes], what: str) -> None:
        if (group, key) in self.member.world.history.dropped:
            return  # its time is over, and so is that of what it refers to
        state = self.member.ledger.state(group)
        for id in ids:
            if (group, id) not in self.member.world.copied:
                raise Broken(f"not-kept: {what} refers to {id.hex()[:8]}, which nobody keeps")
            if state is None or id not in state.pins.blobs:
                raise Broken(f"not-named: {what} refers to {id.hex()[:8]}, and its log does not name it")

    # What executors say.

    def look(self) -> None:
        """Executors that are silent are gone; new ones are there."""
        world, now = self.member.world, self.now
        for number in sorted(world.members):
            node = id_of(number)
            if node not in self.it.executors and number not in world.wiped:
                self.it.executor_seen(now, node, f"n{number}", Capacity({"cpu": SLOTS}), {"free": SLOTS, "wait": 0})
                self.it.executor_linked(now, node)
                self.heard_at[number] = now
            elif number != self.member.number and now - self.heard_at.get(number, now) > LOST_S:
                self.it.executor_lost(now, node, "link")
            elif number != self.member.number:
                self.it.executor_linked(now, node)

    def heard(self, what: tuple[Any, ...]) -> None:
        """An executor says what it holds and what has ended."""
        now = self.now
        if what[0] == "held":
            _, group, epoch, number, runs = what
            found = [(key, id_of(who), dispatch, Token(*token), rows) for key, who, dispatch, token, rows in runs]
            self.it.held(now, group, epoch, id_of(number), found)
            return
        _, number, runs = what
        self.heard_at[number] = now
        node = id_of(number)
        held = {}
        for dispatch, left, rows, body in runs:
            known = dispatch in self.it.dispatches and self.it.dispatches[dispatch].executor.id == node
            held[dispatch] = left
            if not rows:
                continue
            if known:
                self.it.outcomes(now, node, dispatch, len(rows), body)
            # What is not out under this number here is another's, or was given up: whoever leads its log may ask for it.
            if known:
                self.member.say(number, ("took", self.member.number, dispatch, rows))
        asked = {it.number for it in self.it.dispatches.values() if now - it.sent_at > LOST_S}
        self.it.executor_relinked(now, node, held, asked)

    # Effects.

    def carry(self) -> bool:
        """Carry out what the owner wants. False when that is nothing."""
        effects = self.it.take_effects()
        for effect in effects:
            match effect:
                case Propose():
                    told = self.member.ledger.propose(self.now, effect.group, effect.record)
                    if isinstance(told, Refusal):
                        self.it.not_taken(self.now, effect.ticket, told)
                    else:
                        self.tickets[told] = effect.ticket
                case ToExecutor():
                    self._send(effect)
                case AskHeld():
                    what = ("ask", self.member.number, effect.group, effect.epoch, frozenset(effect.batches))
                    self.member.say(number_of(effect.executor), what)
                case Adopt():
                    what = ("adopt", self.member.number, number_of(effect.owner), effect.dispatch, effect.number)
                    self.member.say(number_of(effect.executor), what)
                case Tell():
                    self._tell(effect)
                case Keep():
                    self._keep(effect)
                case KeepNoMore():
                    self.keeps.pop(effect.ticket, None)
                case Connect() | Fact():
                    pass
        return bool(effects)

    def _send(self, it: ToExecutor) -> None:
        token = Token(*it.extra["token"])
        rows = range(it.first, it.first + it.count)
        self.member.world.sent(self.groups[it.batch], it.batch, rows, token)
        saved = {index: (moved, state) for index, moved, state in it.extra.get("saved", ())}
        self.member.world.goes_on(self.groups[it.batch], it.batch, rows, token, saved)
        counts = {index: moved for index, (moved, _) in saved.items()}
        what = ("dispatch", self.member.number, it.dispatch, it.batch, it.first, it.count, tuple(token), counts)
        self.member.say(number_of(it.executor), what)

    def _tell(self, it: Tell) -> None:
        if it.kind == Kind.RECALL:
            ranges = [tuple(pair) for pair in it.header["r"]]
            self.member.say(number_of(it.to), ("recall", self.member.number, it.header["d"], ranges, it.header["k"]))
            return
        world, key = self.member.world, it.header["b"]
        group = self.groups[key]
        if it.kind == Kind.OUTCOMES:
            report = Outcomes(it.parts[0], it.header["n"])
            for row, ids in refs_of(Spec("call", None, "f"), report, b"").items():
                self._named(group, key, ids, f"outcome {key.hex()}/{report.index(row)}")
            for row in range(report.count):
                world.reveal(group, key, report.index(row), bytes(report.payload(row)))
        elif it.kind == Kind.ACCEPTED and world.rng.random() >= world.plan.deaf:
            want = world.wants[key]
            batch = self.it.batches[key]
            if batch.finished_at is None and batch.durable is not None and batch.durable.open:
                self._named(group, key, needs_of(batch.spec, batch.calls), f"the batch {key.hex()}")
            world.history.receipt(group, key, want.record.digest)
            want.receipt = True
        elif it.kind == Kind.REFUSED and it.header["after"] is None and it.header["reason"] not in MAY_BE_FINAL:
            if world._may_be_gone(world.wants[key]):
                return  # forgotten, and then forged: that one is there now
            raise Broken(f"refused: {key.hex()}: {it.header}")


def needs_of(spec: Spec, calls: Calls) -> tuple[bytes, ...]:
    """Every third batch needs something large."""
    return (_large(calls.payload(0)),) if calls.count % 3 == 0 else ()


def refs_of(spec: Spec, report: Outcomes, body: Bytes) -> dict[int, tuple[bytes, ...]]:
    """What every fourth task returns is large."""
    return {
        row: (_large(report.payload(row)),)
        for row in range(report.count)
        if report.status(row) == Status.OK and report.index(row) % 4 == 1
    }


def _large(payload: memoryview) -> bytes:
    return blake3(payload).digest()


MAY_BE_FINAL = frozenset(("disk-full", "too-large"))
