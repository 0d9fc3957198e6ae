"""Real nodes as a user starts them, in a home of their own, and a check that nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from swarm.client.sync import Fleet, connect
from swarm.paths import Home

ROOT = Path(__file__).parents[2]


class Nodes:
    """Node processes of one home."""

    def __init__(self, root: Path, *, settings: dict[str, str] | None = None) -> None:
        self.root = root
        # All slots are offered, however hot the machine that runs the tests is.
        steady = {"SWARM_HOT_C": "0", "SWARM_BATTERY_PERCENT": "100"}
        self.env = {**os.environ, **steady, "SWARM_HOME": str(root), **(settings or {})}
        self.env.pop("SWARM_NODE_SOCKET", None)
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.home = Home.resolve(self.env)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.elsewhere = ROOT
        """Where nodes are started."""

    def start(self, name: str, *flags: str) -> None:
        """Start a node and wait until its socket is there: its own, not the one that an earlier process left when it was killed."""
        self.root.mkdir(parents=True, exist_ok=True)
        left = self.socket_made(name)
        with open(self.root / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "nodes.cli", "node", "--name", name, *flags],
                env=self.env,
                cwd=self.elsewhere,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self.socket_made(name) in (None, left):
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.02)

    def socket_made(self, name: str) -> tuple[int, int] | None:
        """Which socket of a node is there: its file and when that came to be."""
        try:
            found = self.home.node_socket(name).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_ctime_ns

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")[-4000:]

    def connect(self, name: str) -> Fleet:
        """A client of one node."""
        os.environ["SWARM_NODE_SOCKET"] = str(self.home.node_socket(name))
        try:
            return connect(self.home, timeout_s=60)
        finally:
            del os.environ["SWARM_NODE_SOCKET"]

    def cli(self, *words: str, timeout_s: float = 90, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """The command `swarm`."""
        return subprocess.run(
            [sys.executable, "-m", "nodes.cli", *words],
            env={**self.env, "PYTHONPATH": str(ROOT)},
            input=data,
            capture_output=True,
            timeout=timeout_s,
        )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        node = self.processes.pop(name)
        node.send_signal(signal.SIGTERM)
        return node.wait(60)

    def stop_all(self) -> dict[str, int]:
        return {name: self.stop(name) for name in list(self.processes)}


def until(condition: object, within_s: float, what: str = "") -> None:
    """Wait for a condition (a callable), at most so long."""
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)
