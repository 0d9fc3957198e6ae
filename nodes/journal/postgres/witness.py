"""A small file in the directory of a node's journal, when that is in a database: which it is, and a commit that it has.

By it a node whose setting was taken away does not begin a second journal, and a database that was restored from a backup, or is
another one, is not taken for its own: a node that forgets a vote could give it twice.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.files import WITNESS
from swarm.paths import private_directory


@dataclass(slots=True)
class Witness:
    """What it says. Texts are in hexadecimal."""

    fleet: str
    node: str
    journal: str
    """Of this very journal: random."""
    commit: int
    """That was on the disk of the database."""
    database: str
    """Where, for people; without secrets."""

    @classmethod
    def read(cls, directory: Path) -> Witness | None:
        """None if there is none. JournalRefused if it cannot be read."""
        try:
            found = json.loads((directory / WITNESS).read_bytes())
            return cls(*(kind(found[key]) for key, kind in _FIELDS.items()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JournalRefused(
                Reason.UNREADABLE,
                f"{directory / WITNESS} can not be read: {getattr(error, 'strerror', None) or 'it is not whole'}",
                hint="put it back from a copy; without it nobody knows which database has this node's journal",
            ) from None

    def write(self, directory: Path) -> None:
        """It is on the disk when this returns."""
        private_directory(directory)
        new = directory / f"new-{WITNESS}"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, directory / WITNESS)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_FIELDS: Final = {"fleet": str, "node": str, "journal": str, "commit": int, "database": str}
