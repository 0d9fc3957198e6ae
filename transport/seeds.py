"""Seeds: addresses that somebody named, asked again and again, because what they lead to may start later."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
import threading
from collections.abc import Callable, Iterable, Mapping

from transport import bounds
from transport.hints import Hint, usable_addresses


def parse_seed(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPv6]:PORT``. Raises ValueError, in words for people."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if _numeric(host) is None:
            raise ValueError(f"{text!r} is no seed: there is no IPv6 address between the brackets")
    elif ":" in host:
        raise ValueError(f"{text!r} is no seed: an IPv6 address needs brackets, as in [fd00::1]:{port or 7700}")
    if (
        not colon
        or not host
        or not port.isascii()
        or not port.isdigit()
        or not 0 < int(port) < 65536
        or len(host) > 253
    ):
        raise ValueError(f"{text!r} is no seed: it has to be HOST:PORT or [IPv6]:PORT, with a port from 1 to 65535")
    return host, int(port)


class Seeds:
    """Tells of each seed at once, and again with growing pauses; names are looked up anew each time."""

    def __init__(
        self,
        seeds: Iterable[str],
        on_hint: Callable[[Hint], None],
        on_event: Callable[[str, Mapping[str, object]], None],
        rng: random.Random | None = None,
    ) -> None:
        """Raises ValueError for a seed that cannot be one."""
        self._seeds = [parse_seed(text) for text in dict.fromkeys(seeds)][: bounds.SEEDS_COUNT_MAX]
        self._on_hint = on_hint
        self._on_event = on_event
        self._rng = rng or random.Random()
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Ask now, and then as eagerly as in the beginning."""
        self._nudged.set()
        self._nudged = asyncio.Event()

    async def run(self) -> None:
        """Ask for ever;

        to be cancelled. Each seed has its own pace, so a name that is slow to resolve holds up no other.
        """
        await asyncio.gather(*(self._follow(host, port) for host, port in self._seeds))

    async def _follow(self, host: str, port: int) -> None:
        pause_s = bounds.SEED_FIRST_S
        while True:
            nudged = self._nudged
            try:
                addresses = usable_addresses(_numeric(host) or await _resolve(host))
            except OSError as error:
                self._on_event("seed_unresolved", {"seed": f"{host}:{port}", "error": str(error)})
            else:
                if addresses:
                    self._on_hint(Hint(addresses, port, None, None, "seed", host))
            # jitter: a rack that got its power back must not ask one seed in step
            with contextlib.suppress(TimeoutError):
                # not wait_for: before Python 3.12 it loses a cancellation that comes together with the event
                async with asyncio.timeout(pause_s * self._rng.uniform(0.75, 1.25)):
                    await nudged.wait()
            pause_s = bounds.SEED_FIRST_S if nudged.is_set() else min(pause_s * 2, bounds.SEED_MAX_S)


def _numeric(host: str) -> tuple[str, ...] | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return (host,)


async def _resolve(host: str, timeout_s: float = 10.0) -> tuple[str, ...]:
    """The addresses of a name, by the system's resolver. Raises OSError.

    In a thread of its own that nobody waits for: the loop's executor is joined when the process ends, and a resolver
    without network takes half a minute to give up.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def settle(result: tuple[str, ...] | OSError) -> None:
        if answer.done():
            return
        if isinstance(result, OSError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def ask() -> None:
        result: tuple[str, ...] | OSError
        try:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
            result = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
        except OSError as error:
            result = error
        except UnicodeError:
            result = OSError(f"{host!r} can not be a name")
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError as error:
        raise OSError(f"no answer in {timeout_s:.0f} s") from error
