"""Check and show the settings of a node, with the places they come from. The same flags as `swarm node`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nodes.cli.arguments import add_settings_arguments, settings_flags
from nodes.cli.screen import print_json, say, table
from nodes.settings import HIDDEN, NodeSettings, Setting, all_settings, load, shown_tree
from nodes.settings_text import sample_file
from swarm.errors import ConfigError
from swarm.exit_codes import ExitCode
from swarm.units import format_bytes, format_duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm config`."""
    parser.add_argument(
        "action", choices=("check", "show"), help="check: say what is wrong; show: say what is in force"
    )
    parser.add_argument("--toml", action="store_true", help="show a file to start from, with every setting in it")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check or show."""
    if args.toml:
        print(sample_file(), end="")
        return ExitCode.OK
    try:
        loaded = load(settings_flags(args), file=Path(args.config) if args.config else None)
    except ConfigError as error:
        if args.action == "show" or "problems" not in error.facts:
            raise
        return _wrong(error, json=args.json)
    if args.action == "check":
        if args.json:
            print_json({"ok": True, "file": loaded.file, "ignored": loaded.ignored})
        else:
            print(
                f"fine: {loaded.file or 'no file'}, {len(loaded.origins)} settings differ in origin from the defaults"
            )
            for name in loaded.ignored:
                say(f"note: {name} is no setting of swarm and is ignored")
        return ExitCode.OK
    if args.json:
        print_json({"settings": shown_tree(loaded.settings), "origins": dict(loaded.origins), "file": loaded.file})
    else:
        rows = [
            (setting.path, shown(setting, loaded.settings), loaded.origins.get(setting.path, "default"))
            for setting in all_settings()
        ]
        print(table(("SETTING", "VALUE", "FROM"), rows))
    return ExitCode.OK


def shown(setting: Setting, settings: NodeSettings) -> str:
    """A value as a person writes it."""
    value = getattr(getattr(settings, setting.section), setting.key)
    if value is None:
        return "auto"
    if setting.secret:
        return HIDDEN if value else "-"
    match setting.kind:
        case "bytes":
            return format_bytes(value)
        case "seconds":
            return format_duration(value)
        case "switch":
            return "true" if value else "false"
        case "words":
            return ", ".join(value) or "-"
        case "texts" | "numbers":
            return ", ".join(f"{name}={each}" for name, each in value.items()) or "-"
    return str(value)


def _wrong(error: ConfigError, *, json: bool) -> int:
    problems: list[tuple[str, str]] = error.facts["problems"]
    if json:
        print_json({"ok": False, "problems": [{"error": message, "hint": hint} for message, hint in problems]})
    else:
        for message, hint in problems:
            print(f"{message}\n    {hint}")
    return ExitCode.CONFIG
