"""``make chaos MINUTES=5 SEED=1``: five real nodes on a LAN of namespaces, under load and a nemesis; what they promised is checked.

The last lines are the report; the exit status is 0 when no promise was broken. A run that failed keeps its logs, its
journals and its history in the folder that it names. The same seed gives the same faults in the same order, though not
at the same instants of the programs that they strike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.nemesis import NET_FAULTS, NODE_FAULTS
from tests.chaos.run import PATIENCE_S, Size, run
from tests.lab.lan import missing

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
INSIDE = "CHAOS_MOUNTS_OF_ITS_OWN"


def lacking() -> str:
    """Why there can be no chaos here; empty when there can."""
    lacks = missing()
    if lacks:
        return lacks
    if not (shutil.which("mount") and shutil.which("umount")):
        return "missing: mount (apt-get install util-linux)"
    probe = subprocess.run([*OWN_MOUNTS, "true"], capture_output=True, text=True, timeout=10)
    return "" if probe.returncode == 0 else f"no mounts of its own here: {probe.stderr.strip()}"


def main() -> int:
    """Perform one run; 0 when all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are injected")
    parser.add_argument("--seed", default="1", help="of the faults")
    parser.add_argument("--rate", type=float, default=8.0, help="tasks a second of each of the five clients")
    parser.add_argument("--short", action="store_true", help="a few faults of the kinds that are over soon")
    parser.add_argument("--only", help=f"kinds of faults, with commas: {', '.join((*NODE_FAULTS, *NET_FAULTS))}")
    parser.add_argument("--folder", type=Path, help="where logs and history are; kept. A new one by default")
    given = parser.parse_args()
    lacks = lacking()
    if lacks:
        print(f"error: {lacks}", file=sys.stderr)
        return 78
    if INSIDE not in os.environ:
        # In mounts of its own, so that whatever ends it, its small file systems are gone.
        command = [*OWN_MOUNTS, sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
        os.execvpe("unshare", command, {**os.environ, INSIDE: "1"})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and take the lab down
    size = Size(given.minutes * 60.0, given.rate)
    if given.short:
        nodes, net = ("kill", "hang", "tear", "worker"), ("cut", "cut-out", "cut-pair", "loss")
        size = Size(40.0, 4.0, PATIENCE_S, len(nodes), len(net), nodes, net)
    if given.only:
        kinds = tuple(given.only.split(","))
        unknown = set(kinds) - {*NODE_FAULTS, *NET_FAULTS}
        if unknown:
            parser.error(f"no such faults: {', '.join(sorted(unknown))}")
        size = Size(size.seconds, given.rate, node_kinds=kinds, net_kinds=kinds)
    folder = given.folder or Path(tempfile.mkdtemp(prefix=f"chaos-{given.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    well = run(folder, given.seed, size, lambda line: print(line, flush=True))
    if well and given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"logs, journals and history are in {folder}")
    print(f"{'all was well' if well else 'FAILED'}: seed {given.seed}, {size.seconds / 60:g} minutes")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
