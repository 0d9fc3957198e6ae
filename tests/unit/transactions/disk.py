"""A disk in memory under a commit: calls fail, the power goes off between them, and what was not synced is lost in any part.

Names are made, renamed and removed at once for who looks; on the disk they are so only after a sync of their folder. When the
power goes off, of the changes that wait each may have come to the disk or not, whatever came before or after it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

from swarm.transactions.disk import PRIVATE, STAGE, VAULT, digest_of, parent_of


class Power(BaseException):
    """The power went off."""


class File:
    """An inode."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Folder:
    """A folder, with its mode."""

    def __init__(self, mode: int) -> None:
        self.mode = mode


Node = File | Folder
Names = dict[str, Node]


class Change:
    """One change of names: what it does to a table of them, and the folders that it is part of."""

    def __init__(self, folders: set[str], act: Callable[[Names], None], removes: str = "") -> None:
        self.folders, self.act = folders, act
        self.removes = removes
        """A folder, whose own changes come to the disk before it is gone from there."""


class SimDisk:
    """What :class:`swarm.transactions.applying.Place` asks for."""

    def __init__(self, names: Names) -> None:
        self.durable = dict(names)
        self.shown = dict(names)
        self.waiting: list[Change] = []
        self.calls = 0
        self.off_at = 0
        """The power is off from this call on; 0: it stays on."""
        self.fails: dict[int, int] = {}
        """Call -> errno."""
        self.links = True

    @classmethod
    def of(cls, files: dict[str, bytes | None]) -> SimDisk:
        """Files by their names, folders as None."""
        names: Names = {"": Folder(0o700)}
        for folder in (PRIVATE, STAGE, VAULT):
            names[folder] = Folder(0o700)
        for name, data in files.items():
            names[name] = Folder(0o755) if data is None else File(data)
        return cls(names)

    def image(self) -> dict[str, object]:
        """What people see, without what is the transactions' own."""
        return {
            name: node.data if isinstance(node, File) else node.mode
            for name, node in sorted(self.shown.items())
            if name.split("/")[0] != PRIVATE
        }

    def power(self, rng: Random) -> None:
        """It was off. Each change of names that waited is there or not, as far as it makes sense without others."""
        share = rng.choice((0.0, 0.3, 0.7, 1.0))
        for change in self.waiting:
            if rng.random() < share:
                try:
                    change.act(self.durable)
                except KeyError:
                    pass
        self.waiting.clear()
        self.shown = dict(self.durable)
        self.off_at, self.fails, self.calls = 0, {}, 0

    def _call(self) -> None:
        self.calls += 1
        if self.off_at and self.calls >= self.off_at:
            raise Power  # and so for whoever goes on all the same
        if self.calls in self.fails:
            raise OSError(self.fails[self.calls], "injected")

    def _change(self, folders: set[str], act: Callable[[Names], None], removes: str = "") -> None:
        act(self.shown)
        self.waiting.append(Change(folders, act, removes))

    # --- looking

    def is_there(self, name: str) -> bool:
        return name in self.shown

    def is_folder(self, name: str) -> bool:
        return isinstance(self.shown.get(name), Folder)

    def is_same(self, one: str, other: str) -> bool:
        return one in self.shown and self.shown[one] is self.shown.get(other)

    def read(self, name: str, bytes_max: int) -> bytes:
        return self._file(name).data[: bytes_max + 1]

    def checked(self, name: str) -> tuple[int, str]:
        data = self._file(name).data
        return len(data), digest_of(data)

    def _file(self, name: str) -> File:
        node = self.shown.get(name)
        if not isinstance(node, File):
            raise OSError(errno.ENOENT if node is None else errno.EISDIR, name)
        return node

    # --- changing

    def rename(self, old: str, new: str) -> None:
        self._call()
        self._must(old)
        self._must(parent_of(new))
        if isinstance(self.shown.get(new), Folder) or isinstance(self.shown[old], Folder):
            raise OSError(errno.EISDIR, new)
        if self.is_same(old, new):
            return

        node = self.shown[old]

        def act(names: Names) -> None:
            _ = names[parent_of(new)]
            if names[old] is not node or isinstance(names.get(new), Folder):
                raise KeyError(old)  # a filesystem renames an inode, not whatever has the name
            names[new] = names.pop(old)

        self._change({parent_of(old), parent_of(new)}, act)

    def link(self, old: str, new: str) -> bool:
        self._call()
        self._must(old)
        if new in self.shown:
            raise FileExistsError(errno.EEXIST, new)
        if not self.links:
            return False
        node = self._file(old)

        def act(names: Names) -> None:
            _ = names[parent_of(new)]
            names[new] = node

        self._change({parent_of(new)}, act)
        return True

    def copy(self, old: str, new: str) -> None:
        self.write(new + ".making", self._file(old).data)
        self.rename(new + ".making", new)

    def unlink(self, name: str) -> None:
        self._call()
        node = self.shown.get(name)

        def act(names: Names) -> None:
            if names[name] is not node:
                raise KeyError(name)
            del names[name]

        if node is not None:
            self._change({parent_of(name)}, act)

    def mkdir(self, name: str, mode: int) -> None:
        self._call()
        if name in self.shown:
            raise FileExistsError(errno.EEXIST, name)
        self._must(parent_of(name))
        node = Folder(mode)

        def act(names: Names) -> None:
            _ = names[parent_of(name)]
            if name in names:
                raise KeyError(name)
            names[name] = node

        self._change({parent_of(name)}, act)

    def rmdir(self, name: str) -> None:
        self._call()
        self._must(name)
        if any(parent_of(other) == name for other in self.shown if other):
            raise OSError(errno.ENOTEMPTY, name)

        def act(names: Names) -> None:
            if not isinstance(names[name], Folder) or any(parent_of(other) == name for other in names if other):
                raise KeyError(name)
            del names[name]

        self._change({parent_of(name)}, act, removes=name)

    def chmod(self, name: str, mode: int) -> None:
        self._call()
        self._must(name)

        def act(names: Names) -> None:
            if isinstance(names[name], Folder):
                names[name] = Folder(mode)

        self._change({name, parent_of(name)}, act)

    def sync(self, name: str) -> None:
        self._call()
        if name in self.shown:
            self._harden(name)

    def _harden(self, name: str) -> None:
        for change in [one for one in self.waiting if name in one.folders and one.removes]:
            self._harden(change.removes)
        left = []
        for change in self.waiting:
            if name in change.folders:
                try:
                    change.act(self.durable)
                except KeyError:
                    left.append(change)  # it needs one that waits still
            else:
                left.append(change)
        self.waiting = left

    def write(self, name: str, data: bytes) -> None:
        self._call()
        node = File(b"")
        self._change({parent_of(name)}, lambda names: names.__setitem__(name, node))
        self._call()
        node.data = data[: len(data) // 2]
        self._call()
        node.data = data

    def _must(self, name: str) -> None:
        if name not in self.shown:
            raise FileNotFoundError(errno.ENOENT, name)
