"""Directories of one process: locked as long as it lives, so that whoever comes later knows which are left over."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

from swarm.errors import SystemRefused
from swarm.paths import private_directory

MAKING_ATTEMPTS_MAX = 10
MAKING_MAX_S = 60.0


def make(parent: Path, name: str) -> Path:
    """A directory of this process under `parent` (0700), which is cleared of those whose processes are gone.

    `name` is only what it begins with. SystemRefused when it cannot be made.
    """
    # The lock's descriptor stays open as long as the process lives: that is what says that the directory is in use.
    directory = _locked(parent, f"{name}-{os.getpid()}-{os.urandom(4).hex()}")
    for other in parent.iterdir():
        if other != directory:
            _clear_stale(other)
    return directory


def clear_stale(parent: Path) -> None:
    """Remove the directories under `parent` whose processes are gone, and it itself when none is left.

    Nothing is touched where `parent` is not a directory of this user's own.
    """
    with contextlib.suppress(OSError):
        about = parent.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
            for other in parent.iterdir():
                _clear_stale(other)
            parent.rmdir()


def remove(directory: Path) -> None:
    """Remove a directory that `make` made, and its parent when no other process has one there."""
    clear(directory)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()


def clear(directory: Path) -> None:
    """Remove a directory with all that is in it, write-protected parts included, as far as the system lets us."""

    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        with contextlib.suppress(OSError):
            os.chmod(directory, 0o700)
        for folder, names, _ in os.walk(directory):
            for path in (os.path.join(folder, name) for name in names):
                with contextlib.suppress(OSError):
                    if not os.path.islink(path):  # before it is walked into: it may be closed to ourselves
                        os.chmod(path, 0o700)
        shutil.rmtree(directory, ignore_errors=True)


def _locked(parent: Path, name: str) -> Path:
    """Make a directory and lock it, though processes that end or clear up may remove it while it is being made."""
    directory = parent / name
    for _ in range(MAKING_ATTEMPTS_MAX):
        private_directory(parent)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SystemRefused(
                f"can not make the directory {directory}: {error.strerror or error}",
                hint="free some space there",
                path=str(directory),
            ) from error
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return directory
        os.close(descriptor)
    raise SystemRefused(f"{directory} is removed again and again", hint="is something clearing it? Start once more")


def _clear_stale(directory: Path) -> None:
    """Remove a directory whose process is gone: nobody holds its lock."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        with contextlib.suppress(OSError):  # without a lock: either just being made, or half removed long ago
            if time.time() - directory.stat().st_mtime > MAKING_MAX_S:
                clear(directory)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # With the lock held: who is about to take it finds it removed then, and makes another.
        clear(directory)
    except OSError:
        pass  # in use
    finally:
        os.close(descriptor)
