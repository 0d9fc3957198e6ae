"""The settings of a node: one tree, declared once, read in one place, handed on as frozen dataclasses.

To add a setting, add a field to a section below. Its flag, its ``SWARM_`` variable, its TOML key, its validation, its
line in ``configs/node.toml`` and in ``docs/reference/settings.md`` all follow from that field (``make docs`` writes the
last two). Precedence: flag, variable, file, default.

Validation is pydantic-settings' (:mod:`nodes.settings_model`). Importing that costs 200 to 300 ms, half of the time
that a node has for its start. So it is imported only when there is something to validate, and a set of inputs that was
found valid is remembered in the cache directory, by a digest of those inputs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from swarm.paths import NAME_PATTERN, Home, private_directory

Kind = Literal["text", "whole", "number", "bytes", "seconds", "switch", "words", "texts", "numbers"]
EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known of one setting beside its default: how it is written, its bounds, and what it is for."""

    section: str = ""
    key: str = ""
    kind: Kind
    default: Any
    about: str
    low: float | None = None
    high: float | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()
    auto: str = ""
    """When not empty, the word ``auto`` is allowed (None in the dataclass), and this says what it then does."""
    short_flag: str = ""
    secret: bool = False
    """It may have a password in it: it is not shown, nor kept anywhere."""

    @property
    def path(self) -> str:
        """``section.key``, as in the file."""
        return f"{self.section}.{self.key}"

    @property
    def name(self) -> str:
        """``section_key``; the section ``node`` goes without saying."""
        return self.key if self.section == "node" else f"{self.section}_{self.key}"

    @property
    def flag(self) -> str:
        """The long flag of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags that set it."""
        return (self.short_flag, self.flag) if self.short_flag else (self.flag,)

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "SWARM_" + self.name.upper()


def _setting(kind: Kind, default: Any, about: str, **rest: Any) -> Any:
    metadata = {"setting": Setting(kind=kind, default=default, about=about, **rest)}
    if kind in ("texts", "numbers"):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class NodeSection:
    """What this node is and what it can do."""

    name: str | None = _setting(
        "text",
        None,
        "name of the node, unique in its fleet",
        pattern=NAME_PATTERN.pattern,
        auto="made from the host's name and kept",
    )
    workers: int | None = _setting(
        "whole", None, "worker processes", low=0, high=1024, auto="one for each CPU this process may use"
    )
    modules: tuple[str, ...] = _setting(
        "words", (), "modules whose functions may be called by name", short_flag="--module"
    )
    labels: tuple[str, ...] = _setting("words", (), "labels that tasks can ask for", short_flag="--label")
    resources: Mapping[str, float] = _setting(
        "numbers", EMPTY, "resources beside cpu and memory, name=amount", low=0, short_flag="--resource"
    )
    releasable: tuple[str, ...] = _setting(
        "words",
        (),
        "resources, beside cpu, that a stopped process does not use: a suspended task gives them up",
    )
    shares: Mapping[str, float] = _setting(
        "numbers", EMPTY, "users' weights where several want what there is, name=weight (1 for others)", low=0.001
    )
    spare_workers: int = _setting(
        "whole",
        1,
        "worker processes beyond one a slot, while all slots are taken: urgent tasks begin in them",
        low=0,
        high=64,
    )
    hold_s: float = _setting(
        "seconds",
        0.05,
        "how long coroutines that make way have to reach an await before they are stopped where they stand; 0: no time",
        low=0,
        high=3600,
    )
    hot_c: float = _setting(
        "number",
        90.0,
        "temperature in degrees Celsius that the machine is to stay below: fewer slots are offered from 10 degrees below it; 0: never",
        low=0,
        high=150,
    )
    battery_percent: float = _setting(
        "number", 50.0, "percent of its slots that a machine on battery offers, one at least", low=0, high=100
    )
    yield_to_owner: bool = _setting(
        "switch", False, "offer no slots for processors that are used by what is not this node's"
    )
    move_tasks: bool = _setting(
        "switch",
        True,
        "move tasks that were submitted here and offer checkpoints off nodes where they stand still, or that are too busy or slow",
    )
    suspended_bytes: int | None = _setting(
        "bytes",
        None,
        "memory that suspended tasks may keep; beyond it they are moved or run again; 0: whatever they have",
        low=0,
        auto="a quarter of the machine's memory",
    )
    executors: Mapping[str, str] = _setting(
        "texts", EMPTY, "other interpreters to run callables in, name=path of a python", short_flag="--executor"
    )
    drain_timeout_s: float = _setting(
        "seconds", 30.0, "how long a stop waits for running tasks before it ends them", low=0, high=86400
    )


