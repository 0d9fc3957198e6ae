"""How quickly a LAN of real nodes learns of what happens to them: `sudo python -m benchmarks.lan`. Prints; asserts nothing.

Six hosts in network namespaces on one switch. All instants are of one machine's wall clock: those at which processes are
started and killed, and those of the nodes' own logs. So the figures have in them what a user waits for: the start of
Python, keys, the workers, mDNS and membership. Every node of the LAN shares the processors of this one machine.

* *join*: from the start of a node's process until each of the five that run knows it, and it knows each of them
* *first task*: from the same instant until a client of that node has the result of a task
* *three at once*: until each of the three is known to all five, and knows them
* *death*: from kill -9 until the last of four survivors calls the fifth dead
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.fleet import line
from tests.lab import lan as lab
from tests.lan.fleets import LanFleet, until, where

RUNNING = ["h1", "h2", "h3", "h4", "h5"]
PATIENCE_S = 30.0


class Logs:
    """What the nodes of a fleet have logged, read on as it grows."""

    def __init__(self, fleet: LanFleet) -> None:
        self._fleet = fleet
        self._read: dict[str, int] = {}

    def instants(self, host: str, event: str, after_s: float) -> dict[str, float]:
        """When a node logged such an event for the first time since an instant, by the member that it was about."""
        found: dict[str, float] = {}
        path = self._fleet.root / f"{host}.log"
        if not path.exists():
            return found
        with open(path, "rb") as log:
            log.seek(self._read.get(host, 0))
            for text in log:
                if not text.endswith(b"\n") or f'"{event}"'.encode() not in text:
                    continue
                said = json.loads(text)
                at_s = datetime.fromisoformat(said["timestamp"]).timestamp()
                if at_s >= after_s:
                    found.setdefault(str(said.get("member", "")), at_s)
        return found

    def skip(self) -> None:
        """What has been logged so far is of the past."""
        for host in self._fleet.homes:
            path = self._fleet.root / f"{host}.log"
            self._read[host] = path.stat().st_size if path.exists() else 0


def last_joined_s(logs: Logs, newcomers: list[str], residents: list[str], after_s: float) -> float:
    """The instant at which all residents know all newcomers, these each other, and these all residents."""
    everybody = {*newcomers, *residents}
    known: list[float] = []

    def complete() -> bool:
        known.clear()
        for host in sorted(everybody):
            wanted = everybody - {host} if host in newcomers else set(newcomers)
            seen = logs.instants(host, "member.joined", after_s)
            if not wanted <= seen.keys():
                return False
            known.extend(seen[name] for name in wanted)
        return True

    until(complete, PATIENCE_S)
    return max(known)


def joins(fleet: LanFleet, logs: Logs, newcomers: list[str], residents: list[str], count: int) -> list[float]:
    """Seconds that these took to be members, started at once, `count` times."""
    took = []
    for _ in range(count):
        logs.skip()
        began_s = time.time()
        fleet.launch(*newcomers)
        took.append(last_joined_s(logs, newcomers, residents, began_s) - began_s)
        leave(fleet, newcomers, residents)
    return took


def first_tasks(fleet: LanFleet, newcomer: str, residents: list[str], count: int) -> list[float]:
    """Seconds until a node just started, and reached by a client of its own, has done a task."""
    took = []
    for _ in range(count):
        began_s = time.time()
        fleet.launch(newcomer)
        socket = fleet.home(newcomer).node_socket(newcomer)
        until(socket.exists, PATIENCE_S)
        fleet.client(newcomer).submit(where, 0).result(PATIENCE_S)
        took.append(time.time() - began_s)
        leave(fleet, [newcomer], residents)
    return took


def leave(fleet: LanFleet, leavers: list[str], residents: list[str]) -> None:
    """End nodes in good order, and wait until the rest have noticed."""
    for host in leavers:
        fleet.signal(host, signal.SIGTERM)
    for host in leavers:
        assert fleet.nodes.pop(host).wait(PATIENCE_S) == 0
    fleet.all_know(residents, PATIENCE_S)
    time.sleep(0.3)


def deaths(fleet: LanFleet, logs: Logs, count: int) -> list[float]:
    """Seconds from kill -9 of one of five until the last survivor calls it dead."""
    took = []
    for number in range(count):
        victim = RUNNING[1 + number % 4]
        survivors = [host for host in RUNNING if host != victim]
        time.sleep(1.0)
        logs.skip()
        killed_s = time.time()
        fleet.kill(victim)
        called: list[float] = []

        def known(survivors: list[str] = survivors, victim: str = victim, since_s: float = killed_s) -> bool:
            seen = [logs.instants(host, "member.dead", since_s).get(victim) for host in survivors]
            called[:] = [at_s for at_s in seen if at_s is not None]
            return len(called) == len(survivors)

        until(known, PATIENCE_S)
        took.append(max(called) - killed_s)
        fleet.start(victim)
        fleet.all_know(RUNNING, PATIENCE_S)
    return took


def row(what: str, took_s: list[float], reach: str) -> None:
    """p50, p99 and the worst of some durations."""
    took_s = sorted(took_s)
    p50, p99 = (took_s[min(len(took_s) - 1, int(len(took_s) * part))] for part in (0.5, 0.99))
    line(f"{what} ({len(took_s)} times)", f"{p50:.2f} s", f"p99 {p99:.2f} s, reach {reach}")


def main() -> int:
    """Exit status 1 where no lab can be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lan", description=__doc__.partition("\n")[0])
    parser.add_argument("--joins", type=int, default=50)
    parser.add_argument("--deaths", type=int, default=20)
    options = parser.parse_args()
    if why := lab.missing():
        print(f"no lab of hosts here: {why}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as root, lab.Lan(8, label="bench") as lan:
        fleet = LanFleet(lan, Path(root))
        logs = Logs(fleet)
        fleet.start("h1")
        fleet.join(fleet.token("h1", "--uses", "7"), *(host for host in lan.hosts if host != "h1"))
        fleet.start(*RUNNING[1:])
        fleet.all_know(RUNNING, PATIENCE_S)
        print(f"{len(os.sched_getaffinity(0))} processors, load average before: {os.getloadavg()[0]:.1f}")
        row("LAN: a node joins a running fleet of five", joins(fleet, logs, ["h6"], RUNNING, options.joins), "p99 1 s")
        row("  and has done its first task", first_tasks(fleet, "h6", RUNNING, options.joins // 5), "-")
        three = joins(fleet, logs, ["h6", "h7", "h8"], RUNNING, max(1, options.joins // 5))
        row("LAN: three started at once", three, "1.5 s")
        row("LAN: kill -9 of one of five, dead to all", deaths(fleet, logs, options.deaths), "3 s")
        print(f"load average after: {os.getloadavg()[0]:.1f}")
        fleet.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
