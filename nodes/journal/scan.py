"""Reading a segment: its commits in order, and where it breaks off, whether that is a torn end or rot.

A commit is written only when the one before it is synced. So what cannot be read has rotted if a later commit is there, or if the
state says that it was synced; and if it is the very last, when all of its sectors were written (`stamps`). Otherwise it is the
torn end of a write that nobody was told of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nodes.journal.files import File, read_anyway
from nodes.journal.format import (
    COMMIT_HEADER_BYTES,
    COMMIT_MAGIC,
    HEADER_BYTES,
    CommitHeader,
    FormatError,
    Row,
    check,
    unpack_table,
)
from nodes.journal.stamps import BLOCK, SECTOR, STAMP, torn, unstamped


@dataclass(slots=True)
class Commit:
    """A commit that could be read, all or in part."""

    offset: int
    header: CommitHeader
    rows: list[Row]
    contents: list[bytes | None]
    """None: it has rotted."""


@dataclass(slots=True)
class Gap:
    """Commits that were synced cannot be told apart any more: (number of the first, of the last) of them, at an offset."""

    offset: int
    first: int
    last: int


@dataclass(slots=True)
class End:
    """Where the commits of a segment end."""

    offset: int
    number: int
    """Of the next commit."""
    previous: bytes | None
    """The checksum of the last header; None if that has rotted."""
    torn: bool = False
    """A write broke off here, of which nobody was told."""
    rotten: int = 0
    """Records that have rotted, by themselves."""


@dataclass(slots=True)
class Scan:
    """The commits of one segment, as they are iterated over; then `end`."""

    data: bytes
    segment: int
    salt: bytes
    number: int
    """Of the first commit that is to come."""
    previous: bytes | None
    synced: int
    """Commits up to this one were synced for certain."""
    end: End = field(init=False)

    def __iter__(self) -> Iterator[Commit | Gap]:
        data, size = self.data, len(self.data)
        view = memoryview(data)
        at, number, previous, rotten = HEADER_BYTES, self.number, self.previous, 0
        while at + BLOCK <= size:
            header = self._header(view, at, number)
            if header is None:
                following = self._following(view, at + BLOCK, number)
                # The first byte is not zero by one flipped bit, but by a wiping that broke off.
                written = view[at + SECTOR - 1] == STAMP and view[at] != 0
                if following is None and not written and number > self.synced:
                    break  # nothing, or the beginning of a write that never came
                if following is None:
                    yield Gap(at, number, number)
                    at, number, previous = size, number + 1, None
                    break
                yield Gap(at, number, following[1].number - 1)
                number, previous = following[1].number, None
                at = following[0]
                continue
            if header.number != number or (previous is not None and header.previous != previous):
                if header.number > number:
                    yield Gap(at, number, header.number - 1)
                else:
                    yield Gap(at, number, number)
                number = header.number
            extent = header.extent
            commit = _commit(view, at, header)
            if commit is None or None in commit.contents:
                unproven = number > self.synced and self._following(view, at + BLOCK, number) is None
                if unproven and (at + extent > size or torn(view[at : at + extent])):
                    break
                if commit is None:
                    yield Gap(at, number, number)
                else:
                    rotten += commit.contents.count(None)
            if commit is not None:
                yield commit
            at += extent
            number, previous = number + 1, header.check
        at = min(at, size)
        self.end = End(at, number, previous, data[at:] != bytes(size - at), rotten)

    def _header(self, view: memoryview, at: int, number: int) -> CommitHeader | None:
        try:
            header = CommitHeader.unpack(view[at : at + COMMIT_HEADER_BYTES], self.salt)
        except FormatError:
            return None
        return header if header.segment == self.segment and header.number >= number else None

    def _following(self, view: memoryview, at: int, number: int) -> tuple[int, CommitHeader] | None:
        """The next commit after `number` that can be told, from an offset on."""
        while at + BLOCK <= len(view):
            if self.data[at : at + 4] == COMMIT_MAGIC:
                header = self._header(view, at, number + 1)
                if header is not None:
                    return at, header
            at += BLOCK
        return None


def _commit(view: memoryview, at: int, header: CommitHeader) -> Commit | None:
    """None if its table has rotted, or it is not all there."""
    extent = header.extent
    if at + extent > len(view):
        return None
    whole = memoryview(unstamped(view[at : at + extent], header.size))
    try:
        rows = unpack_table(whole, header)
    except FormatError:
        return None
    contents: list[bytes | None] = []
    first = header.contents_at
    for row in rows:
        content = bytes(whole[first : first + row.size])
        contents.append(content if check(content) == row.check else None)
        first += row.size
    return Commit(at, header, rows, contents)


def read_commit(file: File, offset: int, salt: bytes) -> Commit | None:
    """The commit at an offset; None if it cannot be read."""
    try:
        header = CommitHeader.unpack(read_anyway(file, offset, COMMIT_HEADER_BYTES), salt)
        commit = _commit(memoryview(read_anyway(file, offset, header.extent)), 0, header)
    except FormatError:
        return None
    if commit is not None:
        commit.offset = offset
    return commit
