"""Alerts: when they are raised, when they end, what follows, and that virtual time knows nothing that is measured."""

from __future__ import annotations

import logging

import pytest

from kernels.passes import TICKS
from swarm import nano
from swarm.nano.alerts import METRICS, Raised


class Shaky(nano.Kind, capacity=1000):
    """Fails, idles and publishes when its fields say so."""

    until: nano.u64
    since: nano.u64
    news = nano.writes("news")

    def tick(self, now_ns, bus):
        if self.since <= now_ns < self.until:
            bus.publish("news", b"again")
            return nano.IDLE
        return None


class Bird(nano.Kind, capacity=1000):
    x: nano.f64
    v: nano.f64


SEEN: list[Raised] = []


def noted(raised: Raised) -> None:
    SEEN.append(raised)


def shaky(**options):
    flock = nano.NanoSwarm(seed=1, **options)
    agents = flock.spawn(Shaky, 10, rate_hz=100, budget=50_000)
    agents.since[:], agents.until[:] = 300_000_000, 600_000_000
    return flock, agents


def test_an_alert_has_a_beginning_a_worst_value_and_an_end():
    flock, _ = shaky()
    flock.watch(nano.Alert("idle_ratio", above=0.5))
    report = flock.run_for(seconds=1)
    (raised,) = report.alerts
    assert raised == Raised(
        "idle_ratio > 50 %", "idle_ratio", "Shaky", 0, 0.5, 1.0, 300_000_000, 400_000_000, 600_000_000
    )
    assert str(raised) == "Shaky (cohort 0): idle_ratio > 50 %: 100 % from 0.3 s to 0.6 s"
    assert report.to_dict()["alerts"][0]["to_ns"] == 600_000_000
    assert flock.run_for(seconds=1).alerts == (), "over before this run began"


def test_one_that_lasts_is_in_every_report_until_it_ends():
    flock, _ = shaky()
    flock.watch(nano.Alert("ticks_per_s", above=0))
    first = flock.run_for(seconds=0.5)
    second = flock.run_for(seconds=0.5)
    assert first.alerts == second.alerts and second.alerts[0].to_ns is None and second.alerts[0].from_ns == 0
    flock.cohorts[0].suspend()
    (ended,) = flock.run_for(seconds=0.5).alerts
    assert ended.to_ns == 1_000_000_000
    assert first.alerts[0].to_ns is None, "a report does not change afterwards"


@pytest.mark.parametrize(
    ("for_s", "raised_ns"), [(0.0, 400_000_000), (0.2, 500_000_000), (0.3, 600_000_000), (0.31, None)]
)
def test_it_must_hold_for_as_long_as_was_said(for_s, raised_ns):
    flock, _ = shaky()
    flock.watch(nano.Alert("idle_ratio", above="50%", for_s=for_s))
    alerts = flock.run_for(seconds=1).alerts
    assert [each.raised_ns for each in alerts] == ([] if raised_ns is None else [raised_ns])


def test_hysteresis_keeps_it_until_the_value_is_well_back():
    lengths = {}
    for until in (None, 0.2):
        flock = nano.NanoSwarm()
        parts = [flock.spawn(Shaky, 10, rate_hz=100) for _ in range(1)]
        for place, end_ns in enumerate((600, 600, 600, 600, 700, 800, 800, 900, 1000, 1000)):
            parts[0][place].since, parts[0][place].until = 300_000_000, end_ns * 1_000_000
        flock.watch(nano.Alert("idle_ratio", above=0.65, until=until))
        (raised,) = flock.run_for(seconds=2).alerts
        lengths[until] = (raised.from_ns, raised.to_ns)
    assert lengths == {None: (300_000_000, 600_000_000), 0.2: (300_000_000, 900_000_000)}


def test_windows_are_the_same_however_a_run_is_cut():
    told = []
    for cuts in ([1.0], [0.05, 0.17, 0.33, 0.45], [0.01] * 100):
        flock, _ = shaky()
        flock.watch(nano.Alert("idle_ratio", above=0.5))
        flock.watch(nano.Alert("published_per_s", above=100), of="news")
        mark = flock.mark()
        for seconds in cuts:
            flock.run_for(seconds=seconds)
        told.append(flock.report(mark).alerts)
    assert told[0] == told[1] == told[2] and len(told[0]) == 2


def test_watching_changes_nothing_that_happens():
    ends = []
    for watched in (False, True):
        for topology in (None, nano.RoundRobin()):
            flock, agents = shaky(topology=topology)
            flock.spawn(Shaky, 300, rate_hz=1000, budget=50_000)
            if watched:
                flock.watch(nano.Alert("idle_ratio", above=0.5))
                flock.watch(nano.Anomalies())
            report = flock.run_for(seconds=0.55)
            ends.append((flock.now_ns, report.passes, [line.ticks for line in report.cohorts]))
    assert ends[0] == ends[2] and ends[1] == ends[3] and ends[0] != ends[1]


