"""What a node says of itself and of the machine that it runs on: capacity, load, names, addresses, locks."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nodes import releases
from nodes.environment import DIGEST_BYTES, interpreter
from nodes.settings import NodeSettings
from swarm.errors import SystemRefused
from swarm.paths import Home
from swarm.protocol.execution import Execution
from swarm.protocol.membership_config import INFO_BYTES_MAX
from swarm.protocol.membership_wire import write_info
from swarm.protocol.resources import INTERPRETER_LABEL, NODE_LABEL, PACKAGES_LABEL, Capacity
from swarm.protocol.states import Priority
from transport.fleet import host_name

SEEDS_FILE = "seeds"
SUSPENDED_PART = 4
"""Suspended tasks may keep this part (a quarter) of the machine's memory, unless the settings say otherwise."""


class SaidOnLinks(Mapping[str, object]):
    """What every new link is told of this node: facts, and what tasks get that ask for nothing, which changes with the
    fleet."""

    def __init__(self, facts: Mapping[str, object], durability: Callable[[], str]) -> None:
        self._facts = facts
        self._durability = durability

    def __getitem__(self, key: str) -> object:
        return self._durability() if key == "durability" else self._facts[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._facts, "durability"))

    def __len__(self) -> int:
        return len(self._facts) + 1


def capacity_of(settings: NodeSettings, name: str) -> Capacity:
    """What this node offers: slots, memory, named resources, labels (its name is one), interpreters."""
    import psutil

    slots = settings.node.workers
    if slots is None:
        slots = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    totals = {"cpu": float(slots), "memory": float(psutil.virtual_memory().total), **settings.node.resources}
    labels = frozenset(settings.node.labels) | {
        INTERPRETER_LABEL + interpreter(),
        f"os:{sys.platform}", f"machine:{os.uname().machine}", f"{NODE_LABEL}{name}",
    }  # fmt: skip
    return Capacity(totals, labels, frozenset(settings.node.executors))


def info_of(execution: Execution) -> dict[str, object]:
    """Capacity and load as they are gossiped: short keys, since they travel in every probe."""
    capacity = execution.config.capacity
    load = execution.load()
    info: dict[str, object] = {"f": load["free"], "w": load["wait"]}
    info["r"] = dict(capacity.totals)
    info["n"] = releases.OWN
    if load["blocked"]:
        info["b"] = load["blocked"]
    if "off" in load:
        info["o"] = load["off"]
    if load["drain"]:
        info["d"] = 1
    if "low" in load:
        info["y"] = load["low"]
    classes = [count for _, *counts in execution.classes() for count in counts]
    if any(classes):
        info["k"] = classes
    # a member's name is known without this
    labels = sorted(label for label in capacity.labels if not label.startswith(NODE_LABEL))
    if labels:
        info["l"] = labels
    if capacity.pythons:
        info["p"] = sorted(capacity.pythons)
    return info


def fitted(info: dict[str, object]) -> dict[str, object]:
    """What is gossiped of a node, without what only people look at where there is no room for it."""
    for key in ("k", "e"):
        if key in info and len(write_info(info)) > INFO_BYTES_MAX:
            del info[key]
    return info


def classes_from(info: Mapping[str, object]) -> dict[str, dict[str, int]]:
    """(running, suspended) workers of a member by class, from its gossip; only classes of which there are some."""
    counts = info.get("k")
    if not isinstance(counts, list | tuple) or len(counts) != 2 * len(Priority):
        return {}
    if not all(type(count) is int and 0 <= count < 1 << 32 for count in counts):
        return {}
    found = {}
    for priority in Priority:
        running, suspended = counts[2 * priority : 2 * priority + 2]
        if running or suspended:
            found[priority.name.lower()] = {"running": running, "suspended": suspended}
    return found


def suspended_bytes_of(settings: NodeSettings, capacity: Capacity) -> int:
    """How much memory suspended tasks may keep here; 0: whatever they have."""
    said = settings.node.suspended_bytes
    return int(capacity.totals.get("memory", 0.0)) // SUSPENDED_PART if said is None else said


AMOUNT_END = 2.0**64
"""Of no resource has a machine so much: bytes are what there is most of."""


