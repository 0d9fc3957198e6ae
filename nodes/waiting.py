"""What waits of a link for its turn: urgent tasks go before others.

A link says what it has to say in order, and most of it depends on that: code comes before the calls that need it, a cancel after what it
cancels. Tasks among themselves do not: so an urgent one overtakes others that are handed over (and nothing else), unless it waits for one
of them.
"""

from __future__ import annotations

from collections import deque

from swarm.protocol.messages import Kind, MessageError, decode
from swarm.protocol.spec import SpecError, parse_spec
from swarm.protocol.states import Priority

TASKS = (Kind.SUBMIT, Kind.DISPATCH)


def put(waiting: deque[bytes], messages: list[bytes]) -> None:
    """Put messages to those that wait, in the order in which they are to be read."""
    urgent = [message for message in messages if is_urgent(message)]
    if not urgent:
        waiting.extend(messages)
        return
    ordered: list[bytes] = []
    before = 0
    """Where an urgent one goes: after what it may not overtake, and after the urgent ones there."""
    for message in (*waiting, *messages):
        if is_urgent(message):
            ordered.insert(before, message)
            before += 1
            continue
        ordered.append(message)
        if message[:1] not in _TASKS:
            before = len(ordered)
    waiting.clear()
    waiting.extend(ordered)


def is_urgent(message: bytes) -> bool:
    """Whether a message hands over HIGH or CRITICAL tasks that wait for no others. What is malformed is not: that is told when it is
    read."""
    if message[:1] not in _TASKS:
        return False
    try:
        _, header, _ = decode(message)
        if header.get("d") and message[0] == Kind.SUBMIT:
            return False
        said = header.get("y")
        if isinstance(said, list) and said and isinstance(said[0], int):
            return bool(said[0] >= Priority.HIGH)
        raw = header.get("s")
        return isinstance(raw, bytes) and parse_spec(raw).priority >= Priority.HIGH
    except (MessageError, SpecError):
        return False


_TASKS = tuple(bytes((kind,)) for kind in TASKS)
