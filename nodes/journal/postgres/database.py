"""One connection to PostgreSQL, as a journal needs it: locked for this node alone, and of an error it is known what it means."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
from blake3 import blake3
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.format import JournalId
from swarm.errors import ConfigError

START_S: Final = 30.0
"""How long a start waits for a database that is not there. Longer than what systemd counts as too many starts."""
AGAIN_S: Final = 15.0
"""How long a running node waits for a database that went away, if nothing was in doubt."""
LOCK_S: Final = 15.0
"""How long the lock of a process may stay whose machine has gone without a word: until the server has noticed that."""
VERSION_MIN: Final = 130000
_DEFAULTS: Final[dict[str, str]] = {
    # A peer that has gone without a word is noticed in seconds, on both sides: the lock has to be free for the next process.
    "connect_timeout": "5", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
    "tcp_user_timeout": "12000", "application_name": "swarm journal",
}  # fmt: skip
_SESSION: Final = (
    "SET synchronous_commit = on", "SET statement_timeout = 0", "SET lock_timeout = 0", "SET idle_session_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0", "SET client_connection_check_interval = '2s'",
    "SET tcp_keepalives_idle = 5", "SET tcp_keepalives_interval = 2", "SET tcp_keepalives_count = 3",
)  # fmt: skip
_UNKNOWN_SETTING: Final = "42704"
_PASSING: Final = ("starting up", "shutting down", "not yet accepting", "too many", "recovery", "terminating")
"""Of what a server says when it lets nobody in: what passes."""


logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # what it has to say comes as errors, and is said once

Fence = psycopg.Cursor[tuple[Any, ...]]
"""The statement by which a transaction makes sure that the journal is still this process's."""


class NoSpace(Exception):
    """The database has no space, or not enough of something else; the transaction was given up and left nothing."""


class Gone(Exception):
    """The connection broke, and what was under way is not there for certain: nothing had asked for its commit."""


def described(url: str) -> str:
    """Where a database is, without what is secret in its URL."""
    try:
        known = conninfo_to_dict(url)
    except psycopg.Error:
        return "PostgreSQL"
    host = str(known.get("host") or known.get("hostaddr") or known.get("service") or "localhost")
    port = f":{known['port']}" if known.get("port") else ""
    user = f"{known['user']}@" if known.get("user") else ""
    return f"postgresql://{user}{host}{port}/{known.get('dbname') or ''}"


def said(error: BaseException) -> str:
    """What a server or a driver said, as one line."""
    text = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def lock_key(id: JournalId) -> int:
    """The number of a node's advisory lock."""
    digest = blake3(b"".join(id.key), derive_key_context="nanoswarm journal lock v1").digest(8)
    return int.from_bytes(digest, "big", signed=True)


