"""Files that only their owner may read: written whole or not at all, checked on the way back in.

Each has one line before its content, ``swarm KIND 1 CHECK`` with the head of blake3 of the content, so that a file
that was cut, garbled or put in the wrong place is found when it is read and not when it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from blake3 import blake3

from transport import bounds


class FleetError(Exception):
    """Something about the files of a fleet, or its tokens, is not as it must be.

    ``reason`` is a short code (``missing unreadable unwritable permissions damaged locked exists wrong-fleet not-admin
    not-enrolled revoked expired bad-name token-…``), ``hint`` says what to do, ``path`` is the file or directory
    concerned.
    """

    def __init__(self, reason: str, message: str, hint: str = "", path: Path | None = None, **facts: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.hint = hint
        self.path = path
        self.facts = facts


def write_private(path: Path, kind: str, content: bytes) -> None:
    """Write a file (0600) so that after a crash there is the old one or the new one. Raises `FleetError`
    (``unwritable``).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(_head(kind, content) + content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise FleetError(
            "unwritable", f"cannot write {path}: {error.strerror}", "check owner and free space", path
        ) from error


def read_private(path: Path, kind: str) -> bytes:
    """The content of a file that `write_private` wrote.

    Raises `FleetError`: ``missing``, ``unreadable``, ``permissions`` (others could read or write it), ``damaged``.
    """
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            check_private(path, facts, 0o077)
            data = file.read(bounds.PRIVATE_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise FleetError("missing", f"{path} does not exist", "", path) from error
    except OSError as error:
        raise FleetError(
            "unreadable", f"cannot read {path}: {error.strerror}", f"chown or chmod it: `chmod 600 {path}`", path
        ) from error
    head, newline, content = data.partition(b"\n")
    if not newline or head + newline != _head(kind, content) or len(data) > bounds.PRIVATE_FILE_BYTES_MAX:
        raise FleetError(
            "damaged",
            f"{path} is damaged, or is no {kind} file of this version",
            f"restore it from a backup, or move {path.parent} away and join again",
            path,
        )
    return content


def check_private(path: Path, facts: os.stat_result, forbidden: int) -> None:
    """Raise `FleetError` (``permissions``) unless the file is ours and none of the forbidden mode bits is set."""
    if facts.st_uid != os.geteuid():
        raise FleetError(
            "permissions",
            f"{path} belongs to user {facts.st_uid}, not to {os.geteuid()}",
            f"`chown {os.geteuid()} {path}`",
            path,
        )
    if stat.S_IMODE(facts.st_mode) & forbidden:
        mode = "700" if stat.S_ISDIR(facts.st_mode) else "600"
        raise FleetError(
            "permissions",
            f"{path} is open to other users (mode {stat.S_IMODE(facts.st_mode):03o})",
            f"`chmod {mode} {path}`; if others use this machine, revoke what they may have read",
            path,
        )


def there(path: Path) -> bool:
    """Whether there is such a file. Raises `FleetError` (``unreadable``) when that cannot even be asked."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise FleetError(
            "unreadable", f"cannot look at {path}: {error.strerror}", "check owner and mode", path
        ) from error
    return True


def last_written_s(*directories: Path) -> float:
    """When something in these directories was last written, by the wall clock of then; 0 when there is nothing."""
    latest = 0.0
    for directory in directories:
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    latest = max(latest, entry.stat(follow_symlinks=False).st_mtime)
    return latest


def make_private_directory(path: Path) -> None:
    """Make a directory (0700) and its parents. One that is there already must be ours and not writable for others."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except OSError as error:
        raise FleetError(
            "unwritable", f"cannot make {path}: {error.strerror}", "check the path and its owner", path
        ) from error
    check_private(path, facts, 0o022)


def install_directory(path: Path, files: Mapping[str, tuple[str, bytes]]) -> None:
    """Make a directory with these files (name: kind, content) appear at once, complete. It must be absent or empty."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    make_private_directory(temporary)
    try:
        for name, (kind, content) in files.items():
            write_private(temporary / name, kind, content)
        os.rename(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise FleetError(
            "unwritable", f"cannot put {path} in place: {error.strerror}", f"move {path} away", path
        ) from error
    finally:
        if temporary.exists():
            for name in files:
                (temporary / name).unlink(missing_ok=True)
            temporary.rmdir()


def set_aside(path: Path, label: str) -> Path:
    """Rename a directory to ``NAME.LABEL.N`` beside it, and return where it is now. Nothing is ever deleted this
    way.
    """
    aside = next(p for p in (path.with_name(f"{path.name}.{label}.{n}") for n in itertools.count(1)) if not p.exists())
    try:
        os.rename(path, aside)
        sync_directory(path.parent)
    except OSError as error:
        raise FleetError(
            "unwritable", f"cannot move {path} aside: {error.strerror}", "move it yourself", path
        ) from error
    return aside


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, timeout_s: float = bounds.FILE_LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock that goes with a path (``.NAME.lock`` beside it) against other processes.

    Raises `FleetError` (``locked``) when another holds it for longer than that. The lock goes with its holder, however
    that ends.
    """
    beside = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise FleetError("unwritable", f"cannot open {beside}: {error.strerror}", "check its owner", beside) from error
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise FleetError(
                        "locked",
                        f"another process has held {beside} for {timeout_s:.0f} s",
                        f"see which: `fuser {beside}`",
                        beside,
                    ) from error
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def _head(kind: str, content: bytes) -> bytes:
    return f"swarm {kind} 1 {blake3(content).hexdigest(length=8)}\n".encode("ascii")
