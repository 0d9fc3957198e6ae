"""What can go wrong with nano-agents."""

from __future__ import annotations

from swarm.errors import SwarmError
from swarm.exit_codes import ExitCode


class NanoError(SwarmError):
    """The root of them."""


class PopulationFull(NanoError):
    """A kind has no room for so many agents more. Nothing was spawned."""


class BadTick(NanoError, TypeError):
    """What was given as a tick is none: no address of code, no method, no generator."""

    exit_code = ExitCode.USAGE


class SchemaMismatch(NanoError, ValueError):
    """A saved population does not fit the kinds of this program, or is damaged."""


class KindNotThere(SchemaMismatch):
    """A node has not got a kind of the population that was submitted, or one with other fields."""

    exit_code = ExitCode.REFUSED
