"""The space of a journal: its segments, one spare for votes, and spares for what was promised room.

Space is taken from the file system before it is needed, so that a disk that others fill does not fail what was accepted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from nodes.journal.files import NO_SPACE, SPARE, File, Files, segment_name
from nodes.journal.format import HEADER_BYTES, SegmentHeader
from nodes.journal.stamps import BLOCK


@dataclass(slots=True)
class Slot:
    """A segment that is on disk."""

    header: SegmentHeader
    file: File
    size: int
    at: int = HEADER_BYTES
    """Where the next commit begins."""

    @property
    def room(self) -> int:
        """Bytes that are left."""
        return self.size - self.at


class Space:
    """Segments and spares. Spares are also made by whoever promises room, so they are under a lock."""

    def __init__(self, files: Files, segment_bytes: int, bytes_max: int) -> None:
        self._files = files
        self.segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._spares: list[tuple[str, File, int]] = []
        self._made = 0
        self._promised = 0
        self.slots: dict[int, Slot] = {}
        self.active: Slot | None = None

    @property
    def bytes(self) -> int:
        """All that is taken from the file system."""
        with self._lock:
            return self._bytes()

    @property
    def promised(self) -> int:
        """Bytes of room that were promised."""
        return self._promised

    def _bytes(self) -> int:
        return sum(slot.size for slot in self.slots.values()) + sum(size for _, _, size in self._spares)

    # Spares.

    def keep(self, names: list[str]) -> None:
        """The spares that an earlier process left: one is kept, as it is zeros but for its header."""
        for name in names:
            match = SPARE.fullmatch(name)
            assert match is not None
            self._made = max(self._made, int(match[1]))
            file = self._files.open(name, write=True)
            size = file.size()
            with self._lock:
                if not self._spares and size == self.segment_bytes and self._bytes() + size <= self._bytes_max:
                    self._spares.append((name, file, size))
                    continue
            file.close()
            self._files.remove(name)

    def _make(self, size: int, *, beyond: bool = False) -> bool:
        if not beyond and self._bytes() + size > self._bytes_max:
            return False
        self._made += 1
        name = f"spare-{self._made:012}"
        try:
            file = self._files.create(name, size)
        except OSError as error:
            if error.errno in NO_SPACE:
                return False
            raise
        self._spares.append((name, file, size))
        return True

    def refill(self) -> bool:
        """Makes spares until there is one for votes and enough for what was promised. Whether there is."""
        with self._lock:
            return self._refill()

    def _refill(self) -> bool:
        while not self._spares or self._free() < self._promised:
            if not self._make(self.segment_bytes):
                return False
        return True

    def _free(self) -> int:
        """Room beside the spare for votes."""
        room = 0 if self.active is None else self.active.room
        return room + sum(size - HEADER_BYTES for _, _, size in self._spares[1:])

    def promise(self, size: int) -> int:
        """Promises room for `size` bytes more; 0: there is none. Else what has to be given back by `give_back`.

        Twice the bytes, and a block: small commits fill no whole block.
        """
        cost = 2 * size + BLOCK
        with self._lock:
            self._promised += cost
            try:
                enough = self._refill()
            except OSError:
                self._promised -= cost
                raise
            if enough:
                return cost
            self._promised -= cost
            return 0

    def give_back(self, cost: int) -> None:
        """Room that was promised is not needed any more."""
        with self._lock:
            self._promised -= cost
            assert self._promised >= 0

    # Segments.

    def take(self, need: int, *, last: bool, beyond: bool = False) -> tuple[str, File, int] | None:
        """A spare with room for `need` bytes. Unless `last`, one for votes has to be left, or be made anew.

        `beyond`: the journal may be larger than it is to be for a moment.
        """
        size = max(self.segment_bytes, -(-need // BLOCK) * BLOCK + HEADER_BYTES)
        with self._lock:
            fits = [spare for spare in self._spares if spare[2] >= size]
            if not fits:
                if not self._make(size, beyond=beyond):
                    return None
                fits = self._spares[-1:]
            spare = fits[0]
            if not last and len(self._spares) < 2 and not self._make(self.segment_bytes):
                return None
            self._spares.remove(spare)
            return spare

    def begin(self, spare: tuple[str, File, int], header: SegmentHeader) -> Slot:
        """Makes a spare the segment that is written to. Its name is on the disk when this returns."""
        name, file, size = spare
        file.write(0, header.pack())
        file.sync()
        self._files.rename(name, segment_name(header.number))
        self._files.sync()
        slot = Slot(header, file, size)
        with self._lock:
            self.slots[header.number] = slot
            self.active = slot
        return slot

    def remove(self, numbers: list[int]) -> None:
        """Segments that nothing needs any more."""
        with self._lock:
            gone = [self.slots.pop(number) for number in numbers]
        for slot in gone:
            slot.file.close()
            self._files.remove(segment_name(slot.header.number))
        self._files.sync()

    def close(self) -> None:
        """Closes all files; spares beyond one are removed."""
        with self._lock:
            for slot in self.slots.values():
                slot.file.close()
            for number, (name, file, _) in enumerate(self._spares):
                file.close()
                if number:
                    self._files.remove(name)
            self.slots, self._spares, self.active = {}, [], None
