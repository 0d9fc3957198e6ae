"""`make run`: a fleet of three nodes on this machine audits the standard library, and loses one of them on the way.

Everything is real: three processes with keys of their own, found by themselves, linked by CURVE; a node is killed with
SIGKILL while it works, and the audit is complete all the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from nodes.cli.audit import render
from nodes.cli.screen import Progress, paint, say
from swarm.errors import SwarmError
from swarm.tools.audit.cache import Cache
from swarm.tools.audit.collect import SKIPPED, find
from swarm.tools.audit.html import page
from swarm.tools.audit.job import Report, audit

NAMES = ("oak", "elm", "fir")
VICTIM = "fir"
LEFT_OUT = frozenset({"site-packages", "test", "tests"})
"""Packages installed beside, and tests: with them the demonstration would take minutes."""
WINDOW = 24
"""Tasks under way at once: few, so that there is work of every node's, and not all of it done, when one dies."""
KILL_AT = 0.4
"""Part of the files after which the victim is killed."""
FOUND_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0


class Demo:
    """The three nodes, from their start to their end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SWARM_HOME": str(home)}
        self.environment.pop("SWARM_NODE_SOCKET", None)

    def start(self) -> None:
        """Start the nodes; their logs go to files in the home."""
        self.home.mkdir(parents=True, exist_ok=True)
        workers = max(1, (os.cpu_count() or 2) // 2)
        # A Ctrl-C waits for the node that is being started: in the middle of that nobody would know of it.
        interrupts: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
        try:
            self._start(workers, interrupts)
        finally:
            signal.signal(signal.SIGINT, before)
        if interrupts:
            raise KeyboardInterrupt

    def _start(self, workers: int, interrupts: list[int]) -> None:
        for name in NAMES:
            if interrupts:
                return
            with open(self.home / f"{name}.log", "wb") as log:
                self.nodes[name] = subprocess.Popen(
                    [sys.executable, "-m", "nodes.cli", "node", "--name", name, "--workers", str(workers)],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def kill(self, name: str) -> None:
        """End a node as a power cut would."""
        self.nodes[name].kill()

    def stop(self) -> dict[str, int]:
        """Drain and end what runs; exit statuses by name."""
        for node in self.nodes.values():
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        ended = {}
        for name, node in self.nodes.items():
            try:
                ended[name] = node.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                node.kill()
                ended[name] = node.wait()
        return ended

    def log(self, name: str) -> str:
        """The end of a node's log."""
        return (self.home / f"{name}.log").read_text(errors="replace")[-2000:]


def connect(demo: Demo) -> Any:
    """A client of the first node that is there; not of the one that will be killed."""
    from swarm.client.sync import connect as connect_to
    from swarm.paths import Home

    home = Home.resolve(demo.environment)
    deadline = time.monotonic() + FOUND_WITHIN_S
    while True:
        for name, node in demo.nodes.items():
            if node.poll() is not None:
                raise SwarmError(f"node {name} ended at once", hint=demo.log(name) or "its log is empty")
        try:
            os.environ["SWARM_NODE_SOCKET"] = str(home.node_socket(NAMES[0]))
            return connect_to(home, timeout_s=1.0)
        except SwarmError:
            if time.monotonic() > deadline:
                raise
        finally:
            os.environ.pop("SWARM_NODE_SOCKET", None)


def wait_for_all(fleet: Any) -> list[dict[str, Any]]:
    """The members, once all three are there."""
    deadline = time.monotonic() + FOUND_WITHIN_S
    while True:
        members: list[dict[str, Any]] = fleet.members()
        if sum(1 for member in members if member["state"] == "alive") == len(NAMES):
            return members
        if time.monotonic() > deadline:
            seen = ", ".join(f"{member['name']} {member['state']}" for member in members)
            raise SwarmError(
                f"the nodes did not find each other in {FOUND_WITHIN_S:g} s ({seen})", hint="see their logs"
            )
        time.sleep(0.02)


