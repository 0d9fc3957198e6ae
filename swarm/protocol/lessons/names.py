"""What names a callable or a command to lessons: 16 bytes, the same in every script that calls it by this name."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.protocol.lessons.fingerprints import digest_of


def call_named(name: str) -> bytes:
    """Of a callable by the name that is shown of it, or of a command."""
    return digest_of("call", "name", name)


def call_of_fn(fn: Sequence[bytes | str]) -> bytes:
    """Of what a spec says of a callable: how it is found, by what, and how it is shown."""
    how, what, shown = fn
    if how == "name":
        return call_named(str(what))
    if shown and isinstance(shown, str) and "<" not in shown:
        return call_named(shown)
    return digest_of("call", str(how), what.hex() if isinstance(what, bytes) else what)
