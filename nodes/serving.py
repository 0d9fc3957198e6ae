"""A node as a process: from its start to its clean stop, with its service manager told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from nodes.garbage import Garbage
from nodes.node import Node
from nodes.settings import Loaded
from swarm.exit_codes import ExitCode
from swarm.paths import Home
from swarm.protocol.effects import Fact


def serve(loaded: Loaded, home: Home) -> int:
    """Run a node until SIGTERM or Ctrl-C, then drain; a second signal ends it at once. The exit code."""
    try:
        import uvloop

        runner: Any = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        return int(runner.run(_serve(loaded, home)))


async def _serve(loaded: Loaded, home: Home) -> int:
    from nodes.sd_notify import ServiceManager

    loop = asyncio.get_running_loop()
    service = ServiceManager.from_environment()
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    node = Node(loaded.settings, home, loop, owns_process=True)

    def alive() -> None:
        service.watchdog()
        if node.ready or node.draining:
            service.status(node.summary())

    node.pulse.alive = alive
    opening = loop.create_task(node.open())
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        stopping.cancel()
        return int(ExitCode.OK)
    await opening
    node.fact(
        Fact(
            "node.ready",
            {},
            {
                "fleet": node.fleet.name,
                "id": node.credentials.identity.text,
                "port": node.port,
                "slots": node.fabric.execution.slots,
            },
        )
    )
    service.ready(node.summary())
    garbage = Garbage(loop, lambda: node.fabric.quiet)
    garbage.start()
    await stopping
    garbage.close()
    service.stopping("draining")  # from here on the summary begins with that, too
    node.fact(Fact("node.draining", {}, {"timeout_s": loaded.settings.node.drain_timeout_s}))
    draining = loop.create_task(node.drain(loaded.settings.node.drain_timeout_s))
    hurrying = loop.create_task(hurry.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurrying):
        task.cancel()
    await asyncio.gather(draining, hurrying, return_exceptions=True)
    await node.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        # All is closed, and the interpreter is about to go: who cannot wait for that gets the same answer at once.
        loop.remove_signal_handler(number)
        signal.signal(number, lambda number, frame: os._exit(int(ExitCode.OK)))
    return int(ExitCode.OK)
