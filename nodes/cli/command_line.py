"""The command line of ``swarm``: which verb is meant, and what is said when it goes wrong.

A verb's module has ``add_arguments(parser)`` and ``run(args) -> int``. What a user did wrong is one line and a hint; a
traceback of ours is shown with ``--debug`` only.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from nodes.cli.arguments import Parser, add_common_arguments
from swarm.errors import SwarmError, UsageError
from swarm.exit_codes import ExitCode

VERBS: Final[dict[str, str]] = {
    "node": "start a node on this machine",
    "drain": "have a node of this machine hand over what it keeps (also: swarm node drain)",
    "run": "run one command somewhere in the fleet, as if it ran here",
    "map": "run a command for each of many inputs",
    "plan": "where tasks would run, and who would make way for them",
    "audit": "code health of a source tree, measured by the fleet",
    "status": "the fleet at a glance",
    "members": "the nodes of the fleet",
    "task": "list, show, wait for, cancel and explain tasks",
    "batch": "list, show and wait for batches, and have their results",
    "fleet": "make a fleet, let machines join it, turn them away",
    "nano": "nano-agents: measure, run a population, look into a saved one",
    "knowledge": "what the fleet knows: put, get, query, who, watch, drop, count, use, pruned, restore",
    "lesson": "lessons from failures: list, show, why, forget, add",
    "snapshot": "snapshots on this machine: create, list, verify, diff, restore, repair, pull, push",
    "journal": "a node's journal on disk: verify, export, compact",
    "config": "check and show the settings of a node",
    "version": "versions of what is installed",
    "completion": "completion for bash, zsh or fish",
}

_TRANSPORT_CODES: Final = {
    "missing": ExitCode.NO_FLEET,
    "unreachable": ExitCode.NO_FLEET,
    "timeout": ExitCode.NO_FLEET,
    "disconnected": ExitCode.NO_FLEET,
    "closed": ExitCode.NO_FLEET,
    "busy": ExitCode.BUSY,
    "bad-name": ExitCode.USAGE,
    "exists": ExitCode.USAGE,
    "unreadable": ExitCode.SYSTEM,
    "unwritable": ExitCode.SYSTEM,
    "permissions": ExitCode.SYSTEM,
    "damaged": ExitCode.SYSTEM,
    "locked": ExitCode.SYSTEM,
}


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status (:class:`swarm.exit_codes.ExitCode`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in _before_command(words) or os.environ.get("SWARM_DEBUG", "") not in ("", "0")
    json = "--json" in _before_command(words)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _broken_pipe()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        return report(error, json=json, debug=debug)


def report(error: Exception, *, json: bool, debug: bool) -> int:
    """Say what went wrong on standard error, and return the exit status that says which kind it was."""
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, SwarmError):
        message, hint, code = error.message or type(error).__name__, error.hint, error.exit_code
    elif type(error).__module__.startswith("transport."):
        # transport knows nothing of swarm's errors: its own carry a reason and a hint
        message, hint = str(error), str(getattr(error, "hint", ""))
        code = _TRANSPORT_CODES.get(str(getattr(error, "reason", "")), ExitCode.DENIED)
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message, hint, code = f"{where}{error.strerror}", "", ExitCode.SYSTEM
    else:
        message = f"{type(error).__name__}: {error}"
        hint = "this is a mistake in swarm, not yours; with --debug it shows where. Please report it."
        code = ExitCode.INTERNAL
    lines = message.splitlines() or [""]
    if json:
        from nodes.cli.screen import to_json

        facts = error.facts if isinstance(error, SwarmError) else {}
        text = to_json(
            {"error": message, "kind": type(error).__name__, "hint": hint, "exit": int(code), "facts": facts}
        )
    else:
        text = "\n".join([f"error: {lines[0]}", *lines[1:]]) + (f"\n\nhint: {hint}" if hint else "")
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        return code  # standard error is gone: the status is all that is left to say
    return code


def parser_of(verb: str) -> Parser:
    """The parser of one verb, with its arguments. Imports that verb's module."""
    module = importlib.import_module(f"nodes.cli.{verb}")
    parser = Parser(prog=f"swarm {verb}", description=(module.__doc__ or VERBS[verb]).strip())
    add_common_arguments(parser)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["__complete"]:
        from nodes.cli.completion import candidates

        print("\n".join(candidates(words[1:])))
        return ExitCode.OK
    position = next((index for index, word in enumerate(words) if not word.startswith("-")), None)
    leading = words[:position]
    if "--version" in leading:
        words, position, leading = ["version", *[word for word in leading if word == "--json"]], 0, []
    if position is None:
        unknown = [word for word in leading if word not in ("-h", "--help", "--json", "--debug")]
        if unknown:
            raise UsageError(
                f"unknown option {unknown[0]}", hint="options of a command come after it; see `swarm --help`"
            )
        print(_help())
        return ExitCode.OK if {"-h", "--help"} & set(leading) else ExitCode.USAGE
    if words[position : position + 2] == ["node", "drain"]:
        words = [*words[:position], *words[position + 1 :]]
    verb = words[position]
    if verb == "help":
        rest = [word for word in words[position + 1 :] if word in VERBS]
        if not rest:
            print(_help())
            return ExitCode.OK
        words, position, leading, verb = [rest[0], "--help"], 0, [], rest[0]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise UsageError(
            f"there is no command {verb!r}",
            hint=f"did you mean `swarm {near[0]}`?" if near else "`swarm --help` lists the commands",
        )
    arguments = parser_of(verb).parse_args([*leading, *words[position + 1 :]])
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    return int(arguments.run(arguments))


def _before_command(words: list[str]) -> list[str]:
    """The words that are ours: in `swarm run -- cmd --json` that --json is the command's."""
    return words[: words.index("--")] if "--" in words else words


def _help() -> str:
    width = max(len(verb) for verb in VERBS)
    listed = "\n".join(f"  {verb:<{width}}  {about}" for verb, about in VERBS.items())
    return (
        "usage: swarm COMMAND [OPTION]…\n\n"
        "A brokerless fleet of the machines you have.\n\n"
        f"{listed}\n\n"
        "`swarm COMMAND --help` says more. --json prints for programs; --debug shows tracebacks.\n"
        "SWARM_HOME=DIR keeps all files of a node and a user in DIR."
    )


def _broken_pipe() -> int:
    """Whoever read our output has gone: end quietly, as a filter does."""
    # what is left in the buffer has nowhere to go; the interpreter must not complain of it at exit
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return 128 + 13
