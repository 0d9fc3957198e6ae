"""What is said of a run: take-overs are found in the history, and the verdict counts what is wrong."""

from __future__ import annotations

from swarm.protocol.ledger.homes import home_tag
from tests.chaos.checker import Violation
from tests.chaos.history import History
from tests.chaos.nemesis import Done
from tests.chaos.report import lines, take_overs

HOME = b"h" * 16
BATCH = home_tag(HOME).hex() + "0" * 18


def history(*outcomes: tuple[int, float], receipt_s: float = 1.0) -> History:
    made = History()
    tasks = [f"{BATCH}{index:08x}" for index, _ in outcomes]
    made.see([{"event": "submitted", "host": "h1", "at_s": 0.5, "tasks": tasks}])
    made.see(
        [{"event": "receipt", "host": "h1", "at_s": receipt_s, "batch": BATCH, "copies": 2, "hosts": 2, "epoch": 1}]
    )
    for index, at_s in outcomes:
        said = {"value": ["1.1", 1, f"m{index}", "h2"]}
        made.see([{"event": "outcome", "host": "h1", "at_s": at_s, "task": f"{BATCH}{index:08x}", "said": said}])
    return made


def test_a_take_over_ends_with_the_first_outcome_of_the_dead_nodes_log() -> None:
    seen = history((0, 4.0), (1, 12.5), (2, 13.0))
    [one] = take_overs(seen, [("h1", 10.0, 15.0)], {"h1": HOME})
    assert (one.host, one.took_s, one.by_another) == ("h1", 2.5, True)
    [one] = take_overs(seen, [("h1", 10.0, 11.0)], {"h1": HOME})
    assert not one.by_another, "the node itself was back"


def test_where_there_was_nothing_to_tell_there_is_no_take_over() -> None:
    assert take_overs(history((0, 4.0)), [("h1", 10.0, 15.0)], {"h1": HOME}) == []
    assert take_overs(history((0, 12.0), receipt_s=11.0), [("h1", 10.0, 15.0)], {"h1": HOME}) == []
    assert take_overs(history((0, 12.0)), [("h2", 10.0, 15.0)], {"h2": b"o" * 16}) == [], "of another's log"


def test_the_report_says_what_is_wrong() -> None:
    rules = ("lost", "not-told", "stuck")
    violations = [Violation(rule, f"t{number}", "so it is") for number in range(15) for rule in rules]
    said = lines(history((0, 4.0)), violations, ["h3 ended with 1"], [Done("kill", ("h1",), 1.0, 2.0)], [])
    assert "verdict    15 lost, 0 double outcomes, 15 stuck, 0 by stale tokens; 45 violations, 1 other wrongs" in said
    assert "WRONG      h3 ended with 1" in said
    assert any(line.startswith("faults     1: 1 kill") for line in said)
    assert sum(line.startswith("VIOLATION") for line in said) == 20
