"""Space runs out, on file systems of a few MiB: a clear message, and nothing that was running is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.fleets import ROOT
from tests.e2e.full_disks import SCENARIOS
from tests.lab.fixtures import require

pytestmark = pytest.mark.timeout(300)  # a guard against hangs: machines are slow at times


def missing() -> str:
    """Why nothing can be mounted here; empty when it can."""
    if os.geteuid() != 0:
        return "mounting a small file system needs root"
    return "" if shutil.which("unshare") and shutil.which("mount") else "missing: unshare, mount (util-linux)"


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_space_runs_out(scenario: str, tmp_path: Path) -> None:
    require(missing())
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.e2e.full_disks", scenario, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
