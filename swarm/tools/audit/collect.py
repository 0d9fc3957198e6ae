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


@dataclass(frozen=True, slots=True)
class Found:
    """A file to measure, and its size in bytes; or a directory that could not be listed, with why not."""

    shown: str
    path: str
    size: int = 0
    error: str = ""


def find(paths: Iterable[str], skip: frozenset[str] = SKIPPED) -> list[Found]:
    """Each Python file at or below the paths, once. FileNotFoundError for a path that is not there.

    Names are relative to the directory that was given; to the one that all have in common where several were, so that
    files of the same name in two trees stay two.
    """
    tops, base = roots(paths)
    return find_below(tops, base, skip)


def roots(paths: Iterable[str]) -> tuple[list[str], str]:
    """The paths, absolute, and the directory that names are relative to. FileNotFoundError for one that is not there."""
    given = list(paths)
    for path in given:
        os.stat(path)
    tops = [os.path.abspath(path) for path in given]
    directories = [top if os.path.isdir(top) else os.path.dirname(top) for top in tops]
    return tops, os.path.commonpath(directories) if directories else ""


def find_below(tops: Iterable[str], base: str, skip: frozenset[str] = SKIPPED) -> list[Found]:
    """As `find`, for `roots` that were worked out before."""
    found: dict[str, Found] = {}
    for top in tops:
        for one in [_file(top, base)] if not os.path.isdir(top) else _below(top, base, skip):
            found[one.shown] = one
    return [found[name] for name in sorted(found)]


def _below(top: str, base: str, skip: frozenset[str]) -> Iterator[Found]:
    closed: list[OSError] = []
    for directory, names, files in os.walk(top, onerror=closed.append):
        names[:] = sorted(name for name in names if name not in skip)
        for name in files:
            if name.endswith((".py", ".pyw")):
                yield _file(os.path.join(directory, name), base)
    for error in closed:
        path = str(error.filename)
        shown = os.path.relpath(path, base)
        yield Found(shown, path, error=f"can not be listed: {error.strerror or error}")


def _file(path: str, base: str) -> Found:
    try:
        size = os.path.getsize(path)
    except OSError:
        size = 0  # a link to nowhere: reading it will say so
    return Found(os.path.relpath(path, base), path, size)


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
        # line ends as Python reads them: \r\n is one
        text = io.IncrementalNewlineDecoder(None, translate=True).decode(data.decode(encoding), final=True)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Source(shown, digest, None, f"is not text in its encoding: {error}")
    return Source(shown, digest, text)
