"""The C of the kernels on another processor (aarch64, under qemu-user) and with another C library (musl): the same results to
the bit, and rings, deques and crews between threads. CI installs what it takes; elsewhere it is skipped where it is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = Path(__file__).resolve().parents[3] / "kernels"
FLAGS = [
    "-std=gnu11",
    "-O2",
    "-ffp-contract=off",
    "-pthread",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
]
COMPILERS = {"here": ("gcc", "cc"), "musl": ("musl-gcc",), "aarch64": ("aarch64-linux-gnu-gcc",)}
PACKAGES = {"here": "gcc", "musl": "musl-tools", "aarch64": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"}


def needed(*names: str, packages: str) -> str:
    """The first of these programs that there is."""
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    reason = f"no {names[0]} here: apt-get install {packages}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def built(source: str, where: str, folder: Path, *more: str) -> list[str]:
    """A command that runs the harness there."""
    compiler = needed(*COMPILERS[where], packages=PACKAGES[where])
    runner = [needed("qemu-aarch64", "qemu-aarch64-static", packages=PACKAGES[where])] if where == "aarch64" else []
    program = folder / f"{Path(source).stem}-{where}"
    command = [compiler, *FLAGS, *more, f"-I{KERNELS}", str(HERE / source), "-o", str(program), "-lpthread"]
    if where != "here":
        command.insert(1, "-static")
    made = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert made.returncode == 0, made.stderr
    return [*runner, str(program)]


def ran(command: list[str], *arguments: str) -> str:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, f"{' '.join(command)} -> {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def results(said: str) -> dict[str, set[str]]:
    """Each part and the hashes of its levels, which are to be one."""
    found: dict[str, set[str]] = {}
    for line in said.splitlines():
        if not line.startswith("#"):
            part = re.fullmatch(r"([a-z]+(?: \d+)?) +([0-9a-f]{16})", line)
            assert part is not None, line
            found.setdefault(part[1], set()).add(part[2])
    return found


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What this machine computes."""
    found = results(ran(built("portable.c", "here", tmp_path_factory.mktemp("here"))))
    assert len(found) == 8 and all(len(each) == 1 for each in found.values()), found
    return found


@pytest.mark.parametrize("where", ["musl", "aarch64"])
def test_the_same_bits_everywhere(where: str, at_home: dict[str, set[str]], tmp_path: Path) -> None:
    said = ran(built("portable.c", where, tmp_path))
    assert results(said) == at_home
    assert f"# counter {'cntvct' if where == 'aarch64' else ''}" in said


def test_fused_multiply_add_would_be_seen(at_home: dict[str, set[str]], tmp_path: Path) -> None:
    """Why the kernels are compiled without it: aarch64 has it everywhere, and gcc takes it unless it is told not to."""
    fused = results(ran(built("portable.c", "aarch64", tmp_path, "-ffp-contract=fast")))
    assert fused["motion 1"] != at_home["motion 1"] and fused["topics"] == at_home["topics"]


@pytest.mark.parametrize(
    ("source", "arguments"),
    [("lanes_tsan.c", ("3000",)), ("deque_tsan.c", ()), ("crew_tsan.c", ("3",)), ("crew_tsan.c", ("2", "20000"))],
)
def test_threads_on_aarch64(source: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Its memory model is weaker than that of x86: what lacks an order there shows here, as far as the emulation keeps it."""
    ran(built(source, "aarch64", tmp_path), *arguments)
