"""What is done to the hosts. Drawn by a seed: the same seed gives the same faults in the same order.

Two plans run beside each other: one strikes nodes, one fault after the other, the other one the network and clocks. So
a node is killed while others are cut off. The model is that of the design's promise 3: at
most one replica is damaged or full at a time, and nothing else is done to nodes until damage is repaired; all may be killed or cut for a moment.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import psutil

from swarm.errors import SwarmError
from tests.chaos.hosts import Hosts

NODE_FAULTS = {
    "kill": 10, "kill-two": 2, "kill-all": 1, "stop": 3, "hang": 4, "hang-host": 2,
    "worker": 5, "rot": 3, "tear": 3, "full": 3,
}  # fmt: skip
"""Kinds, and how often in comparison."""
NET_FAULTS = {"cut": 4, "cut-out": 3, "cut-in": 2, "cut-pair": 3, "halves": 2, "loss": 3, "slow": 2, "clock": 3}
REPAIR_S = 30.0
"""Within this a damaged log is repaired from the others, when nothing else goes wrong."""
CLOCK_S = 7200.0
UP_S = 180.0
"""Within this a node that was started is up, five at once on a machine that has much else to do; it takes two seconds else."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, on which hosts, for how long; and how long it is quiet before."""

    kind: str
    hosts: tuple[str, ...]
    lasts_s: float
    after_s: float
    draw: int
    """What else is to be drawn is drawn from this."""


@dataclass(slots=True)
class Done:
    """A fault that was injected."""

    kind: str
    hosts: tuple[str, ...]
    from_s: float
    to_s: float = 0.0
    note: str = ""


def plan(seed: str, kinds: dict[str, int], hosts: list[str], count: int, mildness: float = 1.0) -> list[Fault]:
    """So many faults. In the first ones every kind comes once, where there are enough of them."""
    if not kinds:
        return []
    rng = random.Random(seed)
    first = list(kinds)
    rng.shuffle(first)
    drawn = first[:count] + rng.choices(list(kinds), list(kinds.values()), k=max(0, count - len(first)))
    return [_drawn(kind, hosts, rng, mildness) for kind in drawn]


def _drawn(kind: str, hosts: list[str], rng: random.Random, mildness: float) -> Fault:
    count = {"kill-two": 2, "kill-all": len(hosts), "cut-pair": 2, "halves": 2}.get(kind, 1)
    lasts_s = {
        "kill": rng.choice((0.0, rng.uniform(0.5, 4.0), rng.uniform(6.0, 12.0))),
        "hang": rng.uniform(0.3, 8.0), "hang-host": rng.uniform(0.3, 8.0), "full": rng.uniform(5.0, 15.0),
        "rot": 0.5, "tear": rng.uniform(0.0, 3.0), "clock": rng.uniform(2.0, 15.0), "loss": rng.uniform(2.0, 10.0),
        "kill-two": rng.uniform(0.0, 1.0), "kill-all": 0.0, "stop": 0.0, "worker": 0.0,
    }.get(kind, rng.uniform(0.5, 8.0))  # fmt: skip
    return Fault(
        kind, tuple(sorted(rng.sample(hosts, count))), lasts_s, rng.uniform(0.5, 4.0) * mildness, rng.getrandbits(32)
    )


