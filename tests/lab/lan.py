"""A LAN in one machine: hosts that are network namespaces on a switch, which can be cut, made lossy and unplugged.

    with Lan(5) as lan:                       # h1 … h5 = 10.77.0.1 … 5 and fd77::1 … 5
        node = lan.popen("h1", ["swarm", "node"])
        lan.cut("h1", "h2")                   # nothing passes between the two
        lan.cut("h1", one_way=True)           # nothing leaves h1
        lan.heal()
        lan.loss(10, "h3")                    # a tenth of all frames from and to h3
        lan.plug("h4", False)                 # h4 sees its cable go
        lan.multicast(False)                  # as on many a wireless LAN: no mDNS gets through

The switch is a bridge in a namespace of its own, so labs side by side share nothing, and the machine's own interfaces,
routes and firewall are not touched. What passes between two ports of the switch is decided there by one small nftables
table that is written anew at each change. Hosts have no way out: no default route, no name server.

Needs root, iproute2, nftables and util-linux. Names of namespaces hold the process id of the lab's owner, so that what
a killed test run left behind is cleared by the next.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

TOOLS = ("ip", "nft", "nsenter", "unshare")
SWITCH = "switch"
_NETNS = Path("/run/netns")
_NAME = re.compile(r"swlab(\d+)-(\w+)-(h\d+|switch)")


def missing() -> str:
    """Why a lab cannot be made here; empty when it can."""
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a lab of network namespaces needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"missing: {', '.join(absent)} (apt-get install iproute2 nftables util-linux)"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, timeout=10)
    return "" if probe.returncode == 0 else f"no network namespaces here: {probe.stderr.strip()}"


class Lan:
    """``hosts`` machines named h1, h2, … on one switch. A context manager; `up` and `down` do the same by hand."""

    def __init__(self, hosts: int, *, label: str = "lan", ipv4: bool = True, ipv6: bool = True) -> None:
        assert 1 <= hosts <= 64 and label.isalnum()
        assert ipv4 or ipv6
        self.hosts = [f"h{k}" for k in range(1, hosts + 1)]
        self._prefix = f"swlab{os.getpid()}-{label}"
        self._ipv4 = ipv4
        self._ipv6 = ipv6 and Path("/proc/net/if_inet6").exists()
        self._deaf = False
        self._cuts: set[tuple[str, str]] = set()
        self._losses: dict[tuple[str, str], int] = {}
        self._children: list[subprocess.Popen[Any]] = []

    # -- up and down ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Lan:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Make it; on failure nothing is left."""
        clear_leftovers()
        try:
            self._build()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End the processes in the hosts (TERM, after ten seconds KILL) and remove everything. Safe to call again."""
        names = [self._namespace(place) for place in (*self.hosts, SWITCH)]
        _remove([name for name in names if (_NETNS / name).exists()])
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
        self._children.clear()

    def address(self, host: str, version: int = 4) -> str:
        """The address of a host on the LAN."""
        number = int(self._checked(host)[1:])
        return f"10.77.0.{number}" if version == 4 else f"fd77::{number:x}"

    def _build(self) -> None:
        switch = self._namespace(SWITCH)
        _run("ip", "netns", "add", switch)
        for host in self.hosts:
            _run("ip", "netns", "add", self._namespace(host))
        # no snooping: without a querier a bridge that snoops stops passing multicast after some minutes
        lines = [
            "link set lo up",
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link set br0 up",
        ]
        for host in self.hosts:
            lines += [
                f"link add {host} type veth peer name eth0 netns {self._namespace(host)}",
                f"link set {host} master br0 up",
            ]
        _batch(switch, lines)
        for host in self.hosts:
            lines = ["link set lo up"]
            if self._ipv4:
                lines.append(f"addr add {self.address(host)}/24 brd + dev eth0")
            if self._ipv6:
                lines.append(f"addr add {self.address(host, 6)}/64 dev eth0 nodad")
            lines.append("link set eth0 up")
            if self._ipv4:
                # a host without a default route needs to be told where multicast goes
                lines.append("route add 224.0.0.0/4 dev eth0")
            self._no_address_detection(host)
            _batch(self._namespace(host), lines)
        self._write_rules()

    def _no_address_detection(self, host: str) -> None:
        """Let link-local IPv6 addresses be usable at once, not a second later."""
        script = "for f in /proc/sys/net/ipv6/conf/eth0/accept_dad; do [ -w $f ] && echo 0 >$f; done; true"
        _run(*self.enter(host), "sh", "-c", script)

    # -- what runs in it -----------------------------------------------------------------------------------------------

    def argv(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs a command in a host (or on the switch), with the host's name as its host name.

        It replaces itself, so the process id of what is started this way is the command's own.
        """
        named = ["unshare", "--uts", "sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname; exec "$@"', host]
        return [*self.enter(host), *named, *command]

    def popen(self, host: str, command: Sequence[str], **more: Any) -> subprocess.Popen[Any]:
        """Start a command in a host; `down` ends it if the test did not."""
        child = subprocess.Popen(self.argv(host, command), **more)
        self._children.append(child)
        return child

    def run(
        self, host: str, command: Sequence[str], *, timeout_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host to its end, and return what it wrote; its status is the caller's to look at."""
        return subprocess.run(
            self.argv(host, command), capture_output=True, text=True, timeout=timeout_s, env=env, check=False
        )

    def pids(self, host: str) -> list[int]:
        """The processes in a host."""
        return _pids(self._namespace(host))

    def signal(self, host: str, number: int) -> None:
        """Send a signal to every process of a host: SIGSTOP is a machine that hangs, SIGKILL one that loses power."""
        for pid in self.pids(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def cut(self, a: str, b: str | None = None, *, one_way: bool = False) -> None:
        """Drop every frame between a and b, or between a and all others; ``one_way`` drops only what a sends."""
        self._cuts.update(self._pairs(a, b, one_way))
        self._write_rules()

    def heal(self, a: str | None = None, b: str | None = None) -> None:
        """Undo cuts and losses: of the pair, of a, or all."""
        gone = set(self._pairs(a, b, False)) if a is not None else self._cuts | set(self._losses)
        self._cuts -= gone
        self._losses = {pair: percent for pair, percent in self._losses.items() if pair not in gone}
        self._write_rules()

    def loss(self, percent: int, a: str, b: str | None = None, *, one_way: bool = False) -> None:
        """Drop this part of the frames, at random; 0 undoes it."""
        assert 0 <= percent <= 100
        for pair in self._pairs(a, b, one_way):
            self._losses.pop(pair, None)
            if percent:
                self._losses[pair] = percent
        self._write_rules()

    def multicast(self, passes: bool) -> None:
        """Let multicast DNS pass the switch, or drop it."""
        self._deaf = not passes
        self._write_rules()

    def plug(self, host: str, plugged: bool) -> None:
        """Pull a host's cable, or plug it in again. The host sees that, unlike a cut."""
        _batch(self._namespace(SWITCH), [f"link set {self._checked(host)} {'up' if plugged else 'down'}"])

    def _pairs(self, a: str, b: str | None, one_way: bool) -> list[tuple[str, str]]:
        self._checked(a)
        others = [self._checked(b)] if b is not None else [host for host in self.hosts if host != a]
        assert a not in others, "a host cannot be cut from itself"
        pairs = [(a, other) for other in others]
        return pairs if one_way else pairs + [(other, a) for other in others]

    def _write_rules(self) -> None:
        rules = ["meta l4proto udp udp dport 5353 drop"] if self._deaf else []
        rules += [f"iifname {a} oifname {b} drop" for a, b in sorted(self._cuts)]
        rules += [
            f"iifname {a} oifname {b} numgen random mod 100 <= {percent - 1} drop"
            for (a, b), percent in sorted(self._losses.items())
        ]
        table = [
            "table bridge lab",
            "delete table bridge lab",
            "table bridge lab { chain passing { type filter hook forward priority 0; policy accept;",
            *rules,
            "}",
            "}",
        ]
        command = ["nsenter", f"--net={_NETNS / self._namespace(SWITCH)}", "nft", "-f", "-"]
        _run(*command, text="\n".join(table) + "\n")

    # -- names ---------------------------------------------------------------------------------------------------------

    def _checked(self, host: str) -> str:
        assert host in self.hosts, f"no such host: {host}"
        return host

    def _namespace(self, place: str) -> str:
        return f"{self._prefix}-{place if place == SWITCH else self._checked(place)}"

    def enter(self, host: str) -> list[str]:
        """What to put before a command line to have it in the network of a host, and nothing else changed."""
        # not `ip netns exec`: that mounts a /sys of its own, in which control groups are missing
        return ["nsenter", f"--net={_NETNS / self._namespace(host)}"]


def clear_leftovers() -> None:
    """Remove the labs of processes that are gone."""
    if not _NETNS.is_dir():
        return
    names = [match for entry in os.scandir(_NETNS) if (match := _NAME.fullmatch(entry.name))]
    _remove([match[0] for match in names if not Path(f"/proc/{match[1]}").exists()])


def _remove(namespaces: Iterable[str]) -> None:
    namespaces = list(namespaces)
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + patience_s
        pids = [pid for name in namespaces for pid in _pids(name)]
        for pid in pids:
            for what in (number, signal.SIGCONT):  # a stopped process ends only when it goes on
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, what)
        while pids and time.monotonic() < deadline:
            time.sleep(0.02)
            pids = [pid for name in namespaces for pid in _pids(name)]
        if not pids:
            break
    for name in namespaces:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)


def _pids(namespace: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=20, check=False)
    # a zombie is in the list until its parent waits for it
    return [int(pid) for pid in done.stdout.split() if _state(pid) != "Z"]


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "Z"


def _batch(namespace: str, lines: Sequence[str]) -> None:
    _run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines) + "\n")


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{text or ''}")
