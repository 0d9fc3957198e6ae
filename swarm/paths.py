"""Where files live: the XDG base directories (freedesktop.org, version 0.8), or one directory named by ``SWARM_HOME``.

Pure look-up: nothing is created before :func:`private_directory` is asked to.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarm.errors import ConfigError, SystemRefused

# sun_path holds 108 bytes on Linux and 104 on macOS, with the ending zero; a node's socket name needs up to 40 of them
SOCKET_PATH_BYTES_MAX: Final = 103
SOCKET_NAME_BYTES_MAX: Final = 40
NAME_PATTERN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


def checked_name(name: str) -> str:
    """``name`` when it can name a node (a DNS label of at most 32 characters, lower case); else ConfigError."""
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"{name!r} can not name a node",
            hint="use up to 32 of a-z, 0-9 and -, with a letter or digit at both ends",
            name=name,
        )
    return name


@dataclass(frozen=True, slots=True)
class Home:
    """The five directories of one user, or of one ``SWARM_HOME``."""

    config: Path
    data: Path
    state: Path
    cache: Path
    runtime: Path

    @classmethod
    def resolve(cls, env: Mapping[str, str] | None = None) -> Home:
        """The directories that the environment means. The same environment gives every process the same answer."""
        env = os.environ if env is None else env
        named = env.get("SWARM_HOME", "")
        if named:
            root = Path(os.path.abspath(os.path.expanduser(named)))
            return cls(root / "config", root / "data", root / "state", root / "cache", _short(root / "run"))
        home = Path(env.get("HOME") or os.path.expanduser("~"))
        return cls(
            config=_xdg(env, "XDG_CONFIG_HOME", home / ".config") / "swarm",
            data=_xdg(env, "XDG_DATA_HOME", home / ".local" / "share") / "swarm",
            state=_xdg(env, "XDG_STATE_HOME", home / ".local" / "state") / "swarm",
            cache=_xdg(env, "XDG_CACHE_HOME", home / ".cache") / "swarm",
            runtime=_runtime(env),
        )

    @property
    def settings_file(self) -> Path:
        """The TOML file of a node's settings that is read when no other is named."""
        return self.config / "node.toml"

    @property
    def fleet_dir(self) -> Path:
        """What this user knows of the fleet: its public part, the user's credentials, admin keys where it has them."""
        return self.data / "fleet"

    @property
    def nodes_dir(self) -> Path:
        """The parent of every node's own directory."""
        return self.data / "nodes"

    def node_dir(self, name: str) -> Path:
        """A node's own directory: keys, certificate, incarnation, cached peers, blobs."""
        return self.nodes_dir / checked_name(name)

    def node_socket(self, name: str) -> Path:
        """The Unix socket on which the node of that name serves clients of its own user."""
        return self.runtime / f"{checked_name(name)}.sock"


def private_directory(path: Path) -> Path:
    """Create ``path`` (and its parents) for this user alone, 0700; refuse one that is a link or another user's.

    Raises:
        SystemRefused: it can not be made, or it is not ours (somebody may have planted it in a shared /tmp).
    """
    if path.parent == _shared_tmp():
        private_directory(path.parent)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != _uid():
            raise SystemRefused(
                f"{path} is not a directory of this user",
                hint="remove it, or choose another place: SWARM_HOME=DIR",
                path=str(path),
                owner=found.st_uid,
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise SystemRefused(
            f"can not make the directory {path}: {error.strerror or error}",
            hint="make it writable, or choose another place: SWARM_HOME=DIR",
            path=str(path),
        ) from error
    return path


def _xdg(env: Mapping[str, str], name: str, default: Path) -> Path:
    value = env.get(name, "")
    return Path(value) if os.path.isabs(value) else default  # the specification: relative ones are to be ignored


def _runtime(env: Mapping[str, str]) -> Path:
    """The login's runtime directory; where it has none (cron, su, containers) one in /tmp, named by user id."""
    for candidate in (env.get("XDG_RUNTIME_DIR", ""), f"/run/user/{_uid()}"):
        if os.path.isabs(candidate) and os.path.isdir(candidate) and os.access(candidate, os.W_OK):
            return _short(Path(candidate) / "swarm")
    return _shared_tmp()


def _shared_tmp() -> Path:
    # not tempfile.gettempdir(): it follows TMPDIR, and a node and its clients must agree
    return Path("/tmp") / f"swarm-{_uid()}"


def _short(path: Path) -> Path:
    """``path``, or a stand-in in /tmp when a socket in it would have a name longer than the system takes."""
    if len(os.fsencode(path)) + 1 + SOCKET_NAME_BYTES_MAX <= SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.blake2s(os.fsencode(path), digest_size=6).hexdigest()
    return _shared_tmp() / digest


def _uid() -> int:
    getuid = getattr(os, "getuid", None)  # absent on Windows, where files belong to the profile's user anyhow
    return int(getuid()) if getuid else 0
