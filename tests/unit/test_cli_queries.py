"""The verbs that ask and tell: status, members, task, fleet, config, node. Against a fleet of given answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from command_fleet import CommandFleet

from nodes.cli import main
from swarm.errors import NotFound
from swarm.exit_codes import ExitCode
from swarm.paths import Home
from transport.fleet import Fleet, create_fleet
from transport.tokens import TokenBook

MEMBERS = [
    {"name": "oak", "id": "3kf9x2", "state": "alive", "slots": 4, "busy": 2.0, "queued": 1200, "labels": ["gpu"],
     "address": "10.0.0.1:4000", "role": "node", "grants": ["code"], "expires_s": 86400.0 * 300},
    {"name": "elm", "id": "9zzz00", "state": "suspect", "slots": 2, "busy": 0, "queued": 0, "labels": [],
     "address": "10.0.0.2:4000", "role": "node", "grants": [], "expires_s": 60.0},
]  # fmt: skip
TASK = {
    "id": "abcdef0123",
    "name": "render",
    "priority": "low",
    "state": "ok",
    "node": "oak",
    "age_s": 41.0,
    "run_s": 2.5,
}


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> CommandFleet:
    made = CommandFleet({"members": {"members": MEMBERS}})
    monkeypatch.setattr("swarm.connect", lambda **_: made, raising=False)
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "home"))
    return Home.resolve()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_where_to_look_for_a_fleet_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def connect(**options: Any) -> CommandFleet:
        asked.append(options)
        return CommandFleet({"members": {"members": []}})

    monkeypatch.setattr("swarm.connect", connect, raising=False)
    assert main(["members", "--seed", "a:1", "--seed", "b:2", "--connect-timeout", "1m"]) == ExitCode.OK
    assert asked == [{"seeds": ["a:1", "b:2"], "timeout_s": 60.0}]


def test_status_at_a_glance(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["status"] = {
        "fleet": "lab-7f3a",
        "node": {"name": "oak", "id": "3kf9x2aaaa", "up_s": 302.0},
        "tasks": {"waiting": 1200, "running": 2},
        "blob_bytes": 3 << 20,
        "members": MEMBERS,
    }
    assert main(["status"]) == ExitCode.OK
    lines = said(capsys).splitlines()
    assert lines[:4] == [
        "fleet  lab-7f3a, 2 nodes",
        "asked  oak 3kf9x2, up 5 min 2 s",
        "tasks  1,200 waiting, 2 running",
        "blobs  3.0 MiB",
    ]
    assert lines[6].split() == ["elm", "9zzz00", "suspect", "0/2", "0", "10.0.0.2:4000"]
    assert all(len(line) <= 80 for line in lines)
    assert main(["status", "--json"]) == ExitCode.OK
    assert json.loads(said(capsys)) == fleet.answers["status"]


def test_status_tells_the_classes_of_each_node(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    oak, elm = MEMBERS[1], MEMBERS[0]
    classes = {"low": {"running": 0, "suspended": 2}, "critical": {"running": 1, "suspended": 0}}
    fleet.answers["status"] = {"fleet": "lab", "members": [oak, elm | {"classes": classes}]}
    assert main(["status"]) == ExitCode.OK
    lines = said(capsys).splitlines()
    assert lines[2].split()[:6] == ["NODE", "ID", "STATE", "BUSY", "WAITING", "RUNNING"]
    assert "1 critical, 0 low (2 suspended)" in next(line for line in lines if line.startswith(elm["name"]))


def test_members_and_their_certificates(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["members"]) == ExitCode.OK
    assert said(capsys).splitlines()[2].split()[:5] == ["oak", "3kf9x2", "alive", "2/4", "1,200"]
    assert main(["fleet", "members"]) == ExitCode.OK
    assert said(capsys).splitlines()[2].split() == ["oak", "3kf9x2", "node", "alive", "code", "in", "300", "d"]
    assert main(["members", "--json"]) == ExitCode.OK
    assert json.loads(said(capsys)) == MEMBERS


def test_tasks_are_listed(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["tasks"] = {"tasks": [TASK, {**TASK, "state": "waiting", "node": "", "run_s": None}]}
    assert main(["task", "list", "--state", "ok", "--state", "waiting", "--limit", "7"]) == ExitCode.OK
    lines = said(capsys).splitlines()
    assert lines[1].split() == ["abcdef", "render", "LOW", "ok", "oak", "41", "s", "ago", "2.5", "s"]
    assert fleet.asked[-1] == ("tasks", {"limit": 7, "states": ["ok", "waiting"]})
    assert main(["task", "list", "--json"]) == ExitCode.OK
    assert json.loads(said(capsys))[0] == TASK


def test_one_task_is_shown_and_explained(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["task"] = TASK
    fleet.answers["explain"] = {"lines": ["abcdef render  LOW  waiting", "oak: 2 of 2 slots taken"]}
    assert main(["task", "show", "abc"]) == ExitCode.OK
    assert "run       2.5 s" in said(capsys).splitlines()
    assert main(["task", "explain", "abc"]) == ExitCode.OK
    assert said(capsys) == "abcdef render  LOW  waiting\n  oak: 2 of 2 slots taken\n"
    assert fleet.asked[-1] == ("explain", {"task": "abc"})


@pytest.mark.parametrize(
    ("state", "status"),
    [("ok", ExitCode.OK), ("failed", ExitCode.FAILED), ("lost", ExitCode.LOST), ("cancelled", ExitCode.CANCELLED),
     ("timeout", ExitCode.TIMEOUT), ("refused", ExitCode.REFUSED)],
)  # fmt: skip
def test_waiting_ends_with_the_status_of_the_task(state: str, status: ExitCode, fleet: CommandFleet) -> None:
    states = iter(["waiting", "running", state])
    fleet.answers["task"] = lambda task: {**TASK, "state": next(states)}
    assert main(["task", "wait", "abc"]) == status


def test_every_final_state_has_its_status() -> None:
    from nodes.cli.task import EXITS
    from swarm.protocol.states import FINAL_BELOW, Status

    assert set(EXITS) == {status.name.lower() for status in Status if status < FINAL_BELOW}


def test_waiting_has_an_end(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["task"] = {**TASK, "state": "waiting"}
    assert main(["task", "wait", "abc", "--timeout", "50ms"]) == ExitCode.TIMEOUT
    assert "explain" in capsys.readouterr().err


def test_a_task_that_is_not_known(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    def unknown(task: str) -> None:
        raise NotFound(f"no task begins with {task}", hint="`swarm task list` shows them")

    fleet.answers["task"] = unknown
    assert main(["task", "show", "zzz"]) == ExitCode.NOT_FOUND
    assert capsys.readouterr().err.startswith("error: no task begins with zzz\n")


def test_logs_go_where_they_were_written_and_are_followed_to_the_end(
    fleet: CommandFleet, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    states = iter(["running", "running", "ok"])
    written = [["out", b"one\n"], ["err", b"two\n"], ["out", b"\xff\n"]]

    def logs(task: str, offset: int) -> dict[str, Any]:
        return {"chunks": written[offset : offset + 1], "offset": min(3, offset + 1), "dropped": 5}

    fleet.answers |= {"task": lambda task: {**TASK, "state": next(states)}, "logs": logs}
    assert main(["task", "logs", "-f", "abc"]) == ExitCode.OK
    out, err = capfdbinary.readouterr()
    assert out == b"one\n\xff\n"
    assert err == b"(5 bytes before this were not kept)\ntwo\n"


def test_cancel_says_what_came_of_it(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    states = {"a": "cancelled", "b": "ok"}
    fleet.answers["cancel"] = lambda task: {**TASK, "id": task * 10, "state": states[task]}
    assert main(["task", "cancel", "a", "b"]) == ExitCode.OK
    assert said(capsys).splitlines() == ["aaaaaa render: cancelled", "bbbbbb render: had ended before"]


def test_a_fleet_is_made_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "init", "--name", "lab"]) == ExitCode.OK
    assert "lab made" in said(capsys)
    assert main(["fleet", "init", "--json"]) == ExitCode.OK
    told = json.loads(said(capsys))
    assert (told["fleet"], told["made"]) == ("lab", False)
    assert main(["fleet", "init", "--name", "other"]) == ExitCode.USAGE
    assert Fleet.load(home.fleet_dir).name == "lab"


def test_a_token_is_made_by_the_node_that_redeems_it(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["token"] = {"token": "swarm-join-1:x", "endpoints": ["10.0.0.1:4000"]}
    assert main(["fleet", "token", "--expires", "1h", "--uses", "3", "--no-code"]) == ExitCode.OK
    assert said(capsys) == "swarm-join-1:x\n", "a pipe gets the token alone"
    assert fleet.asked[-1] == ("token", {"ttl_s": 3600.0, "uses": 3, "role": "node", "grants": []})


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Another home's fleet, whose node answers every request to join."""
    theirs = create_fleet(tmp_path / "issuer", "lab", "oak")

    async def answer(endpoint: str, message: bytes, *, server_key: bytes, timeout_s: float) -> bytes:
        from transport.links import HandshakeFailed

        assert endpoint.startswith("tcp://")
        assert server_key == b"k" * 32
        if endpoint.startswith("tcp://10.9"):
            raise HandshakeFailed("unreachable", f"nobody at {endpoint}", "is it on?")
        return TokenBook(theirs).answer(message, time.time()).reply

    monkeypatch.setattr("transport.zmq_links.request_join", answer)
    return theirs


