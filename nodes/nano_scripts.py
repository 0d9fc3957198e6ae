"""The population that a script or module makes, for `swarm nano run`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from swarm.errors import UsageError
from swarm.nano import NanoSwarm

HINT = "name what makes it: FILE.py:NAME, where NAME is a NanoSwarm or a function that returns one"


def population_of(what: str) -> NanoSwarm:
    """From `FILE.py`, `FILE.py:NAME`, `module` or `module:NAME`. UsageError when that gives no population."""
    where, _, name = what.partition(":")
    module = _module(where)
    if name:
        if not hasattr(module, name):
            raise UsageError(f"{where} has no {name!r}", hint=HINT)
        found = _made(getattr(module, name))
    else:
        found = [each for each in vars(module).values() if isinstance(each, NanoSwarm)]
        if not found and callable(getattr(module, "population", None)):
            found = _made(module.population)
    if len(found) != 1:
        said = f"{len(found)} populations are" if found else "no population is"
        raise UsageError(f"{said} in {what}", hint=HINT)
    return found[0]


def _made(what: Any) -> list[NanoSwarm]:
    made = what if isinstance(what, NanoSwarm) else what() if callable(what) else None
    return [made] if isinstance(made, NanoSwarm) else []


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
    path = Path(where)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"there is no script {where}", hint=HINT)
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
