"""Nodes of one home on one machine find each other through a directory that only their user can write to.

Each node keeps a small file ``NAME.node`` there, renamed into place, and looks at the directory: often while it or the
directory is young, seldom later. So three nodes on one machine need no network, and nothing of them is seen on the LAN.
A file that a killed node left is known by its process: it is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transport import bounds
from transport.certificates import id_from_text, id_text
from transport.hints import Hint, is_port

SUFFIX: Final = ".node"


@dataclass(frozen=True, slots=True)
class Presence:
    """What a node's file says: where it listens on loopback, and whose it is. ``boot`` differs from start to start."""

    name: str
    pid: int
    id: bytes
    curve_key: bytes
    tag: bytes
    port: int
    boot: bytes
    addresses: tuple[str, ...] = ("127.0.0.1",)

    @property
    def hint(self) -> Hint:
        return Hint(self.addresses, self.port, self.id, self.curve_key, "presence", self.name)

    def write(self, directory: Path) -> None:
        """Put the file in place, whole. Raises OSError."""
        content = {
            "v": 1,
            "pid": self.pid,
            "id": id_text(self.id),
            "curve_key": self.curve_key.hex(),
            "tag": self.tag.hex(),
            "port": self.port,
            "boot": self.boot.hex(),
            "addresses": list(self.addresses),
        }
        path = directory / (self.name + SUFFIX)
        temporary = directory / f".{self.name}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump(content, file)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, directory: Path) -> None:
        """Take the file away, if it is still that of this process."""
        found = read(directory / (self.name + SUFFIX))
        if found is not None and (found.pid, found.boot) == (self.pid, self.boot):
            (directory / (self.name + SUFFIX)).unlink(missing_ok=True)


def read(path: Path) -> Presence | None:
    """What a file says; None for one that is gone, damaged, another user's, or no presence at all."""
    try:
        with open(
            os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK), "rb"
        ) as file:
            if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            data = file.read(bounds.PRESENCE_BYTES_MAX + 1)
    except OSError:
        return None
    if len(data) > bounds.PRESENCE_BYTES_MAX:
        return None
    try:
        content = json.loads(data)
        found = Presence(
            name=path.name.removesuffix(SUFFIX),
            pid=content["pid"],
            id=id_from_text(content["id"]),
            curve_key=bytes.fromhex(content["curve_key"]),
            tag=bytes.fromhex(content["tag"]),
            port=content["port"],
            boot=bytes.fromhex(content["boot"]),
            addresses=tuple(str(text) for text in content["addresses"])[: bounds.HINT_ADDRESSES_COUNT_MAX],
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    sound = type(found.pid) is int and found.pid > 0 and len(found.curve_key) == 32 and is_port(found.port)
    return found if sound else None


def present(directory: Path, tag: bytes) -> list[Presence]:
    """The nodes of this fleet whose files are in the directory and whose processes live, sorted by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(SUFFIX))
    except OSError:
        return []
    found = (read(directory / name) for name in names[: bounds.PRESENCE_COUNT_MAX])
    return [one for one in found if one is not None and one.tag == tag and _lives(one.pid)]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody's; whether it answers will be seen
    return True


class PresenceWatch:
    """Looks at a directory again and again, and tells of each node that is new there, or started again."""

    YOUNG_S: Final = 5.0
    YOUNG_POLL_S: Final = 0.05
    OLD_POLL_S: Final = 0.5

    def __init__(self, directory: Path, tag: bytes, own: bytes | None, on_hint: Callable[[Hint], None]) -> None:
        self._directory = directory
        self._tag = tag
        self._own = own
        self._on_hint = on_hint
        self._known: dict[bytes, Presence] = {}
        self._stamp: object = None

    def look(self) -> bool:
        """Look once; whether anything in the directory has changed since the last look."""
        try:
            stamp = os.stat(self._directory).st_mtime_ns  # a rename into a directory, or out of it, changes its time
        except OSError:
            return False
        changed = stamp != self._stamp
        self._stamp = stamp
        if changed:
            self._tell({one.id: one for one in present(self._directory, self._tag)})
        return changed

    def _tell(self, found: Mapping[bytes, Presence]) -> None:
        known, self._known = self._known, dict(found)
        for id, one in found.items():
            if id != self._own and known.get(id) != one:
                self._on_hint(one.hint)

    def forget(self) -> None:
        """Tell of everybody again at the next look."""
        self._known = {}
        self._stamp = None

    async def run(self) -> None:
        """Look for ever; to be cancelled."""
        loop = asyncio.get_running_loop()
        young_until = loop.time() + self.YOUNG_S
        while True:
            if self.look():
                young_until = loop.time() + self.YOUNG_S
            await asyncio.sleep(self.YOUNG_POLL_S if loop.time() < young_until else self.OLD_POLL_S)
