"""The client's side of the protocol: what it has handed over and not got an outcome for.

The session keeps each batch whole until all its outcomes are in, so that it can hand it to another node when the one it
used is gone. Batches that may not be repeated begin only with the session's grant, which it remembers: what was granted
and not reported when a node went away ends as LOST, never twice.

A batch that is handed over again names the tasks that have ended (``k``), so that they are not run again. One whose
results others wait for is kept until those have ended, with all that it depended on itself, since the next node knows
nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kernels.batch import Outcomes
from swarm.protocol import ids
from swarm.protocol.ledger.records import digest_of
from swarm.protocol.messages import Kind, MessageError
from swarm.protocol.messages import field as header_field
from swarm.protocol.outbound import Bytes, Tell
from swarm.protocol.states import Status

NODE = b""
"""Whom a session talks to: the one node that it is linked to."""
RESUBMIT_BACKOFF_MAX_S = 5.0
SOFT_REFUSALS_MAX = 3
"""After so many refusals because nobody leads its log, what nobody asked to be kept is run without being kept."""
UNSURE_REFUSALS_MAX = 8
"""The same for what may be in that log, and may be repeated: some seconds, in which another node would have taken over."""
CONFLICT_HINT = (
    "a key= stands for one call with its options and arguments, for as long as its outcome is kept; and a task that is run "
    "again has to submit the same in the same order: hand it what changes from time to time, or give this call a key= of its "
    "own (one that nobody used has it run anew)"
)
SILENT_MAX = 64
"""Looks without news of a durable batch after which it is handed over again: powers of two from 2 on, and multiples of
this one."""
LOOKED_AT_MAX = 1024
"""Batches that are handed over again at one look."""

Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Outcomes of a batch, each task's first and only one."""

    batch: int
    outcomes: Outcomes
    fresh: int
    """How many of them are the first of their task."""
    last: bool
    """Nothing more of this batch will follow."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Tasks that have their outcome from the session itself: refused, or lost with the node that ran them."""

    batch: int
    indices: tuple[int, ...]
    status: int
    message: str
    hint: str
    last: bool


@dataclass(frozen=True, slots=True)
class Happened:
    """Something about a task that runs: progress, an item of a stream, output."""

    batch: int
    index: int
    name: str
    value: Any
    body: bytes
    node: str


@dataclass(frozen=True, slots=True)
class Moving:
    """The node stops: find another, at once when `refuses`, since it takes nothing any more."""

    reason: str
    refuses: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """A durable batch is on so many disks, of so many hosts. Its outcomes are kept for `retention_s` seconds."""

    batch: int
    copies: int
    hosts: int
    epoch: int
    retention_s: float


SessionEffect = Tell | Delivered | Ended | Happened | Moving | Accepted


@dataclass(slots=True, eq=False)
class Handed:
    """A batch handed over."""

    number: int
    key: bytes
    raw: bytes
    rerun: bool
    count: int
    columns: Bytes
    deps: list[bytes]
    left: int
    done: bytearray
    durability: int = 0
    """0, or the level of one that is in a ledger: it is the same batch wherever it is handed over."""
    soft: bool = False
    """Whether nobody asked for that level: where it is not to be had, it is run without."""
    unsure: int = 0
    """How often it was handed over without an answer that says for certain that no log has taken it."""
    accepted: bool = False
    """Whether it had its receipt."""
    acknowledge: bool = False
    """Whether its outcomes need not be kept for long once they are delivered."""
    granted: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)
    pinned: dict[int, int] = field(default_factory=dict)
    """Tasks whose results batches that are not finished wait for, with the number of those."""
    attempts: int = 0
    refusals: int = 0
    silent: int = 0
    """How often it was looked for news of it, since there was any."""
    sent: bool = False

    def open_rows(self) -> Iterator[int]:
        """Tasks without an outcome."""
        done = self.done
        return (row for row in range(self.count) if not done[row])