def test_where_nobody_is_due_a_run_of_passes_ends():
    flock = nano.NanoSwarm()
    agents = flock.spawn(Shaky, 3)
    flock.watch(nano.Alert("ticks_per_s", above=1))
    assert flock.run_for(passes=5).passes == 0
    agents.resume()
    assert flock.run_for(passes=5).passes == 1
    assert flock.run_for(seconds=3).alerts[0].value == 30, "three ticks in a tenth of a second"


def test_what_follows_acts_on_the_cohort():
    for action, ticks in (("record", 1000), ("demote", 690), ("suspend", 400), ("kill", 400)):
        flock, agents = shaky()
        other = flock.spawn(Shaky, 5, rate_hz=100)
        flock.watch(nano.Alert("idle_ratio", above=0.5, action=action))
        first, second = flock.run_for(seconds=1).cohorts
        assert first.ticks == pytest.approx(ticks, abs=10) and second.ticks == 500, action
        assert agents.alive == [action != "kill"] * 10 and all(other.alive)


def test_a_function_is_told_when_it_begins_and_when_it_ends():
    flock, agents = shaky()
    told = []
    flock.watch(
        nano.Alert("idle_ratio", above=0.5, action=lambda raised: told.append((raised.raised_ns, raised.to_ns)))
    )
    flock.run_for(seconds=1)
    assert told == [(400_000_000, None), (400_000_000, 600_000_000)]
    flock, agents = shaky()
    flock.watch(nano.Alert("idle_ratio", above=0.5, action=lambda raised: agents.suspend([0, 1])))
    assert flock.run_for(seconds=1).cohorts[0].awake == 8, "between two passes it may do what it likes"


def test_a_warning_is_logged(caplog):
    flock, _ = shaky()
    flock.watch(nano.Alert("idle_ratio", above=0.5, action="warn"))
    with caplog.at_level(logging.WARNING, "swarm.nano"):
        flock.run_for(seconds=1)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "alert: Shaky (cohort 0): idle_ratio > 50 %: 100 % from 0.3 s",
        "over: Shaky (cohort 0): idle_ratio > 50 %: 100 % from 0.3 s to 0.6 s",
    ]


def test_of_narrows_it_to_a_kind_a_cohort_or_a_topic():
    for of, found in ((None, {0, 1, 2}), (Shaky, {0, 1}), ("Shaky", {0, 1}), ("Bird", {2}), (1, {1})):
        flock, _ = shaky()
        second = flock.spawn(Shaky, 10, rate_hz=100)
        flock.spawn(Bird.native_many(TICKS["move_many"]), 10, rate_hz=100)
        flock.watch(nano.Alert("ticks_per_s", above=10), of=second if of == 1 else of)
        assert {each.cohort for each in flock.run_for(seconds=0.3).alerts} == found, of


def test_topics_have_alerts_too():
    flock, _ = shaky(topic_lines=4)
    flock.watch(nano.Alert("dropped_ratio", above="50 %"))
    flock.watch(nano.Alert("dropped_per_s", above="500/s"), of="news")
    flock.watch(nano.Alert("dropped_per_s", above=0), of="other")
    first, second = flock.run_for(seconds=1).alerts
    assert (first.of, first.cohort, first.value, first.from_ns, first.to_ns) == (
        "news",
        None,
        0.6,
        300_000_000,
        600_000_000,
    )
    assert second.value == 600 and str(second).startswith("news: dropped_per_s > 500/s: 600/s")


def test_load_is_what_budgets_declare():
    flock, _ = shaky()
    flock.watch(nano.Alert("load", above="4%", below=None))
    (raised,) = flock.run_for(seconds=0.3).alerts
    assert raised.value == pytest.approx(10 * 100 * 50e-6)


def test_in_virtual_time_there_is_nothing_measured():
    flock, _ = shaky()
    for name, metric in METRICS.items():
        if metric.measured:
            with pytest.raises(nano.NanoError, match="virtual time") as caught:
                flock.watch(nano.Alert(name, above=1))
            assert "failed_ratio" in caught.value.hint
            with pytest.raises(nano.NanoError, match="virtual time"):
                flock.watch(nano.Anomalies(metrics=[name]))


