"""One node's discovery and datagrams, and nothing else of it: says on stdout, a line of JSON each, what it finds and
hears.

Instants are CLOCK_MONOTONIC, which every process on one machine shares. Ends orderly on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from pathlib import Path

from tests.lab.fleet import LabFleet
from transport.datagrams import Datagrams
from transport.discovery import Announcement, Discovery, Hint, PeerCache


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, "at_s": time.monotonic(), **facts}), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--fleet", default="a")
    parser.add_argument("--seed", action="append", default=[])
    parser.add_argument("--no-lan", action="store_true")
    parser.add_argument("--port", type=int, default=7700)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    fleet = LabFleet(options.fleet.encode())
    member, trust = fleet.member(options.name), fleet.trust()
    heard: set[str] = set()

    def on_datagram(source, sender, payload):
        first = sender.name not in heard
        heard.add(sender.name)
        say("heard", name=sender.name, source=list(source), payload=payload.decode())
        if first and cache is not None:
            cache.record(sender.id, sender.curve_key, [source[0]], source[1], sender.name)
        if payload == b"hello":
            datagrams.send(source, sender.id, b"welcome")

    def on_hint(hint: Hint) -> None:
        say("hint", source=hint.source, addresses=hint.addresses, port=hint.port, id=hint.id.hex() if hint.id else None)
        for address in hint.addresses:
            datagrams.send((address, hint.port), hint.id, b"hello")

    datagrams = Datagrams(member, trust, on_datagram, lambda reason, facts: say("refused", reason=reason))
    port = await datagrams.open(["0.0.0.0", "::"], options.port)
    cache = PeerCache(options.cache) if options.cache else None
    discovery = Discovery(
        trust.tag,
        on_hint,
        announcement=Announcement(member.id, member.identity.curve_key, port, os.urandom(4)),
        lan=not options.no_lan,
        seeds=options.seed,
        cache=cache,
        on_gone=lambda id: say("gone", id=id.hex()),
        on_addresses=lambda found: say("addresses", names=[one.name for one in found]),
        on_event=lambda name, facts: say("event", name=name, facts={k: str(v) for k, v in facts.items()}),
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    say("open", id=member.id.hex(), port=port)
    await discovery.open()
    await ended.wait()
    await discovery.close()
    datagrams.close()
    say("closed")


if __name__ == "__main__":
    asyncio.run(main())
