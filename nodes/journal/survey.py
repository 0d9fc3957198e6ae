"""What is in a journal's directory, read and judged; nothing is changed."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.files import LOCK, SEGMENT, SPARE, STATES, Files, read_anyway, segment_name
from nodes.journal.format import HEADER_BYTES, FormatError, JournalId, NewerError, SegmentHeader
from nodes.journal.scan import Commit, End, Gap, Scan
from nodes.journal.state import State
from nodes.journal.track import Track, Where, is_later
from swarm.protocol.raft.entries import Recovered


@dataclass(slots=True)
class Segment:
    """A segment that belongs to the journal."""

    header: SegmentHeader
    size: int
    end: End
    commits: int = 0
    records: int = 0
    gaps: list[Gap] = field(default_factory=list)
    groups: set[bytes] = field(default_factory=set)
    rotten: dict[bytes, int] = field(default_factory=dict)
    """Records that have rotted, by their groups."""


@dataclass(slots=True)
class Survey:
    """What was found."""

    state: State
    """The newer of those that can be read."""
    states: list[State | None]
    segments: dict[int, Segment] = field(default_factory=dict)
    tracks: dict[bytes, Track] = field(default_factory=dict)
    leftover: list[str] = field(default_factory=list)
    """Files that are not needed: what was under way when a process ended."""
    spares: list[str] = field(default_factory=list)
    torn: bool = False
    """The last write broke off: of it nothing is kept, and nobody was told of it."""
    last_commit: bytes = b""
    """The last commit as it lies in the last segment."""
    last_offset: int = 0
    missing: int = 0
    """Commits at the very end that were synced and are not there."""
    salvaged: bool = False
    """Read as far as it can be."""
    damaged: list[bytes] = field(default_factory=list)
    """Groups whose damage is found for the first time."""

    @property
    def rotten(self) -> bool:
        """Something that was synced cannot be read, whether a group still needs it or not."""
        return bool(self.missing) or None in self.states or any(s.gaps or s.rotten for s in self.segments.values())

    def recovered(self) -> Mapping[bytes, Recovered]:
        """What is there of each group, in the order of their names."""
        with no_collection():
            return {group: track.recovered() for group, track in sorted(self.tracks.items())}


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """A million entries that all stay would be walked through again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def survey(files: Files, id: JournalId | None, *, salvage: bool = False) -> Survey | None:
    """Reads a journal; None if there is none. JournalRefused if it is not this one, or cannot be judged.

    `id` None: anyone's. `salvage`: whatever there is, though state files or segments are gone.
    """
    names = files.names()
    if not any(name in STATES or SEGMENT.fullmatch(name) for name in names):
        strange = [name for name in names if name != LOCK and not name.startswith("new-") and not SPARE.fullmatch(name)]
        if strange:
            raise JournalRefused(
                Reason.FOREIGN, f"the directory has other files, such as {strange[0]}", hint="choose an empty directory"
            )
        return None
    states = [_state(files, name, names) for name in STATES]
    known = [state for state in states if state is not None]
    if not known and salvage:
        known = [State(b"", b"")]
    if not known:
        raise JournalRefused(
            Reason.LOST,
            "neither state file of the journal can be read",
            hint="the node's votes may be lost: it needs a new identity. `swarm journal export` shows what is left",
        )
    state = max(known, key=lambda each: each.generation)
    _check_owner(state.fleet, state.node, id, "the journal")
    found = Survey(state, states, salvaged=salvage)
    numbers = _numbers(files, names, found, salvage)
    with no_collection():
        _read_segments(files, numbers, found, salvage)
    _finish(found)
    return found


def unreadable(error: OSError, what: str) -> JournalRefused:
    """The system's own refusal."""
    return JournalRefused(
        Reason.UNREADABLE, f"{what} can not be read: {error.strerror or error}", hint="see whether the disk is well"
    )


def _state(files: Files, name: str, names: list[str]) -> State | None:
    if name not in names:
        return None
    try:
        file = files.open(name, write=False)
        try:
            return State.unpack(file.read(0, file.size()))
        finally:
            file.close()
    except NewerError:
        raise _newer() from None
    except FormatError:
        return None
    except PermissionError as error:
        raise unreadable(error, name) from None
    except OSError:
        return None  # the disk does not give it: rot, as any other


def _newer() -> JournalRefused:
    return JournalRefused(
        Reason.NEWER, "the journal was written by a later version of this software", hint="install that version again"
    )


def _check_owner(fleet: bytes, node: bytes, id: JournalId | None, what: str) -> None:
    if id is None or (fleet, node) == id.key:
        return
    if fleet != id.key[0]:
        raise JournalRefused(
            Reason.FOREIGN, f"{what} belongs to another fleet", hint="give the node a directory of its own"
        )
    raise JournalRefused(
        Reason.OTHER_NODE,
        f"{what} belongs to another node ({node.hex()})",
        hint="was the directory copied? Each node needs an identity and a journal of its own",
    )


