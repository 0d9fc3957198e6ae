"""What a guest runs: callables of the modules that the node names, and callables by value."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from .channel import Channel, Closed

CODE_MAX = 256


class Refused(Exception):
    """The task cannot be run here; args are (message, hint)."""


class Callables:
    """Those that were found so far."""

    def __init__(self, channel: Channel, modules: Sequence[str]) -> None:
        self.channel = channel
        self.modules = modules
        self.codes: OrderedDict[bytes, bytes] = OrderedDict()
        self.callables: OrderedDict[bytes, Any] = OrderedDict()

    def given(self, digest: bytes, code: bytes) -> None:
        """The node sent the code of a callable."""
        self.codes[digest] = code
        bound(self.codes, CODE_MAX)

    def resolve(self, fn: Any, granted: bool) -> Any:
        """The callable that a spec names. Refused when there is none to be had."""
        if not fn:
            raise Refused("a guest worker runs callables; commands are run by the node's own workers", "")
        if fn[0] == "name":
            return self._named(fn[1])
        if not granted:
            raise Refused("callables by value are run only for those who are granted `code`", "")
        digest = fn[1]
        if digest not in self.callables:
            self.callables[digest] = self._valued(digest, fn[2])
            bound(self.callables, CODE_MAX)
        return self.callables[digest]

    def _named(self, path: str) -> Any:
        module, _, qualname = path.partition(":")
        if not any(module == name or module.startswith(name + ".") for name in self.modules):
            hint = "add it to the node's modules: swarm node --modules " + module
            raise Refused(f"module {module!r} is not one that this node runs", hint)
        try:
            target: Any = importlib.import_module(module)
        except Exception as error:
            said = f"module {module!r} cannot be imported by {sys.executable}: {type(error).__name__}: {error}"
            raise Refused(said, f"install what is missing in {sys.prefix}") from error
        for part in qualname.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise Refused(f"there is no callable {qualname!r} in module {module!r} here", "")
        return target

    def _valued(self, digest: bytes, name: str) -> Any:
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if importlib.util.find_spec("cloudpickle") is None:
            hint = f"{sys.executable} -m pip install cloudpickle; or run a callable by name"
            raise Refused(f"{name} is sent by value, and {sys.executable} has no cloudpickle", hint)
        code = self.codes.pop(digest, None)
        if code is None:
            try:
                code = self.channel.request("code.get", digest)
            except OSError as error:
                if isinstance(error, Closed):
                    raise
                raise Refused(f"the code of {name} could not be fetched: {error}", "") from error
        made = made_by(code)
        if made and made != here:
            hint = f"use a guest interpreter of Python {made}, or run a callable by name"
            raise Refused(f"{name} was made by Python {made}, and this guest is Python {here}", hint)
        try:
            fn = pickle.loads(code)  # noqa: S301 - granted
        except Exception as error:
            said = f"the code of {name} cannot be loaded by {sys.executable}: {type(error).__name__}: {error}"
            raise Refused(said, f"install what is missing in {sys.prefix}") from error
        if not callable(fn):
            raise Refused(f"the code of {name} is not callable", "")
        return fn


def bound(table: OrderedDict[Any, Any], most: int) -> None:
    """Forget the oldest of what is more."""
    while len(table) > most:
        table.popitem(last=False)


def made_by(code: bytes) -> str:
    """The minor version of Python that a blob of code was made by, as "3.11"; "" when it does not say."""
    # written by swarm/payload_code.py: PROTO 5, SHORT_BINUNICODE of this text, POP
    length = code[3] if code[:3] == b"\x80\x05\x8c" else 0
    text = code[4 : 4 + length]
    return text[13:].decode() if text[:13] == b"swarm python " else ""
