"""Have a node of this machine hand over what it keeps: before an upgrade, or for good. Also `swarm node drain`.

The node takes nothing more, others lead its logs, and what runs may end. It stays up until it is stopped. With --for-good others take its
copies of all logs as well. Exit status: 0 when all is handed over that somebody can take, 75 when it was still busy at the end.
"""

from __future__ import annotations

import argparse

from nodes.cli.arguments import duration
from nodes.cli.draining import drained
from nodes.cli.screen import print_json
from swarm.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm drain`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="the node of this machine; the only one")
    parser.add_argument("--for-good", action="store_true", help="hand over every copy, too")
    parser.add_argument("--within", type=duration, default=120.0, metavar="TIME", help="how long it may take (2m)")


def run(args: argparse.Namespace) -> int:
    """Drain it, and say what is left."""
    answer = drained(args, args.name, for_good=args.for_good, timeout_s=args.within)
    done = answer["handed_over"] and not answer["running"]
    if args.json:
        print_json(answer)
    elif done and not answer["left"]:
        print(f"{answer['node']} takes nothing more, runs nothing, and others lead its logs. Stop it when you like.")
    elif done:
        print(
            f"{answer['node']} takes nothing more and runs nothing. Nobody can take over its own log: it waits for its return."
        )
    else:
        print(
            f"{answer['node']} is busy after {args.within:g} s: {answer['running']} tasks run. It takes nothing more."
        )
    return ExitCode.OK if done else ExitCode.BUSY
