"""Starting drivers in the hosts of the lab, and waiting for what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.lab.lan import Lan

ROOT = Path(__file__).parents[2]


class Driver:
    """A driver in a host, and all that it has said so far."""

    def __init__(
        self,
        lan: Lan,
        host: str,
        *options: str,
        module: str = "tests.lan.discovery_driver",
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self.host = host
        self.said: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self.started_s = time.monotonic()
        self.process = lan.popen(
            host,
            [sys.executable, "-m", module, host, *options],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**env, "PYTHONPATH": str(ROOT)},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._changed:
                self.said.append(json.loads(line))
                self._changed.notify_all()

    def all(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """What was said under this event with these facts."""
        return [one for one in list(self.said) if one["event"] == event and facts.items() <= one.items()]

    def until(self, what: Callable[[Driver], Any], timeout_s: float = 60.0) -> Any:
        """Wait until this holds of what was said, and return it."""
        with self._changed:
            assert self._changed.wait_for(lambda: what(self), timeout_s), f"{self.host} said only: {self.said}"
            return what(self)

    def hears(self, *others: str, payload: str | None = None, timeout_s: float = 60.0) -> None:
        """Wait for a proven datagram of each of the others."""
        more = {} if payload is None else {"payload": payload}
        for other in others:
            self.until(lambda driver, other=other: driver.all("heard", name=other, **more), timeout_s)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)
