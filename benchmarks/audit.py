"""The audit of the standard library by one node with two workers, beside radon in one process.

radon's own `cc_visit`, `mi_visit` and `analyze` run over the same files; both are timed as commands, from start to end.
Two files stay out on both sides: radon joins a literal of many lines anew at each of its lines, so those take it hours.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from benchmarks.fleet import Node, connected, line, median, noop
from nodes.demo import LEFT_OUT
from swarm.tools.audit.collect import SKIPPED, find

ROUNDS = 3
NOT_FOR_RADON = ("html/entities.py", "pydoc_data/topics.py")
RADON = """
import sys, warnings
from pathlib import Path
from radon.complexity import cc_visit
from radon.metrics import mi_visit
from radon.raw import analyze
warnings.simplefilter("ignore")
functions = files = 0
for path in Path(sys.argv[1]).read_text().splitlines():
    try:
        source = Path(path).read_text(encoding="utf-8")
        functions += len(cc_visit(source))
        mi_visit(source, multi=True)
        analyze(source)
        files += 1
    except Exception:
        continue
print(files, functions)
"""


def took_s(command: list[str]) -> float:
    """Seconds of a command that must end well."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Some minutes, most of them radon's."""
    library = sysconfig.get_paths()["stdlib"]
    found = [
        one for one in find([library], SKIPPED | LEFT_OUT) if not one.error and not one.path.endswith(NOT_FOR_RADON)
    ]
    node = Node()
    files = Path(node.home) / "files"
    files.write_text("\n".join(one.path for one in found))
    try:
        with connected() as fleet:
            fleet.submit(noop).result(20)
        radon, cold, warm = [], [], []
        audit = [sys.executable, "-m", "nodes.cli", "audit", *(one.path for one in found), "--json"]
        for _ in range(ROUNDS):
            radon.append(took_s([sys.executable, "-c", RADON, str(files)]))
            cold.append(took_s([*audit, "--no-cache"]))
            took_s(audit)
            warm.append(took_s(audit))
        line(f"radon in one process, {len(found):,} files", f"{median(radon):.2f} s")
        line(
            "swarm audit, two workers, cold cache",
            f"{median(cold):.2f} s",
            f"{median(radon) / median(cold):.2f} x radon",
        )
        line("swarm audit, warm cache", f"{median(warm):.2f} s", f"{median(radon) / median(warm):.1f} x radon")
    finally:
        node.close()


if __name__ == "__main__":
    main()
