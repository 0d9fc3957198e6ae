"""What users, machines and strangers do wrong: each is told in words that say what to do, and costs nothing that runs."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from nodes.headers import INPUTS
from swarm.client.sync import Fleet
from swarm.exit_codes import ExitCode
from swarm.protocol import ids
from swarm.protocol.messages import Kind, encode
from tests.e2e.fleets import ROOT, Nodes, until

MODULES = {
    "works_well": "def double(x):\n    return 2 * x\n",
    "needs_more": "import nowhere_to_be_found\n\ndef double(x):\n    return 2 * x\n",
    "is_broken": "def double(x)\n    return 2 * x\n",
    "is_a_script": "import sys\nsys.exit('usage: is_a_script FILE')\n",
}
RESULT_BYTES = 200_000


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    nodes = Nodes(tmp_path_factory.mktemp("b"), settings={"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"})
    nodes.start(
        "oak", "--workers", "3", "--modules", ",".join(MODULES), "--limits-result-bytes", str(RESULT_BYTES)
    )  # fmt: skip
    yield nodes
    assert nodes.stop_all() == {"oak": 0}


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        yield fleet


def until_there(path: str) -> int:
    """A task that runs until a file is there. Which attempt it is."""
    while not os.path.exists(path):
        time.sleep(0.02)
    task = swarm.current_task()
    assert task is not None
    return task.attempt


@pytest.fixture(autouse=True)
def running(fleet: Fleet, tmp_path: Path) -> Iterator[None]:
    """Something that runs the whole time, and must not be disturbed."""
    gate = tmp_path / "gate"
    future = fleet.submit(until_there, str(gate))
    until(lambda: (fleet.query("status")["tasks"]).get("running"), 60, "it runs")
    yield
    assert not future.done()
    gate.touch()
    assert future.result(60) == 1, "its first attempt"


def refused(done: subprocess.CompletedProcess[bytes], status: int, *words: str) -> str:
    """One line of error, and a hint; no traceback."""
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert "Traceback" not in said
    assert said.count("error: ") == 1 and "hint: " in said, said
    for word in words:
        assert word in said, said
    return said


# --- settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\nworkres = 2\n", ("settings.toml:2", "workres", "workers")),
        ("[nodes]\nworkers = 2\n", ("settings.toml:1", "nodes", "node")),
        ("[node]\nworkers = 'many'\n", ("settings.toml:2", "workers", "many")),
        ("[node\nworkers = 2\n", ("settings.toml", "line 1")),
    ],
)
def test_a_settings_file_with_a_mistake(nodes: Nodes, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    refused(nodes.cli("node", "--name", "elm", "--config", str(file)), ExitCode.CONFIG, *words)
    checked = nodes.cli("config", "check", "--config", str(file))
    assert checked.returncode == ExitCode.CONFIG
    assert all(word in (checked.stdout + checked.stderr).decode() for word in words)


def test_a_variable_and_a_flag_that_are_no_settings(nodes: Nodes) -> None:
    env, nodes.env = nodes.env, {**nodes.env, "SWARM_LOG_LEVL": "debug"}
    try:
        refused(nodes.cli("node", "--name", "elm"), ExitCode.CONFIG, "SWARM_LOG_LEVL", "SWARM_LOG_LEVEL")
    finally:
        nodes.env = env
    refused(nodes.cli("node", "--wrokers", "2"), ExitCode.USAGE, "--wrokers", "swarm node --help")


# --- keys and tokens


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("fleet/admin.key", lambda path: path.chmod(0o644), ("admin.key", "chmod")),
        ("fleet/secret", lambda path: path.write_bytes(b"short"), ("secret", "backup")),
        ("fleet/fleet", lambda path: path.unlink(), ("fleet", "backup")),
        ("nodes/elm/keys", lambda path: path.write_bytes(path.read_bytes()[:40]), ("keys", "backup")),
        ("nodes/elm/certificate", lambda path: path.write_bytes(bytes(100)), ("certificate", "backup")),
        ("nodes/elm/keys", lambda path: (path.unlink(), path.mkdir()), ("keys",)),
    ],
)
def test_keys_that_can_not_be_read(
    nodes: Nodes, tmp_path: Path, file: str, damage: Callable[[Path], Any], words: tuple[str, ...]
) -> None:
    """In a copy of the home, so that the running fleet is no more concerned than by the copy."""
    damaged = Nodes(tmp_path / "copy")
    shutil.copytree(nodes.home.data, damaged.home.data)
    damaged.start("elm", "--workers", "0")
    assert damaged.stop("elm") == 0
    damage(damaged.home.data / file)
    done = damaged.cli("node", "--name", "elm", "--workers", "0")
    assert done.returncode in (ExitCode.SYSTEM, ExitCode.DENIED, ExitCode.NO_FLEET), done.stderr
    refused(done, done.returncode, *words)


def test_tokens_that_admit_nobody(nodes: Nodes, tmp_path: Path) -> None:
    joiner = Nodes(tmp_path / "j")

    def token(*flags: str) -> str:
        made = nodes.cli("fleet", "token", *flags)
        assert made.returncode == 0, made.stderr
        return next(word for word in made.stdout.decode().split() if word.startswith("swarm-join-"))

    refused(joiner.cli("fleet", "join", "garbage"), ExitCode.DENIED, "no join token", "swarm-join-1:")
    good = token("--expires", "10m")
    at = len(good) // 2
    typo = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
    refused(joiner.cli("fleet", "join", typo), ExitCode.DENIED)
    short = token("--expires", "1s")
    time.sleep(1.5)
    refused(joiner.cli("fleet", "join", short), ExitCode.DENIED, "expired", "swarm fleet token")
    assert nodes.cli("fleet", "token", "--withdraw").returncode == 0
    refused(joiner.cli("fleet", "join", good), ExitCode.DENIED, "swarm fleet token")
    assert not (joiner.home.data / "fleet" / "fleet").exists(), "nothing of the fleet is there"
    once = token()
    assert joiner.cli("fleet", "join", once).returncode == 0
    refused(Nodes(tmp_path / "k").cli("fleet", "join", once), ExitCode.DENIED, "used", "swarm fleet token")


# --- the system


def test_a_port_in_use(nodes: Nodes, fleet: Fleet) -> None:
    port = fleet.query("status")["node"]["port"]
    refused(
        nodes.cli("node", "--name", "elm", "--listen-port", str(port)), ExitCode.SYSTEM, str(port), "--listen-port"
    )  # fmt: skip
    refused(nodes.cli("node", "--name", "oak"), ExitCode.SYSTEM, "oak runs already", "--name")


def test_a_port_for_metrics_in_use_is_told_and_the_node_works(nodes: Nodes) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        nodes.start("elm", "--workers", "0", "--http-port", str(other.getsockname()[1]))
        try:
            until(lambda: "http.refused" in nodes.log("elm"), 60, "it says so")
            assert str(other.getsockname()[1]) in nodes.log("elm")
            with nodes.connect("elm") as fleet:
                assert fleet.query("status")["node"]["http"] is None
        finally:
            assert nodes.stop("elm") == 0


# --- modules and results


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("needs_more", ("needs_more", "nowhere_to_be_found", "install")),
        ("is_broken", ("is_broken", "SyntaxError", "install")),
        ("is_a_script", ("is_a_script", "SystemExit", "install")),
        ("never_named", ("never_named", "works_well", "--modules never_named")),
    ],
)
def test_a_module_that_can_not_be_imported_on_a_node(
    nodes: Nodes, fleet: Fleet, name: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(swarm.TaskRefused) as caught:
        fleet.submit(f"{name}:double", 1).result(60)
    said = f"{caught.value.message} {caught.value.hint}"
    assert all(word in said for word in words), said
    assert fleet.submit("works_well:double", 21).result(60) == 42, "and the worker goes on"


def test_a_module_of_the_callers_that_the_nodes_do_not_have(fleet: Fleet) -> None:
    def needs() -> int:
        import nowhere_to_be_found

        return int(nowhere_to_be_found.x)

    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        fleet.submit(needs).result(60)


def test_results_that_can_not_be_carried_cost_their_own_task_only(fleet: Fleet) -> None:
    size = 10 * RESULT_BYTES

    def gives(what: str) -> Any:
        import threading

        if what == "unpicklable":
            return threading.Lock()
        if what == "large":
            return list(range(100_000))
        if what == "large bytes":
            return bytes(size)
        if what == "pickles with a crash":

            class Mean:
                def __reduce__(self) -> Any:
                    raise RuntimeError("not me")

            return Mean()
        return sys.version_info[0]

    whats = ["", "unpicklable", "", "large", "", "large bytes", "", "pickles with a crash", ""]
    futures = [fleet.submit(gives, what) for what in whats]
    said: dict[str, Exception] = {}
    for what, future in zip(whats, futures):
        if what:
            with pytest.raises(swarm.SwarmError) as caught:
                future.result(60)
            said[what] = caught.value
        else:
            assert future.result(60) == 3
    for what, words in {
        "unpicklable": ("lock", "pickle"),
        "large": (str(RESULT_BYTES), "write it to a file"),
        "large bytes": (str(RESULT_BYTES), "write it to a file"),
        "pickles with a crash": ("not me",),
    }.items():
        text = f"{said[what]} {getattr(said[what], 'hint', '')}"
        assert all(word in text for word in words), (what, text)


# --- strangers and members that do not behave


def test_garbage_from_strangers(nodes: Nodes, fleet: Fleet) -> None:
    rng = random.Random(1)
    port = fleet.query("status")["node"]["port"]
    until(lambda: fleet.query("status")["node"]["http"], 60, "its pages are there")
    http = int(fleet.query("status")["node"]["http"].rpartition(":")[2])
    pieces = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(60),
        b"\xff\xff\xff\xff" * 5000,
        rng.randbytes(100_000),
        b"A" * 70_000,
    ]
    unix = str(nodes.home.node_socket("oak"))
    left: list[socket.socket] = []
    for piece in pieces:
        for family, where in (
            (socket.AF_INET, ("127.0.0.1", port)),
            (socket.AF_INET, ("127.0.0.1", http)),
            (socket.AF_UNIX, unix),
        ):
            sock = socket.socket(family)
            sock.settimeout(60)
            left.append(sock)
            try:
                sock.connect(where)
                sock.sendall(piece)
            except OSError:
                pass  # it need not listen to the end
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for size in (0, 1, 24, 41, 100, 1200, 1400):
            udp.sendto(rng.randbytes(size), ("127.0.0.1", port))
    until(
        lambda: "link.refused" in (nodes.root / "oak.log").read_text(errors="replace"), 60, "it is counted and logged"
    )
    assert fleet.submit(abs, -3).result(60) == 3
    with nodes.connect("oak") as another:
        assert another.submit(abs, -4).result(60) == 4, "who comes properly is let in meanwhile"
    for sock in left:
        sock.close()


HOSTILE: dict[str, tuple[Kind, dict[str, Any], bytes]] = {
    "no message": (Kind.SUBMIT, {}, b""),
    "columns that are none": (Kind.SUBMIT, {"b": b"k" * 12, "s": b"\x80", "n": 1 << 31, "r": 0}, b"\xff" * 40),
    "a spec that is none": (Kind.SUBMIT, {"b": b"k" * 12, "s": b"\xc1", "n": 1}, bytes(4)),
    "input that is a text": (Kind.INPUT, {"b": b"k" * 12, "i": 0, "e": "in", "v": "x"}, b"x"),
    "a signal without a number": (Kind.INPUT, {"b": b"k" * 12, "i": 0, "e": "signal", "v": -1}, b""),
    "an index beyond all": (Kind.INPUT, {"b": b"k" * 12, "i": -(1 << 63), "e": "ack", "v": 1 << 40}, b""),
    "outcomes of somebody's": (Kind.OUTCOMES, {"d": 1, "n": 1}, bytes(40)),
    "a dispatch": (Kind.DISPATCH, {"d": 1, "b": b"k" * 12, "s": b"\x80", "n": 1}, bytes(40)),
    "a question without a number": (Kind.QUERY, {"m": "status"}, b""),
    "a question about nothing": (Kind.QUERY, {"q": 1, "m": "tasks", "a": [1]}, b""),
    "ranges that are none": (Kind.CANCEL, {"b": b"k" * 12, "r": [[5, 1]]}, b""),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_member_that_says_nonsense_harms_nobody_else(nodes: Nodes, fleet: Fleet, what: str) -> None:
    kind, header, body = HOSTILE[what]
    with nodes.connect("oak") as hostile:
        engine = hostile._engine
        link = engine.link
        assert link is not None
        # the batch of a command of its own that runs: its keys get further than those of nobody
        command = hostile.submit_command(["sleep", "60"], stdin=True)
        until(command.running, 60, "its command runs")
        if "b" in header:
            key = ids.batch_key(engine.session_id, command._batch.number)
            header = header | {"b": key if kind != Kind.SUBMIT else header["b"]}
        message = encode(kind, header) + body
        engine._loop.call_soon_threadsafe(link.send, message)
        assert fleet.submit(abs, -5).result(60) == 5
        assert fleet.query("status")["node"]["name"] == "oak"
        command.cancel()
    assert INPUTS.keys() == {"in", "heard", "again", "signal", "ack"}, "each has its bad number above"


def test_noise_behind_a_good_handshake_costs_the_link_only(nodes: Nodes, fleet: Fleet) -> None:
    rng = random.Random(2)
    with nodes.connect("oak") as hostile:
        for _ in range(10):
            link = hostile._engine.link
            if link is not None:
                hostile._engine._loop.call_soon_threadsafe(_send_quietly, link, rng.randbytes(rng.randrange(1, 300)))
            time.sleep(0.02)
        assert fleet.submit(abs, -6).result(60) == 6
        until(lambda: hostile._engine.link is not None and hostile._engine.link.up, 60, "it may come again")
        assert hostile.submit(abs, -7).result(60) == 7
    until(lambda: "peer.violation" in (nodes.root / "oak.log").read_text(errors="replace"), 60, "it is told")


def _send_quietly(link: Any, message: bytes) -> None:
    try:
        link.send(message)
    except Exception:
        pass  # it is down already: that is what is wanted


def test_nobody_is_served_who_says_nothing(nodes: Nodes, fleet: Fleet) -> None:
    """More silent connections than may be unverified: they are cut, and the fleet stays open for its members."""
    unix = str(nodes.home.node_socket("oak"))
    silent: list[socket.socket] = []
    for _ in range(300):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        try:
            sock.connect(unix)
        except OSError:
            sock.close()
            time.sleep(0.01)
            continue
        silent.append(sock)
    assert fleet.submit(abs, -8).result(60) == 8, "who is linked is not touched"
    came: list[int] = []

    def come() -> None:
        with nodes.connect("oak") as another:
            came.append(another.submit(abs, -9).result(60))

    coming = threading.Thread(target=come, daemon=True)
    coming.start()
    coming.join(90)
    assert came == [9], "and there is room again when the silent are cut"
    for sock in silent:
        sock.close()
