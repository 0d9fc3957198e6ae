"""The client's end of the bulk lane: large arguments to a node of another host, large results from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swarm.client.landing import Landing
from swarm.errors import FleetNotFound, SwarmError
from transport.bulk import BulkFailed, Region, Route, Verb, read_route
from transport.bulk_client import BulkClient, Transfer
from transport.identity import Credentials, Identity, Trust
from transport.tls_wires import TlsWires

ATTEMPTS_MAX = 4
"""Attempts in a row that bring nothing new."""
PART_BYTES = 1 << 20

Ask = Callable[..., tuple[Any, bytes]]


class ClientBulk:
    """Moves buffers to and from the node in use, which is of another host. For any thread but the client's own.

    `ask` is `Engine.query`; `node` says who is linked, and the hosts by which it may be reached.
    """

    def __init__(
        self,
        credentials: Credentials,
        trust: Trust,
        ask: Ask,
        node: Callable[[], tuple[Identity, Sequence[str]] | None],
    ) -> None:
        self._ask = ask
        self._node = node
        self._landing = Landing()
        self._wires = TlsWires(credentials)
        self._lanes = BulkClient(
            self._wires, lambda peer: not trust.revoked(peer.id, peer.serial), rested=self._landing.rest
        )

    def get(self, blob_id: bytes, size: int, *, keep: bool = False) -> memoryview:
        """The bytes of a blob. SwarmError when the node has it not, or it can not be brought.

        With `keep` the node keeps a segment until it is released.
        """
        answer, part = self._offered(blob_id, size, keep=keep)
        if "ticket" not in answer:
            return memoryview(part)
        place, landed = self._landing.take(size)
        transfer = Transfer(Verb.READ, place, hashed=not answer.get("segment"))
        failure = self._carried(transfer, answer, lambda: self._offered(blob_id, size)[0])
        if failure is not None:
            return memoryview(self.get_parts(blob_id, size))
        if not answer.get("segment") and transfer.progress.digest != blob_id:
            raise SwarmError(f"the blob {blob_id.hex()[:12]} is not what its digest says", hint="ask another node")
        return landed()

    def put(self, region: Region, digest: bytes | None = None, *, by_link: bool = False) -> tuple[bytes, int]:
        """Give bytes to the node; (id, flags of a ref). With a digest, only if it has them not. `by_link`: over the link
        itself, which is a socket of this host."""
        ask: dict[str, Any] = {"size": region.size, "id": digest}
        if not by_link:
            ask["tls"] = self._wires.announcement()
        answer, _ = self._ask("blob.accept", ask)
        if answer.get("has"):
            assert digest is not None
            return digest, 0
        ticket = bytes(answer["ticket"])
        transfer = Transfer(Verb.WRITE, region, hashed=False)

        def again() -> Mapping[str, Any]:
            way, _ = self._ask("blob.door", {"tls": self._wires.announcement()})
            return dict(way) | {"ticket": ticket}

        failure: BulkFailed | None = BulkFailed("unreachable")
        if "door" in answer:
            failure = self._carried(transfer, answer, again)
        if failure is not None:
            # Where only the control port is let through. The node says how much it has.
            at = int(self._ask("blob.part", {"ticket": ticket, "offset": -1})[0]["at"])
            scratch = memoryview(bytearray(PART_BYTES))
            while at < region.size:
                part = bytes(region.get(at, min(PART_BYTES, region.size - at), scratch))
                at = int(self._ask("blob.part", {"ticket": ticket, "offset": at}, part)[0]["at"])
        kept, _ = self._ask("blob.arrived", {"ticket": ticket, "id": digest})
        return bytes(kept["id"]), int(kept["flags"])

    def get_parts(self, blob_id: bytes, size: int) -> bytes:
        """The bytes of a blob, over the link itself."""
        parts = []
        at = 0
        while at < size:
            _, part = self._ask("blob.get", {"id": blob_id, "offset": at, "size": PART_BYTES})
            if not part:
                raise KeyError(f"the blob {blob_id.hex()[:12]} ends after {at} of {size} bytes")
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """End every transfer."""
        self._lanes.close()
        self._wires.close()
        self._landing.close()

    def _offered(self, blob_id: bytes, size: int, *, keep: bool = False) -> tuple[Mapping[str, Any], bytes]:
        wanted = {"id": blob_id, "tls": self._wires.announcement(), "keep": keep}
        answer, part = self._ask("blob.offer", wanted)
        if answer.get("size") != size or ("ticket" not in answer and len(part) != size):
            raise SwarmError(f"the blob {blob_id.hex()[:12]} has not the {size} bytes that its ref says")
        return answer, part

    def _carried(
        self, transfer: Transfer, answer: Mapping[str, Any], again: Callable[[], Mapping[str, Any]]
    ) -> BulkFailed | None:
        """Carry a transfer to its end, over as many connections as it takes. What is in the way of all of them."""
        idle = 0
        try:
            while True:
                before = transfer.progress.at
                try:
                    transfer.aim(self._route(answer), bytes(answer["ticket"]))
                    self._lanes.start(transfer)
                    transfer.wait()
                    return None
                except BulkFailed as failure:
                    idle = 0 if transfer.progress.at > before else idle + 1
                    if failure.reason == "closed":
                        raise SwarmError("the client was closed") from failure
                    if not failure.passing or idle >= ATTEMPTS_MAX:
                        return failure
                answer = again()
        finally:
            transfer.cancel()

    def _route(self, answer: Mapping[str, Any]) -> Route:
        node = self._node()
        if node is None:
            raise FleetNotFound("the node is gone", hint="the client looks for another")
        return read_route(node[0], answer, node[1])
