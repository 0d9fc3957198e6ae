"""The box boots a real systemd: a service gets ready, is restarted when it dies, and nothing of the box stays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.lab import systemd_box
from tests.lab.fixtures import require

pytestmark = pytest.mark.lan

UNIT = """[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'echo up; systemd-notify --ready --status=well; exec sleep 600'
Restart=on-failure
RestartSec=100ms
"""


def test_a_service_is_run_restarted_and_stopped(tmp_path):
    require(systemd_box.missing())
    with systemd_box.SystemdBox("boxtest", binds=[tmp_path]) as box:
        assert box.run(["hostname"]).stdout.strip() == "boxtest"
        box.install(Path("probe.service"), UNIT)
        assert box.run(["systemctl", "start", "probe"]).returncode == 0
        assert box.show("probe", "ActiveState", "StatusText") == {"ActiveState": "active", "StatusText": "well"}
        box.run(["systemctl", "kill", "--signal=SEGV", "probe"])
        deadline = time.monotonic() + 60
        while box.show("probe", "NRestarts", "ActiveState") != {"NRestarts": "1", "ActiveState": "active"}:
            assert time.monotonic() < deadline, box.journal("probe")
            time.sleep(0.05)
        assert "up" in box.journal("probe")
        box.run(["sh", "-c", f"echo kept >{tmp_path}/kept; echo gone >/etc/gone-with-the-box"])
        pid, base = box.pid, Path(box.base)
        assert base.is_dir()
    assert not Path(f"/proc/{pid}").exists()
    assert (tmp_path / "kept").read_text() == "kept\n"
    assert not Path("/etc/gone-with-the-box").exists() and not Path("/etc/systemd/system/probe.service").exists()
    # another box may be up at the same time, of a test that runs beside this one
    assert not [one for one in base.parent.iterdir() if one.name.startswith(base.name)]
