"""Who may open an encrypted connection: ZeroMQ's authentication protocol (ZAP, RFC 27), answered in the loop.

Every CURVE key is let in, within a rate, since only the certificate in the hello says who somebody is (a newcomer who
wants to join has none yet). What ZAP gives is the proof of the key: it comes back with every message as its User-Id,
and is compared there.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from transport import bounds

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"swarm"
_KEY_BYTES = 32
_ADDRESSES_MAX = 4096


class ConnectionRate:
    """Token buckets, one an address: bursts of `bounds.CONNECTIONS_BURST_MAX`, `bounds.CONNECTIONS_PER_S_MAX` on
    average. Pure.

    Addresses whose bucket is full again are forgotten; should more than 4096 be in use at a time, newcomers share one
    bucket.
    """

    def __init__(
        self, burst: float = bounds.CONNECTIONS_BURST_MAX, per_s: float = bounds.CONNECTIONS_PER_S_MAX
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, address: str, now: float) -> bool:
        """Whether one more connection from the address is within the rate. ``now`` is monotonic, in seconds."""
        if address not in self._buckets and len(self._buckets) >= _ADDRESSES_MAX:
            self._forget(now)
            if len(self._buckets) >= _ADDRESSES_MAX:
                address = ""
        left, at = self._buckets.get(address, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._per_s)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now)
        return allowed

    def _forget(self, now: float) -> None:
        full = [key for key, (left, at) in self._buckets.items() if left + (now - at) * self._per_s >= self._burst]
        for key in full:
            del self._buckets[key]


def answer(request: list[bytes], rate: ConnectionRate, now: float) -> tuple[list[bytes] | None, str]:
    """The reply to one ZAP request, and why it was refused ("" if it was not). None for what is no request. Pure."""
    if len(request) < 6 or request[0] != b"1.0":
        return None, "malformed"
    number, domain, address, mechanism = request[1], request[2], request[3].decode("ascii", "replace"), request[5]
    if domain != DOMAIN or mechanism != b"CURVE" or len(request) != 7 or len(request[6]) != _KEY_BYTES:
        return [b"1.0", number, b"400", b"CURVE only", b"", b""], "mechanism"
    if not rate.take(address, now):
        return [b"1.0", number, b"400", b"too many connections", b"", b""], "busy"
    return [b"1.0", number, b"200", b"OK", request[6].hex().encode("ascii"), b""], ""


def serve(socket: zmq.Socket[bytes], rate: ConnectionRate, now: float, refused: Callable[[str, str], None]) -> None:
    """Answer one request on a ROUTER socket bound to `ENDPOINT`. Raises zmq.Again when there is none."""
    frames = socket.recv_multipart(zmq.NOBLOCK)
    if b"" not in frames:
        return
    cut = frames.index(b"") + 1
    request = frames[cut:]
    reply, reason = answer(request, rate, now)
    if reason:
        refused(reason, request[3].decode("ascii", "replace") if len(request) > 3 else "")
    if reply is not None:
        socket.send_multipart([*frames[:cut], *reply], zmq.NOBLOCK)
