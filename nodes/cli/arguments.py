"""What the command lines of the verbs have in common: the parser, its errors, the options of clients and of tasks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from swarm.errors import UsageError
from swarm.tasks import DURABILITIES
from swarm.units import parse_bytes, parse_duration_s

if TYPE_CHECKING:
    from nodes.settings import Setting

T = TypeVar("T")
PRIORITIES: Final = ("low", "standard", "high", "critical")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are errors like all others: one line and a hint."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message, hint=f"`{self.prog} --help` shows what can be given")


def add_common_arguments(parser: argparse.ArgumentParser, *, action: bool = False) -> None:
    """Options that every verb has.

    ``action``: for the parser of one action of a verb, so that they can stand behind it, too. It sets them only when
    they are given there: its defaults would undo what stood before it.
    """
    default = argparse.SUPPRESS if action else False
    group = parser.add_argument_group("everywhere")
    group.add_argument("--json", action="store_true", default=default, help="print for programs")
    group.add_argument("--debug", action="store_true", default=default, help="show where an error came from")


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """How to find the fleet."""
    group = parser.add_argument_group("the fleet")
    group.add_argument(
        "--seed", action="append", default=[], metavar="HOST:PORT", help="a node to ask, where multicast does not reach"
    )
    group.add_argument(
        "--connect-timeout",
        type=duration,
        default=3.0,
        metavar="TIME",
        help="how long to look for a fleet (3s)",
    )


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` and `map` can ask for a command."""
    group = parser.add_argument_group("the task")
    group.add_argument(
        "--in", dest="files_in", action="append", default=[], metavar="FILE", help="take this file along"
    )
    group.add_argument(
        "--out", dest="files_out", action="append", default=[], metavar="FILE", help="bring this file back"
    )
    group.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable, or pass on the one set here"
    )
    group.add_argument(
        "--needs",
        action="append",
        default=[],
        metavar="NAME=N",
        help="cpu=2, memory=4GB, gpu=1, or a resource of yours",
    )
    group.add_argument("--label", dest="labels", action="append", default=[], help="only on nodes with this label")
    group.add_argument("-p", "--priority", choices=PRIORITIES, default="standard", help="how urgent it is (standard)")
    group.add_argument("--timeout", type=duration, metavar="TIME", help="kill it after this long")
    group.add_argument(
        "--expected", type=duration, metavar="TIME", help="it takes about so long: of what waits the longest goes first"
    )
    group.add_argument("--retries", type=whole(0), default=0, metavar="N", help="run it again when its status is not 0")
    group.add_argument("--rerun", action="store_true", help="it may be run twice: start it again if its node is lost")
    group.add_argument(
        "--durability",
        choices=DURABILITIES,
        help="on whose disks it is before it counts as accepted: none, the node's, or two of three hosts'",
    )
    group.add_argument(
        "--detach",
        action="store_true",
        help="do not wait: print the id as soon as it is accepted (--durability fleet, unless said); see swarm batch",
    )


def add_urgency_arguments(parser: argparse.ArgumentParser) -> None:
    """What `task nice` and `batch nice` change."""
    parser.add_argument("-p", "--priority", choices=PRIORITIES, help="how urgent from now on")
    parser.add_argument(
        "-n", "--nice", type=whole(-20), metavar="N", help="from -20, sooner, to 19, later, within its class"
    )


def urgency(args: argparse.Namespace) -> dict[str, int]:
    """What :func:`add_urgency_arguments` stands for, as arguments of a query."""
    if args.priority is None and args.nice is None:
        raise UsageError("nothing to change", hint="say --priority, --nice or both")
    if args.nice is not None and args.nice > 19:
        raise UsageError(f"--nice {args.nice}: it goes from -20 to 19")
    asked = {} if args.priority is None else {"priority": PRIORITIES.index(args.priority)}
    return asked if args.nice is None else asked | {"nice": args.nice}


