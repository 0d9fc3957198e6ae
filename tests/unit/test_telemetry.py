"""Facts become events and series: by the table, bounded, and without ids where they do not belong."""

from __future__ import annotations

import ast
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.batch import OutcomeBuilder, Outcomes
from kernels.histogram import Histogram
from nodes.series import GAUGES, TABLE, all_series
from nodes.settings import LogSection
from nodes.telemetry import EVENTS_PER_SECOND_MAX, PENDING_FACTS_MAX, Telemetry, bound, readable
from swarm.protocol import ids
from swarm.protocol.effects import Fact

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def telemetry(level: str = "debug", form: str = "json") -> tuple[Telemetry, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    made = Telemetry(LogSection(format=form, level=level), node="oak", stream=stream, clock=clock, wall=lambda: 0.0)
    return made, stream, clock


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def sample_of(metrics: bytes, series: str) -> float:
    (line,) = [each for each in metrics.decode().splitlines() if each.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


def test_a_fact_is_an_event_and_a_sample() -> None:
    made, stream, _ = telemetry()
    made.open()
    made.fact(Fact("worker.exited", {"expected": "false"}, {"worker": 3, "why": "signal 9"}))
    assert events(stream) == [
        {
            "timestamp": "1970-01-01T00:00:00.000Z",
            "level": "info",
            "event": "worker.exited",
            "node": "oak",
            "expected": "false",
            "worker": 3,
            "why": "signal 9",
        }
    ]
    assert sample_of(made.metrics()[0], 'swarm_workers_exited_total{expected="false"}') == 1


def test_nothing_that_happened_before_it_was_open_is_lost() -> None:
    made, stream, _ = telemetry()
    with bound(task=b"t" * 16):
        made.event("worker.output", text="hello")
    assert stream.getvalue() == ""
    made.open()
    made.open()
    (event,) = events(stream)
    assert event["task"] == ids.text(b"t" * 16)


def test_what_waits_to_be_told_is_bounded() -> None:
    made, _, _ = telemetry("error")
    for _ in range(PENDING_FACTS_MAX + 10):
        made.event("link.up", {"reach": "lan"})
    assert sample_of(made.metrics()[0], 'swarm_links_opened_total{reach="lan"}') == PENDING_FACTS_MAX


def test_starting_does_not_import_what_takes_long() -> None:
    code = (
        "import sys; from nodes.telemetry import Telemetry; from nodes.settings import LogSection\n"
        "Telemetry(LogSection(), node='oak').event('node.ready')\n"
        "assert not {'structlog', 'prometheus_client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_an_unknown_fact_is_logged_and_counted() -> None:
    made, stream, _ = telemetry("info")
    made.open()
    made.event("something.new", reason=b"\x01" * 4)
    assert events(stream)[0]["event"] == "something.new"
    assert sample_of(made.metrics()[0], "swarm_unknown_facts_total") == 1


def test_the_level_decides_what_is_written_and_not_what_is_counted() -> None:
    made, stream, _ = telemetry("warning")
    made.open()
    made.event("link.up", {"reach": "host"})
    made.event("member.dead", member="elm")
    assert [event["event"] for event in events(stream)] == ["member.dead"]
    assert sample_of(made.metrics()[0], 'swarm_links_opened_total{reach="host"}') == 1


def test_a_label_that_the_table_does_not_name_makes_no_series() -> None:
    made, _, _ = telemetry()
    made.open()
    for number in range(5):
        made.event("link.up", {"reach": "lan", "peer": f"id-{number}"})
    text = made.metrics()[0].decode()
    assert "id-" not in text
    assert 'swarm_links_opened_total{reach="lan"} 5.0' in text


def test_a_flood_of_one_kind_is_cut_and_said_to_be() -> None:
    made, stream, clock = telemetry()
    made.open()
    for _ in range(EVENTS_PER_SECOND_MAX + 30):
        made.event("link.refused", {"reason": "malformed"})
    made.event("member.dead", member="elm")
    assert len(events(stream)) == EVENTS_PER_SECOND_MAX + 1
    clock.now += 1
    made.event("link.refused", {"reason": "malformed"})
    told = events(stream)[EVENTS_PER_SECOND_MAX + 1 :]
    assert [event["event"] for event in told] == ["log.suppressed", "link.refused"]
    assert told[0]["events"] == 30
    metrics = made.metrics()[0]
    assert sample_of(metrics, 'swarm_links_refused_total{reason="malformed"}') == EVENTS_PER_SECOND_MAX + 31
    assert sample_of(metrics, "swarm_log_suppressed_total") == 30


def test_run_times_come_from_the_columns_whether_open_or_not() -> None:
    made, _, _ = telemetry()
    for times in ([50, 2_000_000], [300_000]):
        builder = OutcomeBuilder()
        for index, run_us in enumerate(times):
            assert builder.add_plain(index, run_us, None)
        outcomes = Outcomes(builder.take(), len(times))
        labels = {"status": "ok", "kind": "call"}
        made.fact(Fact("task.finished", labels, {"outcomes": outcomes}, float(len(times))))
        metrics = made.metrics()[0]
    assert sample_of(metrics, "swarm_task_run_seconds_count") == 3
    assert sample_of(metrics, "swarm_task_run_seconds_sum") == pytest.approx(2.30005, rel=1e-6)
    assert sample_of(metrics, 'swarm_task_run_seconds_bucket{le="0.0001"}') == 1
    assert sample_of(metrics, 'swarm_task_run_seconds_bucket{le="0.5"}') == 2
    assert sample_of(metrics, 'swarm_task_run_seconds_bucket{le="+Inf"}') == 3
    assert sample_of(metrics, 'swarm_tasks_finished_total{kind="call",status="ok"}') == 3


def test_waits_are_told_by_class() -> None:
    made, _, _ = telemetry()
    low, critical = Histogram(), Histogram()
    for histogram, klass in ((low, "low"), (critical, "critical")):
        made.own_durations("swarm_task_wait_seconds", histogram, **{"class": klass})
    low.record(2_000_000_000)
    low.record(1_000_000_000)
    critical.record(300_000)
    metrics = made.metrics()[0]
    assert sample_of(metrics, 'swarm_task_wait_seconds_count{class="low"}') == 2
    assert sample_of(metrics, 'swarm_task_wait_seconds_sum{class="low"}') == pytest.approx(3.0)
    assert sample_of(metrics, 'swarm_task_wait_seconds_bucket{class="critical",le="0.0005"}') == 1
    assert sample_of(metrics, 'swarm_task_wait_seconds_bucket{class="low",le="0.0005"}') == 0


def test_a_probe_without_an_answer_is_counted_and_not_timed() -> None:
    made, _, _ = telemetry()
    made.event("membership.probe", {"result": "failed"})
    made.event("membership.probe", {"result": "direct"}, value=0.003)
    text = made.metrics()[0].decode()
    assert 'swarm_probes_total{result="failed"} 1.0' in text
    assert 'swarm_probe_round_trip_seconds_count{result="direct"} 1.0' in text
    assert 'swarm_probe_round_trip_seconds_count{result="failed"}' not in text


def test_gauges_are_read_when_somebody_looks() -> None:
    made, _, _ = telemetry()
    depth = [3.0]
    made.watch("queue.tasks", lambda: depth[0], **{"class": "low"})
    assert sample_of(made.metrics()[0], 'swarm_queue_tasks{class="low"}') == 3
    made.watch("running", lambda: 2.0)
    depth[0] = 5.0
    metrics = made.metrics()[0]
    assert sample_of(metrics, 'swarm_queue_tasks{class="low"}') == 5
    assert sample_of(metrics, "swarm_running_tasks") == 2


def test_fields_of_any_kind_can_be_shown() -> None:
    assert readable("task", b"a" * 16) == ids.text(b"a" * 16)
    assert readable("peer", b"a" * 16) == ids.encode32(b"a" * 16)
    assert len(str(readable("x", b"a" * 1000))) < 100
    assert len(str(readable("x", "y" * 10_000))) < 2100
    assert readable("x", {"a": (1, b"ab")}) == {"a": [1, ids.encode32(b"ab")]}
    assert "object" in str(readable("x", object()))


def test_a_log_that_nobody_reads_does_not_stop_the_node() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    made = Telemetry(LogSection(), node="oak", stream=Closed())
    made.open()
    made.event("node.ready")


def test_console_is_one_line_and_without_colour_where_there_is_no_terminal() -> None:
    made, stream, _ = telemetry(form="console")
    made.open()
    made.event("member.joined", member="elm")
    (line,) = stream.getvalue().splitlines()
    assert "member.joined" in line
    assert "\x1b" not in line


def test_names_follow_the_conventions() -> None:
    for series in all_series():
        assert re.fullmatch(r"swarm_[a-z_]+", series.name)
        assert series.name.endswith("_total") == (series.kind == "counter")
        if series.kind in ("histogram", "durations"):
            assert series.name.endswith(("_seconds", "_bytes"))
            assert list(series.buckets) == sorted(set(series.buckets))
        assert series.about.endswith(".")
        assert not {"id", "task", "batch", "peer", "node", "member"} & set(series.labels)


@functools.cache
def emitted() -> dict[str, set[str]]:
    """Names of the facts in the source -> the labels that are spelled out with them."""
    found: dict[str, set[str]] = {}
    for path in [path for folder in ("transport", "swarm", "nodes") for path in (ROOT / folder).rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not call.args or not isinstance(call.args[0], ast.Constant):
                continue
            called = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            name = call.args[0].value
            if (
                called in ("Fact", "fact", "event")
                and isinstance(name, str)
                and re.fullmatch(r"[a-z_]+\.[a-z_]+", name)
            ):
                labels = call.args[1] if len(call.args) > 1 else None
                keys = labels.keys if isinstance(labels, ast.Dict) else []
                found.setdefault(name, set()).update(str(key.value) for key in keys if isinstance(key, ast.Constant))
            elif called == "_on_event" and isinstance(name, str):
                found.setdefault(f"discovery.{name}", set())
    return found


def test_every_fact_that_is_emitted_has_its_row_and_its_labels() -> None:
    facts = emitted()
    assert len(facts) > 20, "the search finds the facts"
    assert sorted(facts.keys() - TABLE.keys()) == []
    for name, labels in facts.items():
        for series in TABLE[name].series:
            assert labels <= set(series.labels) or not series.labels, (name, labels)


def test_every_row_has_a_fact() -> None:
    put_together = {"member.dead", "member.left"}  # f"member.{why}"
    assert sorted(TABLE.keys() - emitted().keys() - put_together) == []


def test_metrics_are_served_as_text_and_as_openmetrics() -> None:
    made, _, _ = telemetry()
    made.event("node.ready")
    text, kind = made.metrics("text/plain")
    assert kind.startswith("text/plain")
    assert b"process_resident_memory_bytes" in text
    assert b"_created" not in text
    text, kind = made.metrics("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_promtool_has_nothing_to_say() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed (package prometheus)")
        pytest.skip("promtool is not installed (package prometheus)")
    made, _, _ = telemetry("error")
    for name, row in TABLE.items():
        labels = {label: "some" for series in row.series for label in series.labels}
        made.fact(Fact(name, labels, {"tasks": 2}, 0.5))
    for name, gauge in GAUGES.items():
        made.watch(name, lambda: 1.0, **dict.fromkeys(gauge.labels, "some"))
    text = made.metrics()[0]
    missing = [series.name for series in all_series() if f"# TYPE {series.name} ".encode() not in text]
    assert missing in ([], ["swarm_log_suppressed_total", "swarm_unknown_facts_total"])
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_what_goes_on_is_counted_and_how_long_it_stood_is_added_up() -> None:
    made, _, _ = telemetry()
    made.open()
    for stood_s in (2.5, 0.25):
        made.fact(Fact("task.resumed", {}, {"stood_s": stood_s}, stood_s))
    assert sample_of(made.metrics()[0], "swarm_task_resumptions_total") == 2.0
    assert sample_of(made.metrics()[0], "swarm_task_suspended_seconds_total") == 2.75


def test_a_log_that_its_disk_does_not_take_changes_nothing_of_how_a_process_ends(tmp_path: Path) -> None:
    script = """
import resource
from nodes.settings import LogSection
from nodes.telemetry import Telemetry
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
telemetry = Telemetry(LogSection(), node="oak")
telemetry.open()
for number in range(40):
    telemetry.event(f"no.such.{number}", text="x" * 100)
"""
    log = tmp_path / "log"
    with open(log, "wb") as file:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=file, env=environment, timeout=60)
    assert (done.returncode, log.stat().st_size) == (0, 2000), log.read_text()
    assert json.loads(log.read_text().splitlines()[0])["event"] == "no.such.0"
