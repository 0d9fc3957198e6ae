"""The spec of a batch: what its tasks run and how. One for all tasks of a batch, opaque bytes on the way.

A node parses a spec once and keeps it by its bytes; the tasks of a batch never carry options of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgpack

SPEC_BYTES_MAX = 64 * 1024
NAME_CHARACTERS_MAX = 200
PATH_CHARACTERS_MAX = 4096
NEEDS_MAX = 32
LABELS_MAX = 32
RETRIES_MAX = 1_000_000
LINEAGE_DEPTH_MAX = 64
EXPECTED_S_MAX = 1e9
"""Thirty years."""
NO_NEEDS: Mapping[str, float] = MappingProxyType({})


class SpecError(ValueError):
    """A spec that cannot be obeyed; the text says why."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a batch runs.

    Units: seconds (`timeout_s`, `expected_s`, `backoff_s`), wall-clock seconds since the epoch (`deadline`), bytes (`needs["memory"]`).
    """

    kind: str
    """"call" or "command"."""
    fn: tuple[str, bytes | str, str] | None
    """("name", "module:qualname", display name), ("blob", digest, display name), or None for a command."""
    name: str
    priority: int = 1
    nice: int = 0
    needs: Mapping[str, float] = field(default_factory=lambda: NO_NEEDS)
    labels: tuple[str, ...] = ()
    timeout_s: float | None = None
    timeout_max_s: float | None = None
    """Up to so long a lesson may let it run, if it was ended by `timeout_s`; None: no longer than that."""
    deadline: float | None = None
    expected_s: float | None = None
    """So long one of its tasks takes, as who submits it knows; None: he did not say."""
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    backoff_s: tuple[float, float, float] = (0.1, 2.0, 60.0)
    rerun: bool = True
    stream: bool = False
    chunked: bool = False
    """Each task stands for many calls: its arguments are theirs (kernels/chunks.pyx), and how many make one call."""
    checkpoint: bool = False
    """It says at safe points what it would go on from: it can be moved while it runs."""
    python: str | None = None
    transaction: str | None = None
    """The directory on which each call is a transaction (swarm.StateTransaction), as the worker sees it."""
    root: bytes = b""
    parent: bytes = b""
    depth: int = 0
    inherits: bool = False
    """Nobody said its class: it has that which the task that submitted it has by then. `priority` is what that had before."""
    pickled: bool = False
    """True when payloads or code need a pickle to be loaded: only from an author with the grant `code`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What later versions add; passed on unread."""

    def encode(self) -> bytes:
        """The spec as MessagePack, defaults left out."""
        fields: dict[str, Any] = {"kind": self.kind, "name": self.name}
        if self.fn is not None:
            fields["fn"] = list(self.fn)
        defaults = _DEFAULTS
        for key in _KEYS:
            value = getattr(self, key)
            if value != getattr(defaults, key):
                fields[key] = dict(value) if isinstance(value, Mapping) else value
        return bytes(msgpack.packb(fields))

    @property
    def cpu(self) -> float:
        """Slots that one task takes."""
        return self.needs.get("cpu", 1.0)

    def backoff(self, attempts: int) -> float:
        """Seconds to wait before attempt `attempts` + 1."""
        initial, factor, most = self.backoff_s
        exponent = min(max(attempts - 1, 0), 64)
        try:
            return min(most, initial * factor**exponent)
        except OverflowError:
            return most


_KEYS = (
    "priority", "nice", "needs", "labels", "timeout_s", "timeout_max_s", "deadline", "expected_s", "retries", "retry_on", "backoff_s", "rerun", "stream",
    "chunked", "checkpoint", "python", "transaction", "root", "parent", "depth", "inherits", "pickled",
)  # fmt: skip
_DEFAULTS = Spec("call", None, "")


@lru_cache(maxsize=4096)
def parse_spec(raw: bytes) -> Spec:
    """A spec from its bytes. SpecError says what is wrong with it. Unknown keys are kept in `options`."""
    if len(raw) > SPEC_BYTES_MAX:
        raise SpecError(f"the spec has {len(raw)} bytes; at most {SPEC_BYTES_MAX} are taken")
    try:
        fields = msgpack.unpackb(raw, max_map_len=256, max_array_len=256, use_list=False)
    except Exception as error:
        raise SpecError(f"the spec is not MessagePack: {error}") from None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise SpecError("the spec is not a map with text keys")
    kind = fields.get("kind")
    if kind not in ("call", "command"):
        raise SpecError(f"unknown kind of task {kind!r}; this version runs 'call' and 'command'")
    fn = _fn(fields.get("fn"), kind)
    name = _of(fields, "name", str, "")[:NAME_CHARACTERS_MAX]
    spec = Spec(
        kind=kind,
        fn=fn,
        name=name,
        priority=_integer(fields, "priority", 1, 0, 3),
        nice=_integer(fields, "nice", 0, -20, 19),
        needs=_needs(fields.get("needs", {})),
        labels=_texts(fields, "labels", LABELS_MAX),
        timeout_s=_seconds(fields, "timeout_s"),
        timeout_max_s=_seconds(fields, "timeout_max_s"),
        deadline=_seconds(fields, "deadline"),
        expected_s=_expected(fields),
        retries=_integer(fields, "retries", 0, 0, RETRIES_MAX),
        retry_on=_texts(fields, "retry_on", 64),
        backoff_s=_backoff(fields.get("backoff_s", _DEFAULTS.backoff_s)),
        rerun=_of(fields, "rerun", bool, True),
        stream=_of(fields, "stream", bool, False),
        chunked=_of(fields, "chunked", bool, False),
        checkpoint=_of(fields, "checkpoint", bool, False),
        python=fields["python"][:NAME_CHARACTERS_MAX] if isinstance(fields.get("python"), str) else None,
        transaction=_directory(fields.get("transaction")),
        root=_of(fields, "root", bytes, b""),
        parent=_of(fields, "parent", bytes, b""),
        depth=_integer(fields, "depth", 0, 0, 1 << 16),
        inherits=_of(fields, "inherits", bool, False),
        pickled=_of(fields, "pickled", bool, False),
        options={key: value for key, value in fields.items() if key not in _KNOWN},
    )
    if spec.depth > LINEAGE_DEPTH_MAX:
        raise SpecError(
            f"task {name!r} is {spec.depth} levels below the task that began it; at most {LINEAGE_DEPTH_MAX} are allowed"
        )
    if spec.chunked and (spec.kind != "call" or spec.stream or spec.python):
        raise SpecError("only calls of the nodes' own workers that are no streams can be put together")
    if spec.checkpoint and (spec.kind != "call" or spec.stream or spec.chunked or spec.python):
        raise SpecError("only calls of the nodes' own workers that are no streams can be moved while they run")
    if spec.transaction and (spec.kind != "call" or spec.stream or spec.checkpoint):
        raise SpecError("only calls that are neither streams nor moved while they run can be transactions")
    if spec.stream and spec.retries:
        raise SpecError("a stream cannot be retried: items that were delivered would come twice")
    return spec


@lru_cache(maxsize=4096)
def kind_of(raw: bytes) -> bytes:
    """What is the same of tasks that differ in nothing but how long they were said to take. Of a spec that says nothing of it
    that is the spec itself. Raises as `parse_spec`."""
    spec = parse_spec(raw)
    return raw if spec.expected_s is None else b"told " + replace(spec, expected_s=None).encode()


_KNOWN = frozenset(_KEYS) | {"kind", "fn", "name"}


def _directory(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= PATH_CHARACTERS_MAX or "\0" in value):
        raise SpecError(f"transaction is not the path of a directory of at most {PATH_CHARACTERS_MAX} characters")
    return value


def _of(fields: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = fields.get(key, default)
    if not isinstance(value, kind):
        raise SpecError(f"{key} is {value!r}, not of type {kind.__name__}")
    return value


def _integer(fields: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = fields.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SpecError(f"{key} is {value!r}, not a whole number from {low} to {high}")
    return value


def _seconds(fields: dict[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise SpecError(f"{key} is {value!r}, not a number of seconds")
    return float(value)


def _expected(fields: dict[str, Any]) -> float | None:
    value = _seconds(fields, "expected_s")
    if value is not None and not 0 < value <= EXPECTED_S_MAX:
        raise SpecError(f"expected_s is {value!r}, not a number of seconds above 0 and up to {EXPECTED_S_MAX:g}")
    return value


def _texts(fields: dict[str, Any], key: str, most: int) -> tuple[str, ...]:
    value = fields.get(key, ())
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > most:
        raise SpecError(f"{key} is not a list of at most {most} texts")
    if not all(isinstance(item, str) and len(item) <= NAME_CHARACTERS_MAX for item in value):
        raise SpecError(f"{key} holds something that is not a text of at most {NAME_CHARACTERS_MAX} characters")
    return tuple(value)


def _backoff(value: Any) -> tuple[float, float, float]:
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise SpecError(f"backoff_s is {value!r}, not (initial, factor, most)")
    if not all(isinstance(part, int | float) and not isinstance(part, bool) and 0 <= part < 1e9 for part in value):
        raise SpecError(f"backoff_s is {value!r}; its parts are numbers of at least 0")
    initial, factor, most = (float(part) for part in value)
    return initial, factor, most


def _needs(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict) or len(value) > NEEDS_MAX:
        raise SpecError(f"needs is not a map of at most {NEEDS_MAX} resources")
    for key, amount in value.items():
        if not isinstance(key, str) or len(key) > NAME_CHARACTERS_MAX:
            raise SpecError(f"needs names a resource by {key!r}, not by a text")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < 1e18:
            raise SpecError(f"needs[{key!r}] is {amount!r}, not a number of at least 0")
    return MappingProxyType(dict(value)) if value else NO_NEEDS


def _fn(value: Any, kind: str) -> tuple[str, bytes | str, str] | None:
    if kind == "command":
        return None
    match value:
        case ("name", str(path), str(shown)) if ":" in path and len(path) <= 1024:
            return ("name", path, shown[:NAME_CHARACTERS_MAX])
        case ("blob", bytes(digest), str(shown)) if len(digest) == 32:
            return ("blob", digest, shown[:NAME_CHARACTERS_MAX])
    raise SpecError("fn is neither ['name', 'module:qualname', shown] nor ['blob', digest of 32 bytes, shown]")
