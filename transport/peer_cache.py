"""The addresses at which peers were reached last, on disk: where a node looks first when it starts again.

A file of hints, so a damaged one is an empty one, and losing the last minutes of it is no loss.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from transport import bounds
from transport.certificates import id_from_text, id_text
from transport.hints import Hint, is_port, usable_addresses


@dataclass(frozen=True, slots=True)
class _Entry:
    hint: Hint
    seen_s: float  # wall clock


class PeerCache:
    """Peers by id, the longest unseen first. Bounded: `bounds.CACHED_PEERS_COUNT_MAX`, `bounds.CACHED_PEER_LIFE_S`."""

    def __init__(self, path: Path, wall_clock: Callable[[], float] = time.time) -> None:
        """Read the file if there is one. ``damaged`` says whether what was found could not be used."""
        self._path = path
        self._wall_clock = wall_clock
        self._entries: dict[bytes, _Entry] = {}
        self._dirty = False
        self.damaged = False
        self._load()

    def __len__(self) -> int:
        return len(self._entries)

    def hints(self) -> list[Hint]:
        """Every peer remembered, the latest seen first."""
        return [entry.hint for entry in reversed(self._entries.values())]

    def record(self, id: bytes, curve_key: bytes, addresses: Iterable[str], port: int, name: str = "") -> None:
        """A verified peer was reached here. The address that worked comes first."""
        usable = usable_addresses(addresses)
        if not usable or not is_port(port):
            return
        self._entries.pop(id, None)
        self._entries[id] = _Entry(Hint(usable, port, id, curve_key, "cache", name[:63]), self._wall_clock())
        while len(self._entries) > bounds.CACHED_PEERS_COUNT_MAX:
            del self._entries[next(iter(self._entries))]
        self._dirty = True

    def drop(self, id: bytes) -> None:
        """The peer is not of the fleet any more."""
        self._dirty = self._entries.pop(id, None) is not None or self._dirty

    def save(self) -> None:
        """Write what changed since the last time, so that a crash leaves one file or the other. Raises OSError."""
        if not self._dirty:
            return
        peers = [
            {
                "id": id_text(id),
                "curve_key": (entry.hint.curve_key or b"").hex(),
                "name": entry.hint.name,
                "addresses": entry.hint.addresses,
                "port": entry.hint.port,
                "seen_s": int(entry.seen_s),
            }
            for id, entry in self._entries.items()
        ]
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump({"v": 1, "peers": peers}, file, indent=0)
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._dirty = False

    def _load(self) -> None:
        try:
            with open(self._path, "rb") as file:
                data = file.read(bounds.CACHED_PEERS_BYTES_MAX + 1)
            rows = json.loads(data)["peers"] if len(data) <= bounds.CACHED_PEERS_BYTES_MAX else None
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            rows = None
        if not isinstance(rows, list):
            self.damaged = True
            return
        horizon_s = self._wall_clock() - bounds.CACHED_PEER_LIFE_S
        for row in rows[-bounds.CACHED_PEERS_COUNT_MAX :]:
            entry = _entry(row)
            if entry is None:
                self.damaged = True
            elif entry.seen_s >= horizon_s and entry.hint.id is not None:
                self._entries[entry.hint.id] = entry


def _entry(row: object) -> _Entry | None:
    try:
        assert isinstance(row, dict)
        id, curve_key = id_from_text(row["id"]), bytes.fromhex(row["curve_key"])
        addresses, port, seen_s = usable_addresses(row["addresses"]), row["port"], float(row["seen_s"])
        name = str(row.get("name", ""))[:63]
    except (AssertionError, ValueError, TypeError, KeyError, OverflowError):
        return None
    if not addresses or not is_port(port) or len(curve_key) != 32:
        return None
    return _Entry(Hint(addresses, port, id, curve_key, "cache", name), seen_s)
