"""The parameters of membership, derived from what is promised, and the bounds of its datagrams.

The promise: at 5 nodes a dead one is known dead by all within 3 s, at 200 within 12 s; a new one is known to all, and
knows all, within 1 s. `MembershipConfig.death_bound_s` adds up where the time goes:

* until somebody probes it: n - 1 nodes go round all others in an order of their own, so that none has come by after k
  periods with a probability of (1 - k/(n-1))^(n-1); k is taken where that is `miss_probability`;
* one period until that probe, direct and indirect, has failed;
* the shortest suspicion, since every live node that is asked to look confirms it;
* the spread of the verdict: push gossip, a round each `gossip_interval_s`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ID_BYTES = 16
BOOT_BYTES = 8
NAME_BYTES_MAX = 64
ADDRESSES_MAX = 8
ADDRESS_BYTES_MAX = 22
"""Packed: array header 1, IPv6 as bin 18, port 3."""
CERTIFICATE_BYTES_MAX = 496
"""Of a node; one with the longest name and a few grants takes 400."""
INFO_BYTES_MAX = 192
NOTICE_BYTES_MAX = 768
INCARNATION_MAX = 2**48
VERSION_MAX = 2**32

DATAGRAM_BYTES_MAX = 1200
"""On the wire, above UDP: no IPv6 path fragments it (RFC 8200: 1280)."""
CRYPTO_BYTES_MAX = 137
"""What `transport.datagrams` puts around a payload; who joins the two asserts that it is no more."""
PAYLOAD_BYTES_MAX = DATAGRAM_BYTES_MAX - CRYPTO_BYTES_MAX
ENVELOPE_BYTES = 32
"""Kind, body and array headers around a list of updates, for the bodies that may carry a whole record."""
STATEMENT_BYTES_MAX = 48
"""That a member is dead or has left."""
RECORD_BYTES_MAX = (
    ID_BYTES + 2 + BOOT_BYTES + 2 + NAME_BYTES_MAX + 2 + CERTIFICATE_BYTES_MAX + 3 + INFO_BYTES_MAX + 2
    + ADDRESSES_MAX * ADDRESS_BYTES_MAX + 1 + 9 + 5 + 2
)  # fmt: skip
assert RECORD_BYTES_MAX + STATEMENT_BYTES_MAX + ENVELOPE_BYTES <= PAYLOAD_BYTES_MAX, "one record and a statement fit"
assert NOTICE_BYTES_MAX + ENVELOPE_BYTES <= PAYLOAD_BYTES_MAX

UPDATES_MAX = 128
"""Of one datagram; the shortest update takes over 8 bytes."""
ROWS_MAX = 29
"""Of one page of a table."""
ROW_BYTES_MAX = 1 + 18 + 9 + 5 + 1
assert ROWS_MAX * ROW_BYTES_MAX + ENVELOPE_BYTES + 2 * (ID_BYTES + 3) <= PAYLOAD_BYTES_MAX
WANTS_MAX = 32
NOTICE_DATAGRAMS_MAX = 64
"""Of notices, to one member at one comparison."""


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """How often, how long, how many. Durations in seconds."""

    period_s: float = 0.25
    """Between two probes of one node while the fleet has ten members or fewer; grows with log10 of their number."""
    probe_timeout_fraction: float = 0.4
    """Of a period: until a direct probe is helped by indirect ones."""
    nack_fraction: float = 0.35
    """Of a period: until a helper says that the target has not answered it either (Lifeguard, 4.1)."""
    indirect_probes: int = 3
    suspicion_periods: float = 4.0
    """The shortest suspicion (Lifeguard's alpha, with the logarithm in the period)."""
    suspicion_max_factor: float = 6.0
    """The longest over the shortest suspicion (Lifeguard's beta)."""
    confirmations: int = 3
    """Independent suspicions that shorten one to its shortest (Lifeguard's K)."""
    health_max: int = 8
    """The greatest local health score (Lifeguard's S): own periods and timeouts grow by at most 1 + this."""
    gossip_interval_s: float = 0.05
    gossip_fanout: int = 3
    gossip_miss_probability: float = 3e-4
    """That an update misses one of n members, if each passes it on k = ln(n / this) times to random ones: somebody
    gets no copy with a probability of n e^-k. (SWIM, 4.1, has k = lambda ln n.) Push-pull repairs that."""
    sync_interval_s: float = 5.0
    """Between push-pulls of one node while nothing changes and the fleet is small; grows as the period does."""
    dead_contact_interval_s: float = 2.0
    """Fleet-wide, between two attempts to reach one dead member: how a healed partition finds itself."""
    hello_retry_s: float = 0.1
    hello_retry_factor: float = 1.5
    """Growth of the pause: nine tries in the first five seconds, so that loss does not hold up a join."""
    hello_retry_max_s: float = 10.0
    hello_tries: int = 10
    """For a hint that is not lasting."""
    hints_max: int = 1024
    want_retry_s: float = 0.15
    want_window: int = 24
    """Records asked for at a time: what arrives at once fits a socket's usual receive buffer."""
    want_tries: int = 6
    info_interval_s: float = 1.0
    """Between two gossiped changes of the own info, at least; at n members, n times `info_interval_per_member_s`."""
    info_interval_per_member_s: float = 0.05
    forget_s: float = 86_400.0
    """How long a dead member's record is kept, and its address tried."""
    members_max: int = 4096
    notices_max: int = 1024
    incarnation_block: int = 16
    """Incarnations are reserved on disk in blocks, so that not every refutation waits for a write."""
    miss_probability: float = 1e-4

    def __post_init__(self) -> None:
        assert 0 < self.probe_timeout_fraction < 1
        # A helper's nack must be back before the probe that asked for it ends, with a tenth of a period for the way.
        assert self.probe_timeout_fraction + self.nack_fraction <= 0.9
        # The suspect hears of its suspicion and its refutation is heard before the shortest suspicion ends.
        for count in (2, 5, 20, 200, 1000):
            assert 2 * self.spread_s(count) <= self.suspicion_min_s(count), count
        assert self.suspicion_max_factor >= 1
        assert self.gossip_interval_s < self.period_s

    def period(self, count: int) -> float:
        """Seconds between two probes of a healthy node among `count` members."""
        return self.period_s * max(1.0, math.log10(max(count, 1)))

    def suspicion_min_s(self, count: int) -> float:
        """The shortest suspicion among `count` members."""
        return self.suspicion_periods * self.period(count)

    def retransmits(self, count: int) -> int:
        """How often one node passes on one update among `count` members."""
        return math.ceil(math.log(count / self.gossip_miss_probability))

    def spread_s(self, count: int) -> float:
        """Until all of `count` members have heard a rumour, with few exceptions: log(n) to base 1 + fanout rounds until
        most know, about as many for the last."""
        rounds = math.ceil(math.log(max(count, 2)) / math.log(1 + self.gossip_fanout))
        return self.gossip_interval_s * (2 * rounds + 2)

    def detection_periods(self, count: int) -> float:
        """Periods until one of the survivors among `count` members probes a dead one, but for `miss_probability`."""
        others = max(count - 1, 1)
        return others * (1.0 - math.pow(self.miss_probability, 1.0 / others))

    def death_bound_s(self, count: int) -> float:
        """From a death to its being known by all of `count` members."""
        probing_s = self.period(count) * (self.detection_periods(count) + 2)
        return probing_s + self.suspicion_min_s(count) + self.spread_s(count)


DEFAULT = MembershipConfig()
DEATH_KNOWN_S = {5: 3.0, 200: 12.0}
"""The promise: members to seconds."""
for _count, _promised in DEATH_KNOWN_S.items():
    assert DEFAULT.death_bound_s(_count) <= _promised, (_count, DEFAULT.death_bound_s(_count))