@dataclass(frozen=True, slots=True)
class ListenSection:
    """Where peers and clients of other machines reach this node. Always encrypted."""

    host: str = _setting(
        "text",
        "auto",
        "loopback, lan, an address of this machine, or auto: loopback until a second machine is asked for",
        pattern=r"[A-Za-z0-9.:%_-]+",
    )
    port: int = _setting("whole", 0, "TCP and UDP port; 0 takes a free one and keeps it", low=0, high=65535)
    bulk_port: int = _setting(
        "whole", 0, "TCP port of the bulk lane (large blobs); 0 takes a free one and keeps it", low=0, high=65535
    )


@dataclass(frozen=True, slots=True)
class DiscoverySection:
    """How nodes find each other. What is found is a hint; only a certificate makes a member."""

    mdns: bool = _setting("switch", True, "announce and look for nodes by multicast DNS")
    seeds: tuple[str, ...] = _setting(
        "words", (), "HOST:PORT of nodes to ask, where multicast does not reach", short_flag="--seed"
    )
    interfaces_allow: tuple[str, ...] = _setting(
        "words", (), "network interfaces to use (name or pattern such as eth*); none named: all useful ones"
    )
    interfaces_deny: tuple[str, ...] = _setting("words", (), "network interfaces never to use (name or pattern)")


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """What this node takes on before it says that it is full."""

    queue_tasks: int = _setting("whole", 1_000_000, "tasks waiting here", low=64, high=100_000_000)
    queue_bytes: int = _setting("bytes", 1 << 30, "bytes of waiting tasks, arguments included", low=1 << 20)
    outcome_bytes: int = _setting(
        "bytes",
        16 << 20,
        "bytes of outcomes, and of what is known of their tasks, that are kept in memory for 15 minutes; the oldest go first",
        low=1 << 20,
    )
    blob_bytes: int = _setting("bytes", 8 << 30, "bytes of stored blobs; the longest unused go first", low=1 << 20)
    result_bytes: int = _setting("bytes", 2 << 30, "bytes of one result", low=1 << 10)
    worker_memory_bytes: int = _setting(
        "bytes", 0, "resident memory of a worker after which it is replaced between tasks; 0: no limit", low=0
    )
    worker_tasks: int = _setting("whole", 0, "tasks after which a worker is replaced; 0: never", low=0)
    worker_age_s: float = _setting("seconds", 0.0, "age at which a worker is replaced; 0: never", low=0)


@dataclass(frozen=True, slots=True)
class LedgerSection:
    """What outlives this node: tasks with a receipt, in a journal here and on two other machines."""

    enabled: bool = _setting(
        "switch", True, "keep a journal; without one this node takes no durable tasks and helps nobody"
    )
    durability: str = _setting(
        "text",
        "auto",
        "what is kept of tasks of which their script says nothing; auto: fleet where three hosts keep this node's log, else none",
        choices=("auto", "none", "node", "fleet"),
    )
    journal_bytes: int = _setting("bytes", 1 << 30, "bytes of the journal's files", low=64 << 20)
    journal_url: str = _setting(
        "text",
        "",
        "keep the journal in this PostgreSQL database (postgresql://USER@HOST/DATABASE) in place of files",
        pattern=r"(?:postgres(?:ql)?://\S+)?",
        secret=True,
    )
    kept_bytes: int = _setting(
        "bytes",
        16 << 30,
        "bytes of arguments and results that are too large for the journal, and are kept beside it",
        low=1 << 20,
    )
    retention_s: float = _setting(
        "seconds", 86_400.0, "how long outcomes of durable tasks are kept; 0: until they are delivered", low=0
    )
    zone: str | None = _setting(
        "text",
        None,
        "what fails together: copies of one log lie in different zones (a rack, a power circuit, a host of virtual machines)",
        pattern=r"[A-Za-z0-9._-]{1,64}",
        auto="this machine",
    )


