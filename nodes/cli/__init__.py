"""The command ``swarm``. One file a verb; only the file of the verb that is called is imported."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status (:class:`swarm.exit_codes.ExitCode`)."""
    try:
        # not at the top: a Ctrl-C while this is being imported is no mistake to be shown with a traceback
        from nodes.cli.command_line import run
    except KeyboardInterrupt:
        return 130
    return run(argv)
