"""Lines of 64 bytes from one core to another, beside the queues that people would take. Run: python -m benchmarks.nano.lanes

Peers are Boost.Lockfree, moodycamel's queues and crossbeam, compiled here from what the system has of them (Debian, Ubuntu:
libboost-dev libconcurrentqueue-dev libreaderwriterqueue-dev librust-crossbeam-dev cargo), and queue.SimpleQueue
(lanes_python.py). What is missing is named. All run the same loops over rings of 4,096 lines with their two sides pinned to two CPUs, in interleaved
rounds, each after one that warms the caches; a round in which the scheduler took a CPU away from either side is not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.nano import lanes_python

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
BUILT = HERE.parents[1] / "build" / "lanes"
REGISTRY = Path("/usr/share/cargo/registry")
KEPT_MIN = 3
REACH = {"one": 1.3, "batched": 3.0, "in place": 3.0}
"""How many times the best peer's single lines."""
Figures = dict[tuple[str, str, str], list[float]]


def compiled(name: str, compiler: str, *options: str) -> tuple[list[str] | None, str]:
    """The command that runs a round of each queue of this source, or None and why there is none."""
    source = next(PEERS.glob(f"lanes_{name}.c*"))
    found = shutil.which(compiler)
    if found is None:
        return None, f"no {compiler}"
    target = BUILT / name
    command = [found, "-O3", "-DNDEBUG", *options, str(source), "-o", str(target), "-pthread"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if ran.returncode == 0:
        return [str(target)], ""
    errors = [line for line in ran.stderr.splitlines() if "error" in line]
    return None, (errors or [ran.stderr])[0].strip()


def crossbeam() -> tuple[list[str] | None, str]:
    """As compiled(): by cargo, from the crates that the system's packages hold, without the network."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return None, "no cargo"
    if not list(REGISTRY.glob("crossbeam-0*")):
        return None, f"no crossbeam in {REGISTRY}"
    command = [cargo, "build", "--release", "--offline", "--quiet"]
    command += ["--config", 'source.crates-io.replace-with="system"']
    command += ["--config", f'source.system.directory="{REGISTRY}"']
    command += ["--manifest-path", str(BUILT / "crossbeam" / "Cargo.toml")]
    # A copy: cargo writes its lock file beside the manifest.
    shutil.copytree(PEERS / "lanes_crossbeam", BUILT / "crossbeam", dirs_exist_ok=True)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if ran.returncode:
        return None, ran.stderr.strip().splitlines()[0]
    return [str(BUILT / "crossbeam" / "target" / "release" / "lanes-crossbeam")], ""


def programs() -> Iterator[tuple[str, list[str]]]:
    """What could be compiled; what could not is printed."""
    BUILT.mkdir(parents=True, exist_ok=True)
    kernels = f"-I{HERE.parents[1] / 'kernels'}"
    for name, (command, why) in {
        "ours": compiled("ours", "gcc", "-std=gnu11", kernels),
        "Boost.Lockfree": compiled("boost", "g++", "-std=gnu++17"),
        "moodycamel": compiled("moodycamel", "g++", "-std=gnu++17"),
        "crossbeam": crossbeam(),
    }.items():
        if command is None:
            print(f"missing: {name} ({why})")
        else:
            yield name, command


def rounds(commands: list[list[str]], count: int) -> tuple[Figures, Figures]:
    """Lines a second of each (what, queue, how), of rounds that were left alone, and of all."""
    kept: Figures = defaultdict(list)
    every: Figures = defaultdict(list)
    for turn in range(count):
        for command in commands[turn % len(commands) :] + commands[: turn % len(commands)]:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
            if turn == 0 and ran.stderr:
                print(f"missing: {ran.stderr.strip()}")
            for row in ran.stdout.splitlines():
                what, name, how, rate, preempted = row.split("\t")
                every[what, name, how].append(float(rate))
                if preempted == "0":
                    kept[what, name, how].append(float(rate))
    return kept, every


# -- figures ----------------------------------------------------------------------------------------------------------


def table(what: str, title: str, kept: Figures, every: Figures) -> None:
    """A line for each queue; ours beside the best peer that goes one by one."""
    print(f"\n{title}, millions of lines a second: median, best tenth, rounds counted of all")
    medians: dict[tuple[str, str], float] = {}
    for (of, name, how), rates in every.items():
        if of != what:
            continue
        counted = kept[of, name, how]
        note = "" if len(counted) >= KEPT_MIN else "  (hardly a round was left alone: of all of them)"
        shown = sorted(counted if len(counted) >= KEPT_MIN else rates)
        if not note:
            medians[name, how] = median(shown)
        tenth = shown[int(len(shown) * 0.9)]
        print(
            f"  {name + ', ' + how:32} {median(shown) / 1e6:7.1f} {tenth / 1e6:7.1f}   {len(counted)}/{len(rates)}{note}"
        )
    peers = {name: rate for (name, how), rate in medians.items() if name != "ours" and how == "one"}
    # No ratio of what was hardly ever left alone.
    if peers and any(name == "ours" for name, _ in medians):
        best = max(peers, key=lambda name: peers[name])
        ratios = {how: medians["ours", how] / peers[best] for name, how in medians if name == "ours"}
        said = [
            f"{how} {ratio:.1f} x ({'' if ratio >= REACH[how] else '! '}>= {REACH[how]:g})"
            for how, ratio in ratios.items()
        ]
        print(f"  ours over the best peer's single lines ({best}): {', '.join(said)}")


def main() -> None:
    """Compile, run, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=30)
    count = options.parse_args().rounds
    found = dict(programs())
    if "ours" not in found:
        sys.exit("no C compiler: nothing to measure")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two CPUs are needed")
    kept, every = rounds(list(found.values()), count)
    table("spsc", "One producer, one consumer, threads", kept, every)
    table("mpmc", "Queues for many of both, one thread each", kept, every)
    table("processes", "One producer, one consumer, processes", kept, every)
    lanes_python.rows(max(3, count // 3))


if __name__ == "__main__":
    main()
