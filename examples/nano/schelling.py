"""Schelling's model of segregation ("Dynamic models of segregation", 1971) three times: as nano-agents, as plain Python, in Mesa.

    python examples/nano/schelling.py --side 50 --rounds 30 --picture homes.png

People of two groups live on a torus of homes. Whoever has too few neighbours of the own group moves to an empty home, chosen
by a random number of (seed, kind, row, round). Such numbers do not depend on who drew before, so the twins can ask for the
same ones, and in all three everybody lives in the same home after each round: what differs is only what runs the agents.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pictures

from kernels.draws import random_at
from swarm import nano

AROUND = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
KIND = 0
"""The number of the kind in its swarm, where it is the first."""
Draw = Callable[[], int]


@dataclass
class Town:
    """Who lives where: `homes[home]` is 0 (empty), 1 or 2; homes are numbered line by line."""

    side: int
    wanted: float
    homes: list[int]
    empty: list[int]
    people: list[int]
    """Homes at the beginning, in the order of the people."""

    def content(self, home: int) -> bool:
        """Whether enough of those next to a home are of its group."""
        x, y, mine, same, others = home % self.side, home // self.side, self.homes[home], 0, 0
        for dx, dy in AROUND:
            group = self.homes[(y + dy) % self.side * self.side + (x + dx) % self.side]
            if group == mine:
                same += 1
            elif group:
                others += 1
        return same >= self.wanted * (same + others)

    def move(self, home: int, draw: Draw) -> int:
        """Move whoever lives there to an empty home by a random number; which."""
        chosen = draw() % len(self.empty)
        there = self.empty[chosen]
        self.empty[chosen] = home
        self.homes[there], self.homes[home] = self.homes[home], 0
        return there


def town(side: int, seed: int, wanted: float = 0.5, filled: float = 0.9) -> Town:
    """A town in which everybody lives anywhere."""
    order = np.random.default_rng(seed).permutation(side * side).tolist()
    people = order[: round(filled * side * side)]
    homes = [0] * (side * side)
    for number, home in enumerate(people):
        homes[home] = 1 + number % 2
    return Town(side, wanted, homes, order[len(people) :], people)


class Person(nano.Kind, capacity=1 << 18):
    """Lives somewhere."""

    home: nano.u32
    moves: nano.u32

    place: Town | None = None
    """What people share: it is no field, so it is not theirs alone, and it is not saved with them."""

    def tick(self, now_ns, bus):
        home = self.home
        if Person.place.content(home):
            return nano.IDLE
        self.home = Person.place.move(home, bus.random)
        self.moves += 1
        return None


def by_nano(place: Town, seed: int, rounds: int) -> list[list[int]]:
    """Homes of the people after each of so many rounds; one round is one pass."""
    Person.place = place
    flock = nano.NanoSwarm(seed=seed)
    people = flock.spawn(Person, len(place.people), rate_hz=1)
    assert flock.kinds[Person].number == KIND
    people.home[:] = place.people
    found = []
    for _ in range(rounds):
        flock.run_for(passes=1)
        found.append(people.home.tolist())
    if flock.failures():
        raise flock.failures()[0][2]
    return found


def by_python(place: Town, seed: int, rounds: int) -> list[list[int]]:
    """The same without any framework."""
    at, found = list(place.people), []
    for number in range(rounds):
        for person, home in enumerate(at):
            if not place.content(home):
                at[person] = place.move(
                    home, lambda person=person, number=number: random_at(seed, KIND, person, number)
                )
        found.append(list(at))
    return found


def by_mesa(place: Town, seed: int, rounds: int) -> list[list[int]]:
    """The same as Mesa has it: a model, its grid, agents with a `step`. ImportError without Mesa (3.0 or later)."""
    import mesa
    from mesa.space import SingleGrid

    class Resident(mesa.Agent):
        def __init__(self, model: Any, group: int) -> None:
            super().__init__(model)
            self.group = group

        def step(self) -> None:
            around = self.model.grid.get_neighbors(self.pos, moore=True, radius=1)
            same = sum(other.group == self.group for other in around)
            if same >= place.wanted * len(around):
                return
            person, empty = self.unique_id - 1, self.model.empty  # Mesa counts from 1
            chosen = random_at(seed, KIND, person, self.model.round) % len(empty)
            there, empty[chosen] = empty[chosen], self.pos
            self.model.grid.move_agent(self, there)

    class Residence(mesa.Model):
        def __init__(self) -> None:
            super().__init__()
            self.grid, self.round = SingleGrid(place.side, place.side, torus=True), 0
            self.empty = [(home % place.side, home // place.side) for home in place.empty]
            for number, home in enumerate(place.people):
                self.grid.place_agent(Resident(self, 1 + number % 2), (home % place.side, home // place.side))

        def step(self) -> None:
            self.agents.do("step")
            self.round += 1

    model, found = Residence(), []
    for _ in range(rounds):
        model.step()
        found.append([resident.pos[1] * place.side + resident.pos[0] for resident in model.agents])
    return found


def likeness(place: Town) -> float:
    """The share of neighbours of the own group, over all who have neighbours: about a half when all live anywhere."""
    homes = np.array(place.homes).reshape(place.side, place.side)
    same = sum(((np.roll(homes, by, (0, 1)) == homes) & (homes > 0)).sum() for by in AROUND)
    lived = sum(((np.roll(homes, by, (0, 1)) > 0) & (homes > 0)).sum() for by in AROUND)
    return float(same / lived)


def main(argv: list[str] | None = None) -> None:
    """Run all three, and compare."""
    parser = argparse.ArgumentParser(description="Schelling's segregation, three times")
    parser.add_argument("--side", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--picture", metavar="FILE.png")
    args = parser.parse_args(argv)
    found = {}
    for name, run in (("nano", by_nano), ("python", by_python), ("mesa", by_mesa)):
        place = town(args.side, args.seed)
        began, before = time.perf_counter(), likeness(place)
        try:
            found[name] = run(place, args.seed, args.rounds)
        except ImportError as error:
            print(f"{name:6} is left out: {error}; pip install 'nanoswarm[twins]'")
            continue
        took, steps = time.perf_counter() - began, args.rounds * len(place.people)
        after = (
            f"; neighbours alike {before:.0%} -> {likeness(place):.0%}" if name != "mesa" else ""
        )  # it has its own grid
        print(f"{name:6} {steps:,} steps, {took / steps * 1e9:,.0f} ns each{after}")
        if name == "nano" and args.picture:
            frame = np.kron(np.array(place.homes, np.uint8).reshape(args.side, args.side), np.ones((6, 6), np.uint8))
            pictures.write_png(args.picture, [frame], np.array([(245, 245, 240), (39, 84, 138), (183, 121, 31)]))
    same = all(homes == found["nano"] for homes in found.values())
    print(f"{' and '.join(found)}: {'everybody lives in the same home after each round' if same else 'THEY DIFFER'}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
