"""Callables by value that a client has sent: kept, since the next node needs them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import ItemsView

CODE_KEPT_COUNT_MAX = 1024
CODE_KEPT_BYTES_MAX = 32 << 20
"""Callables by value that are kept to be sent to the next node; the least recently used go first."""


class KeptCode:
    """Blobs of code by digest, within bounds."""

    def __init__(self) -> None:
        self._code: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, digest: bytes, blob: bytes) -> bool:
        """Keep one; whether it is new. One alone is kept however large it is."""
        if digest in self._code:
            self._code.move_to_end(digest)
            return False
        self._code[digest] = blob
        self._bytes += len(blob)
        while len(self._code) > CODE_KEPT_COUNT_MAX or (self._bytes > CODE_KEPT_BYTES_MAX and len(self._code) > 1):
            _, oldest = self._code.popitem(last=False)
            self._bytes -= len(oldest)
        return True

    def items(self) -> ItemsView[bytes, bytes]:
        """(digest, blob), the least recently used first."""
        return self._code.items()
