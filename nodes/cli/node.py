"""Start a node on this machine. The first one makes a fleet, of which this user is the administrator.

It runs in the foreground until SIGTERM or Ctrl-C, then drains: what runs may finish, what waits is handed over.

`swarm node drain [NAME]` has a node of this machine that runs do the same without ending: before an upgrade, say. It
takes nothing more, hands over the logs that it leads, waits for what runs, and says what is left. With --for-good it hands over its
copies of all logs as well.
"""

from __future__ import annotations

import argparse

from nodes.cli.arguments import add_settings_arguments, duration, settings_flags
from nodes.cli.screen import print_json
from swarm.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm node`: one flag a setting."""
    parser.add_argument("action", nargs="?", choices=("drain",), help="leave it out to start a node")
    parser.add_argument("which", nargs="?", metavar="NAME", help="the node of this machine to drain; the only one")
    parser.add_argument("--for-good", action="store_true", help="drain: hand over every copy, too")
    parser.add_argument(
        "--within", type=duration, default=120.0, metavar="TIME", help="drain: how long it may take (2m)"
    )
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the node until it is told to stop; 0 after a clean stop."""
    if args.action == "drain":
        return _drain(args)
    from pathlib import Path

    from nodes.settings import load
    from swarm.paths import Home

    home = Home.resolve()
    loaded = load(settings_flags(args), file=Path(args.config) if args.config else None, home=home)

    from nodes.node import serve

    return serve(loaded, home)


def _drain(args: argparse.Namespace) -> int:
    from nodes.cli.draining import drained

    answer = drained(args, args.which, for_good=args.for_good, timeout_s=args.within)
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
            f"{answer['node']} is still busy after {args.within:g} s: {answer['running']} tasks run. It takes nothing more."
        )
    return ExitCode.OK if done else ExitCode.BUSY