@dataclass(frozen=True, slots=True)
class KnowledgeSection:
    """What the fleet knows: lessons, facts, beliefs and policies, on every node that keeps them."""

    enabled: bool = _setting("switch", True, "keep what the fleet knows, and tell it to the others")
    bytes: int = _setting(
        "bytes", 512 << 20, "bytes of knowledge kept here; beyond it nothing new is taken", low=1 << 20
    )
    sync_every_s: float = _setting(
        "seconds", 10.0, "how often it is compared with that of another node", low=0.1, high=3600
    )
    snapshot_every_s: float = _setting(
        "seconds", 86_400.0, "how often a snapshot of it is taken where something is new; 0: never", low=0
    )
    snapshot_keep: int = _setting("whole", 7, "snapshots kept of those taken so", low=1, high=1000)
    snapshot_encrypt: bool = _setting(
        "switch", False, "encrypt all snapshots of it, for members of the fleet alone to read"
    )
    check_every_s: float = _setting(
        "seconds",
        21_600.0,
        "how often its snapshots and its file are read to see whether they are whole; 0: never",
        low=0,
    )
    whole_nodes: int = _setting(
        "whole", 16, "up to so many nodes each holds all of it; in a larger fleet each part is on some. The same on all nodes",
        low=1, high=65536,
    )  # fmt: skip
    replicas: int = _setting(
        "whole", 5, "in a larger fleet, on how many nodes each part is. The same on all nodes", low=2, high=64
    )
    blob_bytes: int = _setting("bytes", 1 << 30, "bytes of values over 64 KiB that are kept here", low=16 << 20)


