"""What facts weigh, and when one counts as pruned: by what was said about it alone, so that all who heard the same agree.

A fact that is put weighs `NEW`. Who uses it says how much its own uses weigh together at that instant (kind "uses": each author's last word
counts, as a counter that forgets), and all of these halve in 50 cycles (`kernels.decay`). A cycle is a stretch of the clock that stamps are made of.

A *pruned* fact is one that somebody has said to be pruned (kind "pruned") and that all can see to be: nothing was put or used since, and by what was
said up to then it weighed less than the threshold. So a use that somebody made meanwhile on the other side of a cut brings it back, a
steward whose clock is wrong prunes nothing that is heavy, and neither does one that lies.

How long a cycle is and what the threshold is follows from the policy `POLICY`, which is knowledge as any other: no setting may differ between nodes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any, Final

from kernels import decay
from swarm.protocol.knowledge import bounds, crdts
from swarm.protocol.knowledge.crdts import Slot
from swarm.protocol.knowledge.stamps import ms_of

FACTS, USES, PRUNED, POLICIES = "facts", "uses", "pruned", "policies"
POLICY: Final = "fading"
"""Key of the policy: ``{"cycle_s": 3600, "threshold": 0.015625}``, each of them if it is to be another."""
NEW: Final = 1.0
"""What a fact weighs that was put and never used."""
GAIN: Final = 1.0
"""What a use adds."""
CYCLE_MAX: Final = 2**32 - 1
_CYCLE_MS_MAX: Final = 366 * 86_400_000


def single(value: float) -> float:
    """The single precision number nearest to it: columns are of these, so one is compared with one."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@dataclass(frozen=True, slots=True)
class Fading:
    """How facts fade, in the whole fleet."""

    cycle_ms: int = 3_600_000
    """An hour: what nobody uses weighs half after two days."""
    threshold: float = 1 / 64
    """Below this a fact is pruned: after 300 idle cycles if it was never used. 0: never. Single precision."""

    def cycle(self, ms: int) -> int:
        """The number of the cycle of an instant."""
        return min(max(0, ms // self.cycle_ms), CYCLE_MAX)

    def cycle_of(self, time: int) -> int:
        """The number of the cycle of a stamp."""
        return self.cycle(ms_of(time))


def wrong_policy(value: object) -> str | None:
    """What is wrong with a policy that is to be put, in words after "the value"; None if nothing is."""
    if not isinstance(value, dict):
        return "is not a map"
    if unknown := sorted(str(key) for key in value.keys() - {"cycle_s", "threshold"}):
        return f"says {', '.join(unknown)}, and may say cycle_s and threshold"
    cycle_s, threshold = value.get("cycle_s", 1), value.get("threshold", 0)
    if not _is_number(cycle_s) or not 1 <= cycle_s <= _CYCLE_MS_MAX / 1000:
        return f"has a cycle_s that is not from 1 to {_CYCLE_MS_MAX // 1000} seconds"
    if not _is_number(threshold) or not 0 <= threshold <= bounds.LOG_ODDS_MAX:
        return f"has a threshold that is not from 0 to {bounds.LOG_ODDS_MAX:g}"
    return None


def fading_of(value: Any) -> Fading:
    """How facts fade by a policy; as if there were none where it is not one."""
    if wrong_policy(value) is not None:
        return Fading()
    found = Fading()
    return Fading(
        int(1000 * value["cycle_s"]) if "cycle_s" in value else found.cycle_ms,
        single(float(value["threshold"])) if "threshold" in value else found.threshold,
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and isfinite(value)  # type: ignore[arg-type]


def strengths(facts: Slot | None, uses: Slot | None, fading: Fading) -> list[tuple[float, int]]:
    """(strength, cycle in which it was so strong): of the fact first, then of its users by their ids. Nothing where there is no fact."""
    if facts is None:
        return []
    said = crdts.winner(facts)
    if said.op:
        return []
    found = [(NEW, fading.cycle_of(said.time))]
    if uses is not None:
        last = crdts.by_author(uses)
        found += [(max(0.0, float(last[author].value)), fading.cycle_of(last[author].time)) for author in sorted(last)]
    return found


def weight_in(rows: list[tuple[float, int]], cycle: int) -> float:
    """What these weigh together in a cycle: rounded once, so that it is the same float everywhere."""
    return fsum(decay.weight(strength, used, cycle) for strength, used in rows)


def is_pruned(facts: Slot | None, uses: Slot | None, pruned: Slot | None, fading: Fading) -> bool:
    """Whether a fact is there and is not to be found."""
    if facts is None or pruned is None:
        return False
    said = crdts.winner(pruned)
    if said.op or crdts.winner(facts).op or crdts.winner(facts).time >= said.time:
        return False
    if uses is not None and any(row.time >= said.time for row in crdts.by_author(uses).values()):
        return False
    return weight_in(strengths(facts, uses, fading), fading.cycle_of(said.time)) < fading.threshold


def pruned_at(pruned: Slot | None) -> int | None:
    """The stamp at which a fact was said to be pruned last; None if it was not, or that is over."""
    said = None if pruned is None else crdts.winner(pruned)
    return None if said is None or said.op else said.time