class Session:
    """State machine of one client. `now` is seconds of any steady clock."""

    def __init__(self, session: bytes) -> None:
        assert len(session) == 8
        self.id = session
        self.linked = False
        self.tasks = 0
        self.bytes = 0
        self.full_until = 0.0
        """Until then a node that was full shall be left alone."""
        self._node = b""
        self._batches: dict[int, Handed] = {}
        self._kept: dict[int, Handed] = {}
        self._effects: list[SessionEffect] = []
        self._sessions = {session}
        self._named: dict[bytes, list[int]] = {}
        """Key of a batch that goes by a name -> the numbers under which it is waited for here."""
        self._logs: set[bytes] = set()
        """With which these begin."""
        self._again: list[tuple[float, int]] = []
        self._late: list[tuple[bytes, Ranges | None]] = []

    # --- what the shell asks ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[SessionEffect]:
        """What is to be done now, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, or None."""
        return min(at for at, _ in self._again) if self._again else None

    @property
    def unfinished(self) -> Iterable[int]:
        """Numbers of the batches that are not finished."""
        return self._batches

    @property
    def unfinished_durable(self) -> list[int]:
        """Numbers of those that go on without this session."""
        return sorted(number for number, batch in self._batches.items() if batch.durability)

    @property
    def may_move(self) -> bool:
        """Whether leaving the node would lose nothing: no task that may not be repeated has been let begin there."""
        return not any(
            not batch.rerun and any(not batch.done[row] for row in batch.granted) for batch in self._batches.values()
        )

    # --- what the client does -----------------------------------------------------------------------------------------

    def submit(
        self,
        number: int,
        raw: bytes,
        rerun: bool,
        count: int,
        columns: Bytes,
        deps: list[bytes],
        *,
        durability: int = 0,
        soft: bool = False,
        key: bytes | None = None,
    ) -> None:
        """Hand a batch over, now or as soon as there is a node. `deps` are ids of tasks of this client. Durable batches
        have a `key` that names their home; it ends with the number, or else is a name, under which the batch may have been
        submitted before."""
        if key is None:
            key = ids.batch_key(self.id, number)
        batch = Handed(number, key, raw, rerun, count, columns, deps, count, bytearray(count), durability, soft)
        self._batches[number] = batch
        if key == ids.batch_key(key[: ids.SESSION_BYTES], number):
            self._sessions.add(key[: ids.SESSION_BYTES])
        else:
            self._logs.add(key[: ids.LOG_TAG_BYTES])
            before = self._named.setdefault(key, [])
            before.append(number)
            first = self._batches.get(before[0]) or self._kept[before[0]]
            if first is not batch and self._differ(first, batch):
                return
        self.tasks += count
        self.bytes += len(columns)
        for source, row in self._sources(batch):
            source.pinned[row] = source.pinned.get(row, 0) + 1
        if self.linked:
            self._send(batch)

    def _differ(self, first: Handed, batch: Handed) -> bool:
        """Whether there is a batch under way by this name that asks for something else. If so, the later one is refused."""
        digests = [digest_of(it.raw, it.count, bytes(it.columns), it.deps) for it in (first, batch)]
        if digests[0] == digests[1]:
            return False
        batch.deps = []  # it keeps nothing
        self.tasks += batch.count
        self.bytes += len(batch.columns)
        text = f"there is a batch with this id and other content: its digest is {digests[0].hex()}, this one's {digests[1].hex()}"
        self._end(batch, list(range(batch.count)), Status.REFUSED, text, CONFLICT_HINT)
        return True

    def has_name(self, number: int) -> bool:
        """Whether an unfinished batch goes by a name, under which it will be found again."""
        batch = self._batches.get(number)
        return batch is not None and batch.key in self._named

    def cancel(self, number: int, ranges: Ranges | None = None, *, kill: bool = True) -> None:
        """Give up tasks of a batch (None: all). Their outcomes still come, as CANCELLED or what they ended as before.

        Without `kill` only those that have not begun are given up.
        """
        batch = self._batches.get(number)
        if batch is None:
            return
        rows = range(batch.count) if ranges is None else [row for start, stop in ranges for row in range(start, stop)]
        if kill:
            batch.cancelled.update(row for row in rows if not batch.done[row])
        if any(batch.done[row] for row in batch.pinned):
            # What has ended here may be being made again where the batch is now, for others that wait for it.
            ranges = _ranges([row for row in rows if not batch.done[row]])
        if self.linked and batch.sent:
            header: dict[str, Any] = {"b": batch.key, "r": _pairs(ranges)}
            if not kill:
                header["k"] = False
            self._tell(Kind.CANCEL, header)
        elif batch.durability and (batch.sent or batch.refusals or batch.accepted):
            pass  # it may be in its log: what becomes of it is said there, once it is handed over again, with the cancel
        elif kill or not batch.sent:
            if batch.sent:
                self._late.append((batch.key, ranges))  # should the node that has it be there again
            self._end(batch, [row for row in rows if not batch.done[row]], Status.CANCELLED, "it was cancelled", "")

    def give_input(self, number: int, index: int, what: str, value: Any, body: bytes = b"") -> None:
        """Send input, a signal or a stream's credit to a task that runs."""
        if self.linked and number in self._batches:
            header = {"b": self._batches[number].key, "i": index, "e": what, "v": value}
            self._effects.append(Tell(NODE, Kind.INPUT, header, (body,) if body else ()))

    def link_up(self, node: bytes) -> None:
        """There is a link to a node; `node` names its process.

        Everything unfinished is handed to it; what the very process has already, it takes once.
        """
        same = node == self._node
        self.linked, self._node = True, node
        self._again.clear()
        late, self._late = self._late, []
        for key, ranges in late:
            if same:
                self._tell(Kind.CANCEL, {"b": key, "r": _pairs(ranges)})
        for number in sorted([*self._batches, *self._kept]):
            if number in self._batches:
                self._hand_again(self._batches[number], same)
            elif not same and number in self._kept and self._kept[number].rerun and not self._kept[number].durability:
                self._kept[number].attempts += 1
                self._send(self._kept[number])

    def look(self) -> None:
        """Look, now and then, whether there was no news of durable batches for long: these are handed over again, after longer
        and longer times. It is the same batch wherever it goes, and what there is to tell of it is told again; so
        nothing that was lost on the way to who leads its log, or back, is lost for good."""
        again = 0
        for batch in [batch for _, batch in sorted(self._batches.items()) if batch.durability and batch.sent]:
            if not self.linked or again == LOOKED_AT_MAX:
                break
            batch.silent += 1
            looks = batch.silent
            if looks > 1 and (looks % SILENT_MAX == 0 or (looks < SILENT_MAX and looks & (looks - 1) == 0)):
                self._hand_again(batch, True)
                again += 1

    def link_down(self) -> None:
        """The node is gone."""
        self.linked = False

    def on_message(self, now: float, kind: int, header: dict[str, Any], body: memoryview) -> None:
        """A message from the node. MessageError or ValueError if it breaks the protocol."""
        if kind == Kind.OUTCOMES:
            self._outcomes(header, body)
        elif kind == Kind.EVENT:
            index = header_field(header, "i", int)
            for batch in self._meant(header):
                if 0 <= index < batch.count:
                    batch.silent = 0
                    name, node = header_field(header, "e", str), str(header.get("w", ""))
                    self._effects.append(Happened(batch.number, index, name, header.get("v"), bytes(body), node))
        elif kind == Kind.ASK_START:
            self._grant(header)
        elif kind == Kind.REFUSED:
            self._refused(now, header)
        elif kind == Kind.ACCEPTED:
            self._accepted(header)
        elif kind == Kind.GOODBYE:
            self._effects.append(Moving(str(header.get("reason", "")), False))

    def on_timer(self, now: float) -> None:
        """Hand over again what a full node refused."""
        due = [number for at, number in self._again if at <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        for number in due:
            batch = self._batches.get(number)
            if batch is not None and self.linked and batch.durability:
                self._hand_again(batch, True)
            elif batch is not None and self.linked:
                self._send(batch)

    # --- inside: handing over -----------------------------------------------------------------------------------------

    def _meant(self, header: dict[str, Any]) -> list[Handed]:
        """The unfinished batches that a message is about: one at most, but for a name that was said more than once."""
        key = header_field(header, "b", bytes)
        if key in self._named:
            return [self._batches[number] for number in self._named[key] if number in self._batches]
        if len(key) == ids.BATCH_KEY_BYTES and key[: ids.SESSION_BYTES] in self._sessions:
            batch = self._batches.get(int.from_bytes(key[ids.SESSION_BYTES :], "big"))
            return [] if batch is None else [batch]
        if len(key) != ids.BATCH_KEY_BYTES or key[: ids.LOG_TAG_BYTES] not in self._logs:
            raise MessageError("a batch of another session")
        return []

    def _tell(self, kind: int, header: dict[str, Any], *parts: Bytes) -> None:
        self._effects.append(Tell(NODE, kind, header, parts))

    def _send(self, batch: Handed) -> None:
        batch.sent = True
        header: dict[str, Any] = {"b": batch.key, "n": batch.count, "s": batch.raw}
        if batch.durability:
            # Who leads its log knows what has become of it, or is handed it now: it is the same either way.
            header["D"] = batch.durability
            if batch.soft:
                header["F"] = True
                batch.unsure += 1
            if batch.deps:
                header["d"] = batch.deps
            self._tell(Kind.SUBMIT, header, batch.columns)
            return
        if batch.attempts:
            header["w"] = batch.attempts
        if batch.deps:
            header["d"] = batch.deps
        if batch.left < batch.count:
            ended = [row for row in range(batch.count) if batch.done[row] and row not in batch.pinned]
            header["k"] = _pairs(_ranges(ended))
        self._tell(Kind.SUBMIT, header, batch.columns)
        # Others wait for these, so they are not among those that have ended: and nobody else would tell that they never begin.
        given_up = [row for row in sorted(batch.cancelled) if batch.done[row] and row in batch.pinned]
        if given_up:
            self._tell(Kind.CANCEL, {"b": batch.key, "r": _pairs(_ranges(given_up))})

    def _hand_again(self, batch: Handed, same: bool) -> None:
        if same or batch.durability:
            for source, _ in self._sources(batch) if batch.durability else ():
                if not source.sent and source.left:
                    # Who leads the log has to know it first. That it is handed over once more later does no harm.
                    self._hand_again(source, same)
            self._send(batch)
            if batch.cancelled:
                self._tell(Kind.CANCEL, {"b": batch.key, "r": _pairs(_ranges(sorted(batch.cancelled)))})
            begun = [row for row in sorted(batch.granted) if not batch.done[row]]
            if begun:
                self._tell(Kind.GRANT_START, {"b": batch.key, "r": _pairs(_ranges(begun))})
            return
        if batch.sent and not batch.rerun:
            lost = [row for row in sorted(batch.granted) if not batch.done[row]]
            self._end(batch, lost, Status.LOST, "the node that it was handed to is gone", "it may have run")
        given_up = [row for row in sorted(batch.cancelled) if not batch.done[row]]
        self._end(batch, given_up, Status.CANCELLED, "it was cancelled", "")
        if batch.left and any(source.done[row] and not source.rerun for source, row in self._sources(batch)):
            text = "the result of a task that it depends on went with the node that had it, and may not be made again"
            self._end(batch, list(batch.open_rows()), Status.DEPENDENCY, text, "take the result before, and pass that")
        if batch.left:
            batch.attempts += batch.sent
            self._send(batch)

    def _sources(self, batch: Handed) -> Iterator[tuple[Handed, int]]:
        for dep in batch.deps:
            key, row = ids.split(dep)
            named = self._named.get(key)
            number = named[0] if named else int.from_bytes(key[ids.SESSION_BYTES :], "big")
            source = self._batches.get(number) or self._kept.get(number)
            if source is not None and row < source.count:
                yield source, row

    # --- inside: what the node says -----------------------------------------------------------------------------------

    def _outcomes(self, header: dict[str, Any], body: memoryview) -> None:
        outcomes = Outcomes(body, header_field(header, "n", int))
        for batch in self._meant(header):
            self._delivered(batch, outcomes)

    def _delivered(self, batch: Handed, outcomes: Outcomes) -> None:
        done, count, fresh = batch.done, batch.count, 0
        if batch.cancelled:
            # What ended before it could be given up was not given up: for who depends on it, it may be made again.
            statuses = zip(outcomes.indices(), outcomes.statuses(), strict=True)
            batch.cancelled -= {
                row for row, status in statuses if status != Status.CANCELLED and not any(done[row : row + 1])
            }
        for index in outcomes.indices():
            if index >= count:
                raise MessageError(f"an outcome of task {index} of a batch of {count}")
            if not done[index]:
                done[index] = 1
                fresh += 1
        if fresh:
            batch.silent = 0
        # A second outcome of one task finds its future gone: the first one counts.
        self._effects.append(Delivered(batch.number, outcomes, fresh, batch.left == fresh))
        self._less(batch, fresh)

    def _less(self, batch: Handed, count: int) -> None:
        batch.left -= count
        self.tasks -= count
        if batch.left:
            return
        self.bytes -= len(batch.columns)
        del self._batches[batch.number]
        if batch.acknowledge and self.linked:
            self._tell(Kind.RELEASE, {"b": batch.key})
        if batch.pinned:
            self._kept[batch.number] = batch
        else:
            self._unname(batch)
            self._unpin(batch)

    def _unname(self, batch: Handed) -> None:
        """A batch is known here no longer."""
        numbers = self._named.get(batch.key)
        if numbers is not None:
            numbers.remove(batch.number)
            if not numbers:
                del self._named[batch.key]

    def _unpin(self, batch: Handed) -> None:
        """Nobody asks for a batch again: nor, for its sake, for those that it depends on, if they have ended too."""
        over = [batch]
        while over:
            for source, row in list(self._sources(over.pop())):
                source.pinned[row] -= 1
                if not source.pinned[row]:
                    del source.pinned[row]
                    if not source.pinned and self._kept.pop(source.number, None) is not None:
                        self._unname(source)
                        over.append(source)

    def _grant(self, header: dict[str, Any]) -> None:
        for batch in self._meant(header):
            self._grant_batch(batch, header)

    def _grant_batch(self, batch: Handed, header: dict[str, Any]) -> None:
        asked: set[int] = set()
        for start, stop in header_field(header, "r", list):
            asked.update(range(max(0, start), min(stop, batch.count)))
        # What has ended, or was given up, does not begin: not here and not again.
        granted = [row for row in sorted(asked - batch.cancelled) if not batch.done[row]]
        batch.granted.update(granted)
        if granted:
            self._tell(Kind.GRANT_START, {"b": batch.key, "r": _pairs(_ranges(granted))})

    def _accepted(self, header: dict[str, Any]) -> None:
        copies, hosts, epoch = (header_field(header, name, int) for name in ("copies", "hosts", "e"))
        kept = header.get("r")
        retention_s = float(kept) if isinstance(kept, int | float) else 0.0
        for batch in self._meant(header):
            if not batch.accepted:
                batch.silent = 0
            batch.refusals, batch.accepted = 0, True
            if not copies and batch.soft:
                batch.durability, batch.soft = 0, False
            # What nobody asked to be kept may go, once it is delivered, when there is no space for more.
            batch.acknowledge = bool(copies) and (not retention_s or batch.soft)
            self._effects.append(Accepted(batch.number, copies, hosts, epoch, retention_s))

    def _refused(self, now: float, header: dict[str, Any]) -> None:
        for batch in self._meant(header):
            self._refused_batch(now, batch, header)

    def _refused_batch(self, now: float, batch: Handed, header: dict[str, Any]) -> None:
        after, reason = header.get("after"), header.get("reason")
        if batch.soft and not batch.accepted and header.get("t") is False:
            batch.unsure -= 1
        if batch.soft and not batch.accepted and reason == "unknown":
            sure = not batch.unsure and batch.refusals >= SOFT_REFUSALS_MAX
            if sure or (batch.rerun and batch.refusals >= UNSURE_REFUSALS_MAX):
                # Who leads its log is not there, and no log has it; or it may have it, and what may be repeated is.
                batch.attempts += bool(batch.unsure)
                batch.durability, batch.soft, batch.refusals = 0, False, 0
                self._effects.append(Accepted(batch.number, 0, 0, 0, 0.0))
                self._give_up_cancelled(batch)
                if batch.left:
                    self._send(batch)
                return
        if batch.accepted and reason not in ("draining", "conflict") and not isinstance(after, int | float):
            # It is in its log. That who is asked just now cannot know, or keeps no log at all, ends nothing.
            after = RESUBMIT_BACKOFF_MAX_S
        if reason == "draining":
            batch.sent = False
            self._effects.append(Moving("draining", True))
            if batch.durability:
                # Should there be no other node, this one knows, or finds out, who leads its log by then.
                self._again.append((now + RESUBMIT_BACKOFF_MAX_S, batch.number))
        elif isinstance(after, int | float):
            batch.refusals += 1
            batch.sent = False
            # A node that is full says when there is room for this very batch; of other reasons nobody knows when they are over.
            wait = min(RESUBMIT_BACKOFF_MAX_S, float(after) * (1 if reason == "full" else batch.refusals))
            self._again.append((now + wait, batch.number))
            if reason == "full":
                self.full_until = max(self.full_until, now + wait)
        else:
            message, hint = str(header.get("message", "")), str(header.get("hint", ""))
            if reason == "conflict" and batch.key in self._named:
                hint = CONFLICT_HINT
            self._end(batch, list(batch.open_rows()), Status.REFUSED, message, hint)
            return
        if batch.durability:
            return  # whether it is in the log is not known, so what becomes of it neither
        # The node that did not take the batch did not take a cancel that followed it either.
        self._give_up_cancelled(batch)

    def _give_up_cancelled(self, batch: Handed) -> None:
        given_up = [row for row in sorted(batch.cancelled) if not batch.done[row]]
        self._end(batch, given_up, Status.CANCELLED, "it was cancelled", "")

    def _end(self, batch: Handed, rows: list[int], status: Status, message: str, hint: str) -> None:
        if not rows:
            return
        for row in rows:
            batch.done[row] = 1
        self._effects.append(Ended(batch.number, tuple(rows), status, message, hint, batch.left == len(rows)))
        self._less(batch, len(rows))


def _ranges(rows: list[int]) -> Ranges:
    """Sorted rows as (start, stop) ranges."""
    found: Ranges = []
    for row in rows:
        if found and found[-1][1] == row:
            found[-1] = (found[-1][0], row + 1)
        else:
            found.append((row, row + 1))
    return found


def _pairs(ranges: Ranges | None) -> list[list[int]] | None:
    return None if ranges is None else [list(pair) for pair in ranges]