@dataclass(frozen=True, slots=True)
class LessonsSection:
    """What follows from the failures of tasks."""

    mode: str = _setting(
        "text", "advise",
        "advise: failures become lessons, and tasks are told of them; obey: placing and retrying go by them; off: nothing is learned here",
        choices=("off", "advise", "obey"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpSection:
    """The page for monitoring: /metrics, /healthz, /readyz. Without authentication, so keep it on loopback."""

    enabled: bool = _setting("switch", True, "serve it")
    host: str = _setting("text", "127.0.0.1", "address to listen on", pattern=r"[0-9A-Za-z.:%_-]+")
    port: int | None = _setting(
        "whole", None, "TCP port", low=0, high=65535, auto="9464, or a free one when that is taken"
    )


@dataclass(frozen=True, slots=True)
class LogSection:
    """What is written to standard error while the node runs."""

    format: str = _setting(
        "text",
        "auto",
        "console, json (one object a line), or auto: console on a terminal",
        choices=("auto", "console", "json"),
    )
    level: str = _setting(
        "text", "info", "the least that is written", choices=("debug", "info", "warning", "error"), short_flag="-l"
    )


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """All settings of a node. Sizes are bytes, durations seconds, None means ``auto``."""

    node: NodeSection = field(default_factory=NodeSection)
    listen: ListenSection = field(default_factory=ListenSection)
    discovery: DiscoverySection = field(default_factory=DiscoverySection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    ledger: LedgerSection = field(default_factory=LedgerSection)
    knowledge: KnowledgeSection = field(default_factory=KnowledgeSection)
    lessons: LessonsSection = field(default_factory=LessonsSection)
    http: HttpSection = field(default_factory=HttpSection)
    log: LogSection = field(default_factory=LogSection)


SECTIONS: Final[Mapping[str, type[Any]]] = {
    each.name: each.default_factory  # type: ignore[misc]
    for each in dataclasses.fields(NodeSettings)
}


def settings_of(section: str) -> Iterator[Setting]:
    """The settings of one section, in the order of the file."""
    for each in dataclasses.fields(SECTIONS[section]):
        yield dataclasses.replace(each.metadata["setting"], section=section, key=each.name)


def all_settings() -> Iterator[Setting]:
    """Every setting there is."""
    for section in SECTIONS:
        yield from settings_of(section)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the places they came from."""

    settings: NodeSettings
    origins: Mapping[str, str]
    """``section.key`` -> "flag --x", "SWARM_X" or "FILE:LINE". Those not in it have their defaults."""
    file: Path | None
    ignored: tuple[str, ...] = ()
    """``SWARM_`` variables that name no setting and resemble none: left over for other programs."""


def load(
    flags: Mapping[str, Any] = EMPTY,
    *,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
    home: Home | None = None,
) -> Loaded:
    """The settings of this process.

    Args:
        flags: ``section.key`` -> value as given on the command line (text, list of texts, or bool).
        env: the environment, os.environ when None.
        file: a TOML file that must exist; when None, ``SWARM_CONFIG`` or the user's own if there is one.
        home: where the user's file and the cache are.

    Raises:
        ConfigError: unknown or unacceptable settings; ``problems`` has one line for each, and a hint is given.
    """
    from nodes import settings_sources

    env = os.environ if env is None else env
    home = Home.resolve(env) if home is None else home
    layers = settings_sources.read(flags, env, file, home)
    origins = layers.origins()
    if not origins and not layers.problems:
        return Loaded(NodeSettings(), EMPTY, layers.file, layers.ignored)
    remembered = _cache_file(home, layers.values())
    settings = None if layers.problems else _recall(remembered)
    if settings is None:
        from nodes import settings_model

        settings = settings_model.validate(layers)
        _remember(remembered, settings)
    return Loaded(settings, origins, layers.file, layers.ignored)


HIDDEN: Final = "(set)"
"""Shown in place of a value that may have a password in it."""


def shown_tree(settings: NodeSettings) -> dict[str, dict[str, Any]]:
    """As `as_tree`, for people: without secrets."""
    tree = as_tree(settings)
    for setting in all_settings():
        if setting.secret and tree[setting.section][setting.key]:
            tree[setting.section][setting.key] = HIDDEN
    return tree


def _has_secrets(settings: NodeSettings) -> bool:
    return any(
        setting.secret and getattr(getattr(settings, setting.section), setting.key) for setting in all_settings()
    )


def as_tree(settings: NodeSettings) -> dict[str, dict[str, Any]]:
    """Plain values, for JSON: tables as dicts, lists as lists."""
    return {
        section: {
            key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for key in (each.key for each in settings_of(section))
            for value in (getattr(getattr(settings, section), key),)
        }
        for section in SECTIONS
    }


def from_tree(tree: Mapping[str, Mapping[str, Any]]) -> NodeSettings:
    """The inverse of :func:`as_tree`, of values that are known to be valid."""
    return NodeSettings(
        **{
            section: make(
                **{
                    key: tuple(value)
                    if isinstance(value, list)
                    else MappingProxyType(value)
                    if isinstance(value, dict)
                    else value
                    for key, value in tree[section].items()
                }
            )
            for section, make in SECTIONS.items()
        }
    )


def _cache_file(home: Home, values: object) -> Path:
    """Named by what validity depends on: the inputs, the declarations, and the code that judges them."""
    model = Path(__file__).with_name("settings_model.py").stat()
    schema = [repr(setting) for setting in all_settings()]
    facts = json.dumps([values, schema, model.st_mtime_ns, model.st_size], default=str, sort_keys=True)
    return home.cache / "settings" / f"{hashlib.blake2s(facts.encode(), digest_size=16).hexdigest()}.json"


def _recall(path: Path) -> NodeSettings | None:
    try:
        return from_tree(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # absent, cut short or of another shape: judged anew


def _remember(path: Path, settings: NodeSettings) -> None:
    from swarm.errors import SystemRefused

    if _has_secrets(settings):
        return  # what is secret has one place, and that is where its owner put it
    try:
        private_directory(path.parent)
        for old in sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-31]:
            old.unlink(missing_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(as_tree(settings)), encoding="utf-8")
        temporary.replace(path)
    except (OSError, SystemRefused):
        return  # a cache that can not be written costs time, nothing else
