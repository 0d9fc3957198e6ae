"""The whole of it in one script, as somebody who reads the guide would put it together: it runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SCRIPT = """
from kernels.passes import TICKS
from swarm import nano

address = TICKS["move_many"]            # x += v / 100, for a batch

class Risk:
    def __init__(self):
        self.seen = self.looked = 0

    def observe(self, traces):
        self.seen += len(traces)

    def reflect(self, now_ns):
        self.looked += 1

class Bird(nano.Kind, layout="columns", capacity=1_000_000):
    x: nano.f64; v: nano.f64
    quotes = nano.reads("quotes"); orders = nano.writes("orders", full="drop")

def population():
    flock = nano.NanoSwarm(seed=7, time="virtual", topology=nano.Hierarchical({"fast": .7, "rest": .3}))
    birds = flock.spawn(Bird.native_many(address), 10_000, rate_hz=100, group="fast", budget=nano.Budget(200, guard="sampled", on_overrun="demote"))
    birds.x[:] = 0.0; birds[17].v = 2.0
    return flock
"""

HERE = """
flock = population()
risk = flock.spawn_critic(Risk, every=10, budget_ns=1_000)
report = flock.run_for(seconds=1); blob = flock.save(); flock = nano.load(blob)
assert report.ticks > 100_000 and risk.looked > 0 and risk.seen > 0
birds = flock.cohorts[0]
assert birds[17].x > 0 and birds[16].x == 0.0 and birds[17].v == 2.0
was = birds[17].x
flock.run_for(seconds=1)
assert birds[17].x > was
open("blob", "wb").write(blob)
"""

THERE = """
import sys
sys.path.insert(0, ".")
from swarm import nano
flock = nano.load(open("blob", "rb").read())    # the module finds its own address here
flock.run_for(seconds=1)
assert flock.cohorts[0][17].x > 0
"""


def run(folder: Path, code: str) -> None:
    (folder / "script.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


def test_a_population_by_an_address_is_saved_and_loaded_where_it_was_made(tmp_path: Path) -> None:
    run(tmp_path, SCRIPT + HERE)


def test_and_by_another_process_that_can_import_its_module(tmp_path: Path) -> None:
    (tmp_path / "birds_by_address.py").write_text(SCRIPT)
    run(tmp_path, "from birds_by_address import *\nfrom birds_by_address import Bird, Risk\n" + HERE)
    run(tmp_path, THERE)
