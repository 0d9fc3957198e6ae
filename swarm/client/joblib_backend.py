"""The fleet as a backend of joblib: ``with joblib.parallel_config("swarm"): GridSearchCV(model, grid).fit(X, y)``.

Options of tasks may be given with the name: ``joblib.parallel_config("swarm", priority="LOW", needs={"memory": "2GB"})``.
Parallel calls within a task run in threads of its worker, and those within these one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from joblib import register_parallel_backend
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

from swarm.client.futures import Future
from swarm.client.options import chosen
from swarm.client.routes import Route
from swarm.client.sync import Fleet, connect


class SwarmBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches as tasks. `home` is whose fleet is used; other options are those of tasks."""

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        home: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._home = home
        self._chosen = chosen(options)
        self._fleet: Fleet | None = None
        self._route: Route | None = None
        self._under: set[Future] = set()
        self._lock = threading.Lock()
        self._callbacks: ThreadPoolExecutor | None = None

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Connect; the number of tasks that can run at once. FleetNotFound."""
        self.parallel = parallel
        self._open()
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """As many as asked for; -1 is every slot of the fleet, -2 all but one, and so on."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        slots = int(sum(member["slots"] for member in self._open().members()))
        return max(1, slots + 1 + (-1 if n_jobs is None else n_jobs))

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future:
        """Run a batch of joblib's. Its arguments travel as arguments do, so that arrays are not copied."""
        fleet = self._open()
        if self._route is None:
            self._route = fleet.route(_caller(), self._chosen)
        future = fleet.hand(self._route, (func,), None)
        with self._lock:
            self._under.add(future)
            if self._callbacks is None:
                self._callbacks = ThreadPoolExecutor(1, "swarm-joblib")
            callbacks = self._callbacks
        future.add_done_callback(self._forget)
        if callback is not None:
            # In a thread of its own: joblib submits more from there, and that may wait.
            future.add_done_callback(lambda ended: callbacks.submit(callback, ended))
        return future

    def retrieve_result_callback(self, out: Future) -> Any:
        """The result of a batch; raises what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel all that is under way."""
        with self._lock:
            under, self._under = self._under, set()
        for future in under:
            future.cancel()

    def terminate(self) -> None:
        """The call is over. The connection stays for the next one, and is closed when the interpreter ends."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            callbacks.shutdown(wait=False)
        self._fleet = self._route = None

    def _open(self) -> Fleet:
        if self._fleet is None:
            self._fleet = _shared(self._home)
        return self._fleet

    def _forget(self, future: Any) -> None:
        with self._lock:
            self._under.discard(future)


def register() -> None:
    """Make the backend known to joblib by the name "swarm"."""
    register_parallel_backend("swarm", SwarmBackend)


def _caller() -> Callable[[Callable[[], Any]], Any]:
    def joblib(batch: Callable[[], Any]) -> Any:
        # Goes by value: a worker needs joblib for the batch itself, and nothing of this module.
        return batch()

    return joblib


_fleets: dict[str | None, Fleet] = {}
_fleets_lock = threading.Lock()


def _shared(home: str | None) -> Fleet:
    with _fleets_lock:
        fleet = _fleets.get(home)
        if fleet is None or not fleet.usable:
            fleet = _fleets[home] = connect(home)
        return fleet
