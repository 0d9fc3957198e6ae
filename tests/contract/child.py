"""A peer in a process of its own, to be killed or stopped: ``child.py REACH ENDPOINT SERVER_KEY`` with its
credentials on stdin."""

from __future__ import annotations

import asyncio
import pickle
import sys
from typing import Any

from conftest import Fleet, Recorder

from transport.stream_links import StreamLinks
from transport.zmq_links import ZmqLinks


async def main() -> None:
    reach, endpoint, server_key = sys.argv[1:]
    seed, credentials, listen = pickle.load(sys.stdin.buffer)
    fleet = Fleet(seed)
    kinds: dict[str, Any] = {"stream": StreamLinks, "zmq": ZmqLinks}
    seen = Recorder()
    seen.on_messages = lambda link, messages: [link.send(message) for message in messages] and None
    links = kinds[reach](credentials, fleet.trust(), seen, info={"version": [1, 1]})
    if listen:
        print(await links.listen(endpoint), flush=True)
    else:
        await links.connect(endpoint, server_key=bytes.fromhex(server_key))
        print("up", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
