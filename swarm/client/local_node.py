"""A node for one program alone: started for an executor that finds no fleet, and gone with it.

The node is a process of its own, started and never imported. It lives in a temporary home, listens on loopback only,
and ends when its standard input does, so that it does not outlive this program however that ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from swarm.client.sync import Fleet, connect
from swarm.errors import FleetNotFound, SystemRefused

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0
LOG_SHOWN_BYTES = 2000

_BOOTSTRAP = """\
import os, signal, sys, threading
def wait_for_end():
    while os.read(0, 4096): pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=wait_for_end, daemon=True).start()
from nodes.cli import main
sys.exit(main())
"""


class LocalNode:
    """A node of this program's own."""

    def __init__(self, workers: int | None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="swarm-executor-"))
        self._log = self.home / "node.log"
        # Only what is said here counts: settings of a fleet's nodes are not this one's.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SWARM_")}
        environment |= {"SWARM_HOME": str(self.home)}
        flags = ["--name", "executor", "--listen-host", "loopback", "--no-discovery-mdns", "--no-http-enabled"]
        flags += ["--drain-timeout-s", "0.2", "--log-format", "console"]
        flags += [] if workers is None else ["--workers", str(workers)]
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            [root, *(part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part)]
        )
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, "node", *flags],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is this program's; it tells the node what follows from it
            )

    def connect(self) -> Fleet:
        """Connect to it as soon as it is there. SystemRefused with its words when it does not come up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        socket = self.home / "run" / "executor.sock"
        while time.monotonic() < deadline and self._process.poll() is None:
            if socket.exists():
                try:
                    return connect(self.home, timeout_s=max(0.1, deadline - time.monotonic()))
                except FleetNotFound:
                    pass  # it has only just begun
            time.sleep(0.01)
        said = self._log.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace").strip()
        self.stop()
        raise SystemRefused(f"a node of this program's own did not start: {said or 'it said nothing'}")

    def stop(self) -> None:
        """End it, and remove its files. Safe to call again."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        for number, timeout_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)):
            if process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    continue
        shutil.rmtree(self.home, ignore_errors=True)
