"""Where threads belong on a machine whose memory has several parts (NUMA): few nodes, neighbours together.

Linux tells its nodes in /sys/devices/system/node (Documentation/admin-guide/mm/numaperf.rst); one node is the usual case, and what
is assumed where nothing is told. A page of memory lies on the node of whoever wrote it first, and a crew deals the same rows
to the same thread pass after pass, so rows stay near their thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from swarm.errors import ConfigError

SYSFS: Final = Path("/sys/devices/system")


@dataclass(frozen=True, slots=True)
class Seat:
    """A processor for a thread, and the node of memory that it is next to."""

    cpu: int
    node: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The processors that this process may use, by node, in the order in which they are to be filled."""

    nodes: tuple[tuple[int, tuple[int, ...]], ...]

    @classmethod
    def read(cls, root: Path = SYSFS, allowed: Collection[int] | None = None) -> Self:
        """This machine, as far as the process is `allowed` to use it (by default what its affinity says).

        Processors that share a core come last in their node. What cannot be read counts as one node.
        """
        cpus = set(_allowed() if allowed is None else allowed)
        nodes = {}
        for folder in root.glob("node/node[0-9]*"):
            number = folder.name.removeprefix("node")
            if number.isdigit():
                mine = cpu_list(_text(folder / "cpulist")) & cpus
                if mine:  # a node may be memory alone
                    nodes[int(number)] = mine
        told = set().union(*nodes.values())
        if not nodes:
            nodes = {0: cpus}
        elif cpus - told:
            nodes[min(nodes)] |= cpus - told
        return cls(tuple((node, _whole_cores_first(root, nodes[node])) for node in sorted(nodes)))

    @property
    def cpus(self) -> int:
        """How many processors there are for us."""
        return sum(len(cpus) for _, cpus in self.nodes)

    def plan(self, threads: int, placement: Literal["compact", "spread"] = "compact") -> tuple[Seat, ...]:
        """A seat for each thread; threads of one node have consecutive numbers, and differ by one at most between nodes.

        "compact" uses as few nodes as have processors enough: what is stolen comes from near. "spread" uses all: most memory
        bandwidth. More threads than processors share them.
        """
        if threads < 1:
            raise ConfigError(f"a plan for {threads} threads", hint="there is at least one")
        if placement not in ("compact", "spread"):
            raise ConfigError(f"placement {placement!r}", hint='it is "compact" or "spread"')
        used = list(self.nodes)
        if placement == "compact":
            largest = sorted(self.nodes, key=lambda node: (-len(node[1]), node[0]))
            for count in range(1, len(largest) + 1):
                if sum(len(cpus) for _, cpus in largest[:count]) >= threads:
                    used = sorted(largest[:count])
                    break
        seats = []
        for (node, cpus), taken in zip(used, _fill([len(cpus) for _, cpus in used], threads)):
            seats += [Seat(cpus[i % len(cpus)], node) for i in range(taken)]
        return tuple(seats)


def _fill(rooms: list[int], threads: int) -> list[int]:
    """How many threads each node takes: one after the other, nodes with free processors before those without."""
    taken = [0] * len(rooms)
    for _ in range(threads):
        at = min(range(len(rooms)), key=lambda i: (taken[i] // rooms[i], taken[i] % rooms[i], i))
        taken[at] += 1
    return taken


def cpu_list(text: str) -> set[int]:
    """The numbers of the kernel's list format: "0-3,8,10-11", "" for none; with a stride, "0-8:2/4"."""
    cpus: set[int] = set()
    for part in filter(None, (part.strip() for part in text.strip().split(","))):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+)/(\d+))?)?", part)
        if match is None:
            return set()
        first, last, used, group = match.groups()
        numbers = range(int(first), int(last or first) + 1)
        cpus.update(n for n in numbers if group is None or (n - int(first)) % max(1, int(group)) < int(used))
    return cpus


def _whole_cores_first(root: Path, cpus: Collection[int]) -> tuple[int, ...]:
    """By number, but of those that share a core the first of each core before the second of any."""
    rank: dict[int, int] = {}
    for cpu in sorted(cpus):
        shared = cpu_list(_text(root / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list")) & set(cpus)
        rank[cpu] = sorted(shared | {cpu}).index(cpu)
    return tuple(sorted(cpus, key=lambda cpu: (rank[cpu], cpu)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