def run(demo: Demo) -> Report:
    """The show."""
    began = time.monotonic()
    demo.start()
    fleet = connect(demo)
    members = wait_for_all(fleet)
    found_s = time.monotonic() - began
    say(f"fleet  {paint(fleet.name, 'bold', sys.stderr)} made for this run, {len(members)} nodes on this machine")
    shown = "   ".join(f"node {member['name']} ● ready" for member in sorted(members, key=lambda m: str(m["name"])))
    say(f"{shown}      all there {found_s:.1f} s after their start")
    library = sysconfig.get_paths()["stdlib"]
    # Counted before and apart from the audit, so that the claim at the end is held against something.
    expected = {one.shown for one in find([library], SKIPPED | LEFT_OUT)}
    say(f"audit  {library} ({len(expected):,} files; without site-packages and tests)")
    killed = False
    with Progress() as bar:

        def tell(progress: Any) -> None:
            nonlocal killed
            bar.total = progress.files
            shares = " ".join(f"{node} {count}" for node, count in sorted(progress.nodes.items()))
            bar.update(progress.done, note=shares)
            # When it has shown that it works here, too, and while there is work left to lose.
            if not killed and progress.nodes[VICTIM] and progress.done >= KILL_AT * progress.files:
                killed = True
                demo.kill(VICTIM)
                bar.clear()
                say(f"       {paint(f'{VICTIM} was killed (signal 9)', 'red', sys.stderr)} after {progress.done} files")

        began_audit = time.monotonic()
        report = audit(fleet, [library], Cache(None), tell, SKIPPED | LEFT_OUT, WINDOW)
        took_s = time.monotonic() - began_audit
    if not killed:
        raise SwarmError(f"{VICTIM} was given no work, so that killing it would show nothing", hint=demo.log(VICTIM))
    missing = expected - report.files.keys() - report.errors.keys()
    if missing:
        raise SwarmError(
            f"{len(missing)} of {len(expected)} files are missing: {sorted(missing)[:5]}", hint=demo.log(NAMES[0])
        )
    say(
        f"       {report.again} files it had taken were measured again by the others · "
        f"{len(report.files) + len(report.errors):,} of {len(expected):,} files there, nothing lost"
    )
    status = fleet.query("status")
    metrics = status["node"].get("http")
    print()
    print(render(report, 12, took_s))
    _write_page(report, library)
    print()
    print("Where to look next:")
    print(f"  the page with plots        {PAGE}")
    print(
        f"  metrics of a node          {f'{metrics}/metrics' if metrics else 'swarm node --http-enabled'} while one runs"
    )
    print("  your own fleet             .venv/bin/swarm node        (then, in another terminal:)")
    print("  work of your own           .venv/bin/python examples/first.py")
    print("  another machine            .venv/bin/swarm fleet token there: swarm fleet join TOKEN && swarm node")
    fleet.close()
    return report


PAGE = Path("build") / "audit.html"


def _write_page(report: Report, library: str) -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(report, library), encoding="utf-8")


def main() -> int:
    """Run it; 0 when everything was measured and every node stopped cleanly."""
    given = os.environ.get("SWARM_HOME")
    home = Path(given) if given else Path(tempfile.mkdtemp(prefix="swarm-"))
    demo = Demo(home)
    status = 1
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        report = run(demo)
        status = 0 if report.totals()["measured"] else 1
    except SwarmError as error:
        say(f"error: {error}\n\nhint: {error.hint}")
    except KeyboardInterrupt:
        say("stopping")
        status = 130
    finally:
        # It takes seconds at most, and a Ctrl-C in the middle of it would leave nodes behind.
        signal.signal(signal.SIGINT, lambda number, frame: say("stopping already"))
        ended = demo.stop()
        wrong = {name: code for name, code in ended.items() if code != 0 and name != VICTIM}
        if wrong and status == 0:
            say(f"error: not stopped cleanly: {wrong}")
            status = 1
        if not given:
            shutil.rmtree(home, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