def _numbers(files: Files, names: list[str], found: Survey, salvage: bool) -> list[int]:
    """The segments that count, in order."""
    state = found.state
    numbers: list[int] = []
    for name in names:
        match = SEGMENT.fullmatch(name)
        if match is None:
            if SPARE.fullmatch(name):
                found.spares.append(name)
            elif name.startswith("new-"):
                found.leftover.append(name)
            continue
        number = int(match[1])
        if not salvage and (number < state.first or (number > state.last and _is_base(files, number))):
            found.leftover.append(name)
        else:
            numbers.append(number)
    last = max([state.last, *numbers])
    missing = sorted(set(range(state.first, last + 1)) - set(numbers))
    if missing and not salvage:
        raise JournalRefused(
            Reason.HALF_DELETED,
            f"{len(missing)} of the journal's files are gone, {segment_name(missing[0])} among them",
            hint="put them back, or give the node a new identity: what it acknowledged is not known any more",
            missing=[segment_name(number) for number in missing],
        )
    return numbers


def _header(files: Files, number: int) -> SegmentHeader:
    name = segment_name(number)
    try:
        file = files.open(name, write=False)
        try:
            header = SegmentHeader.unpack(read_anyway(file, 0, HEADER_BYTES))
        finally:
            file.close()
    except NewerError:
        raise _newer() from None
    except FormatError:
        raise JournalRefused(
            Reason.UNREADABLE,
            f"{name} is no segment of a journal, or both copies of its header have rotted",
            hint="put the file back from a copy, or give the node a new identity",
        ) from None
    except OSError as error:
        raise unreadable(error, name) from None
    if header.number != number:
        raise JournalRefused(
            Reason.UNREADABLE, f"{name} is segment {header.number} by its header", hint="was a file renamed?"
        )
    return header


def _is_base(files: Files, number: int) -> bool:
    return _header(files, number).base


def _read_segments(files: Files, numbers: list[int], found: Survey, salvage: bool) -> None:
    state = found.state
    headers: list[SegmentHeader] = []
    for number in numbers:
        try:
            headers.append(_header(files, number))
        except JournalRefused:
            if not salvage:
                raise
    for header in headers:
        if not salvage and (header.fleet, header.node) != (state.fleet, state.node):
            raise JournalRefused(
                Reason.FOREIGN, f"{segment_name(header.number)} is of another journal", hint="was a file copied here?"
            )
    expected = headers[0].first if headers else state.commit + 1
    previous: bytes | None = None
    for at, header in enumerate(headers):
        if header.first != expected:
            expected, previous = header.first, None
        last = at + 1 == len(headers)
        synced = state.commit if last else headers[at + 1].first - 1
        segment = Segment(header, 0, End(0, 0, None))
        data = _data(files, header.number)
        scan = Scan(data, header.number, header.salt, expected, previous, synced)
        found.segments[header.number] = segment
        segment.size = len(data)
        for each in scan:
            _take(found, segment, each)
            if last and type(each) is Commit:
                found.last_offset = each.offset
                found.last_commit = data[each.offset : each.offset + each.header.extent]
        segment.end = scan.end
        for group in segment.groups:
            found.tracks[group].decode()
        if scan.end.number <= synced:
            gap = Gap(scan.end.offset, scan.end.number, synced)
            _take(found, segment, gap)
            if last:
                found.missing = synced + 1 - scan.end.number
        elif last:
            found.torn = scan.end.torn
        expected, previous = scan.end.number, scan.end.previous


def _data(files: Files, number: int) -> bytes:
    name = segment_name(number)
    try:
        file = files.open(name, write=False)
        try:
            return read_anyway(file, 0, file.size())
        finally:
            file.close()
    except OSError as error:
        raise unreadable(error, name) from None


def _take(found: Survey, segment: Segment, each: Commit | Gap) -> None:
    if isinstance(each, Gap):
        segment.gaps.append(each)
        if None in found.states and each.last > found.state.commit and not found.salvaged:
            raise JournalRefused(
                Reason.LOST,
                "a part of the journal has rotted, and so has one of its state files: a vote may be gone from both",
                hint="the node needs a new identity: what it promised is not known any more",
            )
        for known in found.tracks.values():
            known.forget_rest()
        return
    segment.commits += 1
    segment.records += len(each.rows)
    for number, (row, contents) in enumerate(zip(each.rows, each.contents, strict=True)):
        track = found.tracks.get(row.group)
        if track is None:
            track = found.tracks[row.group] = Track(row.group)
            # It may have had more, in what is lost.
            track.unknown = any(s.gaps for s in found.segments.values())
        if contents is None:
            segment.rotten[row.group] = segment.rotten.get(row.group, 0) + 1
        where = Where(segment.header.number, each.offset, number)
        segment.groups.add(row.group)
        track.apply(row, where, contents, lost=contents is None)


def _finish(found: Survey) -> None:
    for group, vote in found.state.votes.items():
        known = found.tracks.setdefault(group, Track(group, unknown=any(s.gaps for s in found.segments.values())))
        if is_later(vote, known.vote):
            known.vote, known.vote_segment = vote, 0
    for group, known in sorted(found.tracks.items()):
        if not known.whole:
            found.damaged.append(group)
            known.cut()
