"""Marks on each sector of a write, by which a write that was torn is told from one that has rotted.

The last byte of every sector of a commit is replaced by a stamp, and what stood there is kept at the commit's end (the
update sequence array of NTFS, with one byte a sector). A sector that a crash kept from the disk shows the stamp of what was there
before: zero. A sector that has the stamp was written. So a commit whose
checksum is wrong although all its stamps are there was once whole, and has rotted since.

No single flipped bit makes the stamp into zero. Space in which commits are written reads as zeros before.
"""

from __future__ import annotations

from typing import Final

SECTOR: Final = 512
"""Bytes that a disk writes whole, or not at all, or up to some point."""
BLOCK: Final = 4096
"""What commits are aligned to: a page, and the sector of most disks. No synced byte is ever written again."""
STAMP: Final = 0xA5
_STAMPS: Final = bytes((STAMP,)) * (BLOCK // SECTOR)


def put_stamps(written: bytearray, size: int) -> None:
    """Puts stamps on `size` bytes and on what follows them up to `extent`, and keeps what they replace."""
    total = len(written)
    sectors = -(-size // SECTOR)
    kept = bytes(written[SECTOR - 1 : sectors * SECTOR : SECTOR])
    at = sectors * SECTOR
    for first in range(0, sectors, SECTOR - 1):
        shelf = kept[first : first + SECTOR - 1]
        written[at : at + len(shelf)] = shelf
        at += SECTOR
    written[SECTOR - 1 :: SECTOR] = _STAMPS if total == BLOCK else bytes((STAMP,)) * (total // SECTOR)


def extent(size: int) -> int:
    """Bytes on disk of `size` bytes."""
    sectors = -(-size // SECTOR)
    return -(-(sectors + -(-sectors // (SECTOR - 1))) * SECTOR // BLOCK) * BLOCK


def unstamped(written: bytes | memoryview, size: int) -> bytearray:
    """The inverse of `put_stamps`: the first `size` bytes as they were. Nothing is checked."""
    sectors = -(-size // SECTOR)
    whole = bytearray(written[: sectors * SECTOR])
    at = sectors * SECTOR
    for first in range(0, sectors, SECTOR - 1):
        count = min(SECTOR - 1, sectors - first)
        whole[(first + 1) * SECTOR - 1 : (first + count) * SECTOR : SECTOR] = written[at : at + count]
        at += SECTOR
    del whole[size:]
    return whole


def torn(written: bytes | memoryview) -> bool:
    """Whether some sector of this never came to the disk."""
    return 0 in bytes(written[SECTOR - 1 :: SECTOR])
