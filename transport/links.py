"""Links: ordered, encrypted or user-guarded, flow-controlled message streams between two proven members. The contract
of every reach.

Reaches are `transport.zmq_links` (between hosts), `transport.stream_links` (between processes of one host) and
`transport.memory_links` (the twin, for tests and simulations). All three carry the same frames (`transport.framing`),
the same handshake (`transport.handshake`) and the same channel (`transport.channel`), so that a handler can not tell
them apart.

One link is one connection. It comes up once and goes down once: what was lost is connected anew by whoever connected
it, after a delay from `reconnect_delays`. While a link is up its messages arrive in order and without loss; when it
goes down, what the peer had not consumed may or may not have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from transport import bounds
from transport.identity import Identity

Buffer = bytes | bytearray | memoryview


class LinkClosed(Exception):
    """The link is down. ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the link is down: {reason}")
        self.reason = reason


class LinkOverflow(Exception):
    """The message was not taken: the peer does not consume, and the hard bound on what waits for it is reached (or it
    is too long)."""

    def __init__(self, message: str, **facts: int) -> None:
        super().__init__(message)
        self.facts = facts


class HandshakeFailed(Exception):
    """No link came to be. ``reason`` is a short code (see `REASONS`), ``hint`` says what to do, ``remote`` whether
    the peer refused us."""

    REASONS: Final = (
        "unreachable",  # nobody listens there, or the host is gone
        "timeout",  # somebody is there, but did not answer in time
        "disconnected",  # the connection ended before the hello
        "version",  # no version of the protocol that both speak
        "malformed",  # the peer did not follow the protocol
        "key-mismatch",  # the certificate is not that of the key in use
        "unexpected-id",  # somebody else answered there
        "wrong-user",  # the process at the other end belongs to another user of this host
        "no-key",  # the CURVE key of the server is not known
        "busy",  # too many connections
        "closed",  # our own side is closing
        "wrong-fleet",
        "bad-signature",
        "unknown-admin",
        "expired",
        "not-yet-valid",
        "revoked",
        "not-accepted",  # the join was refused
    )

    def __init__(self, reason: str, message: str, hint: str = "", *, remote: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.hint = hint
        self.remote = remote


class Link(Protocol):
    """One peer, as long as it is connected. Only for the thread of the loop."""

    @property
    def identity(self) -> Identity:
        """Who the peer is, from its verified certificate."""

    @property
    def reach(self) -> str:
        """``lan`` (CURVE over TCP), ``host`` (Unix socket) or ``memory``."""

    @property
    def boot(self) -> bytes:
        """8 bytes, fresh for each process of the peer."""

    @property
    def info(self) -> Mapping[str, object]:
        """What the peer said about itself in its hello. Bounded, but not otherwise checked."""

    @property
    def version(self) -> int:
        """The newest version of the link protocol that both speak."""

    @property
    def dialled(self) -> bool:
        """Whether this side connected."""

    @property
    def up(self) -> bool:
        """Whether `send` takes messages."""

    @property
    def congested(self) -> bool:
        """More than the window waits here or is not consumed by the peer. `LinkHandler.link_writable` follows when it
        clears."""

    @property
    def behind(self) -> bool:
        """More than a quarter of the window waits here or is not consumed by the peer."""

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages that wait here for the peer's credit or for the socket."""

    def send(self, *parts: Buffer) -> None:
        """Queue one message, the concatenation of the parts; it leaves at the end of the loop's turn, together with
        others.

        Up to `bounds.SMALL_BYTES_MAX` the parts are copied at once. The parts of a larger message are not copied and
        must not be changed any more. Raises `LinkOverflow` (nothing was queued) or `LinkClosed`.
        """

    def flush(self) -> None:
        """Send what is queued now, without waiting for the end of the turn. Never raises; a link that is down ignores
        it."""

    def close(self, reason: str) -> None:
        """Send what credit allows, say goodbye with the reason, and go down. Closing twice is nothing."""


class LinkHandler(Protocol):
    """Who uses the links. Everything is called in the thread of the loop and must not block.

    ``link_up`` comes first and exactly once, ``link_down`` last and exactly once, also after a `Link.close` of one's
    own. For a link that one's own side connects, ``link_up`` (and maybe messages) come before ``connect`` returns it.
    An exception from a handler is a programmer's error: it goes to the loop's exception handler, and the links stay
    in order.
    """

    def link_up(self, link: Link) -> None: ...

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        """Messages in order, some of those that came. Returning from it is what gives the peer its credit back."""

    def link_writable(self, link: Link) -> None:
        """The link was congested and no longer is."""

    def link_down(self, link: Link, reason: str) -> None:
        """The link is gone. Reasons: ``closed: …`` and ``peer: …`` (said by us, by the peer), or one word, such as
        ``disconnected``, ``silent``, ``revoked``, ``expired``, ``violation``."""

    def refused(self, reason: str, facts: Mapping[str, object]) -> None:
        """Somebody was turned away or broke the protocol. ``reason`` is a short code, fit for a label; ``facts`` are
        for the log."""


@runtime_checkable
class Sorter(Protocol):
    """A handler that takes what came in turns (`bounds.TURN_S`), so that no link keeps others waiting, and has some messages go
    before others where they wait for one."""

    def link_waits(self, link: Link, before: deque[bytes], messages: list[bytes]) -> None:
        """Put messages to those of this link that came `before` and wait, which may be put in another order, too."""


@runtime_checkable
class JoinHandler(Protocol):
    """A handler that also lets newcomers ask to join the fleet."""

    def join_request(self, message: bytes, peer_address: str) -> bytes | None:
        """The reply to a request to join (at most `bounds.JOIN_REPLY_BYTES_MAX`), or None to refuse it. The message
        is a stranger's."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """The figures of links. Durations in seconds; defaults and meanings are those in `transport.bounds`."""

    window_bytes: int = bounds.WINDOW_BYTES
    window_count: int = bounds.WINDOW_COUNT
    outstanding_bytes_max: int = bounds.OUTSTANDING_BYTES_MAX
    outstanding_count_max: int = bounds.OUTSTANDING_COUNT_MAX
    message_bytes_max: int = bounds.MESSAGE_BYTES_MAX
    handshake_timeout_s: float = bounds.HANDSHAKE_TIMEOUT_S
    keepalive_idle_s: float = bounds.KEEPALIVE_IDLE_S
    keepalive_silence_s: float = bounds.KEEPALIVE_SILENCE_S
    keepalive_tick_s: float = bounds.KEEPALIVE_TICK_S
    heartbeat_interval_s: float = bounds.HEARTBEAT_INTERVAL_S
    heartbeat_timeout_s: float = bounds.HEARTBEAT_TIMEOUT_S
    linger_s: float = bounds.LINGER_S

    def __post_init__(self) -> None:
        assert 0 < self.window_count <= bounds.WINDOW_COUNT, "the window must stay below ZeroMQ's own queue"
        assert 0 < self.window_bytes <= self.outstanding_bytes_max
        assert 0 < self.message_bytes_max <= bounds.MESSAGE_BYTES_MAX
        assert self.keepalive_idle_s < self.keepalive_silence_s


class Uniform(Protocol):
    """The one thing that is needed of `random.Random`."""

    def uniform(self, a: float, b: float, /) -> float: ...


def reconnect_delays(
    rng: Uniform, first_s: float = bounds.RECONNECT_FIRST_S, max_s: float = bounds.RECONNECT_MAX_S
) -> Iterator[float]:
    """Delays in seconds before the next attempts to connect: doubling, with jitter, so that a fleet does not come
    back in step.

    "Decorrelated jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    delay_s = first_s
    while True:
        delay_s = min(max_s, rng.uniform(first_s, delay_s * 3))
        yield delay_s
