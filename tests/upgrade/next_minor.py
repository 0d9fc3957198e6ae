"""What a next minor release may do on the wire and on disk, as changes to a copy of the tree: each adds to one line of a file.

Unknown keys in messages, specs, gossip, what links are told, frames of consensus, records and snapshots; unknown kinds of messages, of
messages of consensus, and of records. A line that is not there any more, or twice, is said by the build: put the change where it
belongs now.
"""

from __future__ import annotations

from pathlib import Path

CHANGES: tuple[tuple[str, str, str], ...] = (
    (
        "swarm/protocol/messages.py",
        "    packed = _pack(header)\n",
        '    packed = _pack({**header, "later": {"key": 1}})\n',
    ),
    ("swarm/protocol/messages.py", "    LEDGER = 19\n", "    LEDGER = 19\n    LATER = 250\n"),
    (
        "nodes/fabric.py",
        '                self._tell(Tell(node, Kind.LOAD, {"l": load}))\n',
        '                self._tell(Tell(node, Kind.LOAD, {"l": load}))\n'
        '                self._tell(Tell(node, Kind.LATER, {"x": load}, (b"a message of a later release",)))\n',
    ),
    (
        "nodes/machine.py",
        '    info["n"] = releases.OWN\n',
        '    info["n"] = releases.OWN\n    info["~"] = [1]\n',
    ),
    ("nodes/machine.py", "        self._facts = facts\n", '        self._facts = {**facts, "later": [1]}\n'),
    (
        "swarm/protocol/spec.py",
        '        fields: dict[str, Any] = {"kind": self.kind, "name": self.name}\n',
        '        fields: dict[str, Any] = {"kind": self.kind, "name": self.name, "later": {"key": 1}}\n',
    ),
    (
        "swarm/protocol/ledger/records.py",
        '                "w": record.wall, "r": record.retention_s, "l": int(record.durability), "h": record.digest,\n',
        '                "w": record.wall, "r": record.retention_s, "l": int(record.durability), "h": record.digest, "later": 1,\n',
    ),
    (
        "swarm/protocol/ledger/records.py",
        '            header = {"b": record.key, "n": record.rows, "t": record.token, "w": record.wall}\n',
        '            header = {"b": record.key, "n": record.rows, "t": record.token, "w": record.wall, "later": 1}\n',
    ),
    (
        "swarm/protocol/ledger/group.py",
        "        self._queue.append(Ticket(number, raw, weight, submits))\n",
        "        self._queue.append(Ticket(number, raw, weight, submits))\n"
        "        if submits is not None:\n"
        '            said = b"a record of a later release"\n'
        '            later = b"\\x63\\1\\0\\0" + (4).to_bytes(4, "little") + len(said).to_bytes(4, "little") + b"\\x81\\xa1x\\1" + said\n'
        "            self._weight += len(later)\n"
        "            self._queue.append(Ticket(0, later, len(later), None))\n",
    ),
    (
        "swarm/protocol/ledger/state.py",
        '                "f": self.foreign,\n',
        '                "f": self.foreign,\n                "later": 1,\n',
    ),
    (
        "swarm/protocol/raft/wire.py",
        '    frame = {"v": VERSION, "b": boot, "h": beat, "m": [_fields(message) for message in messages]}\n',
        '    fields = [_fields(message) | {"later": 1} for message in messages]\n'
        '    later = [{"g": message.group, "k": 99, "x": 1} for message in messages[:1]]\n'
        '    frame = {"v": VERSION, "b": boot, "h": beat, "m": fields + later, "later": 1}\n',
    ),
)


def apply(source: Path) -> None:
    """All of it, to a copy of the tree."""
    for name, line, changed in CHANGES:
        path = source / name
        text = path.read_text()
        assert text.count(line) == 1, f"{name}: there is no such line, or there are several: {line!r}"
        path.write_text(text.replace(line, changed))
