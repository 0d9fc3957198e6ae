"""What a failing run was like, as lines that can be read."""

from __future__ import annotations

from swarm.protocol.raft import wire
from swarm.protocol.raft.wire import Kind, Message

LINES_MAX = 4000


def line(message: Message) -> str:
    """A message in short."""
    text = f"{Kind(message.kind).name} t{message.term}"
    if message.index or message.log_term:
        text += f" {message.index}/{message.log_term}"
    if message.entries:
        text += f" +{len(message.entries)}"
    if message.commit:
        text += f" c{message.commit}"
    if message.round:
        text += f" r{message.round}"
    names = ((wire.REJECTED, "rejected"), (wire.DAMAGED, "damaged"), (wire.FULL, "full"), (wire.REST, "rest"))
    return text + "".join(f" {name}" for bit, name in names if message.flags & bit)


class Trace:
    """Lines, the latest of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, now: float, text: str) -> None:
        """Something that happened."""
        self.lines.append(f"{now:8.4f}  {text}")
        if len(self.lines) > LINES_MAX:
            del self.lines[: LINES_MAX // 2]

    def received(self, now: float, source: int, destination: int, payload: bytes) -> None:
        """A frame that came."""
        frame = wire.decode(payload)
        for message in frame.messages:
            if message.kind not in (Kind.HEARTBEAT, Kind.HEARTBEAT_REPLY):
                self.note(now, f"{source} -> {destination}  {message.group.decode()} {line(message)}")
