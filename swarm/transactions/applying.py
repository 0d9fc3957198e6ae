"""Applying a plan, taking it back, and doing either after the process or the machine went away in the middle.

The journal's rename is the moment of the commit. From then on each step can be done or undone from whatever is there, and
doing it twice does no harm: which of the two versions of a file is where says how far it is (ARIES calls these redo and
undo; C. Mohan et al., 1992). A place step goes from "staged, the original at its name" over "the original has a second
name in the vault" to "the staged file is at the name". Recovery goes forward, unless what would be put in place is not
what was staged; then it goes back.
"""

from __future__ import annotations

import errno
from typing import Protocol

from .disk import COMMITTED, JOURNAL, JOURNAL_MAKING, PRIVATE, STAGE, VAULT, parent_of
from .errors import TransactionUndecided
from .plan import JOURNAL_BYTES_MAX, Step, decode, encode

INTERRUPTS_MAX = 100


class Place(Protocol):
    """What :class:`swarm.transactions.disk.Disk` offers; tests have another one that loses what is not synced."""

    def is_there(self, name: str) -> bool: ...
    def is_folder(self, name: str) -> bool: ...
    def is_same(self, one: str, other: str) -> bool: ...
    def rename(self, old: str, new: str) -> None: ...
    def link(self, old: str, new: str) -> bool: ...
    def copy(self, old: str, new: str) -> None: ...
    def unlink(self, name: str) -> None: ...
    def mkdir(self, name: str, mode: int) -> None: ...
    def rmdir(self, name: str) -> None: ...
    def chmod(self, name: str, mode: int) -> None: ...
    def sync(self, name: str) -> None: ...
    def write(self, name: str, data: bytes) -> None: ...
    def read(self, name: str, bytes_max: int) -> bytes: ...
    def checked(self, name: str) -> tuple[int, str]: ...


def commit(disk: Place, steps: list[Step]) -> None:
    """Make a plan true, all of it or nothing. What it stages is on the disk already.

    OSError and what interrupts (KeyboardInterrupt and others): nothing was applied, but for an interrupt that comes after
    the last step: then all was, and it is raised nevertheless. TransactionUndecided: the next recovery decides.
    """
    try:
        disk.write(JOURNAL_MAKING, encode(steps))
        disk.rename(JOURNAL_MAKING, JOURNAL)
        disk.sync(PRIVATE)
        forward(disk, steps)
    except BaseException as error:
        _take_back(disk, steps, error)
        raise
    _settled(disk)


def recover(disk: Place) -> str:
    """End what an interrupted commit left: "completed", "undone", or "nothing" when there was none."""
    if not disk.is_there(JOURNAL):
        return "nothing"
    steps = decode(disk.read(JOURNAL, JOURNAL_BYTES_MAX))
    if _is_whole(disk, steps):
        try:
            forward(disk, steps)
        except OSError as error:
            _take_back(disk, steps, error)
            return "undone"
        _finish(disk)
        return "completed"
    backward(disk, steps)
    _finish(disk)
    return "undone"


def forward(disk: Place, steps: list[Step]) -> None:
    """Do what is not done yet."""
    for step in steps:
        # A staged file that is gone is in its place already, and what was there is kept.
        if step.do == "place" and step.keep and disk.is_there(step.stage) and not disk.is_there(step.keep):
            _second_name(disk, step.name, step.keep)
    disk.sync(VAULT)
    for step in steps:
        if step.do == "remove":
            if not disk.is_there(step.keep) and disk.is_there(step.name) and not disk.is_folder(step.name):
                disk.rename(step.name, step.keep)
        elif step.do == "rmdir":
            if disk.is_folder(step.name):
                disk.rmdir(step.name)
        elif step.do == "mkdir":
            if not disk.is_folder(step.name):
                disk.mkdir(step.name, 0o700)
        elif step.do == "chmod":
            disk.chmod(step.name, step.mode)
        elif disk.is_there(step.stage):
            if disk.is_same(step.stage, step.name):
                disk.unlink(step.stage)  # rename(2) does nothing with two names of one file
            else:
                disk.rename(step.stage, step.name)
    _sync_all(disk, steps)


