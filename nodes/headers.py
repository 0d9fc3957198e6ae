"""Fields of messages from peers and clients, checked: what does not fit is a MessageError, which costs the sender its link."""

from __future__ import annotations

from typing import Any

from swarm.protocol import ids
from swarm.protocol.ledger.records import Token
from swarm.protocol.messages import MessageError, field
from swarm.protocol.owner.leading import Held

RANGES_MAX = 65536
CLIENT_KEY_BYTES_MAX = 64
USER_CHARACTERS_MAX = 256
RETENTION_S_MAX = 10 * 365 * 86400.0
INPUTS = {"in": 1 << 63, "heard": 1 << 63, "again": 1 << 63, "signal": 1 << 31, "ack": 1 << 31}
"""What may be given to a task that runs, with the bound of its number: input at an offset, the offset up to which output
was consumed, the one from which it is wanted again, a signal, and credit for so many items of a stream."""


def ranges(value: Any) -> list[tuple[int, int]] | None:
    """Ranges from a header; None means all. MessageError for anything else."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > RANGES_MAX:
        raise MessageError("ranges are not a list of a sensible length")
    found: list[tuple[int, int]] = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, int) for part in pair):
            raise MessageError("a range is not a pair of whole numbers")
        start, stop = pair
        if not 0 <= start <= stop < 1 << 32:
            raise MessageError("a range is out of bounds")
        if found and start < found[-1][1]:
            raise MessageError("ranges overlap or are not in order")
        found.append((start, stop))
    return found


def inherited(value: Any) -> int | None:
    """The class of who submits, from a header; None where nothing is said. MessageError when it is none."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= 3:
        raise MessageError("there is no such class")
    return value


def urgency(value: Any) -> tuple[int, int] | None:
    """(class, nice) from a header; None where nothing is said. MessageError when it is malformed."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(part) is int for part in value):
        raise MessageError("an urgency is no pair of whole numbers")
    priority, nice = value
    if not 0 <= priority <= 3 or not -20 <= nice <= 19:
        raise MessageError("there is no such class or nice")
    return priority, nice


def for_client(node: bytes, header: dict[str, Any]) -> bytes:
    """What the owner calls the client that a node speaks for."""
    client: bytes = field(header, "o", bytes)
    if not 0 < len(client) <= CLIENT_KEY_BYTES_MAX:
        raise MessageError("a client is named by its id and boot")
    return node + client


def held_row(run: Any) -> Held:
    """One row of the answer to "held". MessageError when it is malformed."""
    if not isinstance(run, list | tuple) or len(run) != 5:
        raise MessageError("what is held is not told in five fields")
    batch, owner, dispatch, token, parts = run
    if not isinstance(batch, bytes) or not isinstance(owner, bytes) or type(dispatch) is not int:
        raise MessageError("what is held has no batch, owner or dispatch")
    if not isinstance(token, list | tuple) or len(token) != 2 or not all(type(part) is int for part in token):
        raise MessageError("what is held has no token")
    return batch, owner, dispatch, Token(*token), ranges([list(pair) for pair in parts]) or []


def given(header: dict[str, Any]) -> tuple[str, int]:
    """What is given to a task that runs, and its number: see `INPUTS`. MessageError when it is anything else."""
    what, value = field(header, "e", str), field(header, "v", int)
    if not 0 <= value < INPUTS.get(what, 0):
        raise MessageError("a task is given input, a signal or credit, with a number that fits")
    return what, value


def level(value: Any) -> int:
    """A durability. MessageError for anything else."""
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= 255:
        raise MessageError("durability is no level")
    return value


def retention_s(value: Any) -> float | None:
    """For how long an outcome is kept; None where nothing is said. MessageError for anything else."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= RETENTION_S_MAX:
        raise MessageError("a retention is no time")
    return float(value)


def task_ids(value: Any) -> list[bytes] | None:
    """Ids of tasks; None where nothing is said. MessageError for anything else."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 4096:
        raise MessageError("dependencies are not a list of a sensible length")
    if not all(isinstance(task, bytes) and len(task) == ids.TASK_ID_BYTES for task in value):
        raise MessageError("a dependency is not a task id")
    return value
