"""Telling systemd how the service is: the protocol of sd_notify(3), one datagram a message. Silent without systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class ServiceManager:
    """Whoever started this process and wants to know: systemd, or nobody.

    The variables are taken out of the environment given, so that workers and commands do not speak for the node.
    """

    address: str = ""
    watchdog_s: float | None = None
    """Seconds within which a ``WATCHDOG=1`` must come, or the service is restarted. Ping at half of it."""
    _last: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> ServiceManager:
        """What the environment says; with the process's own environment, the variables are removed from it."""
        source = os.environ if env is None else env
        address = source.get("NOTIFY_SOCKET", "")
        usec, pid = source.get("WATCHDOG_USEC", ""), source.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and ours else None
        if env is None:
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
                os.environ.pop(name, None)
        return cls(address if address[:1] in ("/", "@") else "", watchdog_s)

    def ready(self, status: str = "") -> bool:
        """The node takes work."""
        return self._send("READY=1", f"STATUS={status}" if status else "")

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``; the same line is not sent twice in a row."""
        if text == self._last:
            return False
        self._last = text
        return self._send(f"STATUS={text}")

    def watchdog(self) -> bool:
        """Still alive. To be sent from the loop that must be."""
        return self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> bool:
        """The node drains."""
        return self._send("STOPPING=1", f"STATUS={status}" if status else "")

    def extend_timeout(self, seconds: float) -> bool:
        """Ask for this much more time to stop, from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *lines: str) -> bool:
        """False when there is nobody to tell, or it could not be told: never a reason to fail."""
        if not self.address:
            return False
        # a leading @ stands for the zero byte of Linux' abstract namespace
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        message = "\n".join(line.replace("\n", " ") for line in lines if line).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sender:
                sender.setblocking(False)
                sender.sendto(message, address)
        except OSError:
            return False
        return True
