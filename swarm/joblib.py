"""``import swarm.joblib`` makes the backend "swarm" known to joblib. ``import swarm`` does as well, where joblib is used."""

from __future__ import annotations

from swarm.client.joblib_backend import SwarmBackend, register

__all__ = ["SwarmBackend", "register"]

register()
