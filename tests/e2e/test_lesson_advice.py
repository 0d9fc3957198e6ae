"""Each kind of advice, said by hand on one node and obeyed by another: real nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

import swarm
from tests.e2e.fleets import Nodes, until

LABELS = {"ash": "lab,fast", "oak": "lab,shaky"}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    settings = {
        "SWARM_HTTP_ENABLED": "false", "SWARM_WORKERS": "2", "SWARM_LESSONS_MODE": "obey", "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1",
        "SWARM_LEDGER_ENABLED": "false",
    }  # fmt: skip
    made = Nodes(tmp_path_factory.mktemp("w") / "home", settings=settings)
    plain = dict(made.env)
    for name, labels in LABELS.items():
        made.env = {**plain, "SWARM_LABELS": labels, "SWARM_RESOURCES": f"memory={8 if name == 'ash' else 1}e9"}
        made.start(name)
    made.env = plain
    with made.connect("ash") as fleet:
        until(lambda: len(fleet.members()) == len(LABELS), 60, "members")
    yield made
    assert set(made.stop_all().values()) <= {0}


def told(nodes: Nodes, name: str, *words: str) -> list[Any]:
    """What `swarm lesson` at one node prints."""
    before = nodes.env
    nodes.env = {**before, "SWARM_NODE_SOCKET": str(nodes.home.node_socket(name))}
    try:
        ran = nodes.cli("lesson", *words, "--json", timeout_s=60)
    finally:
        nodes.env = before
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def said_at_ash(nodes: Nodes, *words: str) -> dict[str, Any]:
    """A lesson that is added at one node, when the other knows it."""
    (lesson,) = told(nodes, "ash", "add", *words)
    until(lambda: lesson["key"] in {one["key"] for one in told(nodes, "oak", "list")}, 60, "the lesson at oak")
    assert isinstance(lesson, dict)
    return lesson


def where(number: int) -> str:
    import time

    time.sleep(0.02)
    current = swarm.current_task()
    assert current is not None
    return str(current.node)


def named(name: str) -> Any:
    """A callable of its own name, that tells where it runs."""

    def fn(number: int) -> str:
        return where(number)

    fn.__name__ = fn.__qualname__ = name
    fn.__module__ = where.__module__ = "__main__"
    return fn


@pytest.mark.parametrize(
    ("advice", "shown"),
    [
        (("--node", "oak"), "avoid node oak"),
        (("--label", "shaky"), "avoid label shaky"),
        (("--require", "fast"), "require fast"),
        (("--needs", "memory=4GB"), "require memory of at least 4e+09"),
    ],
)
def test_where_it_is_said_not_to_run_it_does_not(nodes: Nodes, advice: tuple[str, str], shown: str) -> None:
    name = f"placed_{advice[0].strip('-')}"
    lesson = said_at_ash(nodes, "by hand", "--callable", name, *advice)
    assert lesson["advice"] == [shown]
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(named(name), number) for number in range(12)]
        assert {future.result(60) for future in futures} == {"ash"}
        lines = fleet.query("explain", task=futures[0].id)["lines"]
        assert any(lesson["key"][:8] in line for line in lines), lines
        others = [fleet.submit(named("another"), number) for number in range(24)]
        assert {future.result(60) for future in others} == {"ash", "oak"}, "others are not touched"
    told(nodes, "oak", "forget", lesson["key"])


def test_it_waits_for_as_long_as_is_said(nodes: Nodes) -> None:
    began = time.time()
    said_at_ash(nodes, "the door opens later", "--callable", "waits", "--wait", "4s")
    with nodes.connect("oak") as fleet:
        future = fleet.submit(named("waits"), 1)
        until(lambda: any("waits as a lesson says" in line for line in fleet.query("explain", task=future.id)["lines"])
              or future.done(), 60, "it waits")  # fmt: skip
        assert future.result(60) in LABELS
    assert time.time() - began >= 4.0


def test_it_is_given_more_time(nodes: Nodes) -> None:
    said_at_ash(nodes, "it is slow", "--callable", "slow", "--timeout", "60s")

    def slow(number: int) -> int:
        import time

        time.sleep(0.5)
        return number

    slow.__qualname__, slow.__module__ = "slow", "__main__"
    with nodes.connect("oak") as fleet:
        assert fleet.submit(slow, 1, timeout_s=0.2, timeout_max_s=60.0).result(60) == 1
        assert fleet.query("status") is not None
        with pytest.raises(swarm.TaskTimeout):
            fleet.submit(slow, 1, timeout_s=0.2).result(60)


def test_what_is_quarantined_is_refused_and_a_question_is_shown(nodes: Nodes) -> None:
    lesson = said_at_ash(nodes, "it eats disks", "--callable", "eats", "--quarantine", "1h", "--ask", "who owns it?")
    with nodes.connect("oak") as fleet:
        future = fleet.submit(named("eats"), 1)
        with pytest.raises(swarm.TaskRefused, match="it eats disks"):
            future.result(60)
        (why,) = told(nodes, "oak", "why", future.id)
        assert [one["key"] for one in why["lessons"]] == [lesson["key"]]
        assert any("who owns it?" in line for line in why["lines"]), why
    told(nodes, "oak", "forget", lesson["key"])
    with nodes.connect("oak") as fleet:
        assert fleet.submit(named("eats"), 1).result(60) in LABELS


def test_a_question_alone_stops_nobody(nodes: Nodes) -> None:
    said_at_ash(nodes, "odd results", "--callable", "odd", "--ask", "has it been calibrated?")
    with nodes.connect("oak") as fleet:
        future = fleet.submit(named("odd"), 1)
        assert future.result(60) in LABELS
        assert any("has it been calibrated?" in line for line in fleet.query("explain", task=future.id)["lines"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cause",), "it advises nothing"),
        (("cause", "--node", "oak", "--label", "shaky"), "all of them"),
        (("cause", "--node", "oak", "--wait", "3s"), "all of them"),
        (("cause", "--wait", "9d"), "--wait 777600 s"),
        (("cause", "--wait", "0s"), "--wait 0 s"),
        (("cause", "--wait", "soon"), "not a duration"),
        (("cause", "--wait", "3s", "--for", "0s"), "--for 0 s"),
        (("cause", "--wait", "3s", "--for", "400d"), "--for"),
        (("cause", "--timeout", "0s"), "--timeout 0 s"),
        (("cause", "--needs", "memory"), "NAME=AMOUNT"),
        (("cause", "--quarantine", "1h"), "--callable"),
        (("two\nlines", "--wait", "3s"), "short text"),
    ],
)
def test_what_is_no_lesson_is_refused_in_words(nodes: Nodes, words: tuple[str, ...], said: str) -> None:
    ran = nodes.cli("lesson", "add", *words, timeout_s=60)
    assert ran.returncode == 2 and said in ran.stderr.decode(), ran.stderr


def test_a_lesson_goes_with_the_node_that_said_it(nodes: Nodes) -> None:
    said_at_ash(nodes, "what elm will be revoked for", "--callable", "stays", "--node", "oak")
    nodes.start("elm")
    with nodes.connect("ash") as fleet:
        until(lambda: len(fleet.members()) == 3, 60, "elm")
    (said,) = told(nodes, "elm", "add", "elm lies", "--callable", "lied_about", "--node", "oak")
    for name in LABELS:
        until(lambda name=name: said["key"] in {one["key"] for one in told(nodes, name, "list")}, 60, f"at {name}")
    ran = nodes.cli("fleet", "revoke", "elm", timeout_s=60)
    assert ran.returncode == 0, ran.stderr
    for name in LABELS:
        until(
            lambda name=name: said["key"] not in {one["key"] for one in told(nodes, name, "list")},
            60,
            f"gone at {name}",
        )
    assert "what elm will be revoked for" in {one["cause"] for one in told(nodes, "oak", "list")}
    nodes.kill("elm")
    with nodes.connect("oak") as fleet:
        futures = [fleet.submit(named("lied_about"), number) for number in range(24)]
        assert "oak" in {future.result(60) for future in futures}
