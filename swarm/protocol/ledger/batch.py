"""One batch as the ledger has it: what was submitted, who holds what, what has ended. Columns and ranges, nothing per task."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import Any

from kernels.batch import Calls, OutcomeBuilder, Outcomes
from kernels.tasks import TaskColumns
from swarm.protocol.ledger.records import (
    Bytes,
    Durability,
    Ended,
    Granted,
    KeptBlob,
    Ranges,
    Submitted,
    Token,
    pack,
)
from swarm.protocol.states import FINAL_BELOW

_U32 = 1 << 32
ARGUMENTS_BYTES_MIN = 256
"""Arguments of a batch that has ended are given up from here on; less is not worth it."""
SAVED_OVERHEAD_BYTES = 32
"""Of a state beside its content, in a snapshot, at most."""
ROW_OVERHEAD_BYTES = 13
"""Of an outcome beside its payload: index, length, run time, status."""


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges sorted, without overlaps, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def within(ranges: list[tuple[int, int]], index: int) -> bool:
    """Whether a row is in sorted ranges."""
    at = bisect_right(ranges, (index, _U32)) - 1
    return at >= 0 and index < ranges[at][1]


def without_arguments(count: int) -> Calls:
    """Calls of which only their number is left."""
    return Calls(bytes(4 * count), count)


class BatchState:
    """A batch whose submission is committed. To be read by all; `LedgerState` alone changes it."""

    __slots__ = (
        "_columns", "_tokens", "calls", "cancelled", "counts", "epoch", "finished_wall", "index", "kept", "killed", "last_token",
        "outcome_bytes", "outcomes", "raw_record", "saved", "saved_bytes", "submitted", "urgencies",
    )  # fmt: skip

    def __init__(
        self, submitted: Submitted, raw_record: Bytes, index: int, epoch: int, *, given_up: bool = False
    ) -> None:
        """ValueError if the columns are not those of `count` calls, or are not `given_up`."""
        self.calls = without_arguments(submitted.count) if given_up else Calls(submitted.columns, submitted.count)
        self.submitted = submitted
        self.raw_record = raw_record
        self.index = index
        """Of the entry that it was submitted with."""
        self.epoch = epoch
        """The term of that entry: first attempts under tokens of this epoch need no grant."""
        self._columns = TaskColumns(submitted.count)
        if submitted.count:
            self._columns.take(submitted.count, 0)
        self._tokens: list[Token] = []
        """Tokens that were granted, ascending; in the columns they are numbered from 1, and 0 is "none granted"."""
        self.last_token: Token | None = None
        """The greatest token that was granted, whether any row still has it or not."""
        self.outcomes: list[tuple[Token | None, Outcomes, Bytes]] = []
        """Columns as they came, and the token under which. All their rows count."""
        self.outcome_bytes = 0
        self.kept: tuple[KeptBlob, ...] = ()
        """What its outcomes refer to of blobs beside the log."""
        self.counts: dict[int, tuple[int, int]] = {}
        """index -> (crashes, retries), of rows that had any."""
        self.cancelled: list[tuple[int, int]] = []
        """Ranges that the client gave up; sorted, without overlaps."""
        self.killed: list[tuple[int, int]] = []
        """Those of them that are to be ended where they run."""
        self.urgencies: list[tuple[int, int, int, int]] = []
        """(start, stop, class, nice) as they were changed, the latest last."""
        self.saved: dict[int, tuple[int, Token, bytes]] = {}
        """index -> (how often it was moved, token of the attempt, its state), of rows without an outcome that left at a safe point."""
        self.saved_bytes = 0
        self.finished_wall: float | None = submitted.wall if not submitted.count else None
        """When the last outcome came, ledger's time."""

    @property
    def key(self) -> bytes:
        """Its key."""
        return self.submitted.key

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return self.submitted.count

    @property
    def durability(self) -> Durability:
        """What its receipt stands for."""
        return Durability.NODE if self.submitted.durability == Durability.NODE else Durability.FLEET

    @property
    def done(self) -> int:
        """How many tasks have an outcome."""
        return self._columns.done

    @property
    def unfinished(self) -> int:
        """How many have none."""
        return self.count - self._columns.done

    @property
    def nbytes(self) -> int:
        """What it takes in a snapshot, but for some bytes a grant, a count and a range."""
        return len(self.raw_record) + self.outcome_bytes + self.saved_bytes

    def ended(self, index: int) -> bool:
        """Whether a task has an outcome."""
        return self._columns.state(index) == TaskColumns.DONE

    def pending(self) -> list[tuple[int, int]]:
        """Ranges (start, stop) without an outcome."""
        return [(start, start + count) for start, count in self._columns.pending()]

    def token(self, index: int) -> Token | None:
        """The token that a task was granted last; None if none was, so that it has had first attempts only."""
        number = self._columns.token(index)
        return self._tokens[number - 1] if number else None

    def grants(self) -> list[tuple[int, int, Token]]:
        """(start, stop, token) of rows without an outcome that were granted one, ascending."""
        if not self._tokens:
            return []
        found: list[tuple[int, int, Token]] = []
        token_of, tokens = self._columns.token, self._tokens
        for start, stop in self.pending():
            first, number = start, token_of(start)
            for index in range(start + 1, stop + 1):
                other = token_of(index) if index < stop else -1
                if other != number:
                    if number:
                        found.append((first, index, tokens[number - 1]))
                    first, number = index, other
        return found

    def accepts(self, index: int, token: Token | None) -> bool:
        """Whether an outcome under this token would count for a task."""
        if index >= self.count or self.ended(index):
            return False
        if token is None:
            return True
        granted = self.token(index)
        return granted == token if granted is not None else token.epoch == self.epoch

    def is_cancelled(self, index: int) -> bool:
        """Whether the client gave a task up."""
        return within(self.cancelled, index)

    def outcome(self, index: int) -> tuple[int, int, memoryview] | None:
        """(status, run time in microseconds, payload) of a task, if it has ended."""
        for _, outcomes, _ in reversed(self.outcomes):
            for row in range(outcomes.count):
                if outcomes.index(row) == index:
                    return outcomes.status(row), outcomes.run_us(row), outcomes.payload(row)
        return None

    # What `LedgerState` does with it.

    def grant(self, record: Granted, term: int) -> int:
        """Rows without an outcome that have this token from here on. 0 if it is not of the term in which it was written, or
        not greater than all before."""
        if record.token.epoch != term or record.ranges[-1][1] > self.count:
            return 0
        if self.last_token is not None and record.token <= self.last_token:
            return 0
        self.last_token = record.token
        columns = self._columns
        for start, stop in record.ranges:
            for index in range(start, stop):
                columns.release(index)
        return self._take(record.token)

    def _take(self, token: Token) -> int:
        taken = 0
        while (range_ := self._columns.take(_U32, len(self._tokens) + 1)) is not None:
            taken += range_[1]
        if taken:
            self._tokens.append(token)
        return taken

    def end(self, record: Ended, held: Bytes) -> tuple[int, Outcomes | None]:
        """(rows that this ended, their outcomes). ValueError if the columns are malformed. `held` are the columns as bytes
        that may be kept."""
        outcomes = Outcomes(held, record.rows)
        token = record.token
        number = self._number(token)
        if number is not None and self._columns.accepts(outcomes, number):
            self._columns.settle(outcomes, number)
        else:
            builder = OutcomeBuilder()
            columns = self._columns
            for row in range(outcomes.count):
                index = outcomes.index(row)
                if outcomes.status(row) < FINAL_BELOW and self.accepts(index, token):
                    columns.finish(index)
                    builder.add(index, outcomes.status(row), outcomes.run_us(row), outcomes.payload(row))
            if not builder.count:
                return 0, None
            count = builder.count
            held = builder.take()
            outcomes = Outcomes(held, count)
        self.keep(token, outcomes, held)
        if self.saved:
            for index in [index for index in self.saved if self.ended(index)]:
                self.saved_bytes -= len(self.saved.pop(index)[2]) + SAVED_OVERHEAD_BYTES
        if not self.unfinished:
            self.finished_wall = record.wall
            self.give_up_arguments()
        return outcomes.count, outcomes

    def save(self, index: int, moved: int, token: Token, state: Bytes) -> bool:
        """A row's attempt ended with a state. False if that attempt does not count."""
        if not self.accepts(index, token):
            return False
        self.keep_saved(index, moved, token, state)
        return True

    def keep_saved(self, index: int, moved: int, token: Token, state: Bytes) -> None:
        """Puts a state that counts with the others."""
        before = self.saved.get(index)
        if before is not None:
            self.saved_bytes -= len(before[2]) + SAVED_OVERHEAD_BYTES
        self.saved[index] = (moved, token, bytes(state))
        self.saved_bytes += len(state) + SAVED_OVERHEAD_BYTES

    def left(self, index: int) -> bool:
        """Whether the attempt that was granted last has left at a safe point, so that nobody runs the row."""
        saved, token = self.saved.get(index), self.token(index)
        return saved is not None and (token is None or saved[1] == token)

    def give_up_arguments(self) -> None:
        """All tasks have ended: what they were given is of no more use. That it was the same is told by the digest."""
        if len(self.submitted.columns) >= ARGUMENTS_BYTES_MIN:
            self.submitted = replace(self.submitted, raw=bytes(self.submitted.raw), columns=b"")
            self.raw_record = pack(self.submitted)
            self.calls = without_arguments(self.count)

    def keep(self, token: Token | None, outcomes: Outcomes, held: Bytes) -> None:
        """Puts outcomes, all of whose rows count, with the others."""
        self.outcomes.append((token, outcomes, held))
        self.outcome_bytes += len(held)

    def _number(self, token: Token | None) -> int | None:
        """Under what number the columns may have it, if all rows of a record are alike."""
        if token is None:
            return 0 if not self._tokens else None
        at = bisect_left(self._tokens, token)
        if at < len(self._tokens) and self._tokens[at] == token:
            return at + 1
        return 0 if token.epoch == self.epoch else None

    def cancel(self, ranges: Ranges, kill: bool) -> None:
        """The client gave rows up."""
        inside = [(start, min(stop, self.count)) for start, stop in ranges if start < self.count]
        self.cancelled = merged(self.cancelled + inside)
        if kill:
            self.killed = merged(self.killed + inside)

    def reprioritize(self, ranges: Ranges, priority: int, nice: int) -> None:
        """Rows are of another class and nice."""
        for start, stop in ranges:
            if start < self.count:
                self.urgencies = [it for it in self.urgencies if not start <= it[0] < it[1] <= stop]
                self.urgencies.append((start, min(stop, self.count), priority, nice))

    def urgency(self, given: tuple[int, int]) -> tuple[tuple[int, int], dict[int, tuple[int, int]]]:
        """(class, nice) of the batch, `given` unless all of it was changed, and of rows without an outcome that have their own."""
        apart: dict[int, tuple[int, int]] = {}
        for start, stop, priority, nice in self.urgencies:
            if (start, stop) == (0, self.count):
                given = (priority, nice)
                apart.clear()
                continue
            for index in range(start, stop):
                if not self.ended(index):
                    apart[index] = (priority, nice)
        return given, apart

    def count_rows(self, rows: tuple[tuple[int, int, int], ...]) -> None:
        """Crashes and retries so far: never fewer than before."""
        for index, crashes, retries in rows:
            if index < self.count:
                before = self.counts.get(index, (0, 0))
                self.counts[index] = (max(before[0], crashes), max(before[1], retries))

    # Snapshots.

    def fields(self) -> list[Any]:
        """What a snapshot says of it beside the submission's record and the columns of outcomes."""
        return [
            len(self.raw_record),
            self.index,
            self.epoch,
            self.finished_wall,
            self.last_token,
            [[start, stop, *token] for start, stop, token in self.grants()],
            [[index, *counts] for index, counts in sorted(self.counts.items())],
            self.cancelled,
            self.killed,
            [[outcomes.count, len(held), token] for token, outcomes, held in self.outcomes],
        ]

    def restore(self, fields: tuple[Any, ...], columns: list[Bytes]) -> None:
        """Takes over what `fields` said. Anything may be raised if it does not hold together."""
        _, _, _, finished_wall, last_token, grants, counts, cancelled, killed, outcomes = fields
        for (rows, _, token), held in zip(outcomes, columns, strict=True):
            found = Outcomes(held, rows)
            if not self._columns.accepts(found, 0):
                raise ValueError("a task has two outcomes")
            self._columns.settle(found, 0)
            self.keep(None if token is None else Token(*token), found, held)
        by_token: dict[Token, list[tuple[int, int]]] = {}
        for start, stop, epoch, number in grants:
            by_token.setdefault(Token(epoch, number), []).append((start, stop))
        for token, ranges in sorted(by_token.items()):
            for start, stop in ranges:
                for index in range(start, stop):
                    self._columns.release(index)
            self._take(token)
        self.last_token = None if last_token is None else Token(*last_token)
        self.counts = {index: (crashes, retries) for index, crashes, retries in counts}
        self.cancelled = [(start, stop) for start, stop in cancelled]
        self.killed = [(start, stop) for start, stop in killed]
        self.finished_wall = finished_wall
        if finished_wall is not None:
            self.give_up_arguments()  # as an earlier version did not
