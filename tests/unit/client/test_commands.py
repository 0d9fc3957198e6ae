"""Input of commands: bounded by what the command takes, in order and whole whatever happens to links and attempts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from swarm.client.commands import CommandFuture
from swarm.errors import NotAccepted, TaskLost
from swarm.payload import encode_value
from swarm.protocol.states import Status
from tests.unit.client.fake_node import Node, World
from transport.bounds import INPUT_CHUNK_BYTES, INPUT_KEPT_BYTES, INPUT_WINDOW_BYTES, OUTPUT_REPORT_BYTES

WAIT_S = 30


@pytest.fixture
def world() -> Iterator[World]:
    with World("oak") as made:
        made.nodes[0].answers = lambda header: "hold"
        yield made


def begin(world: World, **options: Any) -> tuple[Node, CommandFuture, bytes]:
    """A command that has begun, and the key of its batch."""
    node = world.nodes[0]
    command = world.fleet.submit_command(["cat"], stdin=True, **options)
    key = world.eventually(lambda: next(iter(node.held), None))
    world.do(node.event, key, 0, "started")
    world.eventually(command.running)
    return node, command, key


def received(node: Node) -> bytes:
    """What a worker makes of the input that came: by offsets, each byte once."""
    data = bytearray()
    for what, offset, body in node.inputs:
        if what == "in":
            assert offset <= len(data), "a gap"
            data += body[len(data) - offset :]
    return bytes(data)


def writes(command: CommandFuture, data: bytes) -> tuple[threading.Thread, list[BaseException]]:
    """Write in a thread; what that raised."""
    raised: list[BaseException] = []

    def write() -> None:
        try:
            command.send_input(data)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread, raised


def test_a_writer_waits_for_a_command_that_does_not_read(world: World) -> None:
    node, command, key = begin(world)
    data = bytes(range(256)) * (3 * INPUT_WINDOW_BYTES // 256)
    writer, raised = writes(command, data)
    world.eventually(lambda: sum(len(body) for _, _, body in node.inputs) >= INPUT_WINDOW_BYTES, WAIT_S)
    writer.join(0.2)
    assert writer.is_alive()
    assert sum(len(body) for _, _, body in node.inputs) < INPUT_WINDOW_BYTES + INPUT_CHUNK_BYTES
    taken = 0
    while taken < len(data):
        taken = min(len(data), taken + INPUT_WINDOW_BYTES // 2)
        world.eventually(lambda: len(received(node)) >= taken, WAIT_S)
        world.do(node.event, key, 0, "took", taken)
    writer.join(WAIT_S)
    command.close_input()
    world.eventually(lambda: node.inputs[-1] == ("in", len(data), b""), WAIT_S)
    assert received(node) == data and not raised


@pytest.mark.parametrize("how", ["reads no more", "ends", "client closes"])
def test_a_writer_that_waits_is_told_when_nobody_will_read(world: World, how: str) -> None:
    node, command, key = begin(world)
    writer, raised = writes(command, bytes(2 * INPUT_WINDOW_BYTES))
    world.eventually(lambda: sum(len(body) for _, _, body in node.inputs) >= INPUT_WINDOW_BYTES, WAIT_S)
    if how == "reads no more":
        world.do(node.event, key, 0, "took", None)
    elif how == "ends":
        world.do(node.outcomes, key, [(0, Status.OK, encode_value({"exit": 0}))])
    else:
        world.fleet.close(cancel=True)
    writer.join(WAIT_S)
    assert [type(error) for error in raised] == [BrokenPipeError]
    with pytest.raises(BrokenPipeError):
        command.send_input(b"more")


def test_what_came_before_the_command_began_is_bounded_too(world: World) -> None:
    node = world.nodes[0]
    command = world.fleet.submit_command(["cat"], stdin=True)
    key = world.eventually(lambda: next(iter(node.held), None))
    data = bytes(2 * INPUT_WINDOW_BYTES)
    writer, raised = writes(command, data)
    writer.join(0.2)
    assert writer.is_alive() and not node.inputs
    command.signal(2)
    world.do(node.event, key, 0, "started")
    world.eventually(lambda: len(received(node)) >= INPUT_WINDOW_BYTES, WAIT_S)
    assert node.inputs[0] == ("signal", 2, b""), "a signal does not wait behind input"
    world.do(node.event, key, 0, "took", INPUT_WINDOW_BYTES)
    world.eventually(lambda: received(node) == data, WAIT_S)
    writer.join(WAIT_S)
    assert not raised


def test_what_may_not_have_arrived_is_sent_again_over_the_next_link(world: World) -> None:
    node, command, key = begin(world)
    command.send_input(b"a" * 1000)
    world.eventually(lambda: len(received(node)) == 1000)
    world.do(node.event, key, 0, "took", 600)
    world.eventually(lambda: command._taken == 600)
    take, lost = node.on_input, []
    node.on_input = lambda header, body: lost.append(header["v"])  # type: ignore[method-assign]
    command.send_input(b"b" * 1000)
    command.close_input()
    world.eventually(lambda: 2000 in lost)

    def cut() -> None:
        node.inputs.clear()
        node.on_input = take  # type: ignore[method-assign]
        assert node.link is not None
        node.link.close("a cable")

    world.do(cut)
    world.eventually(lambda: node.inputs and node.inputs[-1] == ("in", 2000, b""))
    assert node.inputs[:2] == [("heard", 0, b""), ("again", 0, b"")], "and output, too"
    assert node.inputs[2][1] == 600, "from what the command is known to have taken"
    assert b"".join(body for _, _, body in node.inputs) == b"a" * 400 + b"b" * 1000


def test_another_attempt_gets_the_input_from_its_beginning(world: World) -> None:
    node, command, key = begin(world, retries=1)
    command.send_input(b"first")
    world.eventually(lambda: received(node) == b"first")
    world.do(node.event, key, 0, "took", 5)
    node.inputs.clear()
    world.do(node.event, key, 0, "started")
    world.eventually(lambda: node.inputs)
    command.send_input(b" second")
    command.close_input()
    world.eventually(lambda: node.inputs and node.inputs[-1] == ("in", 12, b""))
    assert received(node) == b"first second"


def test_another_attempt_without_the_whole_input_is_lost_rather_than_wrong(world: World) -> None:
    node, command, key = begin(world, rerun=True)
    given = 0
    while given <= INPUT_KEPT_BYTES:
        command.send_input(bytes(INPUT_WINDOW_BYTES))
        given += INPUT_WINDOW_BYTES
        world.eventually(lambda: sum(len(body) for _, _, body in node.inputs) == given, WAIT_S)
        world.do(node.event, key, 0, "took", given)
    # and what is not needed is not kept
    world.eventually(lambda: len(command._data) <= INPUT_WINDOW_BYTES)
    world.do(node.event, key, 0, "started")
    with pytest.raises(TaskLost, match="input") as caught:
        command.result(WAIT_S)
    assert "--in" in caught.value.hint
    world.eventually(lambda: node.cancelled)


def test_output_is_credited_when_it_is_consumed(world: World) -> None:
    got: list[bytes] = []

    def later(stream: str, data: bytes) -> bool:
        got.append(data)
        return False

    node, command, key = begin(world, on_output=later)
    for offset in range(0, 2 * OUTPUT_REPORT_BYTES, 65536):
        world.do(node.event, key, 0, "out" if offset % 131072 else "err", offset, bytes(65536))
    world.eventually(lambda: sum(map(len, got)) == 2 * OUTPUT_REPORT_BYTES)
    assert not node.inputs
    command.took_output(OUTPUT_REPORT_BYTES - 1)
    assert not world.do(lambda: node.inputs)
    command.took_output(1)
    world.eventually(lambda: node.inputs == [("heard", OUTPUT_REPORT_BYTES, b"")])
    world.do(node.event, key, 0, "started")  # another attempt: what the first one said counts for nothing there
    world.eventually(lambda: command._stale == OUTPUT_REPORT_BYTES)
    command.took_output(OUTPUT_REPORT_BYTES)
    world.do(node.event, key, 0, "out", 0, bytes(OUTPUT_REPORT_BYTES))
    world.eventually(lambda: command._heard == OUTPUT_REPORT_BYTES)
    command.took_output(OUTPUT_REPORT_BYTES)
    world.eventually(lambda: node.inputs == 2 * [("heard", OUTPUT_REPORT_BYTES, b"")])


def test_a_listener_that_fails_holds_nothing_up(world: World) -> None:
    def fails(stream: str, data: bytes) -> None:
        raise RuntimeError("a mistake of the user's")

    node, _, key = begin(world, on_output=fails)
    world.do(node.event, key, 0, "out", 0, bytes(OUTPUT_REPORT_BYTES))
    world.eventually(lambda: node.inputs == [("heard", OUTPUT_REPORT_BYTES, b"")])


def test_output_that_was_left_out_is_asked_for_and_nothing_comes_twice(world: World) -> None:
    got: list[tuple[str, bytes]] = []
    node, command, key = begin(world, on_output=lambda *chunk: got.append(chunk))
    world.do(node.event, key, 0, "out", 0, b"one")
    for _ in range(3):
        world.do(node.event, key, 0, "out", 6, b"ree")
    world.eventually(lambda: node.inputs)
    assert node.inputs == [("again", 3, b"")], "asked once"
    for offset, data in ((0, b"one"), (2, b"etw"), (5, b"oth"), (6, b"th")):
        world.do(node.event, key, 0, "out", offset, data)
    world.do(node.event, key, 0, "err", 8, b"!")
    world.do(node.outcomes, key, [(0, Status.OK, encode_value({"exit": 0, "written": 9}))])
    assert command.result(WAIT_S)["exit"] == 0
    assert got == [("out", b"one"), ("out", b"tw"), ("out", b"oth"), ("err", b"!")]


def test_a_result_whose_output_did_not_come_whole_is_no_result(world: World) -> None:
    node, command, key = begin(world, on_output=lambda *chunk: None)
    world.do(node.event, key, 0, "out", 0, b"one")
    world.do(node.outcomes, key, [(0, Status.OK, encode_value({"exit": 0, "written": 9}))])
    with pytest.raises(TaskLost, match="6 bytes") as caught:
        command.result(WAIT_S)
    assert "--out" in caught.value.hint


def test_in_a_callback_nothing_waits(world: World) -> None:
    node, command, key = begin(world)
    command.send_input(bytes(INPUT_WINDOW_BYTES))
    raised: list[BaseException] = []

    def answer(_: Any) -> None:
        try:
            command.send_input(b"reply")
        except NotAccepted as error:
            raised.append(error)

    command.add_progress_callback(answer)
    world.do(node.event, key, 0, "progress", {"done": 1})
    world.eventually(lambda: raised)
    world.do(node.event, key, 0, "took", INPUT_WINDOW_BYTES)
    world.do(node.event, key, 0, "progress", {"done": 2})
    world.eventually(lambda: received(node).endswith(b"reply"))
    assert len(raised) == 1
