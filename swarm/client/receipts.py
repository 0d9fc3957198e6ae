"""Receipts: on how many disks, of how many hosts, a batch is, with all that it needs to run."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was promised when a batch was accepted.

    `copies` are disks that have it, of `hosts` different machines; both are 0 with ``durability="none"``. `epoch` is the
    epoch of the log that took it, with which the fencing tokens of its first attempts begin. Outcomes are kept for
    `retention_s` seconds after the last of them.
    """

    copies: int
    hosts: int
    epoch: int
    retention_s: float


NO_RECEIPT = Receipt(0, 0, 0, 0.0)


class Receiving(concurrent.futures.Future[Receipt]):
    """A receipt that is there now or comes later: ``result(timeout)`` waits for it, and so does ``await``."""

    def __await__(self) -> Generator[object, None, Receipt]:
        return asyncio.wrap_future(self).__await__()

    def receive(self, receipt: Receipt) -> None:
        """It came. A later one changes nothing."""
        if not self.done():
            self.set_result(receipt)

    def fail(self, error: BaseException) -> None:
        """None comes."""
        if not self.done():
            self.set_exception(error)


def no_receipt() -> Receiving:
    """The receipt of what is on no disk: it is there at once."""
    made = Receiving()
    made.set_result(NO_RECEIPT)
    return made
