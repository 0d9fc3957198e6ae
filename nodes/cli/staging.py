"""Files that a command takes along and brings back: what they are called there, and where they are here.

A path below the current directory has the same name there. Any other, absolute or with ``..``, is known there by its
last part, since a command runs in a fresh directory of its own. A directory stands for the files below it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from swarm.errors import NotFound, SystemRefused, UsageError


def name_there(path: str) -> str:
    """The name that a path of here has in the command's directory."""
    pure = PurePosixPath(os.path.normpath(path))
    if pure.name in ("", ".."):
        raise UsageError(f"{path!r} names no file below a directory", hint="name the file or directory itself")
    return pure.name if pure.is_absolute() or ".." in pure.parts else str(pure)


def inputs(paths: Iterable[str]) -> list[tuple[str, Path]]:
    """(name there, path here) of every file. NotFound when one is not there; UsageError when two have one name."""
    found: dict[str, Path] = {}
    for path in paths:
        there, here = name_there(path), Path(path)
        if here.is_dir():
            files = [(str(PurePosixPath(there, each.relative_to(here))), each) for each in sorted(here.rglob("*"))]
        else:
            files = [(there, here)]
        for name, file in files:
            if file.is_dir():
                continue
            if not file.is_file():
                raise NotFound(
                    f"no file {file}", hint="--in takes files and directories of this machine", path=str(file)
                )
            if found.setdefault(name, file) != file:
                raise UsageError(
                    f"{found[name]} and {file} would both be {name} there", hint="copy one to another name"
                )
    return list(found.items())


def outputs(paths: Iterable[str]) -> dict[str, Path]:
    """Name there -> path here."""
    return {name_there(path): Path(path) for path in paths}


def bring_back(fleet: Any, ended: Mapping[str, Any], wanted: Mapping[str, Path]) -> list[str]:
    """Write the files that a command left, each whole or not at all; returns the names that it did not leave."""
    for name, blob, size, mode in ended.get("out") or ():
        here = _place(str(name), wanted)
        if here is None:
            continue  # not asked for: nothing is written on the word of another machine alone
        temporary = here.with_name(f".{here.name}.{os.getpid()}.part")
        try:
            here.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(fleet.fetch_file(bytes(blob), int(size)))
            temporary.chmod((int(mode) & 0o777) | 0o600)
            temporary.replace(here)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise SystemRefused(f"can not write {here}: {error.strerror or error}", path=str(here)) from error
    return [str(name) for name in ended.get("missing") or ()]


def _place(name: str, wanted: Mapping[str, Path]) -> Path | None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        return None
    for there, here in wanted.items():
        if pure == PurePosixPath(there):
            return here
        if pure.is_relative_to(there):
            return here / pure.relative_to(there)
    return None