class Database:
    """Made by `reach` or `look`; of one thread at a time."""

    def __init__(self, url: str, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.url = url
        self.connection = connection
        self.where = described(url)
        self._warned = False
        connection.add_notice_handler(self._notice)

    @classmethod
    def look(cls, url: str, within_s: float = 0.0, waiting: Callable[[str], None] | None = None) -> Database:
        """A connection. JournalRefused when there is none within a time, or at once when it would not help to wait."""
        deadline, wait_s = time.monotonic() + within_s, 0.1
        try:
            known = {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
        except psycopg.Error:  # its text may have the password in it
            raise ConfigError(
                "ledger.journal_url is not the URL of a PostgreSQL database",
                hint="postgresql://USER@HOST/DATABASE; percent-encode what is special in it",
            ) from None
        conninfo = make_conninfo(**{**_DEFAULTS, **known})
        while True:
            try:
                made = psycopg.connect(conninfo, autocommit=True)
                break
            except psycopg.OperationalError as error:
                text = said(error)
                passes = "FATAL" not in text or any(word in text for word in _PASSING)
                if not passes or time.monotonic() + wait_s > deadline:
                    raise JournalRefused(
                        Reason.AWAY,
                        f"the database of the journal can not be reached: {_hidden(text, known)}",
                        hint=f"see whether {described(url)} runs, and lets this node in",
                    ) from None
                if waiting is not None:
                    waiting(described(url))
                    waiting = None
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 1.0)
        return cls(url, made)._prepared()

    def _prepared(self) -> Database:
        try:
            if self.connection.info.server_version < VERSION_MIN:
                raise JournalRefused(
                    Reason.UNREADABLE, "the database is of a version before 13", hint="use a later PostgreSQL"
                )
            for setting in _SESSION:
                try:
                    self.connection.execute(setting)
                except psycopg.errors.UndefinedObject:
                    pass  # of later servers
            if self.one("SHOW fsync") == ("off",):
                raise JournalRefused(
                    Reason.UNSAFE, "the database does not sync what it writes (fsync = off)", hint="set fsync = on"
                )
            if self.one("SELECT pg_is_in_recovery()") == (True,):
                raise JournalRefused(
                    Reason.READ_ONLY, "the database is a standby", hint="name the primary (target_session_attrs)"
                )
        except psycopg.Error as error:
            self.close()
            raise JournalRefused(
                Reason.AWAY,
                f"the database of the journal fails: {said(error)}",
                hint=f"see whether {self.where} is well",
            ) from None
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    def reach(
        cls, url: str, id: JournalId, within_s: float, lock_s: float, waiting: Callable[[str], None] | None = None
    ) -> Database:
        """A connection that has the node's lock until it ends. JournalRefused when there is none, or another process has the
        lock."""
        database = cls.look(url, within_s, waiting)
        try:
            deadline = time.monotonic() + lock_s
            while database.one("SELECT pg_try_advisory_lock(%s)", (lock_key(id),)) != (True,):
                if time.monotonic() > deadline:
                    raise JournalRefused(
                        Reason.LOCKED,
                        f"another process has the journal of this node in {database.where} open",
                        hint="stop it first; a machine that was cloned needs an identity of its own",
                    )
                time.sleep(0.1)
        except psycopg.Error as error:
            database.close()
            raise JournalRefused(
                Reason.AWAY, f"the database fails: {said(error)}", hint="see whether it is well"
            ) from None
        except BaseException:
            database.close()
            raise
        return database

    # What is asked of it.

    @property
    def lost(self) -> bool:
        """There is no connection any more."""
        return bool(self.connection.broken or self.connection.closed)

    def one(self, query: Any, arguments: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row of an answer."""
        return self.connection.execute(query, arguments, binary=True).fetchone()

    def transact(self, queue: Callable[[psycopg.Connection[tuple[Any, ...]]], Fence]) -> None:
        """What `queue` executes is on the disk of the database when this returns, if the statement that it returns found its row.

        NoSpace, Gone: nothing is. OSError: it is not known, or it would not be better the next time.
        """
        fence: Fence | None = None
        failed: psycopg.Error | None = None
        try:
            with self.connection.pipeline():
                self.connection.execute("BEGIN", prepare=True)
                fence = queue(self.connection)
        except psycopg.Error as error:
            failed = error
        except BaseException:
            self._roll_back()
            raise
        if fence is not None and fence.rowcount == 0:  # whatever else may have failed by it
            self._roll_back()
            raise OSError(errno.EPERM, f"another process has taken over the journal in {self.where}")
        if failed is not None:
            raise self._meaning(failed) from None
        self._warned = False
        try:
            tag = self.connection.execute("COMMIT", prepare=True).statusmessage
        except psycopg.Error as error:
            if self.lost:
                raise OSError(
                    errno.EIO, f"the database at {self.where} went away during a commit ({said(error)})"
                ) from None
            raise self._meaning(error) from None
        if self._warned:
            raise OSError(errno.EIO, f"the database at {self.where} does not warrant that a commit is kept")
        if tag != "COMMIT":
            raise OSError(errno.EIO, f"the database at {self.where} gave up a commit")

    def _meaning(self, error: psycopg.Error) -> Exception:
        """Of an error that came before a commit was asked for, or in answer to it."""
        state = error.sqlstate or ""
        if self.lost or state.startswith(("57P", "08")):
            return Gone(said(error))
        self._roll_back()
        if state.startswith("53"):
            return NoSpace(said(error))
        if state.startswith("40"):
            return Gone(said(error))
        return OSError(errno.EIO, f"the database at {self.where} fails: {said(error)}")

    def _roll_back(self) -> None:
        try:
            if self.connection.info.transaction_status != pq.TransactionStatus.IDLE:
                self.connection.execute("ROLLBACK")
        except psycopg.Error:
            pass  # broken: the server gives it up by itself

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """A commit that is not waited for by a standby, as it should be, is told by a warning alone."""
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warned = True

    def close(self) -> None:
        """Gives the lock back."""
        self.connection.close()


def _hidden(text: str, known: dict[str, str]) -> str:
    """Without a password, should somebody repeat it."""
    for key in ("password", "sslpassword"):
        if known.get(key):
            text = text.replace(known[key], "…")
    return text
