"""The native tick path allocates nothing: counted under every name of the C library by which memory is had."""

from __future__ import annotations

import os
import platform
import shutil
import sys

import pytest

from benchmarks.nano.memory import ALLOCATES, PASSES_COUNTED, allocations


def test_native_ticks_allocate_nothing():
    if shutil.which("cc") is None or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        assert "CI" not in os.environ, "a machine that builds has a C compiler, and the GNU C library"
        pytest.skip("no C compiler, or another C library")
    found = allocations()
    planted = found.pop(ALLOCATES)
    assert planted == 1_000 * PASSES_COUNTED, "a tick that allocates is counted, each time"
    assert len(found) == 7 and found == dict.fromkeys(found, 0)
