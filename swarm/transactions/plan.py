"""The plan of a commit: its steps in order, and how they are written into the journal.

A journal is one line of JSON and one line with its checksum. It is written beside, synced and renamed, so that it is
there as a whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .disk import COMMITTED, PRIVATE, digest_of
from .errors import TransactionDamaged

VERSION = 1
JOURNAL_BYTES_MAX = 256 * 1024 * 1024
_KINDS = ("remove", "rmdir", "mkdir", "place", "chmod")


@dataclass(frozen=True)
class Step:
    """One change. `name` is what is changed.

    remove: `name`, which is no folder, goes to `keep`. rmdir: the folder `name` goes; `was` is its mode.
    mkdir: a folder, open to its owner alone until its own chmod. chmod: a folder's mode from `was` to `mode`.
    place: the file `stage` (`size` bytes, `digest`) becomes `name`; what was there is kept at `keep`, which is "" when
    there was nothing.
    """

    do: str
    name: str
    stage: str = ""
    keep: str = ""
    mode: int = 0
    was: int = 0
    size: int = 0
    digest: str = ""


def encode(steps: list[Step]) -> bytes:
    """The bytes of a journal."""
    rows = [{key: value for key, value in asdict(step).items() if value not in ("", 0)} for step in steps]
    line = json.dumps({"version": VERSION, "steps": rows}, separators=(",", ":")).encode()
    return line + b"\n" + digest_of(line).encode() + b"\n"


def decode(data: bytes) -> list[Step]:
    """The steps of a journal. TransactionDamaged when it is not one, or names anything outside of the directory."""
    line, _, rest = data.partition(b"\n")
    if len(data) > JOURNAL_BYTES_MAX or rest != digest_of(line).encode() + b"\n":
        raise _damaged("its checksum does not match")
    try:
        fields = json.loads(line)
        if fields["version"] != VERSION:
            raise _damaged(f"it is of version {fields['version']!r}, and this is {VERSION}")
        steps = [Step(**row) for row in fields["steps"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"it is malformed: {error}") from None
    for step in steps:
        _check(step)
    return steps


def _check(step: Step) -> None:
    texts: tuple[Any, ...] = (step.do, step.name, step.stage, step.keep, step.digest)
    numbers: tuple[Any, ...] = (step.mode, step.was, step.size)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise _damaged("a field is of a wrong type")
    if step.do not in _KINDS or step.size < 0 or not (0 <= step.mode < 0o10000 and 0 <= step.was < 0o10000):
        raise _damaged(f"there is a step {step.do!r} that is none")
    if (not _is_inside(step.name) or step.name.split("/")[0] == PRIVATE) and not (
        step.do == "place" and step.name == COMMITTED
    ):
        raise _damaged(f"it names {step.name!r}")
    for private in (step.stage, step.keep):
        if private and (not _is_inside(private) or not private.startswith((PRIVATE + "/stage/", PRIVATE + "/vault/"))):
            raise _damaged(f"it names {private!r}")
    if (step.do == "place" and not step.stage) or (step.do == "remove" and not step.keep):
        raise _damaged(f"the step of {step.name!r} lacks something")


def _is_inside(name: str) -> bool:
    return bool(name) and "\0" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def _damaged(why: str) -> TransactionDamaged:
    return TransactionDamaged(
        f"the journal of an interrupted commit cannot be used: {why}",
        hint=f"look at {PRIVATE}/: stage/ has the new versions, vault/ the old ones; remove the folder when all is well",
    )
