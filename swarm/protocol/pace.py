"""How fast a node runs tasks, beside the others: what its tasks should have taken by the averages of their kinds, and what they took.

A slow machine's tasks are in those averages as well, so the measure is relative to the mix of machines that ran them; that is what a
choice between machines needs. Run times vary, so a node counts as any other until enough of its tasks have ended, and for as
long as it differs by little.
"""

from __future__ import annotations

from dataclasses import dataclass

KNOWN_AFTER = 32
"""Tasks that have to have ended on a node before it counts as faster or slower than others."""
KEPT = 512.0
"""About so many tasks are looked back upon."""
NOTABLE = 1.2
"""What differs by less counts as equally fast."""
SPEED_MAX = 16.0
TASK_PART_MAX = 8.0
"""A task counts as no longer than so many times the mean of its kind: one in the tail of its times says nothing of the machine."""


@dataclass(slots=True)
class Pace:
    """The speed of one node, 1.0 on average."""

    expected_s: float = 0.0
    took_s: float = 0.0
    tasks: float = 0.0
    speed: float = 1.0
    """How many times as fast as the average; exactly 1.0 where that is not known, or the difference small."""

    def observe(self, expected_s: float, took_s: float, count: int) -> None:
        """So many tasks took so long, and were expected to take `expected_s` seconds together."""
        if expected_s <= 0 or count <= 0:
            return
        keep = max(0.0, 1.0 - count / KEPT)
        self.expected_s = self.expected_s * keep + expected_s
        self.took_s = self.took_s * keep + min(took_s, expected_s * TASK_PART_MAX)
        self.tasks = self.tasks * keep + count
        if self.tasks >= KNOWN_AFTER and self.took_s > 0:
            speed = max(1 / SPEED_MAX, min(SPEED_MAX, self.expected_s / self.took_s))
            self.speed = 1.0 if 1 / NOTABLE < speed < NOTABLE else speed
