"""The checker finds what it is there for: histories in which one thing is wrong, each found by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.history import History, read

BATCH = "ab" * 12
TASK = BATCH + "00000000"
OTHER = BATCH + "00000001"
FIRST = ["3.7", 1, "m1", "h2"]
LATER = ["4.1", 2, "m2", "h3"]


def event(kind: str, host: str = "h1", at_s: float = 1.0, **facts: Any) -> dict[str, Any]:
    return {"event": kind, "host": host, "at_s": at_s, **facts}


def told(said: Any, host: str = "h4", asked_s: float = 5.0, task: str = TASK) -> dict[str, Any]:
    return event("told", host, asked_s + 0.1, task=task, asked_s=asked_s, said=said)


def outcome(said: Any, at_s: float = 2.0, task: str = TASK) -> dict[str, Any]:
    return event("outcome", at_s=at_s, task=task, said=said)


SUBMITTED = event("submitted", tasks=[TASK])
RECEIPT = event("receipt", at_s=1.5, batch=BATCH, copies=2, hosts=2, epoch=3)
OUTCOME = outcome({"value": FIRST})
TOLD = told({"value": FIRST})
ASKED = event("asked all", "h4", 6.0)
RAN = [f"begins 1.2 {TASK} 3.7 1 m1", f"ends 1.3 {TASK} 3.7 1 m1"]
WELL = [SUBMITTED, RECEIPT, OUTCOME, TOLD, ASKED]


def rules(events: list[dict[str, Any]], ran: list[str] = RAN, also: list[str] | None = None) -> set[str]:
    history = History()
    history.see(events)
    history.ran("h2", ran)
    history.ran("h3", also or [])
    return {violation.rule for violation in check(history)}


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert rules(WELL) == set()
    # An attempt with a smaller token may have begun, may have ended even: only its outcome counts for nothing.
    later = outcome({"value": LATER}), told({"value": LATER})
    assert (
        rules([SUBMITTED, RECEIPT, *later], RAN, [f"{what} 3.0 {TASK} 4.1 2 m2" for what in ("begins", "ends")])
        == set()
    )


@pytest.mark.parametrize("said", [{"value": LATER}, {"error": "TaskLost", "text": "it may have run"}])
def test_two_outcomes(said: dict[str, Any]) -> None:
    assert "two-outcomes" in rules([*WELL, told(said, "h5")])
    assert "told-twice" in rules([*WELL, outcome(said)])


def test_what_is_known_is_not_forgotten() -> None:
    assert rules([*WELL, told("pending", asked_s=2.5)]) == {"forgotten"}
    assert rules([*WELL, told("pending", asked_s=1.8)]) == set()
    assert rules([*WELL, told("none", asked_s=2.5)]) == {"lost"}
    assert rules([*WELL, told("none", asked_s=1.4)]) == set(), "asked before the receipt"
    assert rules([*WELL, told("unknown", asked_s=2.5)]) == set(), "who does not know may say so"


@pytest.mark.parametrize("last", ["pending", "unknown", "none"])
def test_in_the_end_whoever_asks_is_told(last: str) -> None:
    assert "not-told" in rules([*WELL, told(last, asked_s=7.0)])
    assert "not-told" in rules([SUBMITTED, RECEIPT, OUTCOME, ASKED])
    assert rules([SUBMITTED, OUTCOME, told(last, asked_s=1.0), ASKED]) == set(), "it has no receipt"


def test_a_client_that_never_hears_of_a_task_is_stuck() -> None:
    assert rules([SUBMITTED, RECEIPT, TOLD, ASKED]) == {"stuck"}
    assert rules([SUBMITTED]) == {"stuck"}, "with a receipt or without"


def test_a_smaller_token_is_stale_as_soon_as_a_greater_one_has_begun() -> None:
    assert rules(WELL, RAN, [f"begins 1.25 {TASK} 4.1 2 m2"]) == {"stale-token"}
    assert rules(WELL, RAN, [f"begins 1.25 {TASK} 3.12 2 m2"]) == {"stale-token"}, "numbers are compared as numbers"


def test_what_has_an_outcome_has_run() -> None:
    assert rules(WELL, []) == {"never-ran"}
    assert rules(WELL, RAN[:1]) == {"never-ran"}, "it did not come to its end"
    assert rules(WELL, [line.replace("3.7", "3.6") for line in RAN]) == {"never-ran"}


def test_no_two_attempts_have_one_token() -> None:
    assert rules(WELL, RAN, [f"begins 1.25 {TASK} 3.7 2 m2"]) == {"token-twice"}


def test_a_task_with_a_receipt_does_not_fail_by_itself() -> None:
    lost = {"error": "TaskLost", "text": "it may have run"}
    assert rules([SUBMITTED, RECEIPT, outcome(lost), told(lost)]) == {"failed"}
    assert rules([SUBMITTED, outcome(lost), told(lost)]) == set()
    killed = {"error": "TaskQuarantined", "text": "three times"}
    assert rules([SUBMITTED, RECEIPT, outcome(killed), told(killed)]) == set()


def test_a_receipt_is_for_two_copies_at_least() -> None:
    assert rules([SUBMITTED, RECEIPT | {"copies": 1}, OUTCOME, TOLD]) == {"few-copies"}
    assert rules([SUBMITTED, RECEIPT | {"hosts": 1}, OUTCOME, TOLD]) == {"few-copies"}


def test_what_nobody_handed_over_is_not_there() -> None:
    assert rules([*WELL], [*RAN, f"begins 1.25 {OTHER} 3.7 1 m3"]) == {"unknown-task"}


def test_a_history_is_read_from_its_folder_but_for_what_broke_off(tmp_path: Path) -> None:
    (tmp_path / "h1-load.seen").write_text("".join(json.dumps(one) + "\n" for one in WELL) + '{"event": "outco')
    (tmp_path / "h2.ran").write_text("".join(f"{line}\n" for line in RAN) + "begins 1.2 ab")
    history = read(tmp_path)
    assert check(history) == []
    assert list(history.tasks) == [TASK]
    assert history.tasks[TASK].attempts["m1"].node == "h2"
