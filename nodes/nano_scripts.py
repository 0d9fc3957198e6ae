"""What a script or module makes, for `swarm nano`: a population, a function."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from swarm import nano
from swarm.errors import SwarmError, UsageError
from swarm.nano import NanoSwarm

HINT = "name what makes it: FILE.py:NAME, where NAME is a NanoSwarm or a function that returns one"

GUARD = "let what runs when it is started stand under `if __name__ == '__main__':`"


class ScriptFailed(SwarmError):
    """A script that was named on the command line raised."""


def population_of(what: str) -> NanoSwarm:
    """From `FILE.py`, `FILE.py:NAME`, `module` or `module:NAME`. UsageError when that gives no population."""
    where, _, name = what.partition(":")
    module = _module(where)
    if name:
        if not hasattr(module, name):
            raise UsageError(f"{where} has no {name!r}", hint=HINT)
        found = _made(getattr(module, name), where)
    else:
        found = [each for each in vars(module).values() if isinstance(each, NanoSwarm)]
        if not found and callable(getattr(module, "population", None)):
            found = _made(module.population, where)
    if len(found) != 1:
        said = f"{len(found)} populations are" if found else "no population is"
        raise UsageError(f"{said} in {what}", hint=HINT)
    return found[0]


def prepared(
    what: str, blob: bytes | None = None, cores: int | None = None, alerts: Sequence[str] = (), anomalies: bool = False
) -> NanoSwarm:
    """The population of a script, or of a blob that was saved, with what a command line says to look at.

    Here, or in the process of an isolated one. UsageError for an alert that is none, or is of nobody there.
    """
    if blob is not None:
        if "" not in sys.path:
            sys.path.insert(0, "")  # kinds of a script that lies here, as `run` found it
        flock = nano.load(blob)
    else:
        flock = population_of(what)
    if cores is not None:
        flock.cores = cores
    for words in alerts:
        try:
            alert, of = nano.Alert.spoken(words)
            if of is not None and of not in {*flock.topics, *(kind.__name__ for kind in flock.kinds)}:
                raise UsageError(
                    f"--alert of {of!r}: there is no such kind or topic", hint="name one of the population's"
                )
            flock.watch(alert, of=of)
        except nano.NanoError as error:
            raise UsageError(f"--alert: {error}", hint=error.hint) from None
    if anomalies:
        flock.watch(nano.Anomalies())
    return flock


def _made(what: Any, where: str) -> list[NanoSwarm]:
    try:
        made = what if isinstance(what, NanoSwarm) else what() if callable(what) else None
    except Exception as error:
        raise _raised(where, error) from error
    return [made] if isinstance(made, NanoSwarm) else []


def function_of(what: str, hint: str) -> Callable[..., Any]:
    """A function by `FILE.py:NAME` or `package.module:NAME`. UsageError when that gives none."""
    where, colon, name = what.rpartition(":")
    if not colon or not where or not name:
        raise UsageError(f"{what!r} names no function", hint=hint)
    found: Any = _module(where)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{where} has no {name!r}", hint=hint)
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{what} is a {type(found).__name__}, which cannot be called", hint=hint)
    return found  # type: ignore[no-any-return]


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"no module {error.name!r} is found", hint="give a script's path, or a module's name"
            ) from None
        except (ValueError, TypeError) as error:
            if where and not where.startswith("."):
                raise _raised(where, error) from error
            raise UsageError(f"{where!r} is no name of a module", hint=HINT) from None
        except SystemExit as error:
            raise UsageError(f"{where} ends the process: exit({error.code!r})", hint=GUARD) from None
        except Exception as error:
            raise _raised(where, error) from error
    path = Path(where)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"there is no script {where}", hint=HINT)
    known = sys.modules.get(path.stem)
    if known is not None and os.path.realpath(getattr(known, "__file__", None) or "") != os.path.realpath(path):
        raise UsageError(
            f"the script {where} has the name of the module {path.stem!r}, which is in use", hint="give it another name"
        )
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except SwarmError:
        raise
    except SystemExit as error:
        raise UsageError(f"{where} ends the process: exit({error.code!r})", hint=GUARD) from None
    except Exception as error:
        raise _raised(where, error) from error
    return module


def _raised(where: str, error: Exception) -> SwarmError:
    """Somebody's script went wrong: what, and in which line of it."""
    if isinstance(error, SwarmError):
        return error
    if isinstance(error, SyntaxError) and error.filename is not None:
        return ScriptFailed(
            f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}", hint="mend the script"
        )
    places = [each for each in traceback.extract_tb(error.__traceback__) if "importlib" not in each.filename]
    ours = str(Path(__file__).parent)
    theirs = [each for each in places if not each.filename.startswith(ours)]
    at = f"{theirs[-1].filename}, line {theirs[-1].lineno}: " if theirs else f"{where}: "
    return ScriptFailed(f"{at}{type(error).__name__}: {error}", hint="mend the script; --debug shows the traceback")
