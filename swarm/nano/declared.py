"""What a swarm's kinds declare, put together: their rows, their topics, and who reads one in the pass in which it is written."""

from __future__ import annotations

from kernels.passes import Passes
from kernels.population import Population
from kernels.topics import Bus
from swarm.nano.agents import KindState
from swarm.nano.bus import TOPICS_MAX
from swarm.nano.errors import NanoError
from swarm.nano.kinds import Form, Kind


class Declared:
    """Kinds and topics of one swarm. A topic has room for `topic_lines` messages of a pass."""

    def __init__(self, passes: Passes, bus: Bus, topic_lines: int) -> None:
        self._passes = passes
        self._bus = bus
        self._topic_lines = topic_lines
        self.kinds: dict[type[Kind], KindState] = {}
        self.topics: dict[str, int] = {}
        """Their numbers on the bus."""
        self.full: dict[str, str] = {}
        """What becomes of messages for which a topic has no room, as its writers said."""
        self._writers: dict[str, tuple[bool, int, str]] = {}
        """Of each topic, the last in the order of a pass who writes to it: whether it is Python's, its cohort, its kind."""
        self._readers: dict[str, tuple[bool, int, str]] = {}
        """Of each topic that is read in the pass in which it is written, the first in that order who does so."""

    def kind(self, kind: type[Kind], capacity: int | None = None) -> KindState:
        """A kind and its rows; what it declares is made when it is met first. NanoError where that does not fit the others."""
        state = self.kinds.get(kind)
        if state is not None:
            return state
        if not kind.fields:
            raise NanoError(
                f"{kind.__name__} declares no field", hint="declare what it keeps: `x: nano.f64` in its body"
            )
        wanted = {topic: None for topic in kind.topics_read.values()} | {
            each.topic: each.full for each in kind.topics_written.values()
        }
        for topic, full in wanted.items():
            if full is not None and self.full.get(topic, full) != full:
                raise NanoError(
                    f"{kind.__name__} writes to {topic!r} with full={full!r}, others with {self.full[topic]!r}",
                    hint="all who write to a topic declare the same",
                )
        if len(self.topics.keys() | wanted.keys()) > TOPICS_MAX:
            raise NanoError(f"more than {TOPICS_MAX} topics", hint="let agents share topics")
        capacity = kind.capacity if capacity is None else capacity
        population = Population(capacity, [(name, type.code) for name, type in kind.fields.items()], kind.layout)
        number = self._passes.add_kind(population)
        for topic, full in wanted.items():
            self._topic(topic, full)
        for topic in kind.topics_read.values():
            self._bus.subscribe(self.topics[topic], number)
        state = self.kinds[kind] = KindState(kind, number, population)
        return state

    def _topic(self, topic: str, full: str | None) -> None:
        # A topic that is read before anybody writes to it drops what it has no room for; who writes says so, and is first
        # asked where both are declared together.
        if full is not None:
            self.full.setdefault(topic, full)
        if topic not in self.topics:
            self.topics[topic] = self._bus.add(self._topic_lines, "block" if full == "block" else "drop")

    def check_delays(self, form: Form, number: int, *, ordered: bool, python_thread: bool) -> None:
        """NanoError where a topic that is read with `delay=0` would be written after it was read."""
        kind = form.kind
        if kind.topics_at_once and (ordered or python_thread):
            raise NanoError(
                f"{kind.__name__} reads {', '.join(sorted(kind.topics_at_once))} with delay=0, "
                f"{'and a topology grants turns in its own order' if ordered else 'with python_thread=True'}",
                hint="stages that read what was published in the same pass run one after the other, on one thread",
            )
        here = (form.name in ("object", "generator"), number, kind.__name__)
        written = {each.topic for each in kind.topics_written.values()}
        for topic in sorted(kind.topics_at_once):
            before = self._writers.get(topic)
            if before is not None and before > here:
                raise _too_late(topic, before, here)
        for topic in sorted(written):
            after = self._readers.get(topic)
            if after is not None and here > after:
                raise _too_late(topic, here, after)
        for topic in kind.topics_at_once:
            self._readers[topic] = min(here, self._readers.get(topic, here))
        for topic in written:
            self._writers[topic] = max(here, self._writers.get(topic, here))


def _too_late(topic: str, writer: tuple[bool, int, str], reader: tuple[bool, int, str]) -> NanoError:
    python = "; Python's agents run after native ones" if writer[0] and not reader[0] else ""
    return NanoError(
        f"{writer[2]} writes to {topic!r} after {reader[2]} has read it with delay=0 in the same pass{python}",
        hint=f"spawn {writer[2]} before {reader[2]}, or have {reader[2]} read it with delay=1",
    )
