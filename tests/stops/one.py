"""One stop: nodes in a home of their own, work, a signal at some moment, and a look at what is left.

Run as a process of its own (``python -m tests.stops --one KIND --seed N``): it is the parent to which everything comes
that a node has lost sight of.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from swarm.client.sync import Fleet, connect
from swarm.exit_codes import ExitCode
from swarm.paths import Home
from tests.e2e.fleets import ROOT, until
from tests.stops import leftovers, work

SLACK_S = 40.0
"""On top of the drain's limit, until a node must have ended: machines are slow at times."""
AT_ONCE_S = 30.0
"""Until a node must have ended after a second Ctrl-C, its drain being far from over."""
START_MAX_S = 0.5
"""A signal while it starts comes within this of the process's beginning, or of its first file: half of them each."""
MOMENT_MAX_S = 0.6
"""Any other comes within this of when the work was given."""
HEARD_S = 60.0
"""Until a peer has heard a goodbye. A node that just vanished would be dead to it by then, which is asserted."""
ALONE = ("mid-start", "just-started", "idle", "several", "goodbye", "second")
KINDS = (*ALONE, *work.KINDS)


@dataclass(slots=True)
class Stop:
    """What was seen of one stop; `wrong` is empty when it was clean."""

    kind: str
    seed: int
    signal: str = ""
    after_s: float = 0.0
    """From the start of the process, or from when the work was given, to the signal."""
    took_s: float = 0.0
    """From the signal to the end of the process."""
    exits: list[int] = field(default_factory=list)
    before_program: bool = False
    """The signal came before the program had any say in it, so the process ended by it."""
    wrong: list[str] = field(default_factory=list)


def accepted(stop: Stop, number: signal.Signals, code: int, log: Path) -> bool:
    """Whether a status is one that the documentation names for this moment.

    0 is for every node that has begun to open. Before, the signal ends the process as it does any program: Python
    speaks of an interrupt with a traceback, or of a fatal error, but none that shows one of our modules.
    """
    if code == 0:
        return True
    if stop.kind != "mid-start":
        return False
    said = log.read_text(errors="replace")
    stop.before_program = str(ROOT) not in said and (code == -number or "KeyboardInterrupt" in said)
    return stop.before_program or (number == signal.SIGINT and code == ExitCode.INTERRUPTED)


class Site:
    """Nodes of one home, their client, and what they may leave."""

    def __init__(self, root: Path, drain_s: float) -> None:
        self.root, self.drain_s = root, drain_s
        self.temporary = root / "tmp"
        self.temporary.mkdir(parents=True)
        self.env = {
            **os.environ,
            "SWARM_HOME": str(root / "home"),
            "TMPDIR": str(self.temporary),
            "SWARM_DRAIN_TIMEOUT_S": str(drain_s),
            "SWARM_EXECUTORS": work.GUEST_PYTHON,
            "SWARM_HTTP_PORT": "0",
        }
        self.env.pop("SWARM_NODE_SOCKET", None)
        self.home = Home.resolve(self.env)
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.fleet: Fleet | None = None

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with open(self.root / f"{name}.log", "ab") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "nodes.cli", "node", "--name", name, "--workers", "2"],
                env=self.env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.nodes[name] = node
        return node

    def is_up(self, name: str) -> bool:
        assert self.nodes[name].poll() is None, f"{name} ended: " + (self.root / f"{name}.log").read_text()[-2000:]
        return self.home.node_socket(name).exists()

    def connect(self, name: str) -> Fleet:
        os.environ["SWARM_NODE_SOCKET"] = str(self.home.node_socket(name))
        self.fleet = connect(self.home, timeout_s=60)
        return self.fleet

    def close(self) -> None:
        """Only after everything was looked at: a client that is still there must not be what keeps things tidy."""
        if self.fleet is not None:
            with contextlib.suppress(Exception):
                self.fleet.close(cancel=True)
        for node in self.nodes.values():
            if node.poll() is None:
                node.kill()
                node.wait()


def perform(kind: str, seed: int, root: Path) -> Stop:
    """One stop of a kind, its moments by the seed."""
    rng = random.Random(f"{kind} {seed}")
    number = rng.choice((signal.SIGTERM, signal.SIGINT))
    stop = Stop(kind, seed, number.name)
    leftovers.adopt()
    site = Site(root, 60.0 if kind == "second" else rng.choice((0.3, 1.5)))
    try:
        _perform(stop, site, rng, number)
    except Exception as error:
        stop.wrong.append(f"{type(error).__name__}: {error}")
    finally:
        site.close()
        for pid in leftovers.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return stop


