"""Facts become log events and metrics here, and nowhere else.

State machines and transports return :class:`~swarm.protocol.effects.Fact` values; this module knows what each means,
by the table in :mod:`nodes.series`. structlog and prometheus_client take 100 ms or more to import: a node starts
without them: facts are kept until :meth:`Telemetry.open`, with their times.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from kernels.histogram import Histogram
from nodes.series import GAUGES, SUPPRESSED, TABLE, UNKNOWN, Row, Series
from nodes.settings import LogSection
from swarm.protocol.effects import NO_LABELS, Fact
from swarm.protocol.ids import TASK_ID_BYTES, encode32, text

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import HistogramMetricFamily

PENDING_FACTS_MAX: Final = 10_000
EVENTS_PER_SECOND_MAX: Final = 20  # of one kind: a hostile peer must not fill the disk through the log
TEXT_CHARACTERS_MAX: Final = 2000
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_UNKNOWN_ROW: Final = Row("info")

_context: ContextVar[Mapping[str, object]] = ContextVar("swarm_log_context", default=MappingProxyType({}))


class Stream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


@contextlib.contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Within it, every event carries these: ``task``, ``batch``, ``peer``. Per asyncio task, as contextvars are."""
    token = _context.set({**_context.get(), **ids})
    try:
        yield
    finally:
        _context.reset(token)


class Unbuffered:
    """A stream of text without a buffer. What a full disk did not take is left out; from a buffer it would be tried again when the
    interpreter ends, and a node that stopped in order would end with status 120."""

    def __init__(self, fd: int, terminal: bool) -> None:
        self._fd = fd
        self._terminal = terminal

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._terminal

    def write(self, text: str) -> int:
        """All of it, or OSError."""
        left = memoryview(text.encode(errors="backslashreplace"))
        while left:
            left = left[os.write(self._fd, left) :]
        return len(text)

    def flush(self) -> None:
        """There is nothing to do."""


def _standard_error() -> Stream:
    stream = sys.stderr
    try:
        stream.flush()
        return Unbuffered(stream.fileno(), stream.isatty())
    except (OSError, ValueError, AttributeError):  # a test's, or it is closed
        return stream