def task_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``submit_command`` that :func:`add_task_arguments` stands for."""
    options: dict[str, Any] = {
        "env": environment(args.env),
        "needs": needs(args.needs),
        "labels": list(args.labels),
        "priority": PRIORITIES.index(args.priority),
        "timeout_s": args.timeout,
    }
    if args.expected is not None:
        options["expected_s"] = args.expected
    if args.retries:
        options["retries"] = args.retries
    if args.rerun:
        options["rerun"] = True
    # What runs as if it ran here ends with this process, whatever becomes of that; what shall go on has to be asked for.
    options["durability"] = args.durability or ("fleet" if args.detach else "none")
    if options["durability"] == "none" and args.detach:
        raise UsageError("--detach needs --durability node or fleet", hint="without, it ends with whoever submitted it")
    return options


def environment(given: Sequence[str], env: Mapping[str, str] | None = None) -> dict[str, str]:
    """``NAME=VALUE`` as it stands; ``NAME`` with the value it has here."""
    env = os.environ if env is None else env
    chosen: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError(
                f"--env {item!r} names no variable", hint="write NAME=VALUE, or NAME for the value it has here"
            )
        if not equals and name not in env:
            raise UsageError(f"--env {name}: it is not set here", hint=f"give it a value: --env {name}=…")
        chosen[name] = value if equals else env[name]
    return chosen


def needs(given: Sequence[str]) -> dict[str, float]:
    """``["gpu=1,memory=2GB"]`` -> ``{"gpu": 1.0, "memory": 2e9}``."""
    found: dict[str, float] = {}
    for item in (part for each in given for part in each.split(",")):
        name, _, amount = item.partition("=")
        try:
            found[name.strip()] = float(parse_bytes(amount)) if name.strip() == "memory" else float(amount)
        except ValueError:
            raise UsageError(
                f"--needs {item!r} is not NAME=AMOUNT", hint="for example --needs gpu=1 --needs memory=4GB"
            ) from None
        if not name.strip() or not 0 <= found[name.strip()] < 1e18:
            raise UsageError(f"--needs {item!r} is not NAME=AMOUNT", hint="amounts are numbers of at least 0")
    return found


def duration(text: str) -> float:
    """An argparse type: seconds."""
    return _checked(parse_duration_s, text)


def size(text: str) -> int:
    """An argparse type: bytes."""
    return _checked(parse_bytes, text)


def whole(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least ``low``."""

    def read(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return int(text)

    return read


def _checked(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting of a node, and the file to read the others from."""
    from nodes.settings import SECTIONS, settings_of

    parser.add_argument(
        "--config", metavar="FILE", help="a TOML file (SWARM_CONFIG; else node.toml of the user's configuration)"
    )
    for section, declared in SECTIONS.items():
        group = parser.add_argument_group(section, (declared.__doc__ or "").splitlines()[0])
        for setting in settings_of(section):
            _add_setting(group, setting)


def settings_flags(args: argparse.Namespace) -> dict[str, Any]:
    """``section.key`` -> value, for those flags that were given."""
    return {name: value for name, value in vars(args).items() if "." in name and value is not None}


def _add_setting(group: argparse._ArgumentGroup, setting: Setting) -> None:
    options: dict[str, Any] = {"dest": setting.path, "default": None, "help": _help(setting)}
    match setting.kind:
        case "switch":
            group.add_argument(*setting.flags, action=argparse.BooleanOptionalAction, **options)
        case "words" | "texts" | "numbers":
            metavar = "NAME=VALUE" if setting.kind != "words" else "WORD"
            group.add_argument(*setting.flags, action="append", metavar=metavar, **options)
        case _:
            metavar = "{" + ",".join(setting.choices) + "}" if setting.choices else _METAVARS[setting.kind]
            group.add_argument(*setting.flags, metavar=metavar, **options)


_METAVARS: Final = {"text": "TEXT", "whole": "N", "number": "N", "bytes": "SIZE", "seconds": "TIME"}


def _help(setting: Setting) -> str:
    from swarm.units import format_bytes, format_duration

    value = setting.default
    if setting.auto:
        shown = f"auto: {setting.auto}"
    elif setting.kind == "bytes" and value:
        shown = format_bytes(value)
    elif setting.kind == "seconds" and value:
        shown = format_duration(value)
    elif setting.kind in ("words", "texts", "numbers"):
        shown = "may be repeated"
    elif setting.kind == "switch":
        shown = "yes" if value else "no"
    else:
        shown = str(value) if isinstance(value, str) else f"{value:g}"
    return f"{setting.about} ({shown})".replace("%", "%%")
