"""What the transactions nested in one another share: their directory, its lock, and the place where files are staged."""

from __future__ import annotations

import os
import shutil
import stat

from . import applying, fences
from .disk import COMMITTED, JOURNAL, JOURNAL_MAKING, PRIVATE, STAGE, VAULT, Disk
from .errors import TransactionError, TransactionFenced
from .lock import Lock
from .overlay import Layer
from .plan import Step
from .planning import plan_of


class Session:
    """What the transactions nested in one another share: the directory, its lock, and what is staged."""

    def __init__(self, root: str) -> None:
        if not os.path.isdir(root):
            raise no_directory(root)
        self.root = root
        self.pid = os.getpid()
        self.disk = Disk(root)
        self.lock = Lock(root)
        self.attempt = fences.current_attempt()
        self.task = self.attempt[0] if self.attempt is not None else ""
        self._holds = False
        self._count = 0
        self._folder_mode: int | None = None

    def prepare(self, says: bool = True) -> None:
        """Make the private folder, and say which attempt this is, before waiting for anybody."""
        try:
            if not self.disk.is_there(PRIVATE):
                os.makedirs(self.path(PRIVATE), mode=0o700, exist_ok=True)
                self.disk.sync("")
            if not self.disk.is_folder(PRIVATE):
                raise TransactionError(f"{self.path(PRIVATE)} is not a folder", hint="remove it")
            if says and self.attempt is not None:
                fences.say(self.disk, *self.attempt)
        except OSError as error:
            raise TransactionError(
                f"no transaction can be begun on {self.root}: {error.strerror or error}",
                hint="the directory has to be writable, and to have some space",
            ) from error

    def recover(self) -> str:
        """With the lock held: end what was interrupted, and have empty folders to stage in."""
        self._holds = True
        said = applying.recover(self.disk)
        self._clear()
        for folder in (STAGE, VAULT):
            if not self.disk.is_there(folder):
                os.mkdir(self.path(folder), 0o700)
        return said

    def has_committed(self) -> bool:
        """Whether an earlier attempt of this task committed here."""
        if self.attempt is None:
            return False
        task, token = self.attempt
        known = fences.load(self.disk, COMMITTED).get(task)
        return known is not None and fences.later(token, known)

    def path(self, name: str) -> str:
        """A name as a path."""
        return os.path.join(self.root, name) if name else self.root

    def new_stage(self, called: str) -> str:
        """A name to stage a file at; with a folder of its own if it is to be `called` something."""
        self._count += 1
        name = f"{STAGE}/{self._count}"
        if called:
            os.mkdir(self.path(name), 0o700)
            name = f"{name}/{called}"
        return name

    def copy(self, source: str, stage: str, mode: int, contents: bool) -> None:
        """Stage a file as it is at `source`, a name or an absolute path; empty unless `contents`. Its owner may write it."""
        source, stage = self.path(source), self.path(stage)
        if contents:
            shutil.copyfile(source, stage, follow_symlinks=False)
        else:
            with open(stage, "xb"):
                pass
        os.chmod(stage, mode | 0o600)
        about = os.stat(source)
        if (about.st_uid, about.st_gid) != (os.geteuid(), os.getegid()) and hasattr(os, "chown"):
            try:
                os.chown(stage, about.st_uid, about.st_gid)
            except PermissionError:
                pass  # as with every program that writes a file anew: it is ours then
            os.chmod(stage, mode | 0o600)  # which a change of owner may take bits from

    def folder_mode(self) -> int:
        """The mode that new folders have here, by the umask."""
        if self._folder_mode is None:
            probe = self.path(f"{STAGE}/probe")
            os.mkdir(probe)
            self._folder_mode = stat.S_IMODE(os.stat(probe).st_mode) & 0o777
            os.rmdir(probe)
        return self._folder_mode

    def commit(self, layer: Layer) -> None:
        """Make a layer true."""
        steps, settles = plan_of(self.disk, layer)
        if self.attempt is None:
            if steps:
                applying.commit(self.disk, settles())
            return
        task, token = self.attempt
        with fences.held(self.disk):
            newest = fences.newest(self.disk, task)
            if newest is not None and fences.later(newest, token):
                raise TransactionFenced(
                    f"a later attempt of task {task} has begun on {self.root}: this one must not change it",
                    hint="nothing was applied; the later attempt's outcome is the one that counts",
                    token=token,
                    newest=newest,
                )
            if steps:
                table = fences.keep(fences.load(self.disk, COMMITTED), task, token)
                self.disk.write(f"{STAGE}/committed", fences.encode(table))
                applying.commit(self.disk, [*settles(), *_ledger_step(self.disk)])

    def close(self) -> None:
        """Forget what is staged, and let the next one in."""
        if self.pid != os.getpid():
            return
        try:
            if self._holds:
                self._clear()
        except OSError:
            pass  # the next opening clears up
        finally:
            self._holds = False
            self.lock.release()
            self.disk.close()

    def _clear(self) -> None:
        # After a commit that is undecided the journal is there, and needs all of it.
        if not self.disk.is_there(JOURNAL):
            for folder in (STAGE, VAULT):
                shutil.rmtree(self.path(folder), ignore_errors=True)
            self.disk.unlink(JOURNAL_MAKING)


def _ledger_step(disk: Disk) -> list[Step]:
    size, digest = disk.checked(f"{STAGE}/committed")
    keep = f"{VAULT}/committed" if disk.is_there(COMMITTED) else ""
    return [Step("place", COMMITTED, f"{STAGE}/committed", keep, size=size, digest=digest)]


def no_directory(root: str) -> TransactionError:
    """The error of a directory that there is not."""
    return TransactionError(f"{root} is not a directory", hint="make it before a transaction is opened on it")
