"""The channel: everything of a link that does not depend on its reach. Batching, credit, keepalive, and what ends it.

A reach gives it a `Wire` that takes whole frames, and hands it the frames that came in. `Switch` is what the channels
of one transport share: the handler, the loop, the ticks, and the counting of refusals.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

from transport import bounds, framing
from transport.flow import CreditViolated, Flow
from transport.handshake import BOOT_BYTES, NONCE_BYTES, Handshake, Hello, Peer, Role, refusal
from transport.identity import Credentials, Identity, Trust
from transport.links import Buffer, HandshakeFailed, LinkClosed, LinkHandler, LinkOverflow, LinkSettings, Sorter

BOOT: Final = os.urandom(BOOT_BYTES)
"""What tells this process from its earlier and later selves."""

T = TypeVar("T")


async def arrived(waiter: asyncio.Future[T], timeout_s: float) -> T:
    """What the waiter is given. TimeoutError when that is nothing within ``timeout_s``.

    Not `asyncio.wait_for`: before Python 3.12 that one drops a cancellation which comes in the same turn as the result,
    and who cancelled waits for ever.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await waiter
    except TimeoutError:
        if waiter.done() and not waiter.cancelled():
            return waiter.result()  # it came in the very turn in which the time was over
        raise


class Wire(Protocol):
    """What a reach does for one connection."""

    def transmit(self, parts: list[Buffer]) -> bool:
        """Take one frame, always. False: keep the next ones back until `Channel.wire_ready`."""

    def shut(self) -> None:
        """The channel is down: let what was taken leave (bounded in time), then close. Called once."""


