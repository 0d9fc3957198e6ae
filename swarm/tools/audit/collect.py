"""Finding the source files of a tree, and reading them."""

from __future__ import annotations

import io
import os
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

SKIPPED = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules", ".tox", ".mypy_cache"})
FILE_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read: its text, or why it has none."""

    path: str
    digest: bytes
    text: str | None
    error: str = ""


def find(paths: Iterable[str], skip: frozenset[str] = SKIPPED) -> Iterator[tuple[str, str]]:
    """(path to show, path to open) of each Python file below the paths, sorted. FileNotFoundError for one not there."""
    for given in paths:
        if not os.path.exists(given):
            raise FileNotFoundError(2, "no such file or directory", given)
        if os.path.isfile(given):
            yield given, given
            continue
        for directory, names, files in os.walk(given):
            names[:] = sorted(name for name in names if name not in skip)
            for name in sorted(files):
                if name.endswith((".py", ".pyw")):
                    path = os.path.join(directory, name)
                    yield os.path.relpath(path, given), path


def read(shown: str, path: str) -> Source:
    """One file; the encoding is the one that it declares (PEP 263)."""
    try:
        if os.path.getsize(path) > FILE_BYTES_MAX:
            return Source(shown, b"", None, f"larger than {FILE_BYTES_MAX} bytes")
        data = Path(path).read_bytes()
    except OSError as error:
        return Source(shown, b"", None, f"can not be read: {error.strerror or error}")
    digest = blake3(data).digest()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Source(shown, digest, None, f"is not text in its encoding: {error}")
    return Source(shown, digest, text)
