"""deploy/systemd/swarm-node.service under a real systemd: ready, watched, restarted, drained."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import until
from tests.lab import systemd_box
from tests.lab.fixtures import require

pytestmark = [pytest.mark.lan, pytest.mark.timeout(300)]  # a guard against hangs: machines are slow at times

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "swarm-node.service"
AS_SWARM = ["runuser", "-u", "swarm", "--", "env", "SWARM_HOME=/var/lib/swarm", "HOME=/var/lib/swarm"]
LOCAL = """[Service]
Environment=SWARM_WORKERS=2
Environment=SWARM_LISTEN_HOST=loopback
Environment=SWARM_HTTP_PORT=0
"""
"""As an administrator would have in a drop-in: the box has no network of its own, and few cores."""


def in_system(path: Path) -> bool:
    return path.is_relative_to("/usr")


def packages() -> list[Path]:
    """Where modules are that belong neither to Python nor to this project."""
    base = Path(os.path.realpath(sys.base_prefix))
    known = [Path(os.path.realpath(path)) for path in sys.path if path]
    return [path for path in dict.fromkeys(known) if path.is_dir() and path != ROOT and not path.is_relative_to(base)]


class Service:
    """The unit as it is shipped, in a box where ``swarm`` is installed for everybody and there is a user swarm."""

    def __init__(self, box: systemd_box.SystemdBox) -> None:
        self.box = box
        self._install()
        for command in (
            ["useradd", "--system", "--home-dir", "/var/lib/swarm", "swarm"],  # as the unit's first lines say
            ["install", "-m", "644", str(UNIT), "/etc/systemd/system/"],
        ):
            self.checked(command)
        self.drop_in("local", LOCAL)

    def _install(self) -> None:
        """Under /opt, since the user swarm may not look into the directories of who runs the tests."""
        interpreter = Path(os.path.realpath(sys.executable))
        places = {"tree": ROOT} | {f"packages{at}": path for at, path in enumerate(packages())}
        if not in_system(interpreter):
            places["python"] = Path(os.path.realpath(sys.base_prefix))
            interpreter = Path("/opt/python") / interpreter.relative_to(places["python"])
        for name, source in places.items():
            self.checked(["mkdir", "-p", f"/opt/{name}"])
            self.checked(["mount", "--bind", str(source), f"/opt/{name}"])
        found_in = ":".join(f"/opt/{name}" for name in places if name != "python")
        # Its library is looked for where it was installed, which is closed to the user swarm.
        library = "LD_LIBRARY_PATH=/opt/python/lib " if "python" in places else ""
        paths = f"{library}PYTHONPATH={found_in} PYTHONDONTWRITEBYTECODE=1"
        script = f'#!/bin/sh\n{paths} exec {interpreter} -m nodes.cli "$@"\n'
        self.checked(["sh", "-c", f"printf %s {shlex.quote(script)} >/usr/local/bin/swarm"])
        self.checked(["chmod", "755", "/usr/local/bin/swarm"])

    def drop_in(self, name: str, text: str) -> None:
        directory = "/etc/systemd/system/swarm-node.service.d"
        self.checked(["sh", "-c", f"mkdir -p {directory}; printf %s {shlex.quote(text)} >{directory}/{name}.conf"])
        self.checked(["systemctl", "daemon-reload"])

    def checked(self, command: list[str], timeout_s: float = 90.0) -> str:
        done = self.box.run(command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def log(self) -> str:
        return self.box.journal("swarm-node")

    def swarm(self, *words: str) -> str:
        return self.checked([*AS_SWARM, "swarm", *words])

    def show(self, name: str) -> str:
        return self.box.show("swarm-node", name).get(name, "")

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def restarted(self, times: int, within_s: float, before: int) -> None:
        def up() -> bool:
            now = self.box.show("swarm-node", "NRestarts", "ActiveState", "MainPID")
            return (
                now["NRestarts"] == str(times)
                and now["ActiveState"] == "active"
                and int(now["MainPID"]) not in (0, before)
            )

        until(up, within_s, f"{times} restarts: {self.show('NRestarts')}\n{self.log()}")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    require(systemd_box.missing())
    # The box sees what is on the root's own file system by itself, and all else by these.
    binds = [ROOT, *packages(), *(() if in_system(Path(sys.base_prefix)) else (Path(sys.base_prefix),))]
    with systemd_box.SystemdBox(f"service{os.getpid()}", binds=binds) as box:
        yield Service(box)


@pytest.fixture
def running(service: Service) -> Iterator[Service]:
    service.checked(["systemctl", "start", "swarm-node"])
    yield service
    service.checked(["systemctl", "stop", "swarm-node"], timeout_s=120)
    service.box.run(["systemctl", "reset-failed", "swarm-node"])


def test_it_is_ready_when_it_takes_work_and_says_what_it_does(running: Service) -> None:
    assert running.show("ActiveState") == "active", "start returns with READY=1"
    assert running.show("StatusText").endswith("0 of 2 slots busy, 0 tasks")
    assert running.swarm("run", "--", "id", "-un") == "swarm\n"
    waits = "until [ -e /var/lib/swarm/go ]; do sleep 0.1; done"
    with subprocess.Popen(running.box.argv([*AS_SWARM, "swarm", "run", "--", "sh", "-c", waits])) as client:
        until(lambda: "1 of 2 slots busy, 1 tasks" in running.show("StatusText"), 60, running.log())
        running.checked(["touch", "/var/lib/swarm/go"])
        assert client.wait(60) == 0
    until(lambda: "0 of 2 slots busy" in running.show("StatusText"), 60, running.log())


def test_killed_it_comes_back_with_the_same_identity_and_takes_work(running: Service) -> None:
    before, identity = running.pid(), running.swarm("members", "--json")
    running.checked(["kill", "-KILL", str(before)])
    running.restarted(1, 60, before)
    assert '"id"' in identity and _ids(running.swarm("members", "--json")) == _ids(identity)
    assert running.swarm("run", "--", "echo", "again") == "again\n"
    assert len(_nodes_below(running)) == 1, "nothing is left of the one that was killed"


def test_one_that_hangs_is_ended_by_the_watchdog_and_comes_back(running: Service) -> None:
    running.drop_in("watchdog", "[Service]\nWatchdogSec=5\n")
    running.checked(["systemctl", "restart", "swarm-node"])
    before, restarts = running.pid(), int(running.show("NRestarts"))
    time.sleep(6)
    assert running.pid() == before and int(running.show("NRestarts")) == restarts, "it is alive, and says so"
    running.checked(["kill", "-STOP", str(before)])
    running.restarted(restarts + 1, 60, before)
    assert "watchdog" in running.box.run(["journalctl", "--no-pager", "-u", "swarm-node"]).stdout.lower()
    assert running.swarm("run", "--", "echo", "again") == "again\n"


def test_stop_lets_what_runs_end(running: Service) -> None:
    command = [*AS_SWARM, "swarm", "run", "--", "sh", "-c", "echo begun; sleep 3; echo done"]
    with subprocess.Popen(running.box.argv(command), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None and client.stdout.readline() == "begun\n"
        running.checked(["systemctl", "stop", "swarm-node"], timeout_s=120)
        assert client.stdout.read() == "done\n"
        assert client.wait(60) == 0
    shown = running.box.show("swarm-node", "ActiveState", "Result", "ExecMainStatus")
    assert shown == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}, running.log()
    # /tmp is the machine's, where others come and go while it is looked at: no fault of the service.
    found = "find /tmp /dev/shm /var/lib/swarm/run -mindepth 1 -maxdepth 1 -user swarm 2>/dev/null || true"
    assert not running.checked(["sh", "-c", found])


def test_a_wrong_setting_is_not_tried_again(service: Service) -> None:
    service.drop_in("wrong", "[Service]\nEnvironment=SWARM_WORKERS=many\n")
    try:
        assert service.box.run(["systemctl", "start", "swarm-node"]).returncode != 0
        until(lambda: service.show("ActiveState") == "failed", 60, service.log())
        assert service.box.show("swarm-node", "ExecMainStatus", "NRestarts") == {
            "ExecMainStatus": "78",
            "NRestarts": "0",
        }, service.log()
        assert "SWARM_WORKERS" in service.log()
    finally:
        service.drop_in("wrong", "")
        service.checked(["systemctl", "reset-failed", "swarm-node"])


def test_the_unit_has_no_key_that_systemd_does_not_know(service: Service) -> None:
    said = service.box.run(["systemd-analyze", "verify", "/etc/systemd/system/swarm-node.service"])
    assert "swarm-node" not in said.stderr and said.returncode == 0, said.stderr


def _ids(members: str) -> list[str]:
    import json

    found = json.loads(members)
    return sorted(one["id"] for one in (found["members"] if isinstance(found, dict) else found))


def _nodes_below(service: Service) -> list[str]:
    said = service.box.run(["pgrep", "-u", "swarm", "-f", "nodes.cli node"]).stdout
    return said.split()
