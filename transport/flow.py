"""Credit of one link, in bytes and in messages. Pure accounting: no socket, no clock.

The sender counts what it queues and what it hands to the wire; the receiver counts what its handler has consumed and
says so, as totals since the link came up. The difference is what is outstanding. Three limits, from soft to hard:
what the wire may carry unconsumed (the smaller of both sides' windows), when the sender is told that it is congested,
and when it is not heard any more.
"""

from __future__ import annotations


class CreditViolated(Exception):
    """The peer claims to have consumed what it never got, or sends beyond the window."""


class Flow:
    """Both directions of one link. Sizes are bytes of messages, without framing.

    ``window_bytes`` and ``window_count`` limit what is on its way to the peer. One message is always let through when
    nothing is on its way, however large, so that a message larger than the window is slow and not stuck.
    """

    __slots__ = (
        "_returned_bytes",
        "_returned_count",
        "_was_congested",
        "acked_bytes",
        "acked_count",
        "consumed_bytes",
        "consumed_count",
        "outstanding_bytes_max",
        "outstanding_count_max",
        "queued_bytes",
        "queued_count",
        "sent_bytes",
        "sent_count",
        "window_bytes",
        "window_count",
    )

    def __init__(
        self, window_bytes: int, window_count: int, outstanding_bytes_max: int, outstanding_count_max: int
    ) -> None:
        assert window_bytes > 0
        assert window_count > 0
        self.window_bytes = window_bytes
        self.window_count = window_count
        self.outstanding_bytes_max = outstanding_bytes_max
        self.outstanding_count_max = outstanding_count_max
        self.queued_bytes = self.queued_count = 0
        self.sent_bytes = self.sent_count = 0
        self.acked_bytes = self.acked_count = 0
        self.consumed_bytes = self.consumed_count = 0
        self._returned_bytes = self._returned_count = 0
        self._was_congested = False

    @property
    def outstanding_bytes(self) -> int:
        """Queued here or not consumed by the peer."""
        return self.queued_bytes + self.sent_bytes - self.acked_bytes

    @property
    def outstanding_count(self) -> int:
        return self.queued_count + self.sent_count - self.acked_count

    @property
    def congested(self) -> bool:
        """Set when more than the window is outstanding, cleared at half of it, so that it does not flicker."""
        return self._was_congested

    @property
    def behind(self) -> bool:
        """Whether more than a quarter of the window is outstanding: more than a peer owes that tells what it has consumed."""
        return 4 * self.outstanding_bytes > self.window_bytes or 4 * self.outstanding_count > self.window_count

    def queue(self, size: int) -> bool:
        """Account for one more message that waits to be sent. False, and nothing changed, beyond the hard bound."""
        outstanding_bytes = self.queued_bytes + self.sent_bytes - self.acked_bytes + size
        outstanding_count = self.queued_count + self.sent_count - self.acked_count + 1
        if outstanding_bytes > self.outstanding_bytes_max or outstanding_count > self.outstanding_count_max:
            return False
        self.queued_bytes += size
        self.queued_count += 1
        if outstanding_bytes > self.window_bytes or outstanding_count > self.window_count:
            self._was_congested = True
        return True

    def room(self) -> tuple[int, int]:
        """Bytes and messages that may be handed to the wire now. (0, 0) or less: none."""
        return (
            self.window_bytes - (self.sent_bytes - self.acked_bytes),
            self.window_count - (self.sent_count - self.acked_count),
        )

    def sent(self, size: int, count: int) -> None:
        """So much went from the queue to the wire."""
        self.queued_bytes -= size
        self.queued_count -= count
        self.sent_bytes += size
        self.sent_count += count
        assert self.queued_bytes >= 0
        assert self.queued_count >= 0

    def acknowledged(self, consumed_bytes: int, consumed_count: int) -> bool:
        """The peer's totals. Older ones than known are ignored. True when congestion just cleared. Raises
        CreditViolated."""
        if consumed_bytes > self.sent_bytes or consumed_count > self.sent_count:
            raise CreditViolated("credit for what was never sent")
        if consumed_count > self.acked_count:
            self.acked_count = consumed_count
        if consumed_bytes > self.acked_bytes:
            self.acked_bytes = consumed_bytes
        if (
            self._was_congested
            and 2 * self.outstanding_bytes <= self.window_bytes
            and 2 * self.outstanding_count <= self.window_count
        ):
            self._was_congested = False
            return True
        return False

    def consumed(self, size: int, count: int) -> bool:
        """The handler has taken so much. True when it is time to tell the peer."""
        self.consumed_bytes += size
        self.consumed_count += count
        return (
            8 * (self.consumed_bytes - self._returned_bytes) >= self.window_bytes
            or 8 * (self.consumed_count - self._returned_count) >= self.window_count
        )

    def returned(self) -> None:
        """The totals of now were put into a frame."""
        self._returned_bytes = self.consumed_bytes
        self._returned_count = self.consumed_count

    @property
    def owes(self) -> bool:
        """Whether the peer has not been told of everything consumed."""
        return self.consumed_count != self._returned_count
