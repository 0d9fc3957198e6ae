"""A part of a population that runs in step with the others: one pass of virtual time after the other, all at the same instants.

Nobody makes a pass before all have told when they are next due, so that no message can come too late (the conservative
synchronisation of Chandy and Misra, "Distributed simulation", IEEE Trans. Software Eng. 1979; its lookahead is here the one pass
after which a message is read). Each pass is known everywhere by the same number and instant, also where nobody is due: so random
numbers, and the order of messages, are those of a single process.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kernels.passes import NEVER
from swarm.nano.errors import NanoError

if TYPE_CHECKING:
    from swarm.nano.scheduling import NanoSwarm

HEADER: Final = struct.Struct("<QQII")
"""What a part tells another of a pass: how many it has made before it, when it is next due (ns), flags, and how many lines
of 64 bytes follow."""
SAVE: Final = 1
"""Flag: after this pass all save themselves."""
STOP: Final = 2
"""Flag: after this pass all end."""
LINE: Final = 64


class Part:
    """One part of a spread population. `reads` are numbers of the topics that somebody of this part reads."""

    def __init__(self, flock: NanoSwarm, number: int) -> None:
        if flock.time != "virtual" or flock.topology is not None:
            raise NanoError(
                "only populations in virtual time and without a topology run in step",
                hint="time='virtual', topology=None",
            )
        at_once = sorted({topic for kind in flock.kinds for topic in kind.topics_at_once})
        if at_once:
            raise NanoError(
                f"{', '.join(at_once)}: read with delay=0, in the pass in which they are published, which other nodes do not see",
                hint="let the kinds of a population that is spread read with delay=1",
            )
        self.flock = flock
        flock.employ()
        self.number = number
        self.reads = reads_of(flock)
        self.lines_out = 0
        self.lines_in = 0

    @property
    def soonest_ns(self) -> int:
        """When this part is next due; NEVER where nobody will be."""
        return self.flock.passes.soonest_ns

    def run(self, at_ns: int) -> None:
        """The pass at an instant, up to where messages are exchanged."""
        flock = self.flock
        python = flock.passes.open(at_ns)
        if python:
            for number in flock.passes.due:
                cohort = flock._cohorts[number].python
                assert cohort is not None
                cohort.run(flock.passes, at_ns)

    def lines(self, topics: Sequence[int]) -> list[memoryview]:
        """What was published in this pass to topics that somebody elsewhere reads."""
        found = [self.flock.bus.outbox(topic) for topic in topics]
        sent = [each for each in found if len(each)]
        self.lines_out += sum(len(each) for each in sent) // LINE
        return sent

    def arrive(self, lines: Any) -> None:
        """What others published in this pass. NanoError where there is no room for it."""
        count = len(lines) // LINE
        self.lines_in += count
        if count and self.flock.bus.arrive(lines) != count:
            raise self._full()

    def finish(self) -> None:
        """The pass is over."""
        self.flock.passes.finish()
        self.flock._events()
        # a line that one process would have refused or dropped was refused nowhere: from here on histories would differ
        if any(self.flock.bus.lost(topic) for topic in self.reads):
            raise self._full()

    def _full(self) -> NanoError:
        name = next((name for name, topic in self.flock.topics.items() if self.flock.bus.lost(topic)), "?")
        return NanoError(
            f"more was published to the topic {name!r} in one pass of all parts than it has room for ({self.flock.topic_lines} lines)",
            hint="NanoSwarm(topic_lines=…) with room for what all parts publish in a pass",
            topic=name,
        )  # fmt: skip


def reads_of(flock: NanoSwarm) -> list[int]:
    """Numbers of the topics that agents of this part read."""
    topics: set[int] = set()
    for cohort in flock._cohorts:
        if not cohort.absent:
            topics.update(flock.topics[topic] for topic in cohort.form.kind.topics_read.values())
    return sorted(topics)


def in_step(parts: Sequence[Part], *, until_ns: int = NEVER, passes: int | None = None) -> int:
    """Run parts that are all in this process: the readable twin of what nodes do, and what tests hold against one process.
    Returns the passes made."""
    made = 0
    while passes is None or made < passes:
        at_ns = min(part.soonest_ns for part in parts)
        if at_ns >= until_ns or at_ns == NEVER:
            break
        for part in parts:
            part.run(at_ns)
        sent = {
            (a.number, b.number): [bytes(each) for each in a.lines(b.reads)] for a in parts for b in parts if a is not b
        }
        for (_, to), lines in sent.items():
            for each in lines:
                parts[to].arrive(each)
        for part in parts:
            part.finish()
        made += 1
    if passes is None and until_ns != NEVER:
        for part in parts:
            part.flock.passes.run(until_ns)  # nobody is due before it
    return made
