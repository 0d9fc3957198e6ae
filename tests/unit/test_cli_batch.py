"""`swarm batch`: against a fleet of given answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from command_fleet import CommandFleet

from nodes.cli import main
from swarm.errors import NotFound, TaskFailed
from swarm.exit_codes import ExitCode
from swarm.protocol import ids

KEY = bytes(range(12))
ID = ids.batch_text(KEY)
SHOWN = {
    "id": ID, "name": "render", "by": "ann", "count": 3, "done": 3, "state": "done", "outcomes": {"ok": 2, "failed": 1},
    "node": "oak", "age_s": 41.0, "durability": "fleet", "copies": 2, "hosts": 2, "chunked": False, "epoch": 4,
    "retention_s": 86400.0,
}  # fmt: skip


class Handle:
    """A batch of which all is known."""

    def __init__(self, shown: dict[str, Any], outcomes: list[tuple[int, Any]]) -> None:
        self.shown, self.found = shown, outcomes
        self.count = shown["count"]
        self.cancelled = False

    def status(self) -> dict[str, Any]:
        return dict(self.shown)

    def outcomes(self, timeout: float | None) -> Iterator[tuple[int, Any]]:
        yield from self.found
        if len(self.found) < self.count:
            raise TimeoutError(f"batch {ID[:8]} has not ended")

    def cancel(self) -> None:
        self.cancelled = True


class BatchFleet(CommandFleet):
    """A fleet with one batch."""

    def __init__(self, **changes: Any) -> None:
        super().__init__({"batches": lambda **args: {"batches": [SHOWN | changes]}})
        self.handle = Handle(SHOWN | changes, [(1, "b"), (0, "a"), (2, TaskFailed("unlucky", hint="look"))])
        self.attached: list[str] = []

    def attach(self, text: str) -> Handle:
        self.attached.append(text)
        return self.handle


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> BatchFleet:
    made = BatchFleet()
    monkeypatch.setattr("swarm.connect", lambda **_: made, raising=False)
    return made


def test_a_list_tells_how_far_batches_are_and_where_they_are_kept(
    fleet: BatchFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "list", "--durable", "--limit", "7"]) == ExitCode.OK
    assert fleet.asked == [("batches", {"limit": 7, "durable": True})]
    out = capsys.readouterr().out
    assert all(word in out for word in ("BATCH", "render", "3/3", "done", "2 disks, 2 hosts", "oak", "41 s ago"))
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"durability": "none", "copies": 0, "hosts": 0}, "memory"),
        ({"copies": 0, "hosts": 0}, "not yet"),
        ({"copies": 1, "hosts": 1}, "1 disk, 1 host"),
    ],
)
def test_where_it_is_kept_is_said_in_words(
    changes: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swarm.connect", lambda **_: BatchFleet(**changes), raising=False)
    assert main(["batch", "list"]) == ExitCode.OK
    assert where in capsys.readouterr().out


def test_one_is_shown_by_its_id_or_the_beginning_of_it(fleet: BatchFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "show", ID]) == ExitCode.OK
    assert main(["batch", "show", ID[:5].upper(), "--json"]) == ExitCode.OK
    assert fleet.attached == [ID, ID]
    assert fleet.asked == [("batches", {"limit": 10, "prefix": ID[:5]})]
    text, said = capsys.readouterr().out.split("{", 1)
    assert "2 ok, 1 failed" in text and "chunked" not in text
    assert json.loads("{" + said)["epoch"] == 4


def test_what_each_node_knows_of_one_is_told_node_by_node(
    fleet: BatchFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    oak = {
        "node": "oak", "owner": {"states": {"placed": 1}, "out": [{"dispatch": 7, "at": "elm", "rows": [0, 1]}], "client": ""},
        "logs": [{"home": "oak", "leads": True}], "runs": [], "trace": ["1.0 s ago: placed 0-1 elm"],
    }  # fmt: skip
    fleet.answers["batch.explain"] = lambda **args: {
        "views": [dict(oak), {"node": "elm", "silent": "no answer in 5 s"}, {"node": "fir", "owner": None, "runs": []}]
    }
    assert main(["batch", "explain", ID]) == ExitCode.OK
    assert fleet.asked == [("batch.explain", {"batch": KEY})]
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["oak:", "elm:", "fir: nothing"]
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        "owner:", "states:", "placed: 1", "out:", "-:", "dispatch: 7", "at: elm", "rows: [0, 1]",
        "logs:", "-:", "home: oak", "leads: True", "trace:", "- 1.0 s ago: placed 0-1 elm", "silent: no answer in 5 s",
    ]  # fmt: skip
    assert main(["batch", "explain", ID, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[1]["silent"]
    assert main(["batch", "explain", "u" * 26]) == ExitCode.NOT_FOUND


def test_a_beginning_of_none_or_of_several_is_refused(fleet: BatchFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["batches"] = {"batches": []}
    assert main(["batch", "show", "abc"]) == ExitCode.NOT_FOUND
    fleet.answers["batches"] = {"batches": [SHOWN, SHOWN | {"id": "b" * 26}]}
    assert main(["batch", "show", "abc"]) == ExitCode.NOT_FOUND
    err = capsys.readouterr().err
    assert "swarm batch list" in err and "more characters" in err


def test_waiting_ends_with_how_the_tasks_ended(fleet: BatchFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["batch", "wait", ID]) == ExitCode.FAILED
    for outcomes, status in (
        ({"ok": 3}, ExitCode.OK),
        ({"ok": 2, "lost": 1}, ExitCode.LOST),
        ({"cancelled": 3}, ExitCode.CANCELLED),
        ({"lost": 1, "cancelled": 2}, ExitCode.FAILED),
    ):
        fleet.handle.shown["outcomes"] = outcomes
        assert main(["batch", "wait", ID]) == status
    fleet.handle.shown |= {"state": "running", "done": 1}
    assert main(["batch", "wait", ID, "--timeout", "0.01s"]) == ExitCode.TIMEOUT


def test_results_come_in_order_and_failures_on_standard_error(
    fleet: BatchFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "results", ID]) == ExitCode.FAILED
    out, err = capsys.readouterr()
    assert out == "'a'\n'b'\n"
    assert "2: TaskFailed: unlucky (look)" in err and "1 of 3 tasks have no result" in err


def test_results_as_they_end_and_for_programs(fleet: BatchFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "results", ID, "--as-they-end"]) == ExitCode.FAILED
    assert capsys.readouterr().out == "1\t'b'\n0\t'a'\n"
    assert main(["batch", "results", ID, "--json"]) == ExitCode.FAILED
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        {"index": 0, "value": "a"},
        {"index": 1, "value": "b"},
        {"index": 2, "error": "unlucky", "kind": "TaskFailed"},
    ]


def test_results_that_do_not_come_in_time(fleet: BatchFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.handle.found.pop()
    assert main(["batch", "results", ID, "--timeout", "1s"]) == ExitCode.TIMEOUT
    out, err = capsys.readouterr()
    assert out == "'a'\n'b'\n" and "has not ended" in err


def test_cancelling_says_what_had_ended(fleet: BatchFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "cancel", ID]) == ExitCode.OK
    assert fleet.handle.cancelled
    assert "3 of 3 tasks had ended" in capsys.readouterr().out


def test_an_id_that_nobody_keeps(fleet: BatchFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(text: str) -> Any:
        raise NotFound(f"no batch {text[:8]} is kept", hint="swarm batch list")

    monkeypatch.setattr(fleet, "attach", missing)
    assert main(["batch", "results", "0" * 26]) == ExitCode.NOT_FOUND
