"""What a node offers of its machine: fewer slots while that is hot, low on battery, or its owner works there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nodes.fabric import Fabric, boottime_s
from nodes.sensors import Sensors
from nodes.settings import NodeSettings
from swarm.protocol.effects import Fact
from swarm.protocol.executor.offer import Offer, Rules

FEEL_EVERY_S = 3.0
"""How often the machine's temperature, battery and load are read."""


class Offering:
    """Reads the sensors, and has the fabric offer what the rules leave."""

    def __init__(
        self, settings: NodeSettings, fabric: Fabric, loop: asyncio.AbstractEventLoop, fact: Callable[[Fact], object]
    ) -> None:
        self._fabric = fabric
        self._loop = loop
        self._fact = fact
        self._offer = Offer(
            fabric.execution.slots,
            Rules(settings.node.hot_c, settings.node.battery_percent / 100, settings.node.yield_to_owner),
        )
        self._sensors = Sensors(watch_load=settings.node.yield_to_owner)

    @property
    def why(self) -> tuple[str, ...]:
        """Why fewer slots are offered than there are."""
        return tuple(self._offer.why)

    def feel(self) -> None:
        """See how the machine is, and offer what it can give."""
        before = self._offer.offered
        offered = self._offer.read(boottime_s(), self._sensors.read())
        if offered != before:
            slots, why = self._fabric.execution.slots, ", ".join(self._offer.why)
            self._fact(Fact("slots.offered", {}, {"offered": offered, "slots": slots, "why": why}, offered))
            self._fabric.execution.offer(boottime_s(), offered)
            self._fabric.turn()
        self._loop.call_later(FEEL_EVERY_S, self.feel)
