"""Where settings stand: flags, environment, TOML file. Values as written there, with their places, not judged yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nodes.settings import SECTIONS, all_settings
from swarm.errors import ConfigError
from swarm.paths import Home

FILE_BYTES_MAX: Final = 1 << 20
OTHER_VARIABLES: Final = frozenset(
    {
        "SWARM_HOME",  # the directories: read before there are settings
        "SWARM_CONFIG",
        "SWARM_DEBUG",
        "SWARM_NODE",
        "SWARM_NODE_SOCKET",
        "SWARM_FLEET",
        "SWARM_JSON",
        # what the fleet tells the commands that it runs
        "SWARM_TASK_ID",
        "SWARM_TASK_ATTEMPT",
        "SWARM_TASK_TOKEN",
        "SWARM_TASK_DIR",
        "SWARM_BATCH",
    }
)
_HEADER: Final = re.compile(r"\s*\[\s*([A-Za-z0-9_.\"' -]+?)\s*\]\s*(?:#.*)?")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: ``section`` -> ``key`` -> value, and for each ``section.key`` the place where it stands."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, value: object, place: str) -> None:
        section, _, key = path.partition(".")
        self.values.setdefault(section, {})[key] = value
        self.places[path] = place


@dataclass(frozen=True, slots=True)
class Layers:
    """All sources, the strongest first."""

    flags: Layer
    env: Layer
    toml: Layer
    file: Path | None
    problems: tuple[tuple[str, str], ...] = ()
    """(what is wrong, hint) found while reading; judged together with the rest."""
    ignored: tuple[str, ...] = ()

    def origins(self) -> dict[str, str]:
        return {**self.toml.places, **self.env.places, **self.flags.places}

    def values(self) -> list[dict[str, dict[str, Any]]]:
        return [self.flags.values, self.env.values, self.toml.values]


def read(flags: Mapping[str, Any], env: Mapping[str, str], file: Path | None, home: Home) -> Layers:
    """All that is set anywhere. ConfigError when a file that was named is not there or is not TOML."""
    by_path = {setting.path: setting for setting in all_settings()}
    from_flags = Layer()
    for path, value in flags.items():
        from_flags.put(path, value, by_path[path].flag)
    from_env, problems, ignored = _environment(env)
    if file is None and env.get("SWARM_CONFIG"):
        file = Path(env["SWARM_CONFIG"]).expanduser()
    from_toml = Layer()
    if file is not None or home.settings_file.is_file():
        file = file or home.settings_file
        from_toml, wrong = _toml(file)
        problems += wrong
    return Layers(from_flags, from_env, from_toml, file, tuple(problems), tuple(ignored))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of what is known, or the place where all of them are listed."""
    import difflib  # on the way to an error only

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "`swarm config show` lists every setting"


def _environment(env: Mapping[str, str]) -> tuple[Layer, list[tuple[str, str]], list[str]]:
    layer = Layer()
    known = {setting.variable: setting.path for setting in all_settings()}
    problems: list[tuple[str, str]] = []
    ignored: list[str] = []
    for name in sorted(env):
        if not name.startswith("SWARM_") or name in OTHER_VARIABLES or env[name] == "":
            continue  # empty counts as unset: compose files and unit files can not unset
        if name in known:
            layer.put(known[name], env[name], name)
        elif near := _resembles(name, known):
            problems.append((f"{name}: no such setting", f"did you mean {near}?"))
        else:
            # not refused: Kubernetes puts SWARM_SERVICE_HOST and the like into every container beside a service "swarm"
            ignored.append(name)
    return layer, problems, ignored


def _resembles(name: str, known: Mapping[str, str]) -> str:
    """The variable that is meant by a name that is none: misspelt, or with the table of its key in it."""
    import difflib

    names = {variable: variable for variable in known}
    names |= {f"SWARM_{path.replace('.', '_').upper()}": variable for variable, path in known.items()}
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.85)
    return names[near[0]] if near else ""


def _toml(file: Path) -> tuple[Layer, list[tuple[str, str]]]:
    import tomllib  # only where there is a file

    hint = "`swarm config show --toml` prints a file to start from"
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", hint=hint, file=str(file)) from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: larger than {FILE_BYTES_MAX} bytes", hint=hint, file=str(file))
    try:
        text = raw.decode("utf-8")
        tree = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 (byte {error.start})", hint=hint, file=str(file)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {_plain(str(error))}", hint=hint, file=str(file)) from None
    lines = _lines(text)
    layer = Layer()
    problems: list[tuple[str, str]] = []
    sections = ", ".join(SECTIONS)
    for section, table in tree.items():
        place = f"{file}:{lines.get(section, 1)}"
        if section not in SECTIONS:
            inside = [setting.path for setting in all_settings() if setting.key == section]
            hint = f"it belongs into a section: {inside[0]}" if inside else did_you_mean(section, SECTIONS)
            problems.append((f"{place}: {section}: no such section (there are {sections})", hint))
        elif not isinstance(table, dict):
            problems.append((f"{place}: {section} is a section, not a value", f"write it as [{section}]"))
        else:
            for key, value in table.items():
                path = f"{section}.{key}"
                layer.put(path, value, f"{file}:{lines.get(path, lines.get(section, 1))}")
    return layer, problems


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:]


def _lines(text: str) -> dict[str, int]:
    """Line numbers of headers and keys, best effort: they go into messages only."""
    found: dict[str, int] = {}
    header = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.fullmatch(line):
            header = _bare(match[1])
            found.setdefault(header.partition(".")[0], number)
            found.setdefault(header, number)
        elif match := _KEY.match(line):
            key = _bare(match[1])
            path = f"{header}.{key}" if header else key
            found.setdefault(path, number)
            found.setdefault(path.partition(".")[0], number)
            found.setdefault(".".join(path.split(".")[:2]), number)
    return found


def _bare(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))
