"""A PostgreSQL of a test's own: a cluster in a directory of its own, run by a user without rights, gone with the test."""

from __future__ import annotations

import glob
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "not/to@be:seen"
"""Of the user `swarm` over TCP; full of what has to be encoded in a URL."""
_SETTINGS = {
    "synchronous_commit": "off", "shared_buffers": "16MB", "max_connections": "40", "jit": "off",
    "wal_level": "minimal", "max_wal_senders": "0", "min_wal_size": "32MB", "max_wal_size": "128MB", "log_min_messages": "warning",
}  # fmt: skip


_WATCHED = """
"$@" </dev/null &
read how
kill -"${how:-QUIT}" $!
wait $!
"""
"""A server that ends with the test's process, however that ends: its standard input closes."""


def programs() -> Path | None:
    """Where `initdb` is: Debian does not have it on the path."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += [Path(place).parent for place in sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))]
    return places[-1] if places else None


def needed() -> Path:
    """As `programs`; without any a test is skipped, but never in CI."""
    found = programs()
    if found is None:
        reason = "PostgreSQL is not installed here: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    """A port that nothing listens on, below those that connections are given: while the server is down, none of them takes it, not even
    one that is tried to the server itself."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("a hundred ports from 20000 to 32000 are taken")


class Cluster:
    """A server and its directory. Its superuser is `swarm`, let in over the Unix socket as it comes."""

    def __init__(self, bin: Path, root: Path | None = None) -> None:
        self.bin = bin
        self.directory = Path(tempfile.mkdtemp(prefix="swarm-pg-", dir=root or "/tmp"))
        self.data = self.directory / "data"
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        secret = self.directory / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-D", str(self.data), "-U", "swarm", "-E", "UTF8", "--locale=C", "--no-sync",
                  "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}")  # fmt: skip
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin / program), *arguments], capture_output=True, timeout=120, cwd="/", **self._as()
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def _as(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Start the server, and wait until it lets somebody in."""
        flags = [f"--{key}={value}" for key, value in _SETTINGS.items()]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _WATCHED, "sh", str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.directory),
                 "-p", str(self.port), "-h", "127.0.0.1", *flags],
                stdout=log, stderr=log, stdin=subprocess.PIPE, cwd="/", start_new_session=True, **self._as(),
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                self.execute("SELECT 1", "postgres")
                return
            except Exception as error:
                assert self._process.poll() is None and time.monotonic() < deadline, (error, self.log())
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as in a crash. SIGINT: in order, and connections are ended."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate(f"{how.name.removeprefix('SIG')}\n".encode(), timeout=120)

    def log(self) -> str:
        """What it had to say."""
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Stop it, and remove all of it."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Databases.

    def database(self) -> str:
        """The URL of a new, empty database. The one before is gone: to remove many at the end takes its time."""
        if self._made:
            self.execute(f"DROP DATABASE IF EXISTS test{self._made} WITH (FORCE)", "postgres")
        self._made += 1
        name = f"test{self._made}"
        self.execute(f"CREATE DATABASE {name}", "postgres")
        return self.url(name)

    def url(self, name: str) -> str:
        """Over the Unix socket."""
        return f"postgresql://swarm@/{name}?host={self.directory}&port={self.port}"

    def execute(self, statement: str, database: str) -> list[tuple[object, ...]]:
        """As its superuser. `database`: a name or a URL."""
        import psycopg

        url = database if "://" in database else self.url(database)
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(statement)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """One server for all tests of a process."""
    cluster = Cluster(needed())
    yield cluster
    cluster.close()
