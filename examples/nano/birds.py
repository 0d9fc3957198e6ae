"""A first population: `swarm nano run birds.py` runs it, as does `python birds.py`."""

from swarm import nano


class Bird(nano.Kind, capacity=10_000):
    """Flies along a line, now and then turned by the wind."""

    x: nano.f64
    v: nano.f64

    def tick(self, now_ns, bus):
        if bus.uniform() < 0.01:
            self.v = -self.v
        self.x += self.v * 0.01


def population() -> nano.NanoSwarm:
    """A thousand birds, at a hundred ticks a second."""
    flock = nano.NanoSwarm(seed=7)
    birds = flock.spawn(Bird, 1_000, rate_hz=100)
    birds.v[:] = 1.0
    return flock


if __name__ == "__main__":
    flock = population()
    report = flock.run_for(seconds=1)
    print(f"{report.ticks:,} ticks; they fly at {flock.cohorts[0].x.mean():.2f} on the average")
