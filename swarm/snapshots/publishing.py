"""A folder appears whole, or not at all: it is filled under another name, synced, and renamed.

What a process that was killed had begun is removed by the next one: whoever fills a folder holds a lock on it, and the kernel takes
the lock from the dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarm.snapshots.errors import SnapshotExists
from swarm.transactions.whole_writes import write_synced

BEGUN: Final = ".begun-by-swarm"
KEPT: Final = ".coming-by-swarm"
KEPT_S: Final = 7 * 86_400.0
"""So long what was interrupted waits for somebody to go on with it."""


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A folder to fill, which is ``target`` when the block ends well, and is gone when it does not.

    All files in it are synced, then the folder, then the rename, then the folder that it stands in. SnapshotExists when there is a
    ``target`` already; OSError.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise _exists(target)
    sweep(target.parent)
    folder, lock = _begun(target)
    try:
        yield folder
        _published(folder, lock, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def publishing_on(target: Path, tag: str) -> Iterator[Path]:
    """As `publishing`, but what is in the folder stays when the block ends badly or the process is killed: whoever publishes under the same
    ``tag`` goes on with it, and has to look what is good of it. What nobody goes on with for a week is removed.

    SnapshotExists also when somebody is at it at this moment.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise _exists(target)
    sweep(target.parent)
    folder = target.parent / f".{target.name}.{tag}{KEPT}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _locked_at_once(lock, target)
        os.utime(folder)
        try:
            yield folder
            _published(folder, lock, target)
        except BaseException:
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing has come
            raise
    finally:
        os.close(lock)


def _locked_at_once(lock: int, target: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SnapshotExists(
            f"{target} is on its way already, by another process", hint="wait for it", path=str(target)
        ) from None


def _published(folder: Path, lock: int, target: Path) -> None:
    for path in sorted(folder.iterdir()):
        sync(path)
    os.fsync(lock)
    try:
        os.rename(folder, target)
    except OSError:
        if target.exists():
            raise _exists(target) from None
        raise
    sync(target.parent)


def _begun(target: Path) -> tuple[Path, int]:
    while True:
        folder = target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}{BEGUN}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # between the making and the locking somebody took it for one of the dead


def sweep(parent: Path) -> list[Path]:
    """Remove what the dead have begun here, and what was interrupted too long ago; what was removed."""
    removed = []
    old = [path for path in parent.glob(f".*{KEPT}") if time.time() - path.stat().st_mtime > KEPT_S]
    for folder in sorted([*parent.glob(f".*{BEGUN}"), *old]):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
        except BlockingIOError:
            pass  # somebody fills it
        finally:
            os.close(lock)
    return removed


def sync(path: Path) -> None:
    """What is in this file or folder is on the disk. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes) -> None:
    """A new file with this content, synced. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_synced(fd, (data,))
    finally:
        os.close(fd)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing. OSError."""
    try:
        os.link(source, target)
    except OSError:
        if target.exists():
            raise
        shutil.copyfile(source, target)


def _exists(target: Path) -> SnapshotExists:
    return SnapshotExists(f"{target} is there already", hint="choose another name, or remove it", path=str(target))
