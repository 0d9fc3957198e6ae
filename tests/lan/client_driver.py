"""A script on a host without a node of its own: finds the fleet over the LAN, hands it work, says what became of it."""

from __future__ import annotations

import argparse
import json

import swarm
from tests.lan.fleets import Work


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    with swarm.connect(timeout_s=60) as fleet:
        fleet.submit(int).result(60)
        say("home", node=fleet.node)
        work = Work(fleet, options.count)
        say("submitted")
        say("done", nodes=work.done(90.0), node=fleet.node)


if __name__ == "__main__":
    main()
