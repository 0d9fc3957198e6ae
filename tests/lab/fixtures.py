"""Fixtures of the lab. Where a lab cannot be made its tests are skipped, and under CI they fail instead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import lan as lab


def require(reason: str) -> None:
    """Go on if there is no reason not to; else skip, or fail where nothing may be skipped."""
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def lan() -> Iterator[lab.Lan]:
    """A LAN of five hosts, h1 to h5, for the tests of one module."""
    require(lab.missing())
    with lab.Lan(5) as made:
        yield made


@pytest.fixture
def healed(lan: lab.Lan) -> Iterator[lab.Lan]:
    """The LAN with all cables in and nothing cut; what is left running in the hosts ends with the test."""
    yield lan
    lan.heal()
    for host in lan.hosts:
        lan.plug(host, True)
        lan.signal(host, 9)
