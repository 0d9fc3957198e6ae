"""``import swarm`` under a guest interpreter: the installed library, or a stand-in for what a task may use of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .worker import Guest


def transaction_of(spec: dict[str, Any], fn: Any) -> Any:
    """The directory on which calls are transactions: what the call says, else what the callable was marked with."""
    for candidate in (fn, getattr(fn, "__func__", None), getattr(fn, "func", None)):
        found = spec.get("transaction") or getattr(getattr(candidate, "__swarm_task__", None), "transaction", None)
        if found:
            return found
    return None


def transactions() -> Any:
    """swarm.transactions: of the installed library, else loaded from the folder that this worker is in; it needs the standard library alone."""
    try:
        return importlib.import_module("swarm.transactions")
    except ImportError:
        pass
    root = os.path.abspath(__file__)
    for _ in range(4):
        root = os.path.dirname(root)
    folder = os.path.join(root, "swarm", "transactions")
    spec = importlib.util.spec_from_file_location(
        "swarm.transactions", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["swarm.transactions"] = module
    spec.loader.exec_module(module)
    return module


def offer_swarm(guest: Guest) -> None:
    """Make ``swarm.current_task`` and its like work: in the installed library, or in a stand-in for it."""
    if importlib.util.find_spec("swarm") is not None:
        try:
            from swarm import tasks

            tasks.bind(guest)
        except Exception:  # another package of that name, or one that cannot be imported here
            pass
        return
    module: Any = types.ModuleType("swarm", "What a task under a guest interpreter may use of nanoswarm.")

    def task(fn: Any = None, **options: Any) -> Any:
        def mark(function: Any) -> Any:
            directory, reflect = options.get("transaction"), options.get("reflect")
            if directory is not None or reflect is not None:
                directory = None if directory is None else os.fspath(directory)
                function.__swarm_task__ = types.SimpleNamespace(transaction=directory, reflect=reflect)
            return function

        return mark if fn is None else mark(fn)

    class waiting:
        def __enter__(self) -> None:
            guest.waiting(True)

        def __exit__(self, *exc: Any) -> None:
            guest.waiting(False)

    def current_task() -> Any:
        facts = guest.describe()
        return None if facts is None else types.SimpleNamespace(**facts)

    def offered(name: str) -> Any:
        if name == "StateTransaction" or name.startswith("Transaction"):
            return getattr(transactions(), name)
        raise AttributeError(f"module 'swarm' has no attribute {name!r} under a guest interpreter without nanoswarm")

    class TaskOptions:
        """What @swarm.task of the sender said, in a function that comes by value."""

        transaction = reflect = None

        def __setstate__(self, state: Any) -> None:
            """The options came in the order that they have there; they hold for the sender, who has put them into the spec. But for what looks
            at results, which goes with the callable and is the only one that can be called."""
            self.reflect = next((said for said in state if callable(said)), None)

    def lesson(cause: str, *, here: bool = True, wait_s: float = 0.0, require: str = "", ask: str = "") -> None:
        """As in the library."""
        if not cause or not (here or wait_s or require or ask) or (here and (wait_s or require)):
            raise ValueError("a lesson has a cause, and advises here=True alone, or with here=False wait_s or require")
        guest.lesson(
            {"cause": cause[:500], "here": here, "wait_s": float(wait_s), "require": require[:200], "ask": ask[:500]}
        )

    marks: Any = types.ModuleType("swarm.tasks", "The options of tasks that come by value.")
    marks.TaskOptions = TaskOptions
    marks.current_task = current_task
    sys.modules["swarm.tasks"] = marks
    module.task = task
    module.__getattr__ = offered
    module.waiting = waiting
    module.current_task = current_task
    module.progress = lambda done, total=None, note="": guest.progress(done, total, note)
    module.lesson = lesson
    sys.modules["swarm"] = module
