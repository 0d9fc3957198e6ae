"""A datagram network: delay, loss, duplication, reordering, cuts of one direction, partitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass
class Weather:
    """How the network behaves everywhere. Seconds and probabilities."""

    delay_s: float = 0.0002
    jitter_s: float = 0.0003
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """Of messages that are held back by up to `hold_s`, so that later ones overtake them."""
    hold_s: float = 0.05


class Network:
    """Between endpoints; hosts are told apart by `host_of`, the first item of an endpoint."""

    def __init__(self, rng: Random, weather: Weather | None = None) -> None:
        self.weather = weather or Weather()
        self._random = rng.random
        self._cuts: set[tuple[Any, Any]] = set()
        self.sent = 0
        self.lost = 0

    def cut(self, source: Any, destination: Any) -> None:
        """Nothing gets from one endpoint to the other any more; the way back stays as it is."""
        self._cuts.add((source, destination))

    def mend(self, source: Any, destination: Any) -> None:
        """Undoes `cut`."""
        self._cuts.discard((source, destination))

    def part(self, one: Iterable[Any], other: Iterable[Any]) -> None:
        """Cuts both ways between two sets of endpoints."""
        others = list(other)
        for a in one:
            for b in others:
                self.cut(a, b)
                self.cut(b, a)

    def heal(self) -> None:
        """Undoes all cuts."""
        self._cuts.clear()

    def is_cut(self, endpoint: Any) -> bool:
        """Whether any cut concerns an endpoint."""
        return any(endpoint in pair for pair in self._cuts)

    def delays(self, source: Any, destination: Any) -> tuple[float, ...]:
        """Seconds until each copy of one message arrives; none if it is lost."""
        self.sent += 1
        if self._cuts and (source, destination) in self._cuts:
            self.lost += 1
            return ()
        weather = self.weather
        random = self._random
        if weather.loss and random() < weather.loss:
            self.lost += 1
            return ()
        delay = weather.delay_s + weather.jitter_s * random()
        if weather.reordering and random() < weather.reordering:
            delay += weather.hold_s * random()
        if weather.duplication and random() < weather.duplication:
            return delay, delay + weather.hold_s * random()
        return (delay,)