def test_in_real_time_what_was_measured_raises_alerts():
    flock = nano.NanoSwarm(time="real", window_s=0.05)
    flock.spawn(Bird.native(TICKS["move"]), 20, rate_hz=200, budget=0.001)
    for name, metric in METRICS.items():
        if metric.of == "cohort" and name not in (
            "idle_ratio",
            "failed_ratio",
            "failures_per_s",
            "missed_ratio",
            "missed_per_s",
        ):
            flock.watch(nano.Alert(name, above=0))
    flock.watch(nano.Alert("tick_p99_ns", below="10s"))
    found = {each.metric: each.value for each in flock.run_for(seconds=0.3).alerts}
    assert found.keys() == {
        "ticks_per_s", "load", "tick_p50_ns", "tick_p99_ns", "late_p99_ns", "jitter_p99_ns", "violations_per_s",
        "violations_ratio", "budget_use",
    }  # fmt: skip
    assert found["violations_ratio"] == 1.0 and found["budget_use"] > 100
    # Each is of the window in which it was raised last, so they do not bound each other.
    assert 0 < found["load"] < 1 and 0 < found["tick_p50_ns"] < 1e9 and 0 < found["tick_p99_ns"] < 1e9


def test_alerts_are_saved_with_the_population():
    import sys

    from tests.unit.nano import test_alerts as here

    assert sys.modules[Shaky.__module__].Shaky is Shaky
    SEEN.clear()
    flock, _ = shaky()
    flock.watch(nano.Alert("idle_ratio", above=0.5, action=noted if Shaky.__module__ == __name__ else here.noted))
    flock.watch(nano.Alert("published_per_s", above=5, for_s=0.2), of="news")
    flock.watch(nano.Anomalies(learn=10))
    flock.run_for(seconds=0.46)
    again = nano.load(flock.save())
    ends = [each.run_for(seconds=0.54) for each in (flock, again)]
    assert ends[0].alerts == ends[1].alerts and len(ends[0].alerts) == 2
    assert [each.to_ns for each in SEEN] == [600_000_000] * 3, "twice by the one, once by the other"
    flock.watch(nano.Alert("idle_ratio", above=0.5, action=lambda raised: None))
    with pytest.raises(nano.NanoError, match="its function is not found by its name"):
        flock.save()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"metric": "luck", "above": 1}, "no metric 'luck'"), ({"metric": "load"}, "an alert on load"),
        ({"metric": "load", "above": 1, "below": 0}, "an alert on load"),
        ({"metric": "load", "above": "5 parsecs"}, "'5 parsecs' is no threshold of load"),
        ({"metric": "load", "above": "5ns"}, "'5ns' is no threshold"), ({"metric": "load", "above": None, "below": "x"}, "'x'"),
        ({"metric": "load", "above": float("nan")}, "nan is no threshold"), ({"metric": "load", "above": True}, "True is no"),
        ({"metric": "load", "above": 0.5, "until": 0.6}, "until 0.6"), ({"metric": "load", "below": 0.5, "until": 0.4}, "until"),
        ({"metric": "load", "above": 0.5, "for_s": -1}, "for_s=-1"), ({"metric": "load", "above": 0.5, "action": "pray"}, "'pray'"),
        ({"metric": "dropped_per_s", "above": 1, "action": "suspend"}, "nobody to suspend"),
    ],
)  # fmt: skip
def test_what_is_no_alert_is_said(words, said):
    with pytest.raises(nano.NanoError) as caught:
        nano.Alert(**words)
    assert said in str(caught.value) and caught.value.hint


def test_what_cannot_be_watched_is_said():
    flock, agents = shaky()
    other, _ = shaky()
    alert = nano.Alert("failed_ratio", above=0)
    for what, of, said in (
        ("failed_ratio", None, "cannot be watched for"), (alert, 5, "of=5"),
        (alert, other.cohorts[0], "another swarm"), (nano.Alert("dropped_per_s", above=1), Shaky, "is of a topic"),
    ):  # fmt: skip
        with pytest.raises(nano.NanoError, match=said):
            flock.watch(what, of)
    with pytest.raises(nano.NanoError, match="window_s"):
        nano.NanoSwarm(window_s=0)


def test_alerts_are_spoken_on_a_command_line():
    alert, of = nano.Alert.spoken("late_p99_ns > 50us until 20us for 1s of Bird then suspend")
    assert (
        alert == nano.Alert("late_p99_ns", above=50_000.0, until=20_000.0, for_s=1.0, action="suspend") and of == "Bird"
    )
    assert nano.Alert.spoken("failed_ratio>1%") == (nano.Alert("failed_ratio", above=0.01), None)
    assert nano.Alert.spoken("ticks_per_s < 5/ms")[0].below == 5000
    for wrong in ("late", "late_p99_ns = 5", "failed_ratio > 1% then", "failed_ratio > 1% for ages"):
        with pytest.raises(nano.NanoError):
            nano.Alert.spoken(wrong)
