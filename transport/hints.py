"""Hints: where a peer may be found. A hint is never believed: only a certificate makes a member."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from transport import bounds

Address = tuple[str, int]
"""(IPv4 or IPv6 address as text, port). A link-local IPv6 address carries its scope: ``fe80::1%3``."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Somebody may be reached at these addresses (IP as text, best first) and this port, TCP and UDP alike.

    ``id`` (16 bytes) and ``curve_key`` (32 bytes) are None where the source does not know them (a seed). ``source`` is
    one of ``mdns``, ``seed``, ``cache``, ``presence``; ``name`` is for people.
    """

    addresses: tuple[str, ...]
    port: int
    id: bytes | None
    curve_key: bytes | None
    source: str
    name: str = ""


def is_port(value: object) -> bool:
    return type(value) is int and 0 < value < 65536


def usable_addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """Those of the texts that are addresses of a single host, each once, in their order, at most
    `HINT_ADDRESSES_COUNT_MAX`.
    """
    kept: dict[str, None] = {}
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not (address.is_multicast or address.is_unspecified or text == "255.255.255.255"):
            kept[text] = None
        if len(kept) == bounds.HINT_ADDRESSES_COUNT_MAX:
            break
    return tuple(kept)