class Telemetry:
    """One node's log and metrics.

    Args:
        log: format and level.
        node: what the node is called in its events.
        stream: where events go, one a line.
        clock: monotonic seconds, for the bound on the rate of events.
        wall: seconds since the epoch, for their time stamps.
    """

    def __init__(
        self,
        log: LogSection,
        *,
        node: str,
        stream: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._stream = _standard_error() if stream is None else stream
        self._json = log.format == "json" or (log.format == "auto" and not self._stream.isatty())
        self._least = _LEVELS[log.level]
        self._clock = clock
        self._wall = wall
        self._pending: collections.deque[tuple[float, Fact, Mapping[str, object]]] | None = collections.deque(
            maxlen=PENDING_FACTS_MAX
        )
        self._rates: dict[str, tuple[int, int, int]] = {}  # kind -> (second, events in it, left out of it)
        self._metrics: dict[str, Any] = {}
        self._registry: CollectorRegistry | None = None
        self._emit: Callable[[str, Mapping[str, object]], None] | None = None
        self._watched: list[tuple[Series, Mapping[str, str], Callable[[], float]]] = []
        self._durations: dict[Series, dict[tuple[str, ...], Histogram]] = {
            series: {} if series.labels else {(): Histogram()}
            for row in TABLE.values()
            for series in row.series
            if series.kind == "durations"
        }

    def open(self) -> None:
        """Import what is needed, and tell what has happened so far. Calling it again does nothing."""
        if self._pending is None:
            return
        self._registry = _registry()
        self._registry.register(_Durations(self._durations))
        self._emit = _renderer(json=self._json, colours=self._stream.isatty())
        waiting, self._pending = self._pending, None
        for series, labels, read in self._watched:
            self._watch(series, labels, read)
        for at, fact, ids in waiting:
            self._tell(at, fact, ids)

    def fact(self, fact: Fact) -> None:
        """Log and count one fact. Never raises for what is in it."""
        row = TABLE.get(fact.name, _UNKNOWN_ROW)
        for series in row.series:
            if series.kind == "durations" and series.of in fact.fields:
                values = tuple(fact.labels.get(name, "") for name in series.labels)
                histogram = self._durations[series].setdefault(values, Histogram())
                histogram.record_many(fact.fields[series.of].run_times_us())  # type: ignore[attr-defined]
                # the column belongs to a frame of the link: neither to be logged nor to be kept alive here
                fields = {name: value for name, value in fact.fields.items() if name != series.of}
                fact = dataclasses.replace(fact, fields=fields)
        if self._pending is not None:
            self._pending.append((self._wall(), fact, _context.get()))
        else:
            self._tell(self._wall(), fact, _context.get())

    def facts(self, facts: Iterable[Fact]) -> None:
        """Log and count several."""
        for each in facts:
            self.fact(each)

    def event(self, name: str, labels: Mapping[str, str] = NO_LABELS, /, value: float = 1.0, **fields: object) -> None:
        """A fact of the shell's own."""
        self.fact(Fact(name, labels, fields, value))

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Have ``read`` called for the gauge ``name`` (of ``GAUGES``) whenever metrics are collected."""
        watched = (GAUGES[name], labels, read)
        self._watched.append(watched)
        if self._pending is None:
            self._watch(*watched)

    def own_durations(self, name: str, histogram: Histogram, **labels: str) -> None:
        """Take the durations of a series, with these labels, from a histogram that is recorded elsewhere, on a hot path."""
        series = next(series for series in self._durations if series.name == name)
        self._durations[series][tuple(labels[name] for name in series.labels)] = histogram

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics and their content type: the Prometheus text format, or OpenMetrics where it is asked for."""
        self.open()
        assert self._registry is not None
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _tell(self, at: float, fact: Fact, ids: Mapping[str, object]) -> None:
        row = TABLE.get(fact.name)
        if row is None:
            row = _UNKNOWN_ROW
            self._count(UNKNOWN, NO_LABELS, 1.0)
        for series in row.series:
            if series.kind == "durations" or (series.but[0] and fact.labels.get(series.but[0]) == series.but[1]):
                continue
            value = 1.0 if series.of == "#" else fact.fields.get(series.of, 0.0) if series.of else fact.value
            if isinstance(value, int | float):
                self._count(series, fact.labels, value)
        if row.level is not None and _LEVELS[row.level] >= self._least:
            self._log(at, row.level, fact, ids)

    def _count(self, series: Series, labels: Mapping[str, str], value: float) -> None:
        metric = self._metric(series)
        if series.labels:
            # what the table does not name is left out: a label that somebody adds lightly may be an id
            metric = metric.labels(*(labels.get(name, "") for name in series.labels))
        match series.kind:
            case "counter" if value >= 0:
                metric.inc(value)
            case "gauge":
                metric.set(value)
            case "histogram":
                metric.observe(value)

    def _metric(self, series: Series) -> Any:
        metric = self._metrics.get(series.name)
        if metric is None:
            import prometheus_client

            assert self._registry is not None
            if series.kind == "histogram":
                metric = prometheus_client.Histogram(
                    series.name, series.about, series.labels, buckets=series.buckets, registry=self._registry
                )
            else:
                make = prometheus_client.Counter if series.kind == "counter" else prometheus_client.Gauge
                metric = make(series.name, series.about, series.labels, registry=self._registry)
            self._metrics[series.name] = metric
        return metric

    def _watch(self, series: Series, labels: Mapping[str, str], read: Callable[[], float]) -> None:
        metric = self._metric(series)
        if series.labels:
            metric = metric.labels(*(labels.get(name, "") for name in series.labels))
        metric.set_function(read)

    def _log(self, at: float, level: str, fact: Fact, ids: Mapping[str, object]) -> None:
        second = int(self._clock())
        began, events, left_out = self._rates.get(fact.name, (second, 0, 0))
        if second != began:
            if left_out:
                self._write(at, "warning", "log.suppressed", {"of": fact.name, "events": left_out})
            events = left_out = 0
        if events >= EVENTS_PER_SECOND_MAX:
            self._rates[fact.name] = (second, events, left_out + 1)
            self._count(SUPPRESSED, NO_LABELS, 1.0)
            return
        self._rates[fact.name] = (second, events + 1, left_out)
        fields = {**ids, **fact.labels, **fact.fields}
        if fact.value != 1.0:
            fields.setdefault("value", fact.value)
        self._write(at, level, fact.name, fields)

    def _write(self, at: float, level: str, name: str, fields: Mapping[str, object]) -> None:
        assert self._emit is not None
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        shown = {key: readable(key, value) for key, value in fields.items()}
        line = self._emit(level, {"timestamp": stamp, "level": level, "event": name, "node": self._node, **shown})
        with contextlib.suppress(OSError, ValueError):  # a closed pipe or terminal must not stop a node
            self._stream.write(f"{line}\n")
            self._stream.flush()


def readable(key: str, value: object) -> object:
    """A field as people and programs can read it: ids as text, bytes as hex, long text cut."""
    match value:
        case bytes() | bytearray() | memoryview():
            raw = bytes(value)
            if key in ("task", "parent", "root") and len(raw) == TASK_ID_BYTES:
                return text(raw)
            return encode32(raw) if len(raw) <= 32 else f"{raw[:32].hex()}… ({len(raw)} bytes)"
        case str() if len(value) > TEXT_CHARACTERS_MAX:
            return value[:TEXT_CHARACTERS_MAX] + "…"
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(inner): readable(str(inner), each) for inner, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [readable(key, each) for each in value]
    return readable(key, repr(value))


class _Durations:
    """A Prometheus collector of the histograms that kernels keep."""

    def __init__(self, kept: Mapping[Series, Mapping[tuple[str, ...], Histogram]]) -> None:
        self._kept = kept

    def collect(self) -> Iterator[HistogramMetricFamily]:
        from prometheus_client.core import HistogramMetricFamily

        for series, histograms in self._kept.items():
            family = HistogramMetricFamily(series.name, series.about, labels=series.labels)
            for values, histogram in histograms.items():
                counts = histogram.buckets([round(bound * 1e9) for bound in series.buckets])
                rows = [(_float_text(bound), float(count)) for bound, count in zip(series.buckets, counts)]
                family.add_metric(values, [*rows, ("+Inf", float(histogram.count))], histogram.sum_ns / 1e9)
            yield family


def _float_text(number: float) -> str:
    from prometheus_client.utils import floatToGoString

    return str(floatToGoString(number))  # type: ignore[no-untyped-call]


def _registry() -> CollectorRegistry:
    import prometheus_client

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and nothing here asks for them
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    return registry


def _renderer(*, json: bool, colours: bool) -> Callable[[str, Mapping[str, object]], Any]:
    import structlog

    render: Any
    if json:
        render = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    else:
        plain = structlog.dev.plain_traceback  # pretty ones pull in libraries and print the values of variables
        render = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain, pad_event_to=24)

    def emit(level: str, event: Mapping[str, object]) -> Any:
        return render(None, level, dict(event))

    return emit
