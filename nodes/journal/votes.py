"""The two state files: written in turn, so that one is whole at any moment."""

from __future__ import annotations

from nodes.journal.files import STATES, File, Files
from nodes.journal.stamps import BLOCK
from nodes.journal.state import State

STATE_BYTES = 64 * BLOCK
"""Room at first, for a few thousand votes; they grow."""


class StateFiles:
    """Both of them."""

    def __init__(self, files: Files, state: State, newer: int) -> None:
        self.state = state
        self._files = files
        self._open: list[File] = []
        self._next = 1 - newer

    @classmethod
    def make(cls, files: Files, state: State) -> StateFiles:
        """New ones, in a directory that has none."""
        for name in files.names():
            if name.startswith("new-"):
                files.remove(name)
        for name in STATES:
            file = files.create(f"new-{name}", STATE_BYTES)
            try:
                file.write(0, state.pack())
                file.sync()
            finally:
                file.close()
        for name in STATES:
            files.rename(f"new-{name}", name)
        files.sync()
        made = cls(files, state, 0)
        made.reach()
        return made

    def reach(self) -> None:
        """Opens both; one that is gone is made again."""
        names = self._files.names()
        for name in STATES:
            if name not in names:
                self._files.create(name, STATE_BYTES).close()
            self._open.append(self._files.open(name, write=True))

    def write(self) -> None:
        """The state as it is now is on the disk, in one of the two."""
        self.state.generation += 1
        file = self._open[self._next]
        file.write(0, self.state.pack())
        file.sync()
        self._next = 1 - self._next

    def write_both(self) -> None:
        """In both: what neither says can be given up."""
        self.write()
        self.write()
        self._files.sync()

    def close(self) -> None:
        """Closes both."""
        for file in self._open:
            file.close()
        self._open.clear()
