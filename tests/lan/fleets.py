"""A fleet over the hosts of the lab: real nodes as a user starts them, each host with a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from swarm.client.sync import Fleet, connect
from swarm.errors import FleetNotFound
from swarm.paths import Home
from tests.lab.lan import Lan
from tests.lan.drivers import ROOT

PATIENCE_S = 60.0
"""For what comes to pass in a second or two where the machine has nothing else to do. Figures are printed, not asserted."""
SWARM = [sys.executable, "-m", "nodes.cli"]


def where(index: int) -> tuple[int, str]:
    """A short task that says which one it was, and which node ran it."""
    time.sleep(0.02)
    return index, os.environ["SWARM_NODE"]


class Pulse:
    """How long this machine keeps processes waiting: a verdict on who is dead means nothing where all stand still."""

    def __init__(self, tick_s: float = 0.02) -> None:
        self._late: list[tuple[float, float]] = []
        self._tick_s = tick_s
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        due_s = time.monotonic() + self._tick_s
        while not self._ended.wait(max(0.0, due_s - time.monotonic())):
            now_s = time.monotonic()
            if now_s - due_s > 0.1:
                self._late.append((now_s, now_s - due_s))
            due_s = now_s + self._tick_s

    def worst_s(self, since_s: float) -> float:
        """The longest wait since an instant (monotonic)."""
        return max((late_s for at_s, late_s in list(self._late) if at_s > since_s), default=0.0)

    def close(self) -> None:
        self._ended.set()


class Work:
    """A batch in flight, handed to one host's node. Each of its tasks has to come to one outcome, its own."""

    def __init__(self, client: Fleet, count: int) -> None:
        self._outcomes: Counter[int] = Counter()
        self._futures = [client.submit(where, index) for index in range(count)]
        for index, future in enumerate(self._futures):
            future.add_done_callback(lambda _, index=index: self._outcomes.update([index]))

    def done(self, within_s: float = 120.0) -> Counter[str]:
        """Wait for the end of all; how many ran where."""
        deadline = time.monotonic() + within_s
        results = [future.result(max(0.0, deadline - time.monotonic())) for future in self._futures]
        assert [index for index, _ in results] == list(range(len(self._futures)))
        until(lambda: self._outcomes.total() >= len(results), PATIENCE_S)
        assert set(self._outcomes.values()) == {1}, "an outcome came twice"
        return Counter(node for _, node in results)


def spread(client: Fleet, nodes: int = 2, count: int = 100) -> Counter[str]:
    """Hand work over until so many nodes have had some of it: where much else runs, one may be done with a batch before another
    was reached. How many tasks ran where."""
    used: Counter[str] = Counter()
    deadline = time.monotonic() + PATIENCE_S
    while len(used) < nodes:
        assert time.monotonic() < deadline, used
        used += Work(client, count).done()
    return used


