"""What systemd is told, over sockets of both kinds."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.sd_notify import ServiceManager

KINDS = ["path", *(["abstract"] if sys.platform == "linux" else [])]


@pytest.fixture(params=KINDS)
def listener(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, tempfile.TemporaryDirectory(dir="/tmp") as there:
        name = str(Path(there) / "notify") if request.param == "path" else f"@swarm-test-{os.getpid()}"
        heard.bind("\0" + name[1:] if name[0] == "@" else name)
        heard.settimeout(60)
        yield heard, name


def test_the_life_of_a_service(listener: tuple[socket.socket, str]) -> None:
    heard, name = listener
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
    assert manager.watchdog_s == 30
    assert manager.ready("oak of lab")
    assert manager.watchdog()
    assert manager.status("3 members")
    assert not manager.status("3 members"), "the same line is not said twice"
    assert manager.status("evil\nREADY=1")
    assert manager.extend_timeout(2.5)
    assert manager.stopping("draining")
    said = [heard.recv(1000).decode() for _ in range(6)]
    assert said == [
        "READY=1\nSTATUS=oak of lab",
        "WATCHDOG=1",
        "STATUS=3 members",
        "STATUS=evil READY=1",
        "EXTEND_TIMEOUT_USEC=2500000",
        "STOPPING=1\nSTATUS=draining",
    ]


@pytest.mark.parametrize("address", ["", "relative", "tcp://x"])
def test_without_a_service_manager_nothing_is_said(address: str) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": address})
    assert not manager.ready()
    assert manager.watchdog_s is None


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert not ServiceManager(str(tmp_path / "gone")).watchdog()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("5000000", "this", 5.0), ("5000000", "1", None), ("0", "", None), ("x", "", None), ("-5", "", None)],
)
def test_the_watchdog_is_for_this_process_only(usec: str, pid: str, seconds: float | None) -> None:
    pid = str(os.getpid()) if pid == "this" else pid
    assert ServiceManager.from_environment({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}).watchdog_s == seconds


def test_children_do_not_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "/x" if name == "NOTIFY_SOCKET" else "1")
    assert ServiceManager.from_environment().address == "/x"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