def backward(disk: Place, steps: list[Step]) -> None:
    """Undo what is done, in the other order."""
    for step in reversed(steps):
        if step.do == "chmod":
            if disk.is_folder(step.name):
                disk.chmod(step.name, step.was)
        elif step.do == "mkdir":
            if disk.is_folder(step.name):
                try:
                    disk.rmdir(step.name)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise  # somebody else has put something there: that is not ours to remove
        elif step.do == "rmdir":
            if not disk.is_folder(step.name):
                disk.mkdir(step.name, step.was)
        elif step.do == "remove":
            if disk.is_there(step.keep) and not disk.is_there(step.name):
                disk.rename(step.keep, step.name)
        else:
            _unplace(disk, step)
    _sync_all(disk, steps)


def _unplace(disk: Place, step: Step) -> None:
    staged = disk.is_there(step.stage)
    if not step.keep:
        if not staged and disk.is_there(step.name):
            disk.rename(step.name, step.stage)
        return
    if not disk.is_there(step.keep):
        return  # not begun, or undone
    if not staged and disk.is_there(step.name) and not disk.link(step.name, step.stage):
        disk.rename(step.name, step.stage)
    if disk.is_same(step.keep, step.name):
        disk.unlink(step.keep)
    else:
        disk.rename(step.keep, step.name)


def _second_name(disk: Place, name: str, keep: str) -> None:
    if not disk.is_there(name):
        return  # somebody removed it meanwhile
    if not disk.link(name, keep):
        disk.copy(name, keep)


def _is_whole(disk: Place, steps: list[Step]) -> bool:
    """Whether every new version is what was staged, wherever it is now."""
    for step in steps:
        if step.do == "place":
            at = step.stage if disk.is_there(step.stage) else step.name
            try:
                if not disk.is_there(at) or disk.checked(at) != (step.size, step.digest):
                    return False
            except PermissionError:
                pass  # a file that is not to be read even by its owner: its name is all that can be checked
    return True


def _settled(disk: Place) -> None:
    """All is applied, and stays so: only the journal is left to be removed."""
    late: BaseException | None = None
    for _ in range(INTERRUPTS_MAX):
        try:
            _finish(disk)
            break
        except OSError as error:
            raise TransactionUndecided(
                f"the commit was applied, but its journal could not be removed: {error}",
                hint="see to the disk, then open the directory again, or StateTransaction.recover() it",
            ) from error
        except BaseException as error:
            late = error
    if late is not None:
        raise late


def _take_back(disk: Place, steps: list[Step], why: BaseException) -> None:
    for _ in range(INTERRUPTS_MAX):
        try:
            if disk.is_there(JOURNAL):
                backward(disk, steps)
                _finish(disk)
            return
        except Exception as error:
            raise TransactionUndecided(
                f"the commit failed ({why}), and so did taking it back ({error})",
                hint="see to the disk, then open the directory again, or StateTransaction.recover() it: all or nothing then",
            ) from why
        except BaseException:  # noqa: S112 - somebody is impatient, and will be told once nothing is half done
            continue
    raise TransactionUndecided(
        "taking the commit back was interrupted again and again",
        hint="open the directory again, or StateTransaction.recover() it",
    ) from why


def _finish(disk: Place) -> None:
    disk.unlink(JOURNAL)
    disk.sync(PRIVATE)


def _sync_all(disk: Place, steps: list[Step]) -> None:
    folders = {parent_of(step.name) for step in steps if step.name != COMMITTED}
    folders.update(step.name for step in steps if step.do in ("mkdir", "chmod", "rmdir"))
    for folder in sorted(folders):
        disk.sync(folder)
    disk.sync(STAGE)
    disk.sync(VAULT)
