"""StateTransaction: changes of files under one directory that become true together, or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Any, Union

from .disk import PRIVATE, parent_of
from .errors import PathRefused, TransactionBusy, TransactionError
from .overlay import ABSENT, FILE, FOLDER, LINK, OTHER, Entry, Layer, View
from .session import Session, no_directory

Path = Union[str, "os.PathLike[str]"]

WAIT_S = 30.0
"""How long a transaction waits for another one on its directory, where nothing is said."""
HANDLES_MAX = 256

_current: ContextVar[StateTransaction | None] = ContextVar("swarm_transaction", default=None)


class StateTransaction:
    """Changes of files under `directory` that become true together when the block ends well, or not at all.

    >>> with swarm.StateTransaction("state") as tx:                       # doctest: +SKIP
    ...     tx.write_text("total.txt", str(int(tx.read_text("total.txt")) + 1))
    ...     tx.rename("new.csv", "done/new.csv")

    Nothing in the directory changes before the end. An exception (what cancels a task included), and the death of the
    process or of the machine, leave everything as it was; once the end is reached, even a machine that dies in the
    middle of it leaves everything done, as soon as the directory is opened again (or :meth:`recover`). What is read
    through the transaction has its own changes. Only files under the directory, on its filesystem: PathRefused for what
    leads elsewhere, symbolic links included.

    Within a transaction on the same directory, in the same thread or coroutine, another one is nested: its end makes its
    changes part of the outer one, its failure takes back only its own. Otherwise transactions on one directory exclude each
    other: the second waits for at most `timeout_s` seconds (None: for ever), then raises TransactionBusy.

    Also an ``async with``. One thread uses it at a time.
    """

    def __init__(self, directory: Path, *, timeout_s: float | None = WAIT_S) -> None:
        self.directory = os.path.realpath(os.fsdecode(os.fspath(directory)))
        self._committed_before = False
        self._timeout_s = timeout_s
        self._state = "new"
        self._outer: StateTransaction | None = None
        self._inner: StateTransaction | None = None
        self._before: StateTransaction | None = None
        self._session: Session | None = None
        self._view: View | None = None
        self._layer = Layer(None)
        self._handles: list[IO[Any]] = []

    # --- beginning and end --------------------------------------------------------------------------------------------

    def begin(self) -> StateTransaction:
        """Begin, as ``with`` does. An interrupted commit of before is ended first."""
        if not self._nested_begin():
            session = Session(self.directory)
            try:
                session.prepare()
                session.lock.take(self._timeout_s, session.task)
                self._opened(session)
            except BaseException:
                session.close()
                raise
        return self

    async def begin_async(self) -> StateTransaction:
        """As `begin`; other coroutines run while it waits."""
        if not self._nested_begin():
            session = Session(self.directory)
            try:
                session.prepare()
                await session.lock.take_async(self._timeout_s, session.task)
                self._opened(session)
            except BaseException:
                session.close()
                raise
        return self

    def commit(self) -> None:
        """Make the changes true; or part of the outer transaction. When it raises nothing was applied (TransactionUndecided
        excepted), and the transaction is over."""
        session = self._usable()
        try:
            self._close_handles()
            if self._outer is not None:
                self._layer.merge()
            else:
                session.commit(self._layer)
        except BaseException:
            self._end("rolled back")
            raise
        self._end("committed")

    def rollback(self) -> None:
        """Drop the changes."""
        if self._state == "open":
            if self._inner is not None:
                self._inner.rollback()
            self._end("rolled back")

    def nested(self) -> StateTransaction:
        """A transaction within this one, to be used in a ``with``."""
        self._usable()
        inner = StateTransaction(self.directory)
        inner._outer = self
        return inner

    @classmethod
    def current(cls) -> StateTransaction | None:
        """The innermost transaction that the caller is in."""
        found = _current.get()
        return found if found is not None and found._state == "open" else None

    @staticmethod
    def recover(directory: Path, *, timeout_s: float | None = WAIT_S) -> str:
        """End what a commit left that was interrupted: "completed", "undone", or "nothing" when there was none.

        Opening a transaction does it, too; this is for those who read the files without one. Waits for a transaction
        that is open. TransactionDamaged when what was left cannot be trusted; nothing is touched then.
        """
        root = os.path.realpath(os.fsdecode(os.fspath(directory)))
        if not os.path.isdir(os.path.join(root, PRIVATE)):
            if not os.path.isdir(root):
                raise no_directory(root)
            return "nothing"
        session = Session(root)
        try:
            session.prepare(says=False)
            session.lock.take(timeout_s, "")
            return session.recover()
        finally:
            session.close()

    def __enter__(self) -> StateTransaction:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state != "open":
            return  # ended by hand
        if self._session is not None and self._session.pid != os.getpid():
            self._state = (
                "forked"  # a child that a fork made has the block's end, too; the parent's is the one that counts
            )
            return
        if kind is None:
            self.commit()
        else:
            self.rollback()

    async def __aenter__(self) -> StateTransaction:
        return await self.begin_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    @property
    def committed_before(self) -> bool:
        """Whether an earlier attempt of this very task has committed here, and its outcome was lost with its node."""
        return self._committed_before

    # --- reading ------------------------------------------------------------------------------------------------------

    def exists(self, name: Path) -> bool:
        """Whether there is anything."""
        view = self._looking()
        return view.kind(view.resolve(name)) != ABSENT

    def is_file(self, name: Path) -> bool:
        """Whether it is a file."""
        view = self._looking()
        return view.kind(view.resolve(name)) == FILE

    def is_dir(self, name: Path) -> bool:
        """Whether it is a folder."""
        view = self._looking()
        return view.kind(view.resolve(name)) == FOLDER

    def listdir(self, name: Path = "") -> list[str]:
        """What is in a folder, sorted."""
        view = self._looking()
        found = view.resolve(name)
        self._must_be(found, FOLDER)
        return view.names(found)

    def walk(self, name: Path = "") -> Iterator[str]:
        """The files below a folder, as names relative to the directory, sorted."""
        view = self._looking()
        found = view.resolve(name)
        self._must_be(found, FOLDER)
        return iter(sorted(one for one in view.tree(found) if view.kind(one) == FILE))

    def read_bytes(self, name: Path) -> bytes:
        """A file's contents."""
        with self.open(name, "rb") as file:
            data: bytes = file.read()
        return data

    def read_text(self, name: Path, encoding: str = "utf-8") -> str:
        """A file's contents as text."""
        with self.open(name, "r", encoding=encoding) as file:
            text: str = file.read()
        return text

    # --- changing -----------------------------------------------------------------------------------------------------

    def open(
        self,
        name: Path,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """As the built-in `open`. What is still open at the end is closed then."""
        session, view = self._usable(), self._looking()
        found = view.resolve(name)
        writes = bool(set(mode) & set("wax+"))
        if not writes:
            self._must_be(found, FILE)
            path = session.path(view.source(found))
        else:
            kind = view.kind(found)
            if "x" in mode and kind != ABSENT:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), found)
            if "r" in mode:
                self._must_be(found, FILE)
            path = session.path(self._writable(found, copies="w" not in mode and "x" not in mode))
        handle = io.open(path, mode.replace("x", "w"), buffering, encoding, errors, newline)  # noqa: UP020 - not ours
        if writes:
            self._handles.append(handle)
            if len(self._handles) > HANDLES_MAX:
                self._handles[:] = [one for one in self._handles if not one.closed]
        return handle

    def write_bytes(self, name: Path, data: bytes | bytearray | memoryview) -> None:
        """Write a file anew."""
        with self.open(name, "wb") as file:
            file.write(data)

    def write_text(self, name: Path, text: str, encoding: str = "utf-8") -> None:
        """Write a file anew from text."""
        with self.open(name, "w", encoding=encoding) as file:
            file.write(text)

    def path(self, name: Path) -> str:
        """Where a file's new version is, for code that wants a path: what is written there is part of the transaction.

        The file is there with its contents if there is one; else only its folder is. It may be replaced, and removed.
        What a program puts beside it is not taken along.
        """
        session, view = self._usable(), self._looking()
        found = view.resolve(name)
        if view.kind(found) == FOLDER:
            raise PathRefused(
                f"{found or '.'!r} is a folder: a path is given for a file",
                hint="make the folder elsewhere, then replace_tree(name, there)",
            )
        return session.path(self._writable(found, copies=True, named=True))

    def remove(self, name: Path) -> None:
        """Remove a file, or a symbolic link itself."""
        self._usable()
        view = self._looking()
        found = view.resolve(name, follow=False)
        if view.kind(found) == FOLDER:
            raise IsADirectoryError(errno.EISDIR, "is a folder: use remove_tree", found)
        if view.kind(found) == ABSENT:
            raise _missing(found)
        self._layer.put(found, Entry(ABSENT))

    def remove_tree(self, name: Path) -> None:
        """Remove a folder with all that is in it. Links in it are removed, not followed."""
        self._usable()
        view = self._looking()
        found = view.resolve(name, follow=False)
        self._must_be(found, FOLDER)
        if not found:
            raise PathRefused("the transaction's directory itself cannot be removed", hint="remove what is in it")
        for one in [found, *view.tree(found)]:
            self._layer.put(one, Entry(ABSENT))

    def mkdir(self, name: Path, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder; with `parents`, those above it that are missing, too."""
        session, view = self._usable(), self._looking()
        found = view.resolve(name)
        kind = view.kind(found)
        if kind != ABSENT:
            if exist_ok and kind == FOLDER:
                return
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), found)
        above = parent_of(found)
        if parents and above and view.kind(above) == ABSENT:
            self.mkdir(above, parents=True)
        self._parent_must_be(found)
        self._layer.put(found, Entry(FOLDER, mode=session.folder_mode() | view.mode(above) & stat.S_ISGID))

    def chmod(self, name: Path, mode: int) -> None:
        """Set the mode of a file or folder."""
        session, view = self._usable(), self._looking()
        found = view.resolve(name)
        kind = view.kind(found)
        if kind == FILE:
            stage = self._writable(found, copies=True)
            os.chmod(session.path(stage), stat.S_IMODE(mode) | 0o600)
            self._layer.entries[found].mode = stat.S_IMODE(mode)
        elif kind == FOLDER and found:
            self._layer.put(found, Entry(FOLDER, mode=stat.S_IMODE(mode)))
        elif kind == ABSENT:
            raise _missing(found)
        else:
            raise PathRefused(f"the mode of {found or 'the directory itself'!r} is not changed by transactions")

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name. A file that has that name is replaced; a folder must not be there."""
        self._usable()
        view = self._looking()
        source, target = view.resolve(old, follow=False), view.resolve(new, follow=False)
        kind, there = view.kind(source), view.kind(target)
        if kind == ABSENT:
            raise _missing(source)
        if kind in (LINK, OTHER) or there in (LINK, OTHER):
            raise PathRefused(
                f"{source!r} or {target!r} is a symbolic link or a special file, which is not renamed",
                hint="rename what it leads to",
            )
        if source == target:
            return
        self._parent_must_be(target)
        if kind == FOLDER:
            if not source or f"{target}/".startswith(f"{source}/"):
                raise PathRefused(f"{source or '.'!r} cannot be moved into itself")
            if there != ABSENT:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        elif there == FOLDER:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        moved = [source, *view.tree(source)] if kind == FOLDER else [source]
        for one in moved:
            if view.kind(one) in (LINK, OTHER):
                raise PathRefused(f"{one!r} is a symbolic link or a special file, which is not renamed")
        changes = [(target + one[len(source) :], self._moved(one)) for one in moved]
        for one in moved:
            self._layer.put(one, Entry(ABSENT))
        for name, entry in changes:
            self._layer.put(name, entry)

    def replace_tree(self, name: Path, source: Path) -> None:
        """Let a folder have what the folder `source`, somewhere outside of the directory, has; it may be new.

        Modes are kept. Symbolic links and special files in `source` are refused.
        """
        self._usable()
        view = self._looking()
        target = view.resolve(name, follow=False)
        above = os.path.realpath(os.fsdecode(os.fspath(source)))
        if os.path.join(above, "").startswith(os.path.join(self.directory, "")):
            raise PathRefused(f"{above} is inside the directory of the transaction", hint="use rename")
        if not os.path.isdir(above):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), above)
        if not target:
            raise PathRefused("the transaction's directory itself cannot be replaced", hint="replace folders in it")
        with self.nested() as inner:
            there = view.kind(target)
            if there == FOLDER:
                inner.remove_tree(target)
            elif there != ABSENT:
                inner.remove(target)
            inner._copied(above, target)

    # --- within -------------------------------------------------------------------------------------------------------

    def _nested_begin(self) -> bool:
        if self._state != "new":
            raise TransactionError(f"this transaction is {self._state}", hint="make another one")
        outer = self._outer
        if outer is None:
            found = _current.get()
            while found is not None and (found._state != "open" or found.directory != self.directory):
                found = found._before
            outer = found
        if outer is None or outer._session is None or outer._session.pid != os.getpid():
            self._outer = None
            return False
        if outer._inner is not None:
            raise TransactionBusy(
                f"the transaction on {self.directory} has another one nested in it that is open",
                hint="end that one first, or let coroutines that change the same files run one after the other",
            )
        outer._flush()
        self._outer, outer._inner = outer, self
        self._session, self._layer = outer._session, Layer(outer._layer)
        self._committed_before = outer._committed_before
        self._began()
        return True

    def _opened(self, session: Session) -> None:
        session.recover()
        self._committed_before = session.has_committed()
        self._session = session
        self._began()

    def _began(self) -> None:
        assert self._session is not None
        self._view = View(self._session.disk, self._layer)
        before = _current.get()
        while before is not None and before._state != "open":
            before = before._before  # ended in another context than it began in
        self._before = before
        _current.set(self)
        self._state = "open"

    def _end(self, state: str) -> None:
        self._state = state
        if _current.get() is self:
            _current.set(self._before)
        self._close_handles(drops=state != "committed")
        session, self._session = self._session, None
        if self._outer is not None:
            self._outer._inner = None
        elif session is not None:
            session.close()

    def _flush(self) -> None:
        for handle in self._handles:
            if not handle.closed:
                handle.flush()

    def _close_handles(self, drops: bool = False) -> None:
        """Close what was opened and not closed, which writes what it holds back; a failure of that counts unless it `drops`."""
        handles, self._handles = self._handles, []
        for handle in handles:
            try:
                handle.close()
            except OSError:
                if not drops:
                    raise

    def _usable(self) -> Session:
        session = self._looking_session()
        if self._inner is not None:
            raise TransactionError("a transaction nested in this one is open", hint="use that one, or end it first")
        return session

    def _looking_session(self) -> Session:
        if self._state != "open" or self._session is None:
            raise TransactionError(f"this transaction is {self._state}, not open", hint="use it in a `with` block")
        if self._session.pid != os.getpid():
            raise TransactionError("this process was forked within the transaction", hint="change files in its parent")
        return self._session

    def _looking(self) -> View:
        self._looking_session()
        assert self._view is not None
        return self._view

    def _must_be(self, name: str, kind: str) -> None:
        found = self._looking().kind(name)
        if found == kind:
            return
        if found == ABSENT:
            raise _missing(name)
        if kind == FOLDER:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if found == FOLDER:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        raise PathRefused(f"{name!r} is no ordinary file", hint="transactions handle files and folders")

    def _parent_must_be(self, name: str) -> None:
        self._must_be(parent_of(name), FOLDER)

    def _writable(self, name: str, *, copies: bool, named: bool = False) -> str:
        """The staged file of a name that this layer may write; with what is there if `copies`."""
        session, view = self._usable(), self._looking()
        mine = self._layer.entries.get(name)
        own = mine is not None and mine.kind == FILE and not mine.lent
        if mine is not None and own:
            fits = mine.stage.endswith("/" + name.rpartition("/")[2]) if named else view.kind(name) == FILE
            if fits:
                return mine.stage
        kind = view.kind(name)
        if kind == FOLDER:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if kind in (LINK, OTHER):
            raise PathRefused(f"{name!r} is no ordinary file", hint="transactions handle files and folders")
        self._parent_must_be(name)
        stage = session.new_stage(name.rpartition("/")[2] if named else "")
        mode = None
        if kind == FILE:
            mode = view.mode(name)
            session.copy(view.source(name), stage, mode, copies)
        self._layer.put(name, Entry(FILE, stage, mode))
        return stage

    def _moved(self, name: str) -> Entry:
        """The entry that has what a name has."""
        session, view = self._usable(), self._looking()
        entry = self._layer.find(name)
        if view.kind(name) == FOLDER:
            return Entry(FOLDER, mode=view.mode(name))
        if entry is not None:
            mine = self._layer.entries.get(name) is entry
            return Entry(FILE, entry.stage, entry.mode, entry.lent or not mine)
        stage = session.new_stage("")
        if session.disk.link(name, stage):
            return Entry(FILE, stage, None, lent=True)
        mode = view.mode(name)
        session.copy(name, stage, mode, True)
        return Entry(FILE, stage, mode)

    def _copied(self, above: str, target: str) -> None:
        session = self._usable()
        self._parent_must_be(target)
        waiting = [(above, target)]
        while waiting:
            folder, name = waiting.pop()
            self._layer.put(name, Entry(FOLDER, mode=stat.S_IMODE(os.stat(folder).st_mode)))
            with os.scandir(folder) as rows:
                for row in sorted(rows, key=lambda row: row.name):
                    inner = f"{name}/{row.name}"
                    if row.is_dir(follow_symlinks=False):
                        waiting.append((row.path, inner))
                    elif row.is_file(follow_symlinks=False):
                        stage, mode = session.new_stage(""), stat.S_IMODE(row.stat(follow_symlinks=False).st_mode)
                        session.copy(row.path, stage, mode, True)
                        self._layer.put(inner, Entry(FILE, stage, mode))
                    else:
                        raise PathRefused(f"{row.path} is a symbolic link or a special file", hint="leave it out")


def _missing(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
