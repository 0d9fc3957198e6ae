"""From a spec's `fn` to a callable: by name from the modules allowed here, or by value where granted."""

from __future__ import annotations

import importlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from transport.bounds import WORKER_CODE_COUNT_MAX as CODE_CACHED_MAX

_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect costs 10 ms


class Unresolved(Exception):
    """There is no such callable here, or it may not be run. ``hint`` says what to do, ``facts`` what it was about."""

    def __init__(self, message: str, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.hint = hint
        self.facts = facts


class Callables:
    """The callables that one worker has resolved.

    `modules` are the names that may be imported, their submodules with them; `code` fetches a blob of code by digest.
    """

    def __init__(self, modules: Sequence[str], code: Callable[[bytes], bytes]) -> None:
        self._modules = tuple(modules)
        self._code = code
        self._blobs: dict[bytes, bytes] = {}
        self._by_value: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()

    def keep_code(self, digest: bytes, blob: bytes) -> None:
        """Code that came before it was asked for."""
        self._blobs[digest] = blob
        while len(self._blobs) > CODE_CACHED_MAX:
            del self._blobs[next(iter(self._blobs))]

    def resolve(self, fn: Sequence[Any], granted: bool) -> Callable[..., Any]:
        """The callable of a spec's ``fn``. Unresolved when there is none."""
        if fn[0] == "name":
            return self._named(str(fn[1]))
        if not granted:
            raise Unresolved(
                "callables by value are run only for those who are granted `code`",
                "join again with a token that was not made with --no-code, or run a callable by name",
            )
        return self._valued(bytes(fn[1]), str(fn[2]) if len(fn) > 2 else "the callable")

    def _named(self, path: str) -> Callable[..., Any]:
        module_name, _, qualname = path.partition(":")
        if not any(module_name == name or module_name.startswith(f"{name}.") for name in self._modules):
            known = ", ".join(self._modules) or "none"
            raise Unresolved(
                f"module {module_name!r} is not one that this node runs (it runs {known})",
                f"add it to the node's modules: swarm node --modules {module_name}",
                module=module_name,
            )
        try:
            target: Any = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # a script that ends when it is imported ends no worker
            raise Unresolved(
                f"module {module_name!r} cannot be imported here: {type(error).__name__}: {error}",
                "install what is missing in the node's environment, or take the module out of its settings",
                module=module_name,
                error=f"{type(error).__name__}: {error}",
            ) from error
        for part in qualname.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise Unresolved(
                f"there is no callable {qualname!r} in module {module_name!r} here",
                "is the node's version of it older? restart the node after an update",
                module=module_name,
            )
        return target  # type: ignore[no-any-return]

    def _valued(self, digest: bytes, name: str) -> Callable[..., Any]:
        found = self._by_value.get(digest)
        if found is not None:
            self._by_value.move_to_end(digest)
            return found
        blob = self._blobs.pop(digest, None)
        if blob is None:
            try:
                blob = self._code(digest)
            except OSError as error:
                raise Unresolved(
                    f"the code of {name} could not be fetched: {error}", getattr(error, "hint", "")
                ) from error
        try:
            fn = pickle.loads(blob)  # noqa: S301 - granted
        except ModuleNotFoundError as error:
            raise Unresolved(
                f"the code of {name} needs module {error.name!r}, which is not installed here",
                f"install {error.name} on the nodes, or require a label that only nodes with it have",
                module=error.name or "",
            ) from error
        except (Exception, SystemExit) as error:
            raise Unresolved(
                f"the code of {name} cannot be loaded here: {type(error).__name__}: {error}",
                "are versions of Python or of a package different here?",
            ) from error
        if not callable(fn):
            raise Unresolved(f"the code of {name} is of type {type(fn).__qualname__}, which is not callable")
        self._by_value[digest] = fn
        while len(self._by_value) > CODE_CACHED_MAX:
            self._by_value.popitem(last=False)
        return fn  # type: ignore[no-any-return]


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives a coroutine; looks through partials, bound methods and objects with ``__call__``."""
    while hasattr(fn, "func") and not hasattr(fn, "__code__"):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if not hasattr(fn, "__code__"):
        fn = getattr(type(fn), "__call__", None)  # noqa: B004 - the method is wanted
    return bool(getattr(getattr(fn, "__code__", None), "co_flags", 0) & _COROUTINE)