class Switch:
    """What the channels of one transport share."""

    def __init__(
        self,
        credentials: Credentials,
        trust: Trust,
        handler: LinkHandler,
        *,
        info: Mapping[str, object],
        settings: LinkSettings | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: bytes = BOOT,
    ) -> None:
        self.credentials = credentials
        self.trust = trust
        self.handler = handler
        self.info = info
        """What each new link is told; some of it may be another thing each time."""
        self.settings = settings or LinkSettings()
        self.loop = loop or asyncio.get_running_loop()
        self.clock = clock
        self.wall = wall
        self.boot = boot
        self.channels: set[Channel] = set()
        self.on_tick: list[Callable[[float], None]] = []
        self.closed = False
        self.turn = 0
        """Counts the turns in which there was input."""
        self.sorter = handler if isinstance(handler, Sorter) else None
        self._dirty: list[Channel] = []
        self._flush_due = False
        self._refusals = bounds.REFUSALS_REPORTED_PER_S_MAX
        self._refusals_at = clock()
        self._suppressed = 0
        self._ticked_at = clock()
        self._ticking = self.loop.call_later(self.settings.keepalive_tick_s, self._tick)

    @property
    def versions(self) -> tuple[int, int]:
        """What ``info["version"]`` says, or what this build speaks."""
        said = self.info.get("version", bounds.LINK_VERSIONS)
        assert isinstance(said, list | tuple)
        return int(said[0]), int(said[1])

    def handshake(self, role: Role, *, authenticated_key: bytes | None, expect: bytes | None = None) -> Handshake:
        """One side of a new handshake, with a fresh nonce. Raises ValueError when ``info`` is over the bounds."""
        settings = self.settings
        hello = Hello(
            versions=self.versions,
            certificate=self.credentials.certificate,
            boot=self.boot,
            nonce=os.urandom(NONCE_BYTES),
            window=(settings.window_bytes, settings.window_count),
            info=dict(self.info),
        )
        return Handshake(role, hello, self.credentials, self.trust, authenticated_key=authenticated_key, expect=expect)

    def refusal(self, failure: HandshakeFailed) -> bytes:
        """The frame that says no to a peer."""
        return refusal(failure, self.versions)

    def refuse(self, reason: str, **facts: object) -> None:
        """Report that somebody was turned away; a flood of reports is summed up."""
        now = self.clock()
        limit = bounds.REFUSALS_REPORTED_PER_S_MAX
        self._refusals = min(limit, self._refusals + (now - self._refusals_at) * limit)
        self._refusals_at = now
        if self._refusals < 1:
            self._suppressed += 1
            return
        self._refusals -= 1
        if self._suppressed:
            facts["suppressed"] = self._suppressed
            self._suppressed = 0
        self.handler.refused(reason, facts)

    def flush_later(self, channel: Channel) -> None:
        """Flush the channel at the end of this turn of the loop."""
        self._dirty.append(channel)
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Flush what became dirty. Reaches call it at the end of a batch of input, which saves a turn of the loop."""
        self._flush_due = False
        self.turn += 1
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for channel in dirty:
                channel.flush()

    def _tick(self) -> None:
        now = self.clock()
        late_s = now - self._ticked_at - self.settings.keepalive_tick_s
        self._ticked_at = now
        self._ticking = self.loop.call_later(self.settings.keepalive_tick_s, self._tick)
        if late_s > self.settings.keepalive_idle_s:
            # This loop (or the whole machine) was stopped: what peers sent meanwhile is still unread, so their
            # silence proves nothing.
            for channel in self.channels:
                channel.forgive(late_s)
        wall = self.wall()
        for channel in sorted(self.channels, key=lambda channel: channel.serial):
            channel.tick(now, wall)
        for callback in self.on_tick:
            callback(now)

    def close(self, reason: str) -> None:
        """Close every channel and stop ticking."""
        self.closed = True
        for channel in sorted(self.channels, key=lambda channel: channel.serial):
            channel.close(reason)
        self._ticking.cancel()


class Channel:
    """A `Link` over any wire."""

    __slots__ = (
        "_dirty",
        "_down",
        "_flow",
        "_heard_at",
        "_pinged_at",
        "_queue",
        "_reading",
        "_ready",
        "_switch",
        "_turn",
        "_turn_count",
        "_turn_ends",
        "_unread",
        "_wire",
        "dialled",
        "peer",
        "reach",
        "serial",
    )

    _serials = 0

    def __init__(self, switch: Switch, wire: Wire, peer: Peer, reach: str, *, dialled: bool) -> None:
        settings = switch.settings
        Channel._serials += 1
        self.serial = Channel._serials
        self.peer = peer
        self.reach = reach
        self.dialled = dialled
        self._switch = switch
        self._wire = wire
        self._flow = Flow(
            min(settings.window_bytes, peer.window[0]),
            min(settings.window_count, peer.window[1]),
            settings.outstanding_bytes_max,
            settings.outstanding_count_max,
        )
        self._queue: deque[tuple[int, bytes | tuple[Buffer, ...]]] = deque()
        self._unread: deque[bytes] = deque()
        """What came and waits for its turn; not more than the window, since it is not consumed."""
        self._reading = False
        """Whether reading of these is under way, or due again."""
        self._turn = -1
        self._turn_count = 0
        self._turn_ends = 0.0
        self._ready = True
        self._dirty = False
        self._down: str | None = None
        self._heard_at = self._pinged_at = switch.clock()
        switch.channels.add(self)
        switch.handler.link_up(self)

    def __repr__(self) -> str:
        state = "up" if self._down is None else f"down ({self._down})"
        return f"<Link {self.reach} {self.peer.identity.name} {state}>"

    @property
    def identity(self) -> Identity:
        return self.peer.identity

    @property
    def boot(self) -> bytes:
        return self.peer.boot

    @property
    def info(self) -> Mapping[str, object]:
        return self.peer.info

    @property
    def version(self) -> int:
        return self.peer.version

    @property
    def up(self) -> bool:
        return self._down is None

    @property
    def congested(self) -> bool:
        return self._flow.congested

    @property
    def behind(self) -> bool:
        return self._flow.behind

    @property
    def queued_bytes(self) -> int:
        return self._flow.queued_bytes

    # -- out

    def send(self, *parts: Buffer) -> None:
        """See `transport.links.Link.send`."""
        if self._down is not None:
            raise LinkClosed(self._down)
        if len(parts) == 1 and type(parts[0]) is bytes:
            message: bytes | tuple[Buffer, ...] = parts[0]
            size = len(message)
        else:
            parts = tuple(part if type(part) is not memoryview else part.cast("B") for part in parts)
            size = sum(map(len, parts))
            message = b"".join(parts) if size <= bounds.SMALL_BYTES_MAX else parts
        if size > self._switch.settings.message_bytes_max:
            raise LinkOverflow(
                f"a message of {size} bytes; the limit is {self._switch.settings.message_bytes_max}",
                size=size,
                limit=self._switch.settings.message_bytes_max,
            )
        if not self._flow.queue(size):
            raise LinkOverflow(
                f"{self._flow.outstanding_bytes} bytes wait for {self.identity.name}, who does not consume them",
                size=size,
                outstanding_bytes=self._flow.outstanding_bytes,
                outstanding_count=self._flow.outstanding_count,
            )
        self._queue.append((size, message))
        if not self._dirty:
            self._dirty = True
            self._switch.flush_later(self)

    def flush(self) -> None:
        """See `transport.links.Link.flush`."""
        self._dirty = False
        queue, flow = self._queue, self._flow
        while queue and self._ready and self._down is None:
            room_bytes, room_count = flow.room()
            idle = flow.sent_count == flow.acked_count
            if not idle and (room_bytes <= 0 or room_count <= 0):
                return
            size, message = queue[0]
            if size > room_bytes and not idle:
                return
            if size > bounds.SMALL_BYTES_MAX:
                queue.popleft()
                count = 1
                head = framing.data_head(size, flow.consumed_bytes, flow.consumed_count)
                frame: list[Buffer] = [head, message] if type(message) is bytes else [head, *message]
            else:
                count_max = min(bounds.BATCH_COUNT_MAX, max(room_count, 1))
                bytes_max = min(bounds.BATCH_BYTES_MAX, max(room_bytes, size))
                batch: list[bytes] = []
                size = 0
                while queue and len(batch) < count_max:
                    one, message = queue[0]
                    if one > bounds.SMALL_BYTES_MAX or size + one > bytes_max:
                        break
                    assert type(message) is bytes
                    queue.popleft()
                    batch.append(message)
                    size += one
                count = len(batch)
                frame = [framing.data(batch, flow.consumed_bytes, flow.consumed_count)]
            flow.sent(size, count)
            flow.returned()
            self._ready = self._wire.transmit(frame)

    def wire_ready(self) -> None:
        """The wire takes frames again."""
        self._ready = True
        self.flush()

    def _control(self, type: int) -> None:
        """Send our credit at once, ahead of what waits for the peer's."""
        flow = self._flow
        frame = framing.credit(type, flow.consumed_bytes, flow.consumed_count)
        flow.returned()
        if not self._wire.transmit([frame]):
            self._ready = False

    # -- in

    def receive(self, frame: Buffer, tail: bytes | None = None) -> None:
        """Take one whole frame. Never raises for what the peer did: a violation is counted, and the link goes down."""
        if self._down is not None:
            return
        if self._switch.trust.revoked(self.peer.identity.id, self.peer.identity.serial):
            self.lost("revoked")
            return
        self._heard_at = self._switch.clock()
        try:
            self._receive(frame, tail)
        except framing.Malformed as error:
            self.violated("malformed", str(error))
        except CreditViolated as error:
            self.violated("credit", str(error))

    def _receive(self, frame: Buffer, tail: bytes | None) -> None:
        type = framing.read_head(frame, 0 if tail is None else len(tail))
        flow = self._flow
        if type == framing.DATA:
            messages = framing.read_data(frame, tail, self._switch.settings.message_bytes_max)
            cleared = flow.acknowledged(*framing.read_credit(frame))
            try:
                if self._switch.sorter is None:
                    self._hand(messages)
                else:
                    self._hand_in_turns(messages, self._switch.sorter)
            finally:
                if self._down is None:
                    self._credited(cleared)
            return
        if tail is not None:
            raise framing.Malformed("a frame of control in parts")
        if type in (framing.CREDIT, framing.PING, framing.PONG):
            cleared = flow.acknowledged(*framing.read_credit(frame))
            if type == framing.PING:
                self._control(framing.PONG)
            self._credited(cleared)
        elif type in (framing.BYE, framing.REFUSED):
            self.lost(f"peer: {framing.read_reason(memoryview(frame)[framing.HEAD.size :])[0]}")
        else:
            raise framing.Malformed(f"a frame of type {type}")

    def _hand(self, messages: list[bytes]) -> None:
        try:
            self._switch.handler.link_messages(self, messages)
        finally:
            due = self._flow.consumed(sum(map(len, messages)), len(messages))
            if due and self._down is None:
                self._control(framing.CREDIT)

    def _hand_in_turns(self, messages: list[bytes], sorter: Sorter) -> None:
        """Hand over messages, so many at once and in one turn that nobody waits long; the others in later turns."""
        switch = self._switch
        if self._turn != switch.turn:
            self._turn, self._turn_count, self._turn_ends = switch.turn, 0, 0.0
        self._turn_count += len(messages)
        if not self._reading and self._turn_count <= bounds.TURN_COUNT_MAX:
            self._hand(messages)
            return
        sorter.link_waits(self, self._unread, messages)
        if not self._reading:
            if not self._turn_ends:
                self._turn_ends = switch.clock() + bounds.TURN_S
            self._read_on()

    def _read_in_turn(self) -> None:
        self._turn_ends = self._switch.clock() + bounds.TURN_S
        try:
            self._read_on()
        finally:
            self._switch.flush()

    def _read_on(self) -> None:
        """Hand over what waits, until the turn is over."""
        unread, clock = self._unread, self._switch.clock
        self._reading = True
        try:
            while unread and self._down is None and clock() < self._turn_ends:
                self._hand([unread.popleft() for _ in range(min(len(unread), bounds.TURN_COUNT_MAX))])
        finally:
            self._reading = bool(unread) and self._down is None
            if self._reading:
                self._switch.loop.call_soon(self._read_in_turn)

    def _read_all(self) -> None:
        """The link goes down: what came before is handed over."""
        unread = self._unread
        while unread and self._down is None:
            self._hand([unread.popleft() for _ in range(min(len(unread), bounds.TURN_COUNT_MAX))])

    def _credited(self, cleared: bool) -> None:
        if self._queue and self._ready and not self._dirty:
            self._dirty = True
            self._switch.flush_later(self)
        if cleared:
            self._switch.handler.link_writable(self)

    def alive(self) -> None:
        """Bytes came in, though not yet a whole frame."""
        self._heard_at = self._switch.clock()

    # -- time and ends

    def tick(self, now: float, wall: float) -> None:
        """Look after the link every `bounds.KEEPALIVE_TICK_S`."""
        settings = self._switch.settings
        identity = self.peer.identity
        if self._down is not None:
            return
        if self._switch.trust.revoked(identity.id, identity.serial):
            self.lost("revoked")
        elif wall >= identity.expires_s:
            self.lost("expired")
        elif now - self._heard_at >= settings.keepalive_silence_s:
            self.lost("silent")
        elif now - self._heard_at >= settings.keepalive_idle_s and now - self._pinged_at >= settings.keepalive_idle_s:
            self._pinged_at = now
            self._control(framing.PING)
        elif self._flow.owes:
            self._control(framing.CREDIT)

    def forgive(self, late_s: float) -> None:
        """Time in which this process did not run is not held against the peer."""
        self._heard_at += late_s

    def probe(self) -> None:
        """Ask at once: there is reason to believe that the connection is gone."""
        if self._down is None:
            self._pinged_at = self._switch.clock()
            self._control(framing.PING)

    def violated(self, reason: str, detail: str) -> None:
        """The peer broke the protocol: count it and drop it."""
        if self._down is not None:
            return
        identity = self.peer.identity
        self._switch.refuse(reason, detail=detail, peer=identity.id, name=identity.name, reach=self.reach)
        self._end("violation", f"violation: {detail}")

    def close(self, reason: str) -> None:
        """See `transport.links.Link.close`."""
        if self._down is None:
            self.flush()
        self._end(f"closed: {reason}", reason)

    def lost(self, reason: str) -> None:
        """The link is down, for a reason that the peer gave or the connection shows."""
        if reason not in ("revoked", "expired"):
            self._read_all()
        self._end(reason, reason if reason in ("revoked", "expired", "silent") else None)

    def _end(self, reason: str, goodbye: str | None) -> None:
        if self._down is not None:
            return
        self._down = reason
        switch = self._switch
        switch.channels.discard(self)
        self._queue.clear()
        self._unread.clear()
        if goodbye is not None:
            self._wire.transmit([framing.pack_reason(framing.BYE, goodbye)])
        self._wire.shut()
        switch.loop.call_soon(switch.handler.link_down, self, reason)
