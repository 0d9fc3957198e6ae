"""Topics joined across processes and hosts: what is published here is read there, a pass later or as soon as it comes.

A bridge is for populations in real time, each of which makes its passes by itself. A line is delivered at most once; one for
which a ring has no room is dropped and counted. Populations that are to agree to the last bit are spread instead (`submit` with
`nodes`). Who publishes is told by kind and row as they are numbered there.

Between processes of a host lines go through two rings in memory (`transport.mapped_lanes`), written and read at the end of a
pass without the GIL. Between hosts a thread carries them on, in batches, over the connection of a `transport.mesh`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from kernels.lanes import SpscLane
from kernels.topics import BusLink
from swarm.nano.errors import NanoError
from transport.mapped_lanes import MappedLane, lane_file
from transport.mesh import TOKEN_BYTES, Mesh, key_pair

if TYPE_CHECKING:
    from swarm.nano.scheduling import NanoSwarm

LINES: Final = 65_536
LINE_BYTES: Final = 64
CADENCE_S: Final = 0.001
JOIN_S: Final = 30.0
BATCH_LINES_MAX: Final = 16_384
QUEUED: Final = 64
"""Batches that wait for another host that takes none; more are dropped."""


class Counts(NamedTuple):
    """Lines of a bridge, as this side has them: `dropped` found no room to be sent, `strange` are of no topic that is received here."""

    sent: int
    dropped: int
    received: int
    strange: int


@dataclass(frozen=True, slots=True)
class End:
    """One end of a pair of rings: descriptors of the one to put into and the one to get from.

    They are inherited (`subprocess` with ``pass_fds=end.fds``) or sent over a Unix socket; `text` and `End.of` carry them on a
    command line. `close` when the process that they are for has them.
    """

    put: int
    get: int

    @property
    def fds(self) -> tuple[int, int]:
        """Both descriptors."""
        return self.put, self.get

    @property
    def text(self) -> str:
        """For a command line."""
        return f"{self.put},{self.get}"

    @classmethod
    def of(cls, text: str) -> End:
        """From what `text` gave. NanoError when it is something else."""
        put, _, get = text.partition(",")
        if not put.isdigit() or not get.isdigit():
            raise NanoError(f"{text!r} is no end of a bridge", hint="give what End.text gave")
        return cls(int(put), int(get))

    def close(self) -> None:
        """Let go of the descriptors; a bridge that is open keeps its rings."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def ends(lines: int = LINES) -> tuple[End, End]:
    """The two ends of a bridge between processes of this host, with rings for so many lines, a power of two."""
    try:
        forth, back = lane_file(lines), lane_file(lines)
    except ValueError as error:
        raise NanoError(str(error), hint="65,536 for instance") from error
    # a descriptor each, so that each end can be closed by itself
    return End(forth, os.dup(back)), End(back, os.dup(forth))


@dataclass(frozen=True, slots=True)
class Pass:
    """What one side of a bridge between hosts must know of the other. It is a secret: it lets its holder in; send it as an
    argument of a task, whose way is encrypted."""

    publics: tuple[bytes, bytes]
    secret: bytes
    token: bytes
    address: str = ""

    def at(self, address: str) -> Pass:
        """With the "host:port" at which the other side listens."""
        return Pass(self.publics, self.secret, self.token, address)


def passes() -> tuple[Pass, Pass]:
    """What the listening side of a bridge between hosts has to know, and what the other has."""
    first, second = key_pair(), key_pair()
    token = secrets.token_bytes(TOKEN_BYTES)
    return Pass((first[0], second[0]), first[1], token), Pass((first[0], second[0]), second[1], token)