def capacity_from(info: Mapping[str, object], name: str) -> Capacity:
    """A member's capacity from its gossip; what is malformed counts as nothing."""
    totals = info.get("r")
    labels, pythons, packages = info.get("l"), info.get("p"), info.get("e")
    known = [PACKAGES_LABEL + packages.hex()] if type(packages) is bytes and len(packages) == DIGEST_BYTES else []
    return Capacity(
        {
            str(name): float(amount)
            for name, amount in totals.items()
            if type(amount) in (int, float) and 0 <= amount < AMOUNT_END
        }
        if isinstance(totals, Mapping)
        else {},
        frozenset((f"{NODE_LABEL}{name}", *known, *map(str, labels if isinstance(labels, list | tuple) else ()))),
        frozenset(str(name) for name in pythons) if isinstance(pythons, list | tuple) else frozenset(),
    )


def load_from(info: Mapping[str, object]) -> dict[str, object]:
    """A member's load from its gossip."""
    return {
        "free": info.get("f"),
        "wait": info.get("w"),
        "drain": bool(info.get("d")),
        "blocked": info.get("b", 0),
        "low": info.get("y"),
        "off": info.get("o", 0),
    }


def host_id() -> bytes:
    """16 bytes that tell this machine, in this boot, from others: same-host reaches are tried only where it is equal."""
    from blake3 import blake3

    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text() + str(os.stat("/dev/shm").st_dev)
    except OSError:
        import uuid

        text = str(uuid.getnode())
    return blake3(text.encode(), derive_key_context="nanoswarm host v1").digest(16)


def own_name(home: Home) -> str:
    """The name of this home's node: the host's, and a number when a node of that name runs already."""
    base = "".join(c if c.isalnum() else "-" for c in host_name().lower()).strip("-")[:24] or "node"
    for number in range(1, 1000):
        name = base if number == 1 else f"{base}-{number}"
        if not is_locked(home.node_dir(name) / "lock"):
            return name
    raise SystemRefused("a thousand nodes of this name run here", hint="give this one a name: --name")


def user_name() -> str:
    """What the user of this home is called as a client."""
    import getpass

    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = f"uid-{os.getuid()}"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:32] or "user"


def worker_environment(home: Home, name: str) -> dict[str, str]:
    """What workers see: the node's environment, and where its socket is, so that tasks can submit tasks."""
    from nodes.settings import all_settings

    environment = dict(os.environ)
    for setting in all_settings():
        if setting.secret:
            environment.pop(setting.variable, None)
    environment["SWARM_NODE_SOCKET"] = str(home.node_socket(name))
    environment["SWARM_NODE"] = name
    environment["PYTHONUNBUFFERED"] = "1"
    # A set of texts has the same order in all workers: a task that is run again elsewhere submits the same as before.
    environment.setdefault("PYTHONHASHSEED", "0")
    # The packages live beside each other; a worker is started with `-m` and must find them wherever it is started.
    root = str(Path(__file__).resolve().parent.parent)
    paths = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    if root not in paths:
        environment["PYTHONPATH"] = os.pathsep.join([root, *paths])
    return environment


def joined_by(home: Home) -> list[str]:
    """Where the token was redeemed that brought this home in: seeds, for LANs without multicast."""
    try:
        return [line for line in (home.fleet_dir / SEEDS_FILE).read_text().split() if line]
    except OSError:
        return []


def interface_addresses(settings: NodeSettings) -> list[str]:
    """The LAN addresses of this machine."""
    from transport.interfaces import InterfaceRule, announced, interfaces

    rule = InterfaceRule(tuple(settings.discovery.interfaces_allow), tuple(settings.discovery.interfaces_deny))
    return list(announced(interfaces(rule)))


def endpoint_of(host: str, port: int) -> str:
    """A TCP endpoint; port 0 asks for a free one."""
    shown = "*" if port == 0 else str(port)
    return f"tcp://[{host}]:{shown}" if ":" in host else f"tcp://{host}:{shown}"


def read_number(path: Path) -> int:
    try:
        return max(0, int(path.read_text()))
    except (OSError, ValueError):
        return 0


def lock(path: Path, name: str) -> Any:
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise SystemRefused(
            f"a node named {name} runs already in this home",
            hint="give this one another name: --name NAME, or another home: SWARM_HOME=DIR",
            name=name,
        ) from None
    return file.close


def is_locked(path: Path) -> bool:
    try:
        file = open(path)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        file.close()
