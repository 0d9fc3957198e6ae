"""Having tasks moved while they run: what comes of it, as a value or as an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from swarm.errors import MoveBusy, MoveLate, MoveRefused, NotFound

WITHIN_S: Final = 30.0
SLACK_S: Final = 5.0
"""Beyond the time that a task is given an answer is waited for so long."""
_KINDS: Final[Mapping[str, type[MoveRefused]]] = {"busy": MoveBusy, "late": MoveLate}


def moved(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The node's answer, if the task was moved. MoveRefused otherwise, or NotFound where there is no such node."""
    if answer.get("moved") is True:
        return dict(answer)
    reason = str(answer.get("reason"))
    if reason == "no-node":
        raise NotFound(str(answer.get("message")), hint=str(answer.get("hint", "")))
    facts = {"reason": reason, "task": answer.get("id"), "node": answer.get("node")}
    raise _KINDS.get(reason, MoveRefused)(str(answer.get("message")), hint=str(answer.get("hint", "")), **facts)
