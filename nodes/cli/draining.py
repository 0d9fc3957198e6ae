"""Having a node of this machine hand over what it keeps."""

from __future__ import annotations

import argparse
import os
from typing import Any

from swarm.errors import NotFound
from swarm.paths import Home


def drained(args: argparse.Namespace, name: str | None, *, for_good: bool, timeout_s: float) -> dict[str, Any]:
    """Ask a node of this home, by its name, to take nothing more and to hand over; its answer. Without a name the only one."""
    import swarm

    home = Home.resolve()
    running = sorted(path.stem for path in home.runtime.glob("*.sock")) if home.runtime.is_dir() else []
    if name is None:
        if len(running) != 1:
            raise NotFound(
                f"{len(running)} nodes of this home run: {', '.join(running) or 'none'}",
                hint="name the one to drain: swarm node drain NAME",
            )
        name = running[0]
    socket = home.node_socket(name)
    if not socket.exists():
        raise NotFound(
            f"no node {name!r} of this home runs", hint="a node is drained on its own machine, by its own user"
        )
    before = os.environ.get("SWARM_NODE_SOCKET")
    os.environ["SWARM_NODE_SOCKET"] = str(socket)
    try:
        with swarm.connect(timeout_s=5.0) as fleet:
            answer: dict[str, Any] = fleet.query(
                "drain", timeout_s=timeout_s + 10.0, for_good=for_good, within_s=timeout_s
            )
            return answer
    finally:
        os.environ.pop("SWARM_NODE_SOCKET")
        if before is not None:
            os.environ["SWARM_NODE_SOCKET"] = before
