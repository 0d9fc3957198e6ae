"""What the task fabric needs of the other parts of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kernels.batch import Calls, Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.owner.batches import Dispatch
from swarm.protocol.spec import Spec
from transport.links import Link


class WorkerRequests(Protocol):
    """Who answers what workers ask for (code, blobs, segments)."""

    def worker_request(self, worker: int, number: int, method: str, args: list[Any]) -> None: ...
    def queued(self, owner: bytes, dispatch: int, spec: Spec, calls: Calls, extra: Mapping[str, Any]) -> None: ...
    def worker_gone(self, worker: int) -> None: ...
    def with_needs(self, raw: bytes, count: int, columns: memoryview, then: Callable[[], None]) -> None: ...


class Queries(Protocol):
    """Who answers what people and peers ask."""

    def query(self, link: Link, number: int, method: str, args: Mapping[str, Any], body: memoryview) -> None: ...
    def reply(self, link: Link, number: int, header: Mapping[str, Any], body: memoryview) -> None: ...


class Grants(Protocol):
    """Who grants workers' slots to clients (`nodes.direct.DirectSlots`)."""

    def revoke(self, worker: int) -> None: ...
    def ready(self, worker: int) -> None: ...
    def over(self, worker: int) -> None: ...
    def recorded(self, worker: int, records: list[Any]) -> None: ...
    def output(self, worker: int, stream: str, data: bytes) -> bool: ...
    def client_gone(self, client: bytes) -> None: ...


class States(Protocol):
    """Who sees to the large states of tasks that are moved (`nodes.saved_states.SavedStates`)."""

    def wrote(self, outcomes: Outcomes) -> None: ...
    def holds_back(
        self, executor: bytes, dispatch: Dispatch, count: int, body: memoryview, take: Callable[[memoryview], None]
    ) -> bool: ...
    def with_coming(
        self, executor: bytes, held: dict[int, list[tuple[int, int]]]
    ) -> dict[int, list[tuple[int, int]]]: ...
    @property
    def unfetched(self) -> bool: ...


class Surroundings(Protocol):
    """What the fabric needs of the rest of the node."""

    def connect(self, node: bytes) -> None:
        """Open a link to a member."""

    def peer_reset(self, node: bytes) -> None:
        """A link to a member broke: have it probed at once."""

    def fact(self, fact: Fact) -> None:
        """Something worth knowing."""

    def load_changed(self) -> None:
        """Free slots or queue changed."""
