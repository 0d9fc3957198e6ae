"""Tells joblib that there is a backend "swarm", without importing it or the client before it is used.

joblib keeps a table of backends that it knows by name only, with a function to call when one is asked for. The entry is
made when both packages have been imported, whichever is first.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TABLE = "joblib.parallel"


def offer() -> None:
    """Make the entry now, or when joblib is imported."""
    known = sys.modules.get(_TABLE)
    if known is not None:
        _enter(known)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _enter(module: ModuleType) -> None:
    table = getattr(module, "EXTERNAL_BACKENDS", None)
    if isinstance(table, dict):
        table.setdefault("swarm", _register)


def _register() -> None:
    from swarm.client.joblib_backend import register

    register()


class _Watcher:
    """Stands before the finders until joblib's table is imported, and then goes away."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _enter(module)
