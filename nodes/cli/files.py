"""Files that a command writes: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from swarm.errors import SystemRefused


def write_whole(where: str | Path, *content: bytes | bytearray | memoryview) -> None:
    """Write a file so that there is the old one or the new one, also when the disk is full, or this is ended meanwhile.

    What is no regular file (a pipe, `/dev/stdout`) is written to as it stands. Raises SystemRefused naming the file.
    """
    path = Path(os.path.realpath(where))
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                for part in content:
                    file.write(part)
            return
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with open(descriptor, "wb") as file:
                for part in content:
                    file.write(part)
                file.flush()
                os.fsync(descriptor)
            os.chmod(temporary, mode)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise SystemRefused(
            f"cannot write {where}: {error.strerror}",
            hint="check its folder, its owner and the free space; what was there before is untouched", path=str(where),
        ) from error  # fmt: skip


def check_writable(where: str | Path) -> None:
    """Find out before the work whether its result can be written. Raises SystemRefused."""
    path = Path(os.path.realpath(where))
    folder = path.parent
    if path.is_dir():
        why = "it is a folder"
    elif not folder.is_dir():
        why = f"there is no folder {folder}"
    elif path.exists() and not path.is_file():
        return
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = f"nothing can be written in {folder}"
    else:
        return
    raise SystemRefused(f"cannot write {where}: {why}", hint="name another file", path=str(where))


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
