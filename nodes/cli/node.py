"""Start a node on this machine. The first one makes a fleet, of which this user is the administrator.

It runs in the foreground until SIGTERM or Ctrl-C, then drains: what runs may finish, what waits is handed over.
"""

from __future__ import annotations

import argparse

from nodes.cli.arguments import add_settings_arguments, settings_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm node`: one flag a setting."""
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the node until it is told to stop; 0 after a clean stop."""
    from pathlib import Path

    from nodes.settings import load
    from swarm.paths import Home

    home = Home.resolve()
    loaded = load(settings_flags(args), file=Path(args.config) if args.config else None, home=home)

    from nodes.serving import serve

    return serve(loaded, home)
