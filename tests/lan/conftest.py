"""Tests on a LAN of network namespaces: real sockets, real multicast, real cuts."""

from tests.lab.fixtures import healed, lan

__all__ = ["healed", "lan"]
