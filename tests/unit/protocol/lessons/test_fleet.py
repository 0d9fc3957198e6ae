"""Five machines and twelve planted families of faults: how often a fleet with lessons runs into what it knows."""

from __future__ import annotations

from tests.unit.protocol.lessons.fleet import faults, run

CALLS = 20_000


def test_what_one_machine_ran_into_is_not_run_into_again() -> None:
    without, with_lessons = run(CALLS, False), run(CALLS, True)
    assert set(+without.failures) == set(faults()), "each family is met"
    assert with_lessons.repeats.total() * 100 <= without.failures.total(), (with_lessons.repeats, without.failures)
    assert with_lessons.falsely.total() * 100 <= with_lessons.avoided, (with_lessons.falsely, with_lessons.avoided)
    assert with_lessons.avoided > CALLS // 4 and with_lessons.probes
    for name in faults():
        assert with_lessons.failures[name] < without.failures[name] / 4, name
    # nothing is lost by it: only what ends every worker is refused
    assert with_lessons.refused + with_lessons.failures["poison-task"] == CALLS // 20
    assert with_lessons.done + with_lessons.refused >= CALLS - 20
    # what was mended is used again: the disk was cleared after three hours
    assert set(+with_lessons.falsely) <= {"full-disk"}
    assert with_lessons.left <= 2 * len(faults())


def test_sound_calls_are_left_alone_and_one_run_is_like_the_other() -> None:
    one, other = run(2000, True), run(2000, True)
    assert one == other
    assert not any(name.startswith("sound") for name in (*+one.failures, *+one.falsely, *+one.repeats))