def token_of(fleet: Fleet, *endpoints: str, **options: Any) -> str:
    return TokenBook(fleet).issue(time.time(), issuer_key=b"k" * 32, endpoints=endpoints, **options).text


def test_joining_brings_a_node_and_its_user_in(home: Home, issuer: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    token = token_of(issuer, "10.9.0.1:1", "127.0.0.1:2")
    assert main(["fleet", "join", token, "--name", "elm"]) == ExitCode.OK
    assert said(capsys) == "joined lab as elm. Trusts: admin oak. Next: swarm node --name elm\n"
    joined = Fleet.load(home.fleet_dir)
    assert joined.id == issuer.id
    assert not joined.is_admin
    for directory in (home.node_dir("elm"), home.data / "client"):
        assert (directory / "certificate").stat().st_mode & 0o077 == 0
    assert main(["fleet", "join", token, "--name", "elm"]) == ExitCode.OK, "the same machine may repeat it"


@pytest.mark.parametrize(
    ("options", "words", "told"),
    [
        ({"ttl_s": 0.001}, [], "expired"),
        ({"role": "client"}, [], "joined lab as client"),
    ],
)
def test_a_token_that_does_not_fit(
    options: dict[str, Any], words: list[str], told: str, home: Home, issuer: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    token = token_of(issuer, "127.0.0.1:2", **options)
    time.sleep(0.01)
    status = main(["fleet", "join", token, *words])
    out, err = capsys.readouterr()
    assert told in out + err
    assert status == (ExitCode.DENIED if "expired" in told else ExitCode.OK)


def test_another_fleet_is_not_left_by_accident(home: Home, issuer: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    create_fleet(home.fleet_dir, "mine", "me")
    token = token_of(issuer, "127.0.0.1:2")
    assert main(["fleet", "join", token]) == ExitCode.USAGE
    assert "--replace" in capsys.readouterr().err
    assert Fleet.load(home.fleet_dir).name == "mine"
    assert main(["fleet", "join", token, "--replace"]) == ExitCode.OK
    assert Fleet.load(home.fleet_dir).name == "lab"


def test_nobody_at_home_is_told(home: Home, issuer: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "join", token_of(issuer, "10.9.0.1:1")]) == ExitCode.NO_FLEET
    assert capsys.readouterr().err == "error: nobody at tcp://10.9.0.1:1\n\nhint: is it on?\n"
    assert not (home.fleet_dir / "fleet").exists()


def test_withdrawn_tokens_are_worthless(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    mine = create_fleet(home.fleet_dir, "mine", "me")
    token_of(mine, "127.0.0.1:2")
    assert main(["fleet", "token", "--withdraw"]) == ExitCode.OK
    assert said(capsys) == "1 tokens withdrawn\n"
    assert TokenBook(mine).entries() == []


def test_revoking_by_name_or_unambiguous_id(fleet: CommandFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.answers["revoke"] = lambda member, reason: {"id": member, "name": "elm"}
    assert main(["fleet", "revoke", "elm", "--reason", "lost"]) == ExitCode.OK
    assert fleet.asked[-1] == ("revoke", {"member": "9zzz00", "reason": "lost"})
    assert said(capsys) == "elm is revoked and cut off\n"
    fleet.answers["members"] = {"members": [{"name": "a", "id": "33"}, {"name": "b", "id": "34"}]}
    assert main(["fleet", "revoke", "3"]) == ExitCode.NOT_FOUND
    assert "33 or 34" in capsys.readouterr().err


def test_settings_are_shown_with_their_origin(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWARM_LOG_LEVEL", "debug")
    assert main(["config", "show", "--workers", "3", "--seed", "a:1"]) == ExitCode.OK
    shown = {line.split()[0]: line.split()[1:] for line in said(capsys).splitlines()}
    assert shown["node.workers"] == ["3", "--workers"]
    assert shown["log.level"] == ["debug", "SWARM_LOG_LEVEL"]
    assert shown["discovery.seeds"] == ["a:1", "--discovery-seeds"]
    assert shown["listen.host"] == ["auto", "default"]
    assert main(["config", "show", "--json"]) == ExitCode.OK
    told = json.loads(said(capsys))
    assert told["settings"]["log"] == {"format": "auto", "level": "debug"}
    assert told["origins"] == {"log.level": "SWARM_LOG_LEVEL"}


def test_a_check_lists_all_that_is_wrong(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "check"]) == ExitCode.OK
    assert said(capsys).startswith("fine: no file")
    home.config.mkdir(parents=True)
    home.settings_file.write_text("[node]\nworkers = -3\nlable = []\n")
    assert main(["config", "check"]) == ExitCode.CONFIG
    out = said(capsys)
    assert f"{home.settings_file}:2: node.workers = -3" in out
    assert f"{home.settings_file}:3: node.lable: no such setting\n    did you mean labels?" in out
    assert main(["config", "check", "--json"]) == ExitCode.CONFIG
    assert len(json.loads(said(capsys))["problems"]) == 2


def test_a_node_gets_its_settings_before_anything_is_opened(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import nodes.serving

    served: list[Any] = []

    def serve(loaded: Any, where: Home) -> int:
        served.append((loaded.settings, where))
        return 0

    monkeypatch.setattr(nodes.serving, "serve", serve)
    assert main(["node", "--workers", "many"]) == ExitCode.CONFIG
    assert served == []
    words = [
        "--workers",
        "2",
        "--no-discovery-mdns",
        "--module",
        "a",
        "--module",
        "b,c",
        "--resource",
        "gpu=1",
        "-l",
        "debug",
    ]
    assert main(["node", *words, "--drain-timeout-s", "5s"]) == ExitCode.OK
    ((settings, where),) = served
    assert where == home
    assert settings.node.modules == ("a", "b", "c")
    assert dict(settings.node.resources) == {"gpu": 1.0}
    assert (settings.node.workers, settings.node.drain_timeout_s) == (2, 5.0)
    assert settings.discovery.mdns is False
    assert settings.log.level == "debug"
