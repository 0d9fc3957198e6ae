"""What Avahi shows on a host of the lab: its daemon runs there with a message bus of its own, and nothing of the
machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.lan import Lan

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy></busconfig>
"""
_AVAHI = """[server]
host-name={host}
allow-interfaces=eth0
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[publish]
publish-workstation=no
[rlimits]
"""


@dataclass(frozen=True, slots=True)
class Service:
    """One resolved service, as `avahi-browse -p` prints it."""

    name: str
    type: str
    host: str
    address: str
    port: int
    text: str


def missing() -> str:
    """Why Avahi can not be asked here; empty when it can."""
    absent = [tool for tool in ("avahi-daemon", "avahi-browse", "dbus-daemon") if shutil.which(tool) is None]
    return f"missing: {', '.join(absent)} (apt-get install avahi-utils)" if absent else ""


def browse(lan: Lan, host: str, type: str, directory: Path) -> list[Service]:
    """All services of this type that `avahi-browse` resolves on a host. Takes some seconds, as Avahi does."""
    socket, bus, avahi = directory / "bus", directory / "bus.xml", directory / "avahi.conf"
    bus.write_text(_BUS.format(socket=socket))
    avahi.write_text(_AVAHI.format(host=host))
    env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={socket}"}
    daemons = []
    try:
        daemons.append(subprocess.Popen(["dbus-daemon", f"--config-file={bus}", "--nofork", "--nopidfile"], env=env))
        own = "mkdir -p /run/avahi-daemon && mount -t tmpfs avahi /run/avahi-daemon && exec avahi-daemon"
        command = ["unshare", "--mount", "sh", "-c", f"{own} --no-drop-root --no-chroot --no-rlimits --file={avahi}"]
        log = open(directory / "avahi.log", "wb")  # noqa: SIM115 -- the daemon's
        daemons.append(lan.popen(host, command, env=env, stdout=log, stderr=log))
        log.close()
        asking = "until avahi-browse -c _none._tcp >/dev/null 2>&1; do sleep 0.1; done; exec avahi-browse -prt"
        done = lan.run(host, ["sh", "-c", f"{asking} {type}"], env=env, timeout_s=120)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
    said = (directory / "avahi.log").read_text(errors="replace")[-1000:]
    assert done.returncode == 0, done.stderr + said
    found = [line.split(";", 9) for line in done.stdout.splitlines() if line.startswith("=")]
    return [Service(row[3], row[4], row[6], row[7], int(row[8]), row[9]) for row in found]