class Bridge:
    """Joins topics of a swarm to those of another, in another process.

    `over` is an `End` (the same host) or a `Pass` (another one: without an address it listens at `port`, with one it
    connects). `topics` names those that cross, the same list on both sides; of these the swarm sends those that somebody here
    writes and receives those that somebody here reads, unless `sends` or `receives` say otherwise. `cadence_s` is how often
    lines are carried between hosts. Open it while the swarm does not run; it lasts until it is closed.
    """

    def __init__(
        self,
        flock: NanoSwarm,
        over: End | Pass,
        topics: Sequence[str],
        *,
        sends: Sequence[str] | None = None,
        receives: Sequence[str] | None = None,
        lines: int = LINES,
        cadence_s: float = CADENCE_S,
    ) -> None:
        self._flock = flock
        names = list(topics)
        if not names or len(set(names)) != len(names):
            raise NanoError(
                f"topics {names!r} of a bridge", hint="name each topic that crosses once, as the other side does"
            )
        written = {each.topic for kind in flock.kinds for each in kind.topics_written.values()}
        read = {topic for kind in flock.kinds for topic in kind.topics_read.values()}
        self.sends = [name for name in names if name in written] if sends is None else list(sends)
        self.receives = [name for name in names if name in read] if receives is None else list(receives)
        for name in (*self.sends, *self.receives):
            if name not in names or name not in flock.topics:
                raise NanoError(
                    f"the topic {name!r} cannot cross: no kind of the swarm declares it, or it is not in topics",
                    hint=f"the swarm has {', '.join(sorted(flock.topics)) or 'none'}; spawn agents before the bridge is opened",
                )
        at_once = {topic for kind in flock.kinds for topic in kind.topics_at_once} & set(self.receives)
        if at_once:
            raise NanoError(
                f"the topic {min(at_once)!r} cannot be received: it is read with delay=0, in the pass in which it is published here",
                hint="what comes from elsewhere is read in the next pass: let it be read with delay=1",
            )
        if not self.sends and not self.receives:
            raise NanoError(
                f"nobody in the swarm writes or reads {', '.join(names)}",
                hint="spawn agents before the bridge is opened",
            )
        self._mapped: list[MappedLane] = []
        self._carrier: _Carrier | None = None
        if isinstance(over, End):
            out, back = self._lanes_of(over)
        else:
            out, back = _ring(lines), _ring(lines)
            self._carrier = _Carrier(over, out, back, cadence_s)
        place = {name: number for number, name in enumerate(names)}
        self._link: BusLink | None = BusLink(
            flock.bus.topics,
            {flock.topics[name]: place[name] for name in self.sends},
            {place[name]: flock.topics[name] for name in self.receives},
            out if self.sends else None,
            back,
        )
        flock.bus.join(self._link)
        self._last = Counts(0, 0, 0, 0)

    def _lanes_of(self, over: End) -> tuple[SpscLane, SpscLane]:
        try:
            for fd, end in ((over.put, "put"), (over.get, "get")):
                self._mapped.append(MappedLane(fd, end))  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            for lane in self._mapped:
                lane.close()
            raise NanoError(
                f"the end {over.text} of a bridge cannot be opened: {error}",
                hint="are its descriptors passed on, and used once?",
            ) from error
        put, get = self._mapped
        return put.lane, get.lane

    @property
    def port(self) -> int:
        """Where it listens; 0 between processes of a host."""
        return self._carrier.port if self._carrier is not None else 0

    @property
    def joined(self) -> bool:
        """Whether the other side is there."""
        if self._carrier is not None:
            return self._carrier.joined
        return self._link is not None and all(lane.peer_alive for lane in self._mapped)

    def counts(self) -> Counts:
        """What crossed so far. ValueError when the other side damaged a ring: the bridge is out of use then."""
        if self._link is None:
            return self._last
        sent, dropped, received, strange = self._link.counters()
        return Counts(sent, dropped + (self._carrier.lost if self._carrier is not None else 0), received, strange)

    def close(self) -> None:
        """Part from the other side; what has not crossed does not."""
        if self._link is None:
            return
        with contextlib.suppress(ValueError):
            self._last = self.counts()
        self._flock.bus.part(self._link)
        self._link = None  # it keeps the rings, and with them the ends
        if self._carrier is not None:
            self._carrier.close()
        for lane in self._mapped:
            lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ring(lines: int) -> SpscLane:
    if lines < 1 or lines & (lines - 1):
        raise NanoError(f"a ring of {lines} lines", hint="a power of two")
    return SpscLane.create(bytearray(SpscLane.nbytes(lines)))


class _Carrier:
    """A thread that carries lines between two rings of this process and another host."""

    def __init__(self, over: Pass, out: SpscLane, back: SpscLane, cadence_s: float) -> None:
        self._out, self._back, self._cadence_s = out, back, cadence_s
        self._over = over
        self.lost = 0
        """Lines that were taken from a ring, or came, and found no room further on."""
        self._to = over.address
        self._mesh = Mesh(1 if over.address else 0, over.publics, over.secret, over.token, queued=QUEUED)
        self.port = self._mesh.port
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="nano-bridge", daemon=True)
        self._thread.start()

    @property
    def joined(self) -> bool:
        return self._mesh.joined

    def _carry(self) -> None:
        mesh = self._mesh
        peer = 1 - mesh.me
        room = bytearray(LINE_BYTES * BATCH_LINES_MAX)
        view = memoryview(room)
        connected = ""
        try:
            while not self._ends.is_set():
                if self._to != connected:
                    connected = self._to
                    mesh.reconnect(peer, connected)
                if not mesh.joined:
                    mesh.join(0.1)
                    continue
                # what is read is sent at once and never again: at most once, and no one waits for anyone
                while count := self._out.get_many(room):
                    if not mesh.throw(peer, view[: count * LINE_BYTES]):
                        self.lost += count
                for lines in mesh.catch(self._cadence_s):
                    if len(lines) % LINE_BYTES == 0:
                        self.lost += len(lines) // LINE_BYTES - self._back.put_many(lines)
        finally:
            mesh.close()

    def point(self, address: str) -> None:
        """The other side is there now."""
        self._to = address

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5.0)
