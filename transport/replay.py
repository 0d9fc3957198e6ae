"""The window that lets each datagram of a sender in once (the algorithm of RFC 6479, and RFC 4303 section 3.4.3)."""

from __future__ import annotations

from typing import Final

from transport import bounds

_MASK: Final = (1 << bounds.DATAGRAM_WINDOW_COUNT) - 1


class ReplayWindow:
    """What one sender has sent already: its boot (a number that grows from start to start) and the counters seen of it.

    A sender keeps its boots growing as well as it can; one that lost its memory, with a clock that was set back, may
    come with a lower one. That is taken once the known one has been silent for `bounds.DATAGRAM_SILENCE_S`: a replay of
    an old boot is refused while its sender is alive, and nobody is locked out for ever.
    """

    __slots__ = ("_seen", "_top", "boot", "heard_s")

    def __init__(self) -> None:
        self.boot = -1
        self.heard_s = float("-inf")
        self._top = -1
        self._seen = 0

    def admit(self, boot: int, counter: int, now_s: float) -> bool:
        """Whether this datagram is new;

        to be asked only about one that was proven to be the sender's. ``now_s`` is monotonic.
        """
        if boot != self.boot:
            if boot < self.boot and now_s - self.heard_s < bounds.DATAGRAM_SILENCE_S:
                return False
            self.boot, self._top, self._seen = boot, -1, 0
        ahead = counter - self._top
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < bounds.DATAGRAM_WINDOW_COUNT else 1
            self._top = counter
        else:
            if -ahead >= bounds.DATAGRAM_WINDOW_COUNT or self._seen >> -ahead & 1:
                return False
            self._seen |= 1 << -ahead
        self.heard_s = now_s
        return True
