"""The caller's own modules, as source, so that kinds are found by their names where only packages are installed.

What lies in site-packages is expected there; what lies beside a script goes along, as the code of any task of the fleet
does, to nodes that grant the caller `code`. A module that goes along is there by its name while the population runs.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from swarm.errors import PayloadTooLarge
from swarm.nano.errors import NanoError
from swarm.payload_code import is_local
from transport.bounds import CODE_BYTES_MAX

MAIN: Final = "__main__"
ASIDE: Final = "__mp_main__"
"""What a script is called that is not run, but imported elsewhere; as multiprocessing has it."""

_putting: list[str] = []


class Source(NamedTuple):
    """A module: where it lies at the caller's, and what stands in it."""

    file: str
    text: str


def sources_of(names: Iterable[str]) -> dict[str, Source]:
    """The source of these modules and of those that they use, by name, as far as they are the caller's own.

    PayloadTooLarge beyond CODE_BYTES_MAX together.
    """
    found: dict[str, Source] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if name in found or module is None or not (name == MAIN or is_local(name)):
            continue
        if not isinstance(path, str) or not path.endswith(".py") or not Path(path).is_file():
            continue
        found[name] = Source(path, Path(path).read_text(encoding="utf-8"))
        wanted += _imports(found[name].text, name)
        for value in vars(module).values():
            other = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(other, str):
                wanted.append(other)
    size = sum(len(each.text) for each in found.values())
    if size > CODE_BYTES_MAX:
        raise PayloadTooLarge(
            f"the modules of the kinds take {size} bytes; at most {CODE_BYTES_MAX} are carried",
            hint="install them on the nodes, as a package",
            size_bytes=size, limit_bytes=CODE_BYTES_MAX,
        )  # fmt: skip
    return dict(sorted(found.items()))


@contextmanager
def put(sources: Mapping[str, Source]) -> Iterator[None]:
    """Have these modules by their names, in place of any others, until the block is left."""
    before: dict[str, ModuleType | None] = {}

    def set_module(name: str, module: ModuleType) -> None:
        before.setdefault(name, sys.modules.get(name))
        sys.modules[name] = module

    try:
        for name in sources:
            for package in _packages(name):
                if package not in sources and package not in sys.modules:
                    module = ModuleType(package)
                    module.__path__ = []
                    set_module(package, module)
            set_module(name, _Unread(name))
        for name, source in sources.items():
            if isinstance(sys.modules[name], _Unread):
                _run(name, source, sources, set_module)
        yield
    finally:
        for name, was in before.items():
            if was is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = was


class _Unread(ModuleType):
    """One whose source was not run yet: whoever imports it from another runs it."""


def _run(name: str, source: Source, sources: Mapping[str, Source], set_module: Any) -> None:
    module = ModuleType(ASIDE if name == MAIN else name)
    file, text = source
    module.__file__ = file
    if any(other.startswith(f"{name}.") for other in sources):
        module.__path__ = []
    module.__package__ = name if hasattr(module, "__path__") else name.rpartition(".")[0]
    set_module(name, module)
    # names that its imports will look for are run first, whatever the order in which they are listed
    code = compile(text, file, "exec", dont_inherit=True)
    for other in _imports(text, name):
        if isinstance(sys.modules.get(other), _Unread):
            _run(other, sources[other], sources, set_module)
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)  # tracebacks show what ran
    _putting.append(name)
    try:
        exec(code, module.__dict__)  # noqa: S102 - granted: who may send pickles may send this
    except NanoError:
        raise
    except Exception as error:
        raise NanoError(
            f"the module {name}, which was sent along, cannot be run here: {type(error).__name__}: {error}",
            hint="install what it needs on the nodes, or require a label that only nodes with it have",
        ) from error
    finally:
        _putting.pop()
    for value in list(vars(module).values()):
        if name == MAIN and getattr(value, "__module__", None) == ASIDE and isinstance(value, type):
            value.__module__ = MAIN
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


def _imports(source: str, name: str) -> list[str]:
    """The modules that a source may import, as far as it says so in a statement."""
    import ast

    found = []
    package = name.rpartition(".")[0].split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (up, node.module or "") if part)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [each for each in found if each]


def _packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:at]) for at in range(1, len(parts))]


def refuse_while_put() -> None:
    """NanoError while a module that was sent along is run: a script must not submit when it is only imported."""
    if _putting:
        raise NanoError(
            f"{_putting[-1]} submits a population when it is imported, which it is on each node",
            hint='do it below `if __name__ == "__main__":`',
        )
