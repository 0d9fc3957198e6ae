"""A directory with some of everything, a transaction that changes some of everything, and faults at its system calls."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from swarm.transactions import StateTransaction
from swarm.transactions.disk import PRIVATE

CHANGING = (
    "write", "pwrite", "ftruncate", "fsync", "rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "chmod", "fchmod", "chown",
)  # fmt: skip
CALLS = (*CHANGING, "open", "close", "read", "pread", "stat", "lstat", "fstat", "listdir", "scandir", "readlink")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A directory in memory where there is such a place: a sync costs nothing there."""
    shm = Path("/dev/shm")
    above = str(shm) if shm.is_dir() and os.access(shm, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="swarm-transactions-", dir=above))
    try:
        yield path
    finally:
        for inner, names, _ in os.walk(path):
            for name in names:
                os.chmod(os.path.join(inner, name), 0o700)
        shutil.rmtree(path)


def fill(root: Path) -> None:
    """What is there before."""
    root.mkdir(exist_ok=True)
    (root / "kept").write_text("kept")
    (root / "changed").write_text("old")
    (root / "changed").chmod(0o640)
    (root / "removed").write_text("old")
    (root / "tree" / "deep").mkdir(parents=True)
    (root / "tree" / "one").write_text("1")
    (root / "tree" / "deep" / "two").write_text("2")
    (root / "folder-to-file").mkdir()
    (root / "folder-to-file" / "inside").write_text("i")
    (root / "file-to-folder").write_text("f")
    (root / "closed").mkdir(mode=0o755)
    (root / "link").symlink_to("kept")


def change(tx: StateTransaction) -> None:
    """What the transaction does."""
    tx.write_text("changed", "new")
    tx.remove("removed")
    tx.remove("link")
    tx.rename("tree", "moved")
    tx.write_text("moved/deep/two", "two")
    tx.remove_tree("folder-to-file")
    tx.write_text("folder-to-file", "file")
    tx.remove("file-to-folder")
    tx.mkdir("file-to-folder")
    tx.write_text("file-to-folder/inside", "inside")
    tx.mkdir("made/below", parents=True)
    tx.write_bytes("made/below/file", bytes(range(256)))
    tx.chmod("closed", 0o700)


def image(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """All that is in a directory, but for what is the transactions' own: name -> (kind, mode, contents)."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.split("/")[0] == PRIVATE:
            continue
        about = path.lstat()
        mode = stat.S_IMODE(about.st_mode)
        if stat.S_ISLNK(about.st_mode):
            found[name] = ("link", 0, os.fsencode(os.readlink(path)))
        elif stat.S_ISDIR(about.st_mode):
            found[name] = ("folder", mode, b"")
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found


def before_and_after(
    root: Path, fills: Callable[[Path], None] = fill, changes: Callable[[StateTransaction], None] = change
) -> tuple[dict[str, tuple[str, int, bytes]], dict[str, tuple[str, int, bytes]]]:
    """The images that are allowed."""
    fills(root)
    before = image(root)
    with StateTransaction(root) as tx:
        changes(tx)
    after = image(root)
    assert before != after
    shutil.rmtree(root)
    return before, after


def private(root: Path) -> tuple[object, ...]:
    """What of the transactions' own is there, with what decides about recovery: journal, staged files, originals."""
    own = root / PRIVATE
    return tuple(
        (str(path.relative_to(own)), path.read_bytes() if path.is_file() and path.name != "lock" else b"")
        for path in sorted(own.rglob("*"))
    )


def trapped(names: tuple[str, ...], at: int, trap: Callable[[], None]) -> Callable[[], int]:
    """Have `trap` called before the `at`-th of these functions of `os`; returns how many were called so far.

    For a process of its own: the module is left as it is then.
    """
    count = 0

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == at:
                trap()
            return real(*args, **kwargs)

        return call

    for name in names:
        setattr(os, name, wrapped(getattr(os, name)))
    return lambda: count


def killed(act: Callable[[], None], at: int, names: tuple[str, ...] = CALLS) -> bool:
    """Have a child do something and be killed before its `at`-th call. False when it came to its end first."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            trapped(names, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            act()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    if os.WIFSIGNALED(ended):
        assert os.WTERMSIG(ended) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(ended) == 0, "the child failed"
    return False
