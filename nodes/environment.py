"""What home workers of this node can import, as a digest: what it comes to is announced, so that lessons about missing modules hold
for machines that are set up alike, and no longer for one that got what it lacked.

The digest is of names: of what lies in the folders of the workers' path, with the versions that installers put into names
(`spam-1.2.dist-info`). The standard library is left out, since the interpreter's version stands for it, and so is this package's own.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from blake3 import blake3

DIGEST_BYTES: Final = 8
NAMES_MAX: Final = 200_000
"""Of more than these the first by order count."""
_OWN: Final = str(Path(__file__).resolve().parent.parent)


def interpreter() -> str:
    """What home workers run under: "cpython-3.11"."""
    return f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"


def folders(environment: Mapping[str, str]) -> list[str]:
    """The folders of which home workers import, but for the standard library's."""
    standard = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    standard |= {os.path.join(each, "lib-dynload") for each in standard} | {_OWN}
    paths = [*environment.get("PYTHONPATH", "").split(os.pathsep), *(each for each in sys.path if "packages" in each)]
    real = dict.fromkeys(os.path.realpath(each) for each in paths if each)
    return [each for each in real if each not in standard and os.path.isdir(each)]


class Packages:
    """Digest of what can be imported, worked out anew when one of the folders has changed."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = list(folders)
        self._seen: list[int] = []
        self.digest = b""

    def look(self) -> bool:
        """Look at the folders; whether the digest is another one now. Costs a few system calls while nothing has changed."""
        seen = [_changed_ns(each) for each in self._folders]
        if seen == self._seen:
            return False
        self._seen = seen
        names: set[str] = set()
        for each in self._folders:
            try:
                names.update(name for name in os.listdir(each) if name[0] not in ".~")
            except OSError:
                continue  # it is gone, or not ours to read: nothing is imported from there either
        names.discard("__pycache__")
        hasher = blake3(derive_key_context="nanoswarm packages v1")
        for name in sorted(names)[:NAMES_MAX]:
            hasher.update(os.fsencode(name) + b"\0")
        before, self.digest = self.digest, hasher.digest(DIGEST_BYTES)
        return self.digest != before


def _changed_ns(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0
