"""Calls whose arguments are futures."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from swarm.client.batches import Batch
from swarm.client.buffers import Buffers
from swarm.client.direct import DirectFuture
from swarm.client.engine import Engine
from swarm.client.futures import Future
from swarm.client.options import AnyFuture
from swarm.client.routes import Route
from swarm.errors import ConfigError, DependencyFailed
from swarm.payload import encode_call
from swarm.payload_code import is_local
from swarm.protocol import ids


class Dependencies:
    """Hands over calls that wait for others."""

    def __init__(self, engine: Engine, buffers: Buffers) -> None:
        self._engine = engine
        self._batches = engine.batches
        self._lane = engine.lane
        self._buffers = buffers

    def hand(
        self, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any], make: Callable[[Batch, int], Future]
    ) -> Future:
        """Arguments that are futures: those that are done go as values, the others are waited for by the node."""
        fills: list[tuple[int | str, int]] = []
        deps: list[bytes] = []
        # What has a name is to be the same whether what it waits for has ended by now or not.
        has_name = self._engine.names.apply(route)

        def resolved(place: int | str, value: Any) -> Any:
            if not isinstance(value, concurrent.futures.Future):
                return value
            if value.done() and not (has_name and self._can_name(route, value)):
                return value.result()
            if isinstance(value, DirectFuture) and self._lane.has(value._batch):
                return value.result()  # no node knows of it, and it is a short one
            if not isinstance(value, Future) or value._batch.engine is not self._engine:
                raise ConfigError(
                    "an argument is a future of something else than this connection",
                    hint="wait for it and pass its result",
                )
            task = value.task_id
            if not self._can_wait(route, value, deps):
                return value.result()  # what it waits for is in another log, and may be known to other nodes
            if task not in deps:
                deps.append(task)
            fills.append((place, deps.index(task)))
            return None

        try:
            values = tuple(resolved(place, value) for place, value in enumerate(args))
            named = {key: resolved(key, value) for key, value in kwargs.items()}
        except ConfigError:
            raise
        except (Exception, concurrent.futures.CancelledError) as cause:
            # As it would be had the other task failed a moment later.
            error = DependencyFailed(f"a task that this one depends on ended without a value: {cause}")
            error.__cause__ = cause
            return self._engine.failed(route, error, make)
        if not deps:
            return self._engine.submit(route, values, named or None, make, self._buffers)
        return self._engine.lending(
            self._buffers,
            lambda sink: self._batches.add_after(
                route, encode_call(values, named, sink, fills=fills, by_value=is_local), deps, make
            ),
            by_content=has_name,
        )

    def _can_wait(self, route: Route, value: Future, deps: list[bytes]) -> bool:
        """Whether the node that a call goes to knows of the task that it waits for."""
        log, level = value._batch.key[: ids.LOG_TAG_BYTES], value._batch.route.durability
        if not route.durability:
            return not level or log == self._engine.durable_session()[: ids.LOG_TAG_BYTES]
        if self._engine.names.apply(route):
            return self._can_name(route, value)
        same = level == route.durability and value._batch.route.soft == route.soft
        return same and (not deps or deps[0][: ids.LOG_TAG_BYTES] == log)

    def _can_name(self, route: Route, value: AnyFuture) -> bool:
        """Whether a task is in the log that a call with a name goes to."""
        if not isinstance(value, Future) or value._batch.engine is not self._engine:
            return False
        tag = self._engine.names.log_tag(route)
        if value._batch.route.durability != route.durability or value._batch.route.soft:
            return False
        return value._batch.key[: ids.LOG_TAG_BYTES] == tag
