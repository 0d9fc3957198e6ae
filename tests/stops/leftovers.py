"""What a node can leave behind: processes, sockets, presence, shared memory, directories of commands, words of alarm."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nodes.blobs import shared_memory_directory
from nodes.worker.process import adopt_orphans, children
from swarm.paths import Home

GRACE_S = 20.0
"""What was killed may need a moment until the kernel has taken it away."""
ALARMS = ("Traceback", "Exception ignored", "never retrieved", "was destroyed but", "never awaited", "leaked")


def adopt() -> None:
    """From now on whatever is orphaned below this process becomes its child, whatever session it has made for itself."""
    adopt_orphans()


def processes(but: set[int]) -> list[str]:
    """Children of this process, ended ones apart: after `adopt`, all that nodes and their work have left."""
    found = []
    for pid in sorted(children() - but):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(f"process {pid}: {words or '?'}")
    return found


def files(home: Home, temporary: Path) -> list[str]:
    """Sockets, presence, shared memory and directories of commands."""
    found = [f"runtime: {path}" for path in _below(home.runtime)]
    shared = shared_memory_directory(home.runtime)
    if shared.exists():
        found += [f"shared memory: {path}" for path in (shared, *_below(shared))]
    found += [f"temporary: {path}" for path in _below(temporary)]
    if home.nodes_dir.exists():
        for path in _below(home.nodes_dir):
            if path.suffix in (".tmp", ".sock", ".pid") or path.name.startswith("swarm-"):
                found.append(f"node's directory: {path}")
    return found


def alarms(log: Path) -> list[str]:
    """Lines of a node's log that no clean stop writes, with what follows."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [
        f"log: {' | '.join(lines[at : at + 30])}" for at, line in enumerate(lines) if any(a in line for a in ALARMS)
    ][:1]


def leftovers(home: Home, temporary: Path, but: set[int]) -> list[str]:
    """All that is left once the last node of a home has ended; empty when all is well. Waits a moment for processes."""
    until = time.monotonic() + GRACE_S
    while (alive := processes(but)) and time.monotonic() < until:
        _reap(but)
        time.sleep(0.02)
    _reap(but)
    return alive + files(home, temporary)


def _reap(but: set[int]) -> None:
    for pid in children() - but:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*")) if directory.exists() else []
