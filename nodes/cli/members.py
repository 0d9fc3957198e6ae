"""The nodes of the fleet: alive, suspected, and those lately gone."""

from __future__ import annotations

import argparse

from nodes.cli.arguments import add_client_arguments
from nodes.cli.connecting import ask
from nodes.cli.screen import print_json
from nodes.cli.status import members_table
from swarm.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm members`."""
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    members = ask(args, "members").get("members", [])
    if args.json:
        print_json(members)
    else:
        print(members_table(members))
    return ExitCode.OK