class LanFleet:
    """Nodes on hosts; the first one makes the fleet, the others come in by its token."""

    def __init__(self, lan: Lan, root: Path, *, flags: tuple[str, ...] = ()) -> None:
        self.lan = lan
        self.root = root
        self.flags = ("--workers", "1", "--drain-timeout-s", "5", *flags)
        self.homes: dict[str, Path] = {}
        self.nodes: dict[str, subprocess.Popen[Any]] = {}
        self.started_s: dict[str, float] = {}
        self._clients: dict[str, Fleet] = {}
        self.pulse = Pulse()

    # -- its hosts -----------------------------------------------------------------------------------------------------

    def home(self, host: str) -> Home:
        return Home.resolve(self.env(host))

    def env(self, host: str) -> dict[str, str]:
        home = self.homes.setdefault(host, self.root / host)
        env = {**os.environ, "SWARM_HOME": str(home), "PYTHONPATH": str(ROOT)}
        env.pop("SWARM_NODE_SOCKET", None)
        return env

    def cli(self, host: str, *words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """The command `swarm` on a host."""
        return self.lan.run(host, [*SWARM, *words], env=self.env(host), timeout_s=timeout_s)

    def token(self, host: str, *options: str) -> str:
        done = self.cli(host, "fleet", "token", *options)
        assert done.returncode == 0, done.stderr + self.log(host)
        return done.stdout.strip()

    def join(self, token: str, *hosts: str) -> None:
        """Hosts come in by a token, all at once."""
        command = [*SWARM, "fleet", "join", token]
        joining = {
            host: self.lan.popen(
                host, [*command, "--name", host], env=self.env(host), stderr=subprocess.PIPE, text=True
            )
            for host in hosts
        }
        for host, process in joining.items():
            _, said = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, f"{host}: {said}"

    def start(self, *hosts: str) -> None:
        """Start nodes, and wait until they can be asked."""
        self.launch(*hosts)
        for host in hosts:
            socket = self.home(host).node_socket(host)
            until(lambda socket=socket: socket.exists(), PATIENCE_S, lambda host=host: self.condition(host))

    def launch(self, *hosts: str) -> None:
        """Start nodes, and do not wait."""
        for host in hosts:
            self._forget(host)
            self.home(host).node_socket(host).unlink(missing_ok=True)
            (self.root / host).mkdir(parents=True, exist_ok=True)
            with open(self.root / f"{host}.log", "ab") as log:
                self.started_s[host] = time.monotonic()
                self.nodes[host] = self.lan.popen(
                    host, [*SWARM, "node", "--name", host, *self.flags], env=self.env(host), cwd=ROOT,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip

    def condition(self, host: str) -> str:
        """What there is to say of a node that does not come up: whether it ended, or waits for the processor."""
        node = self.nodes[host]
        with contextlib.suppress(OSError, IndexError):
            facts = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
            cpu_s = (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")
            return f"{host} is {facts[0]}, {cpu_s} s of processor, load {os.getloadavg()[0]:.0f}; {self.log(host)}"
        return f"{host} ended with {node.poll()}; {self.log(host)}"

    def log(self, host: str) -> str:
        log = self.root / f"{host}.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    def buried(self, since_s: float) -> list[tuple[str, str]]:
        """Who took whom for dead since an instant (wall clock), by the nodes' logs."""
        found = []
        for host in self.homes:
            log = self.root / f"{host}.log"
            for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
                if '"member.dead"' in line:
                    said = json.loads(line)
                    if datetime.fromisoformat(said["timestamp"]).timestamp() > since_s:
                        found.append((host, str(said["member"])))
        return found

    def kill(self, host: str) -> float:
        """End a node as a power cut would; the instant."""
        self._forget(host)
        self.nodes[host].kill()
        at_s = time.monotonic()
        self.nodes.pop(host).wait()
        return at_s

    def signal(self, host: str, number: int) -> float:
        """Send a signal to the node itself, not to its workers; the instant."""
        self.nodes[host].send_signal(number)
        return time.monotonic()

    def stop(self) -> dict[str, int]:
        """End all nodes in order; their exit statuses."""
        self.pulse.close()
        for host in list(self._clients):
            self._forget(host)
        for node in self.nodes.values():
            node.send_signal(signal.SIGCONT)
            node.send_signal(signal.SIGTERM)
        return {host: node.wait(PATIENCE_S) for host, node in self.nodes.items()}

    # -- what it says --------------------------------------------------------------------------------------------------

    def client(self, host: str) -> Fleet:
        """A client of a host's node, kept while the node lives."""
        if host not in self._clients:
            os.environ["SWARM_NODE_SOCKET"] = str(self.home(host).node_socket(host))
            try:
                self._clients[host] = connect(self.home(host), timeout_s=PATIENCE_S)
            finally:
                del os.environ["SWARM_NODE_SOCKET"]
        return self._clients[host]

    def states(self, host: str) -> dict[str, str]:
        """What a host's node knows of the members: states by name."""
        try:
            return {str(member["name"]): str(member["state"]) for member in self.client(host).members()}
        except FleetNotFound:  # the node stood still for so long that the client gave the link up
            self._forget(host)
            return {}

    def alive(self, host: str) -> set[str]:
        return {name for name, state in self.states(host).items() if state == "alive"}

    def know(
        self, watchers: Iterator[str] | list[str], holds: Callable[[dict[str, str]], bool], within_s: float
    ) -> float:
        """Wait until this holds of what each of these hosts says of the members; the instant when it did for the last."""
        waiting = list(watchers)
        deadline = time.monotonic() + within_s
        seen: dict[str, dict[str, str]] = {}
        while waiting:
            for host in list(waiting):
                seen[host] = self.states(host)
                if holds(seen[host]):
                    waiting.remove(host)
            late = "".join(f"\n--- {host}: {seen.get(host)}\n{self.log(host)}" for host in waiting)
            assert not waiting or time.monotonic() < deadline, f"not within {within_s} s:{late}"
            time.sleep(0.02)
        return time.monotonic()

    def all_know(self, hosts: list[str], within_s: float) -> float:
        """Wait until these hosts are exactly the live members to each of them; the instant."""
        return self.know(hosts, lambda states: {n for n, s in states.items() if s == "alive"} == set(hosts), within_s)

    def _forget(self, host: str) -> None:
        client = self._clients.pop(host, None)
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()


def until(condition: Callable[[], Any], within_s: float, said: Callable[[], str] = str) -> float:
    """Wait for a condition, at most so long; how long it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, f"not within {within_s} s: {said()}"
        time.sleep(0.02)
    return time.monotonic() - began_s


def json_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
