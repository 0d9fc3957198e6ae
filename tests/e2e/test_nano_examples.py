"""The examples of nano-agents, run small: as scripts, and each tick beside its twin."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from swarm import nano

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "nano"
NAMES = ("birds", "ticks", "pictures", "flocking", "trading", "schelling", "megahertz", "sensors")


@pytest.fixture(scope="module")
def examples():
    """Examples by name, imported as their scripts import each other."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture
def cc(examples):
    if examples["ticks"].compiler() is None:
        assert "CI" not in os.environ, "a machine that builds has a C compiler"
        pytest.skip("no C compiler")


def ran(script: str, *words: str, cwd: Path, **environment: str) -> str:
    """What a script prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *words], capture_output=True, text=True, timeout=120, cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_birds_go_on_alike_from_a_saved_population(examples, tmp_path):
    assert ran("birds.py", cwd=tmp_path).startswith("100,000 ticks; they fly at 0.")
    flock = examples["birds"].population()
    flock.run_for(seconds=0.5)
    other = nano.load(flock.save())
    for each in (flock, other):
        each.run_for(seconds=0.5)
    assert flock.cohorts[0].x.tobytes() == other.cohorts[0].x.tobytes()
    assert (flock.cohorts[0].v < 0).any()


# --- flocking -------------------------------------------------------------------------------------------------------------


def columns(flock: nano.NanoSwarm) -> list[np.ndarray]:
    (boids,) = flock.cohorts
    return [np.array(getattr(boids, name)) for name in ("x", "y", "vx", "vy")]


def test_boids_fly_the_same_way_natively_and_in_numpy(examples, cc):
    flocking = examples["flocking"]
    native, numpy = flocking.population(300, 5), flocking.population(300, 5, native=False)
    began = columns(native)
    for flock in (native, numpy):
        assert flock.run_for(passes=10).cohorts[0].failed == 0
    for mine, theirs, first in zip(columns(native), columns(numpy), began, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)
        assert not np.allclose(mine, first)


def test_boids_come_to_fly_together_and_stay_in_their_world(examples, cc):
    flocking = examples["flocking"]
    flock, side = flocking.population(2_000, 3), flocking.side_of(2_000)
    (boids,) = flock.cohorts
    assert flocking.order(boids, side) < 0.3
    flock.run_for(passes=300)
    assert flocking.order(boids, side) > 0.5
    x, y, vx, vy = columns(flock)
    assert ((x >= 0) & (x < side) & (y >= 0) & (y < side)).all()
    speed = np.hypot(vx, vy)
    law = flocking.LAW
    assert (speed >= law["SLOWEST"] * (1 - 1e-12)).all() and (speed <= law["FASTEST"] * (1 + 1e-12)).all()
    again = flocking.population(2_000, 3)
    again.run_for(passes=300)
    assert [each.tobytes() for each in columns(again)] == [each.tobytes() for each in (x, y, vx, vy)]


def test_neighbours_by_the_grid_are_those_by_comparing_all(examples, cc):
    """Boids that touch a corner of the torus see each other across it."""
    flocking = examples["flocking"]
    native, numpy = flocking.population(40, 1), flocking.population(40, 1, native=False)
    side = flocking.side_of(40)
    for flock in (native, numpy):
        (boids,) = flock.cohorts
        boids.x[:] = (np.linspace(-0.6, 0.6, 40) % side)[::-1]
        boids.y[:] = np.linspace(-0.3, 0.3, 40) % side
        flock.run_for(passes=3)
    for mine, theirs in zip(columns(native), columns(numpy), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_a_part_of_the_flock_fails_rather_than_fly_blind(examples, cc):
    flock = examples["flocking"].population(50)
    flock.cohorts[0].suspend([7])
    assert flock.run_for(passes=1).cohorts[0].failed == 49


def test_the_flock_is_drawn_and_animated(tmp_path):
    said = ran(
        "flocking.py", "--boids", "200", "--steps", "20", "--pixels", "64", "--picture", "still.png", cwd=tmp_path
    )
    assert re.search(r"200 boids, 20 steps: .* order 0\.\d\d -> 0\.\d\d", said)
    words = ("--python", "--boids", "100", "--steps", "9", "--frames", "3", "--pixels", "32", "--picture", "moving.png")
    said = ran("flocking.py", *words, cwd=tmp_path)
    assert "no C compiler is used" in said and "3 frames" in said and "100 boids, 9 steps" in said
    still, moving = png(tmp_path / "still.png"), png(tmp_path / "moving.png")
    assert [kind for kind, _ in still] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert [kind for kind, _ in moving] == [
        b"IHDR", b"PLTE", b"acTL", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"fcTL", b"fdAT", b"IEND",
    ]  # fmt: skip
    numbers = [struct.unpack(">I", content[:4])[0] for kind, content in moving if kind in (b"fcTL", b"fdAT")]
    assert numbers == [0, 1, 2, 3, 4], "frames and their data are numbered together"
    pixels = np.frombuffer(zlib.decompress(dict(still)[b"IDAT"]), np.uint8).reshape(64, 65)
    assert not pixels[:, 0].any(), "no filter"
    assert 100 < (pixels[:, 1:] > 0).sum() <= 200 and pixels.max() <= 24


def png(path: Path) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, whose checksums are right."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        found.append((body[:4], body[4:]))
        at += 12 + length
    return found


def test_a_picture_of_nothing_or_of_frames_that_differ_is_refused(examples, tmp_path):
    palette = np.zeros((2, 3), np.uint8)
    for frames in ([], [np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)], [np.zeros((2, 2))]):
        with pytest.raises(ValueError, match="frames are arrays"):
            examples["pictures"].write_png(tmp_path / "no.png", frames, palette)


# --- trading --------------------------------------------------------------------------------------------------------------


def traded(examples, **how):
    market = examples["trading"].Market(**how)
    report = market.flock.run_for(seconds=0.004)
    assert not market.flock.failures() and not any(line.failed for line in report.cohorts)
    assert all(topic["dropped"] == 0 for topic in report.topics.values())
    return market, report


def test_the_same_seed_gives_the_same_orders_natively_and_in_python(examples, cc):
    (native, _), (python, _), (other, _) = (
        traded(examples, seed=7), traded(examples, seed=7, native=False), traded(examples, seed=8),
    )  # fmt: skip
    assert native.gateway[0].count == len(native.orders) > 100
    assert native.digest() == python.digest() != other.digest()
    for name in ("price", "fast", "slow", "next", "held", "most", "refused"):
        stage = next(each for each in ("feed", "strategy", "risk") if name in getattr(native, each).kind.fields)
        assert getattr(getattr(native, stage), name).tolist() == getattr(getattr(python, stage), name).tolist()


def test_an_order_comes_in_the_pass_of_its_quote_and_positions_add_up(examples, cc):
    market, report = traded(examples, symbols=3)
    orders = market.orders
    assert (orders["pass"] == orders["born_pass"]).all() and (orders["took_ns"] >= 0).all()
    assert (np.diff(orders["pass"]) >= 0).all()
    assert report.topics["wanted"]["published"] == report.topics["orders"]["published"] + market.risk.refused.sum()
    assert report.topics["orders"]["published"] == len(orders), "nothing is under way between two passes"
    assert np.bincount(orders["symbol"], orders["lots"], 3).astype(int).tolist() == market.risk.held.tolist()


def test_the_critic_tightens_what_may_be_held_and_lets_go_again(examples, cc):
    trading = examples["trading"]
    market = trading.Market(seed=7)
    market.flock.run_for(seconds=0.002)
    market.risk.held[:] = trading.LAW["LIMIT"]
    market.flock.run_for(seconds=0.0005)
    assert market.critic[0].tightened == 1 and market.risk.most.tolist() == [trading.LAW["LIMIT"] // 2] * 4
    market.risk.held[:] = 0
    for _ in range(20):  # the market trades on meanwhile: what it holds is kept at nothing
        market.flock.run_for(seconds=0.0005)
        market.risk.held[:] = 0
    assert market.risk.most.tolist() == [trading.LAW["LIMIT"]] * 4


def test_the_script_says_what_was_traded(tmp_path):
    said = ran("trading.py", "--seconds", "0.002", cwd=tmp_path)
    assert "8,000 quotes" in said and "0 (p50), 0 (p99) passes" in said
    other = ran("trading.py", "--seconds", "0.2", "--python", cwd=tmp_path)
    assert "no C compiler is used" in other and "8,000 quotes" in other
    digests = [re.search(r"gives the orders (\w{16})", each).group(1) for each in (said, other)]
    assert digests[0] == digests[1]


# --- Schelling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_everybody_lives_in_the_same_home_whatever_runs_them(examples, seed):
    schelling = examples["schelling"]
    towns = [schelling.town(20, seed) for _ in range(2)]
    began = schelling.likeness(towns[0])
    mine = schelling.by_nano(towns[0], seed, 12)
    theirs = schelling.by_python(towns[1], seed, 12)
    assert mine == theirs and len(mine) == 12 and towns[0].homes == towns[1].homes
    assert sorted(mine[-1]) == sorted(home for home, group in enumerate(towns[0].homes) if group)
    assert mine[0] != schelling.town(20, seed).people and schelling.likeness(towns[0]) > began + 0.1
    assert schelling.by_nano(schelling.town(20, seed), seed + 1, 12) != mine, "other draws, other homes"


@pytest.mark.parametrize(("seed", "side", "rounds"), [(1, 20, 12), (2, 31, 8), (3, 7, 20)])
def test_mesa_has_everybody_in_the_same_home_after_each_round(examples, seed, side, rounds):
    try:
        import mesa
    except ImportError:
        assert "CI" not in os.environ, "make installs what the twins need"
        pytest.skip("no Mesa: pip install 'nanoswarm[twins]'")
    assert mesa.__version__
    schelling = examples["schelling"]
    mine = schelling.by_nano(schelling.town(side, seed), seed, rounds)
    theirs = schelling.by_mesa(schelling.town(side, seed), seed, rounds)
    for number, (ours, homes) in enumerate(zip(mine, theirs, strict=True)):
        assert ours == homes, f"they differ after round {number}"
    assert mine[-1] != mine[0]


def test_the_script_compares_its_twins(tmp_path):
    said = ran("schelling.py", "--side", "12", "--rounds", "5", "--picture", "homes.png", cwd=tmp_path)
    assert "everybody lives in the same home after each round" in said and "nano and python" in said
    assert png(tmp_path / "homes.png")[0][1][:8] == struct.pack(">II", 72, 72)


# --- a megahertz, a million sensors ---------------------------------------------------------------------------------------


def test_joints_come_to_where_they_are_wanted(examples, cc):
    megahertz = examples["megahertz"]
    native, numpy = megahertz.population(40, "virtual"), megahertz.population(40, "virtual", native=False)
    for flock in (native, numpy):
        assert flock.run_for(seconds=0.001).ticks == 40_000
    for name in ("angle", "speed"):
        mine, theirs = (getattr(flock.cohorts[0], name).tobytes() for flock in (native, numpy))
        assert mine == theirs, "the same bits"
    assert abs(native.cohorts[0].angle - native.cohorts[0].wanted).max() > 0.5
    native.run_for(seconds=0.1)
    assert abs(native.cohorts[0].angle - native.cohorts[0].wanted).max() < 0.01


def test_what_is_due_at_a_megahertz_was_ticked_or_missed(tmp_path, cc):
    said = ran("megahertz.py", "--seconds", "0.05", "--agents", "100", cwd=tmp_path)
    numbers = re.search(r"joints 100 at 1,000,000 Hz: ([\d,]+) ticks of ([\d,]+) due, missed ([\d.]+)%", said)
    ticked, due = (int(numbers.group(which).replace(",", "")) for which in (1, 2))
    # at the end of each of the ten turns, what became due after the last pass is not counted before the next
    assert 0 < ticked <= due <= 5_000_000 and ticked % 100 == 0
    assert float(numbers.group(3)) == pytest.approx(100 * (due - ticked) / due, abs=0.01)
    assert "idle   1 at" in said and re.search(r"ticks fill [\d.]+% of the time", said)


def test_sensors_alarm_those_who_listen(examples, cc):
    sensors = examples["sensors"]
    native, numpy = sensors.population(5_000), sensors.population(5_000, native=False)
    said = []
    for flock in (native, numpy):
        report = flock.run_for(seconds=1)
        *batches, listeners = flock.cohorts
        assert [line.ticks for line in report.cohorts[:-1]] == [500 * 100] * 10 and len(batches) == 10
        alarms = report.topics["alarms"]
        assert alarms["dropped"] == 0 and alarms["published"] > 100
        # those of the very last pass are still to be heard
        assert 0 <= alarms["published"] - listeners.heard.sum() <= len(flock.bus.inbox(flock.topics["alarms"])) // 64
        assert (listeners.highest[:] > sensors.ALARM).all()
        peaks = [batch.peak.tobytes() for batch in batches]
        said.append((alarms["published"], listeners.heard.tolist(), listeners.highest.tolist(), peaks))
    assert said[0] == said[1]


def test_sensors_say_what_an_agent_costs(tmp_path):
    said = ran("sensors.py", "--sensors", "2000", "--seconds", "0.1", cwd=tmp_path)
    assert "2,000 sensors at 100 Hz for 0.1 s: 20,000 ticks" in said
    assert re.search(r"memory: -?\d+ bytes a sensor, 12 of them its fields", said)
    assert said.count("heard, highest") == 5


# --- without a compiler, and by the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("flocking.py", ("--boids", "60", "--steps", "3")), ("trading.py", ("--seconds", "0.05")),
        ("megahertz.py", ("--seconds", "0.05")), ("sensors.py", ("--sensors", "500", "--seconds", "0.05")),
    ],
)  # fmt: skip
def test_where_there_is_no_compiler_it_is_said(tmp_path, script, words):
    said = ran(script, *words, cwd=tmp_path, PATH=str(tmp_path), CC="none")
    assert said.startswith("no C compiler is used")


@pytest.mark.parametrize("name", ["trading", "sensors"])
def test_the_command_line_runs_them(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nodes.cli", "nano", "run", EXAMPLES / f"{name}.py", "--passes", "3"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 passes over" in done.stdout


def test_a_tick_that_is_compiled_when_it_is_asked_for_is_found_by_who_goes_on(tmp_path):
    def nano_cli(*words):
        done = subprocess.run(
            [sys.executable, "-m", "nodes.cli", "nano", *words, "--json"],
            capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    for script in EXAMPLES.glob("*.py"):
        shutil.copy(script, tmp_path)
    nano_cli("run", "sensors.py", "--passes", "30", "--save", "half.blob")
    nano_cli("resume", "half.blob", "--passes", "30", "--save", "one.blob")
    nano_cli("run", "sensors.py", "--passes", "60", "--save", "other.blob")
    assert (tmp_path / "one.blob").read_bytes() == (tmp_path / "other.blob").read_bytes()