@dataclass(slots=True)
class Nemesis:
    """Carries plans out, and writes down what it did."""

    hosts: Hosts
    done: list[Done] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What nodes did that they should not have done."""
    downs: list[tuple[str, float, float]] = field(default_factory=list)
    """Host, when its node was killed, when it could be asked again."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, nodes: list[Fault], net: list[Fault]) -> None:
        """Begin, in threads."""
        for faults in (nodes, net):
            self._threads.append(threading.Thread(target=self._carry_out, args=(faults,)))
            self._threads[-1].start()

    def wait(self, timeout_s: float) -> None:
        """Wait until the plans are over, at most so long."""
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def end(self) -> None:
        """End what is under way; afterwards nothing is cut, and every node runs."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self.hosts.lan.heal()
        self.check_nodes()

    def check_nodes(self) -> None:
        """Nodes end when they are killed or told to, and not by themselves."""
        for host, node in list(self.hosts.nodes.items()):
            status = node.poll()
            if status is not None:
                self.wrong.append(f"the node of {host} ended by itself with {status}: {self.hosts.log(host)[-1500:]}")
                self.hosts.restart(host)

    def _carry_out(self, faults: list[Fault]) -> None:
        for fault in faults:
            if self._ended.wait(fault.after_s):
                return
            done = Done(fault.kind, fault.hosts, time.monotonic())
            try:
                self._ACTIONS[fault.kind](self, fault, done)
            except BaseException as error:
                self.wrong.append(f"{fault.kind} of {', '.join(fault.hosts)}: {type(error).__name__}: {error}"[:3000])
                if not isinstance(error, Exception):
                    raise
            done.to_s = time.monotonic()
            self.done.append(done)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _kill(self, fault: Fault, done: Done, while_down: Callable[[str], str] | None = None) -> None:
        self.check_nodes()
        killed = {host: self.hosts.kill(host) for host in fault.hosts}
        self._ended.wait(fault.lasts_s)
        if while_down is not None:
            done.note = while_down(fault.hosts[0])
        self.hosts.launch(*killed)
        for host, at_s in killed.items():
            self._is_up(host)
            self.downs.append((host, at_s, time.monotonic()))

    def _is_up(self, host: str) -> None:
        socket = self.hosts.home(host).node_socket(host)
        until_s = time.monotonic() + UP_S
        while not socket.exists():
            assert self.hosts.nodes[host].poll() is None, f"it does not start: {self.hosts.condition(host)}"
            assert time.monotonic() < until_s, f"it does not come up: {self.hosts.condition(host)}"
            time.sleep(0.05)

    def _stop(self, fault: Fault, done: Done) -> None:
        self.check_nodes()
        for host in fault.hosts:
            node = self.hosts.nodes.pop(host)
            at_s = time.monotonic()
            node.send_signal(signal.SIGTERM)
            status = node.wait(UP_S)
            if status != 0:
                self.wrong.append(f"{host} was told to stop and ended with {status}: {self.hosts.log(host)[-1500:]}")
            done.note = f"{time.monotonic() - at_s:.1f} s to drain"
            self.hosts.launch(host)
            self._is_up(host)

    def _hang(self, fault: Fault, done: Done) -> None:
        self.check_nodes()
        (host,) = fault.hosts
        pids = [self.hosts.nodes[host].pid] if fault.kind == "hang" else self.hosts.lan.pids(host)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number == signal.SIGSTOP:
                self._ended.wait(fault.lasts_s)

    def _worker(self, fault: Fault, done: Done) -> None:
        workers = self.hosts.workers(fault.hosts[0])
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                random.Random(fault.draw).choice(sorted(workers, key=lambda each: each.pid)).kill()

    def _rot(self, fault: Fault, done: Done) -> None:
        (host,) = fault.hosts
        damaged = self.hosts.said(host, "ledger.damaged")
        self._kill(fault, done, lambda host: self.hosts.flip_bits(host, random.Random(fault.draw)))
        since_s = time.monotonic()
        while not self._ended.wait(0.2) and time.monotonic() - since_s < REPAIR_S:
            groups = self.hosts.groups(host)
            if groups and not any(group["damaged"] for group in groups):
                found = self.hosts.said(host, "ledger.damaged") - damaged
                done.note += (
                    f"; {found} logs found damaged, whole again {time.monotonic() - since_s:.1f} s after the start"
                )
                return
        done.note += "; not whole again yet"

    def _tear(self, fault: Fault, done: Done) -> None:
        self._kill(fault, done, lambda host: self.hosts.tear(host, random.Random(fault.draw)))

    def _full(self, fault: Fault, done: Done) -> None:
        self.check_nodes()
        (host,) = fault.hosts
        full = self.hosts.said(host, "journal.full")
        filler = self.hosts.fill(host)
        with contextlib.suppress(
            SwarmError, TimeoutError
        ):  # it may be refused: that is what a full disk is answered with
            self.hosts.bulk(host)
        self._ended.wait(fault.lasts_s)
        filler.unlink()
        done.note = f"the journal was refused space {self.hosts.said(host, 'journal.full') - full} times"

    # -- network, clocks -----------------------------------------------------------------------------------------------

    def _cut(self, fault: Fault, done: Done) -> None:
        lan, host = self.hosts.lan, fault.hosts[0]
        others = [other for other in self.hosts.names if other != host]
        match fault.kind:
            case "cut":
                lan.cut(host)
            case "cut-out":
                lan.cut(host, one_way=True)
            case "cut-in":
                for other in others:
                    lan.cut(other, host, one_way=True)
            case "cut-pair":
                lan.cut(*fault.hosts)
            case "halves":
                for one in fault.hosts:
                    for other in self.hosts.names:
                        if other not in fault.hosts:
                            lan.cut(one, other)
            case "loss":
                lan.loss(random.Random(fault.draw).randint(2, 30), host)
        self._ended.wait(fault.lasts_s)
        lan.heal()

    def _slow(self, fault: Fault, done: Done) -> None:
        if not self.hosts.slow(fault.hosts[0], True):
            done.note = "this kernel has no token bucket filter"
            return
        self._ended.wait(fault.lasts_s)
        self.hosts.slow(fault.hosts[0], False)

    def _clock(self, fault: Fault, done: Done) -> None:
        ahead_s = random.Random(fault.draw).uniform(-CLOCK_S, CLOCK_S)
        done.note = f"by {ahead_s:+.0f} s"
        self.hosts.set_clock(fault.hosts[0], ahead_s)
        self._ended.wait(fault.lasts_s)
        self.hosts.set_clock(fault.hosts[0], 0.0)

    _ACTIONS: ClassVar[dict[str, Callable[[Nemesis, Fault, Done], None]]] = {
        "kill": _kill, "kill-two": _kill, "kill-all": _kill, "stop": _stop, "hang": _hang, "hang-host": _hang,
        "worker": _worker, "rot": _rot, "tear": _tear, "full": _full, "cut": _cut, "cut-out": _cut, "cut-in": _cut,
        "cut-pair": _cut, "halves": _cut, "loss": _cut, "slow": _slow, "clock": _clock,
    }  # fmt: skip
