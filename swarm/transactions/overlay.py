"""What a transaction has changed so far: layers of entries over what is on the disk, one layer for each that is nested."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace

from .disk import PRIVATE, Disk, parent_of
from .errors import PathRefused

FILE, FOLDER, ABSENT, LINK, OTHER = "file", "folder", "absent", "link", "other"
LINKS_MAX = 40


@dataclass
class Entry:
    """What a name is to be.

    `stage` is where a file's new version is; `mode` is what the file or folder is to have, None: what it has as it is.
    `lent`: the staged file is an original under a second name, or an outer layer's, so it is copied before it is written.
    """

    kind: str
    stage: str = ""
    mode: int | None = None
    lent: bool = False


class Layer:
    """The changes of one transaction, or of one nested in another."""

    def __init__(self, below: Layer | None) -> None:
        self.below = below
        self.entries: dict[str, Entry] = {}
        self._children: dict[str, set[str]] = {}

    def put(self, name: str, entry: Entry) -> None:
        """Say what a name is to be."""
        self.entries[name] = entry
        self._children.setdefault(parent_of(name), set()).add(name.rpartition("/")[2])

    def find(self, name: str) -> Entry | None:
        """What this layer or one below says of a name."""
        layer: Layer | None = self
        while layer is not None:
            found = layer.entries.get(name)
            if found is not None:
                return found
            layer = layer.below
        return None

    def children(self, name: str) -> set[str]:
        """The last parts of names in a folder of which anything was said."""
        found: set[str] = set()
        layer: Layer | None = self
        while layer is not None:
            found |= layer._children.get(name, set())
            layer = layer.below
        return found

    def merge(self) -> None:
        """Hand all changes to the layer below."""
        assert self.below is not None
        for name, entry in self.entries.items():
            self.below.put(name, replace(entry))


class View:
    """The directory as a layer shows it."""

    def __init__(self, disk: Disk, layer: Layer) -> None:
        self.disk = disk
        self.layer = layer

    def kind(self, name: str) -> str:
        """FILE, FOLDER, LINK, OTHER or ABSENT."""
        entry = self.layer.find(name)
        if entry is not None:
            if entry.kind == FILE and not self.disk.is_there(entry.stage):
                return ABSENT  # a program that was given the path has removed it, or not made it yet
            return entry.kind
        if name and self.kind(parent_of(name)) != FOLDER:
            return ABSENT
        return kind_of(self.disk.stat(name))

    def mode(self, name: str) -> int:
        """The mode that a file or folder has, or is to have."""
        entry = self.layer.find(name)
        if entry is not None and entry.mode is not None:
            return entry.mode
        found = self.disk.stat(entry.stage if entry is not None and entry.stage else name)
        assert found is not None
        return stat.S_IMODE(found.st_mode)

    def source(self, name: str) -> str:
        """Where a file's contents are, as a name of the disk."""
        entry = self.layer.find(name)
        return name if entry is None else entry.stage

    def names(self, name: str) -> list[str]:
        """What is in a folder, sorted."""
        entry = self.layer.find(name)
        found = set(self.disk.names(name)) if entry is None or self.disk.is_folder(name) else set()
        if not name:
            found.discard(PRIVATE)
        touched = self.layer.children(name)
        inside = f"{name}/" if name else ""
        return sorted(one for one in found | touched if one not in touched or self.kind(inside + one) != ABSENT)

    def tree(self, name: str) -> list[str]:
        """All names below a folder, each folder before what is in it."""
        found: list[str] = []
        waiting = [name]
        while waiting:
            folder = waiting.pop()
            for one in self.names(folder):
                inner = f"{folder}/{one}" if folder else one
                found.append(inner)
                if self.kind(inner) == FOLDER:
                    waiting.append(inner)
        return found

    def resolve(self, given: object, follow: bool = True) -> str:
        """The name that a path means here: relative to the directory, or absolute within it.

        Symbolic links are followed, that of the last part only if `follow`. PathRefused when it leads elsewhere.
        """
        text = os.fsdecode(os.fspath(given))  # type: ignore[call-overload]
        if "\0" in text:
            raise PathRefused(f"{text!r} is no path: it holds a zero byte")
        if os.path.isabs(text):
            text = self._within(text, text)
        parts = [part for part in text.split("/") if part not in ("", ".")]
        for _ in range(LINKS_MAX):
            if ".." in parts:
                raise PathRefused(f"{text!r} goes upwards with '..'", hint="name it from the transaction's directory")
            if parts and parts[0] == PRIVATE:
                raise PathRefused(f"{text!r} is where transactions keep what is theirs", hint="use another name")
            link = self._first_link(parts, follow)
            if link is None:
                return "/".join(parts)
            path = os.path.join(self.disk.root, *parts[:link])
            target = self._within(os.path.join(os.path.dirname(path), os.readlink(path)), "/".join(parts[:link]))
            parts = [*(part for part in target.split("/") if part not in ("", ".")), *parts[link:]]
        raise PathRefused(f"{text!r} goes through more than {LINKS_MAX} symbolic links")

    def _first_link(self, parts: list[str], follow: bool) -> int | None:
        for count in range(1, len(parts) + (1 if follow else 0)):
            name = "/".join(parts[:count])
            entry = self.layer.find(name)
            kind = entry.kind if entry is not None else kind_of(self.disk.stat(name))
            if kind == LINK:
                return count
            if kind != FOLDER:
                return None
        return None

    def _within(self, path: str, shown: str) -> str:
        above, last = os.path.split(path.rstrip("/") or "/")
        real = os.path.realpath(path) if last in ("", ".", "..") else os.path.join(os.path.realpath(above), last)
        if real == self.disk.root or os.path.realpath(path) == self.disk.root:
            return ""
        if not real.startswith(os.path.join(self.disk.root, "")):
            raise PathRefused(
                f"{shown!r} leads out of {self.disk.root}",
                hint="a transaction changes files of its directory only; open one on the other directory, too",
            )
        return real[len(os.path.join(self.disk.root, "")) :]


def kind_of(found: os.stat_result | None) -> str:
    """What lstat(2) says is there."""
    if found is None:
        return ABSENT
    if stat.S_ISREG(found.st_mode):
        return FILE
    if stat.S_ISDIR(found.st_mode):
        return FOLDER
    return LINK if stat.S_ISLNK(found.st_mode) else OTHER
