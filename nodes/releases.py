"""Which release this is, which others it works with, and which had a node's directory before.

A node speaks to, and reads what was written by, its own minor release and those next to it, so that a fleet is upgraded one node at
a time, and one node may go back. What lies further apart is refused where it could do harm: on a node's own disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import swarm
from swarm.errors import SystemRefused

FILE: Final = "release"
"""In a node's directory: the release that opened it last."""
APART_MAX: Final = 1
"""Minor releases that may lie between two that work together."""
_MINORS: Final = 1 << 8


def number_of(version: str) -> int:
    """A release as a number, as it is gossiped: ``0.1.7`` is 1, ``1.2.0`` is 258; 0 when it is none."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal()) or int(minor) >= _MINORS or int(major) >= _MINORS:
        return 0
    return int(major) * _MINORS + int(minor)


OWN: Final = number_of(swarm.__version__)


def text_of(number: object) -> str:
    """As people write it, ``0.1``; empty when it is none."""
    if type(number) is not int or not 0 < number < _MINORS * _MINORS:
        return ""
    return f"{number // _MINORS}.{number % _MINORS}"


def work_together(one: int, other: int) -> bool:
    """Whether two releases are the same minor or next to each other. The first minor of a major is next to any of the one before;
    of a release that does not say which it is nothing can be said against it."""
    if not one or not other:
        return True
    low, high = sorted((one, other))
    if low // _MINORS == high // _MINORS:
        return high - low <= APART_MAX
    return high // _MINORS - low // _MINORS == 1 and high % _MINORS == 0


def check(directory: Path) -> None:
    """SystemRefused when a release opened this node's directory last that is too far from this one. Nothing is written."""
    try:
        last = (directory / FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return  # before releases were noted, or no node was here yet
    if work_together(OWN, number_of(last)):
        return
    low, high = sorted((OWN, number_of(last)))
    between = text_of(low + 1) if low // _MINORS == high // _MINORS else f"the last of {low // _MINORS}"
    raise SystemRefused(
        f"this node was last run by release {last}, and this is {swarm.__version__}: only neighbouring minor releases read each "
        "other's files",
        hint=f"run it with {between} in between; releases are not skipped, in neither direction",
        last=last,
        this=swarm.__version__,
    )


def note(directory: Path) -> None:
    """From here on what is in the directory may be of this release."""
    path = directory / FILE
    text = f"{swarm.__version__}\n"
    try:
        if path.read_text(encoding="ascii") == text:
            return
    except (OSError, ValueError):
        pass
    new = directory / f"{FILE}.new"
    with open(new, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def said_of(versions: Iterable[tuple[str, int]]) -> str:
    """Of (name, release) of members: what there is to say when they are not all the same. Empty when they are."""
    named: dict[int, list[str]] = {}
    for name, number in versions:
        if number:
            named.setdefault(number, []).append(name)
    if len(named) < 2:
        return ""
    parts = ", ".join(f"{text_of(number)} ({', '.join(sorted(names))})" for number, names in sorted(named.items()))
    if work_together(min(named), max(named)):
        return f"{parts}: an upgrade is under way"
    return f"{parts}: too far apart, only neighbouring minor releases are made to work together"
