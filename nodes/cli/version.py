"""Versions of what is installed: of the distribution, of the protocol it speaks, and of what it stands on."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from typing import Final

from nodes.cli.screen import print_json
from swarm.exit_codes import ExitCode

DISTRIBUTION: Final = "nanoswarm"
BENEATH: Final = ("pyzmq", "msgpack", "PyNaCl", "cryptography", "zeroconf", "cloudpickle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm version`: nothing of its own."""


def run(args: argparse.Namespace) -> int:
    """Print them."""
    if not args.json:
        print(
            f"swarm {_version(DISTRIBUTION)} (python {platform.python_version()}, {sys.platform} {platform.machine()})"
        )
        return ExitCode.OK
    from swarm.protocol import messages

    print_json(
        {
            "swarm": _version(DISTRIBUTION),
            "protocol": getattr(messages, "VERSION", 1),
            "python": platform.python_version(),
            "platform": sys.platform,
            "machine": platform.machine(),
            "libraries": {name: _version(name) for name in BENEATH},
        }
    )
    return ExitCode.OK


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
