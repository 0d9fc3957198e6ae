"""What a node asks of its journal, wherever that keeps what it is told: files of its own, or a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Recovered


class AnyJournal(Protocol):
    """A journal that is open. All of it is called in one thread, but for `promise`, `give_back`, `bytes` and `full`.

    OSError from any of it: what is on the disk is not known, and the process has to end.
    """

    full: bool
    """Entries were refused for want of space; `try_again` says when there is some."""
    damaged_at_start: tuple[bytes, ...]
    """Groups of which damage was found for the first time."""

    def take_recovered(self) -> Mapping[bytes, Recovered]:
        """What was found of each group; it is not kept."""

    def commit(self, writes: Sequence[Write]) -> dict[bytes, Recovered]:
        """Writes all of it; it is on the disk when this returns. Groups that have to begin anew, with what is there of them: there
        was no space for what was to be written, or what they had has rotted."""

    def settle(self) -> dict[bytes, Recovered]:
        """What could wait until those who wait for a commit were told. As `commit` otherwise."""

    def idle(self) -> dict[bytes, Recovered]:
        """Nothing is to be written for a moment. As `commit` otherwise."""

    def try_again(self) -> bool:
        """Whether there is space again after entries were refused."""

    def promise(self, size: int) -> int:
        """Promises room for so many bytes; 0: there is none. What it returns is given back by `give_back`. Of any thread."""

    def give_back(self, cost: int) -> None:
        """Of any thread."""

    def read(self, group: bytes) -> Recovered:
        """What is on disk of a group."""

    @property
    def where(self) -> str:
        """Where it is, for people; without secrets."""

    @property
    def groups(self) -> list[bytes]:
        """Of which something is on disk, sorted."""

    @property
    def bytes(self) -> int:
        """That it takes."""

    def compact(self) -> None:
        """Writes all that is needed anew and removes the rest."""

    def close(self) -> None:
        """All is written: notes that, and lets others open it."""

    def abandon(self) -> None:
        """Lets it be as it is."""