def _perform(stop: Stop, site: Site, rng: random.Random, number: signal.Signals) -> None:
    names = {"several": ("oak", "elm", "fir"), "goodbye": ("oak", "elm")}.get(stop.kind, ("oak",))
    began = time.monotonic()
    for name in names:
        site.start(name)
    given: Any = None
    within_s = START_MAX_S
    if stop.kind == "mid-start":
        if rng.random() < 0.5:
            until(site.home.nodes_dir.exists, 60, "it opens")
            began = time.monotonic()
    else:
        for name in names:
            until(lambda name=name: site.is_up(name), 60, f"{name} is up")
        given = _give(stop, site, rng)
        began, within_s = time.monotonic(), MOMENT_MAX_S
    time.sleep(max(0.0, began + rng.random() * within_s - time.monotonic()))
    stop.after_s = round(time.monotonic() - began, 3)
    signalled = time.monotonic()
    leaving = names[:1] if stop.kind == "goodbye" else names
    for name in leaving:
        site.nodes[name].send_signal(number)
    limit_s = site.drain_s + SLACK_S
    if stop.kind == "second":
        time.sleep(0.3 + rng.random())
        assert site.nodes["oak"].poll() is None, "it did not drain: its task was to run on"
        signalled = time.monotonic()
        site.nodes["oak"].send_signal(number)
        limit_s = AT_ONCE_S
    _await(stop, site, leaving, number, signalled + limit_s)
    stop.took_s = round(time.monotonic() - signalled, 3)
    if stop.kind == "goodbye":
        _heard(site, given)
        site.nodes["elm"].send_signal(signal.SIGTERM)
        _await(stop, site, ("elm",), signal.SIGTERM, time.monotonic() + limit_s)
    for name in names:
        stop.wrong += leftovers.alarms(site.root / f"{name}.log") if not stop.before_program else []
    stop.wrong += leftovers.leftovers(site.home, site.temporary, {node.pid for node in site.nodes.values()})
    del given


def _give(stop: Stop, site: Site, rng: random.Random) -> Any:
    """What the nodes are busy with when they are stopped."""
    if stop.kind in work.KINDS:
        return work.KINDS[stop.kind](site.connect("oak"), rng, site.temporary)
    if stop.kind == "several":
        return work.busy(site.connect("elm"), rng, site.temporary)
    if stop.kind == "second":
        return work.KINDS[rng.choice(("busy", "command"))](site.connect("oak"), rng, site.temporary)
    if stop.kind == "goodbye":
        fleet = site.connect("elm")
        until(lambda: _states(fleet) == {"oak": "alive", "elm": "alive"}, 60, "they know each other")
        return work.short(fleet, rng, site.temporary)
    if stop.kind == "idle":
        time.sleep(0.5)
    return None


def _await(stop: Stop, site: Site, names: tuple[str, ...], number: signal.Signals, deadline: float) -> None:
    for name in names:
        try:
            code = site.nodes[name].wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            stop.wrong.append(f"{name} has not ended in time after {number.name}")
            continue
        stop.exits.append(code)
        if not accepted(stop, number, code, site.root / f"{name}.log"):
            stop.wrong.append(f"{name} ended with {code}")


def _states(fleet: Fleet) -> dict[str, str]:
    return {member["name"]: member["state"] for member in fleet.members()}


def _heard(site: Site, given: list[Any]) -> None:
    """The peer that stayed knows that oak has left, as opposed to died; and what oak had to do is done."""
    assert site.fleet is not None
    deadline = time.monotonic() + HEARD_S
    while (state := _states(site.fleet).get("oak")) != "left":
        assert state != "dead" and time.monotonic() < deadline, f"oak has said goodbye, and is {state!r} to elm"
        time.sleep(0.02)
    for future in given:
        future.result(60)


def run_here(kind: str, seed: int) -> None:
    """For the process of one stop: perform it and print what was seen, as one line of JSON."""
    root = Path(tempfile.mkdtemp(prefix="stop-"))
    stop = perform(kind, seed, root)
    if stop.wrong:
        stop.wrong += [f"{log.name}: {log.read_text(errors='replace')[-3000:]}" for log in sorted(root.glob("*.log"))]
    shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(asdict(stop)), flush=True)
    os._exit(0)  # threads of a client whose node is gone are not waited for


def run(kind: str, seed: int, timeout_s: float = 280.0) -> Stop:
    """One stop in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stops", "--one", kind, "--seed", str(seed)],
        cwd=ROOT, capture_output=True, timeout=timeout_s, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    if not lines:
        return Stop(kind, seed, wrong=[f"the stop's own process ended with {done.returncode}: {done.stderr[-2000:]}"])
    return Stop(**json.loads(lines[-1]))
