"""What durable tasks say on the wire: the kinds, their keys, and what becomes of them, over every reach.

Nodes are real but for their workers: consensus runs over the links, and journals are on the disk. Who is linked to one of
them has what it says passed on to who leads the log, and hears what any client hears.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from conftest import World, until
from durable_nodes import (
    LEVEL,
    RAW,
    DurableNode,
    Nodes,
    Speaker,
    columns_of,
    key_in,
    outcomes_of,
    standing_of,
)

from kernels.batch import OutcomeBuilder
from swarm.payload_failure import encode_notice
from swarm.protocol.ledger.homes import fleet_group
from swarm.protocol.ledger.records import digest_of
from swarm.protocol.messages import Kind, decode, encode
from swarm.protocol.resources import Capacity
from swarm.protocol.session import Accepted, Delivered, Ended, Session
from swarm.protocol.states import Status

Run = Callable[..., Any]
MakeWorld = Callable[[], contextlib.AbstractAsyncContextManager[World]]


@contextlib.asynccontextmanager
async def fleet_of(world: MakeWorld, *names: str) -> AsyncIterator[tuple[World, Nodes]]:
    async with world() as w:
        nodes = await Nodes.begin(w, names or ("oak", "elm", "fir"))
        try:
            yield w, nodes
        finally:
            await nodes.close()


def submitted(key: bytes, columns: bytes, count: int, **more: Any) -> dict[str, Any]:
    return {"b": key, "n": count, "s": RAW, "D": LEVEL, **more}


async def executor_of(w: World, node: DurableNode) -> Speaker:
    """A member that runs tasks, and whose words the test says."""
    speaker = await Speaker.linked(w, node, role="node", boot=b"runs----")
    id = speaker.peer.credentials.id
    await until(lambda: id in node.fabric.node_links)
    node.fabric.member_seen(id, "runner", Capacity({"cpu": 4.0}), {"free": 4.0, "wait": 0})
    return speaker


def test_a_batch_goes_through_another_node_and_so_do_its_receipt_and_outcomes(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world) as (w, nodes):
            oak, elm = nodes.nodes["oak"], nodes.nodes["elm"]
            runner, client = await executor_of(w, oak), await Speaker.linked(w, elm)
            key, columns = key_in(oak, 1), columns_of(3)
            client.say(Kind.SUBMIT, submitted(key, columns, 3, later="a key of a later version"), columns)
            _, dispatch, body = await runner.hear(Kind.DISPATCH)
            epoch = oak.fabric.ownership.led[fleet_group(oak.id)]
            assert set(dispatch) == {"b", "d", "a", "n", "s", "w", "g", "u", "x"}
            assert (dispatch["b"], dispatch["s"], dispatch["g"]) == (key, RAW, True)
            assert dispatch["x"]["token"] == [epoch, dispatch["d"]], "the fencing token: epoch and number"
            assert body == columns
            _, receipt, _ = await client.hear(Kind.ACCEPTED)
            assert receipt == {
                "b": key,
                "copies": receipt["copies"],
                "hosts": receipt["hosts"],
                "e": epoch,
                "r": 86_400.0,
            }
            assert 2 <= receipt["copies"] <= 3 and 2 <= receipt["hosts"] <= 3
            assert oak.fabric.ownership.batches[key].author == "ann"
            report = outcomes_of(3)
            runner.say(Kind.OUTCOMES, {"b": key, "d": dispatch["d"], "n": 3, "l": {}}, report)
            assert await client.hear(Kind.OUTCOMES) == (Kind.OUTCOMES, {"b": key, "n": 3}, report)
            await until(lambda: all(_state(node, oak, key).unfinished == 0 for node in nodes.nodes.values()))
            later = await Speaker.linked(w, nodes.nodes["fir"], boot=b"later---")
            later.say(Kind.SUBMIT, submitted(key, columns, 3), columns)
            assert (await later.hear(Kind.OUTCOMES))[2] == report, "the same batch again is attached to"
            assert (await later.hear(Kind.ACCEPTED))[1]["b"] == key
            assert len(runner.heard(Kind.DISPATCH)) == 1

    run(main())


def _state(node: DurableNode, home: DurableNode, key: bytes) -> Any:
    state = node.ledger.ledger.state(fleet_group(home.id))
    assert state is not None
    return state.batches[key]


def test_consensus_goes_over_every_reach_and_the_next_leader_has_what_was_accepted(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world) as (w, nodes):
            oak, elm, fir = (nodes.nodes[name] for name in ("oak", "elm", "fir"))
            client = await Speaker.linked(w, elm)
            key, columns = key_in(oak, 1), columns_of(1000, 1000)
            client.say(Kind.SUBMIT, submitted(key, columns, 1000), columns)
            _, first, _ = await client.hear(Kind.ACCEPTED)
            await oak.peer.links.close()
            nodes.nodes.pop("oak")
            await oak.close()
            await until(lambda: elm.leads(oak.id) or fir.leads(oak.id), 30)
            while len(client.heard(Kind.ACCEPTED)) < 2:  # as a client does that is told when to ask again
                answers = len(client.peer.seen.messages)
                client.say(Kind.SUBMIT, submitted(key, columns, 1000), columns)
                await until(lambda answers=answers: len(client.peer.seen.messages) > answers)
            assert client.heard(Kind.ACCEPTED)[1][1]["e"] == first["e"], "the epoch in which it was submitted"
            assert all(header["after"] is not None for _, header, _ in client.heard(Kind.REFUSED))
            leader = elm if elm.leads(oak.id) else fir
            assert digest_of(RAW, 1000, _state(leader, oak, key).submitted.columns) == digest_of(RAW, 1000, columns)

    run(main())


def test_other_content_under_a_known_id_is_refused_with_both_digests_also_through_another_node(
    run: Run, world: MakeWorld
) -> None:
    async def main() -> None:
        async with fleet_of(world) as (w, nodes):
            oak = nodes.nodes["oak"]
            client = await Speaker.linked(w, nodes.nodes["elm"])
            key, columns, other = key_in(oak, 1), columns_of(2), columns_of(2, 5)
            client.say(Kind.SUBMIT, submitted(key, columns, 2), columns)
            await client.hear(Kind.ACCEPTED)
            client.say(Kind.SUBMIT, submitted(key, other, 2), other)
            _, refusal, _ = await client.hear(Kind.REFUSED)
            assert set(refusal) == {"b", "reason", "message", "hint", "after"}
            assert (refusal["b"], refusal["reason"], refusal["after"]) == (key, "conflict", None)
            for one in (columns, other):
                assert digest_of(RAW, 2, one).hex() in refusal["message"]

    run(main())


def test_giving_up_and_letting_go_reach_the_leader_and_its_executors(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world) as (w, nodes):
            oak = nodes.nodes["oak"]
            runner, client = await executor_of(w, oak), await Speaker.linked(w, nodes.nodes["elm"])
            key, columns = key_in(oak, 1), columns_of(6)
            client.say(Kind.SUBMIT, submitted(key, columns, 6, R=0), columns)
            assert (await client.hear(Kind.ACCEPTED))[1]["r"] == 0.0
            await runner.hear(Kind.DISPATCH)
            client.say(Kind.CANCEL, {"b": key, "r": None})
            _, recall, _ = await runner.hear(Kind.RECALL)
            assert set(recall) == {"d", "r", "k"} and recall["k"] is True
            for _, dispatch, _ in runner.heard(Kind.DISPATCH):
                report = _cancelled(range(dispatch["a"], dispatch["a"] + dispatch["n"]))
                runner.say(Kind.OUTCOMES, {"b": key, "d": dispatch["d"], "n": dispatch["n"], "l": {}}, report)
            await until(lambda: sum(header["n"] for _, header, _ in client.heard(Kind.OUTCOMES)) == 6)
            state = oak.ledger.ledger.state(fleet_group(oak.id))
            assert state is not None and key in state.batches
            client.say(Kind.RELEASE, {"b": key})
            await until(lambda: key not in state.batches)

    run(main())


def _cancelled(rows: range) -> bytes:
    builder = OutcomeBuilder()
    for row in rows:
        builder.add(row, Status.CANCELLED, 0, encode_notice("it was cancelled"))
    return builder.take()


def test_where_nobody_is_known_to_lead_the_answer_is_unknown_and_when_to_ask_again(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world, "oak") as (w, nodes):
            client = await Speaker.linked(w, nodes.nodes["oak"])
            columns = columns_of(1)
            key = bytes(3) + b"12345" + bytes(4)
            client.say(Kind.SUBMIT, submitted(key, columns, 1), columns)
            _, refusal, _ = await client.hear(Kind.REFUSED)
            assert (refusal["b"], refusal["reason"]) == (key, "unknown") and refusal["after"] > 0

    run(main())


def test_a_clients_session_understands_what_nodes_say(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world) as (w, nodes):
            oak = nodes.nodes["oak"]
            runner, client = await executor_of(w, oak), await Speaker.linked(w, nodes.nodes["fir"])
            session, key = Session(b"session!"), key_in(oak, 1)
            effects: list[Any] = []

            def turn() -> None:
                for effect in session.take_effects():
                    if hasattr(effect, "kind"):
                        client.link.send(encode(effect.kind, effect.header), *effect.parts)
                    else:
                        effects.append(effect)

            def read(link: Any, messages: list[bytes]) -> None:
                for message in messages:
                    session.on_message(0.0, *decode(message))
                turn()

            client.peer.seen.on_messages = read
            session.link_up(oak.id + oak.boot)
            session.submit(1, RAW, True, 2, columns_of(2), [], durability=LEVEL, key=key)
            named = key[:3] + b"derived--"
            session.submit(2, RAW, True, 1, columns_of(1), [], durability=LEVEL, key=named)
            session.submit(3, RAW, True, 1, columns_of(1), [], durability=LEVEL, key=named)
            session.submit(4, RAW, True, 1, columns_of(1, 9), [], durability=LEVEL, key=named)
            turn()
            for number in (1, 2):
                _, dispatch, _ = await runner.hear(Kind.DISPATCH, number)
                header = {"b": dispatch["b"], "d": dispatch["d"], "n": dispatch["n"], "l": {}}
                runner.say(Kind.OUTCOMES, header, outcomes_of(dispatch["n"]))
            await until(lambda: {one.batch for one in effects if isinstance(one, Delivered) and one.last} == {1, 2, 3})
            accepted = {one.batch: one for one in effects if isinstance(one, Accepted)}
            assert set(accepted) == {1, 2, 3} and all(one.copies >= 2 for one in accepted.values())
            (refused,) = [one for one in effects if isinstance(one, Ended)]
            assert (refused.batch, refused.status) == (4, Status.REFUSED)
            assert not list(session.unfinished)

    run(main())


def test_a_client_does_not_speak_for_others_nor_in_consensus(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world) as (w, nodes):
            oak = nodes.nodes["oak"]
            client = await Speaker.linked(w, oak)
            key, columns = key_in(oak, 1), columns_of(1)
            client.say(Kind.SUBMIT, submitted(key, columns, 1, o=b"somebody else" * 2, u="root", g=True), columns)
            assert (await client.hear(Kind.ACCEPTED))[1]["b"] == key
            assert oak.fabric.ownership.batches[key].author == "ann"
            client.say(Kind.LEDGER, {}, b"a vote")
            client.say(Kind.TWIN, {"q": True})
            await until(lambda: sum(fact.name == "message.unknown" for fact in oak.facts) == 2)
            assert client.link.up and oak.leads(oak.id)

    run(main())


@pytest.mark.parametrize(
    "header",
    [{"D": "fleet"}, {"D": 3}, {"D": -1}, {"R": -1}, {"R": "long"}, {"R": True}, {"d": [b"short"]}, {"d": "all"}, {"n": "1"}],
    ids=lambda header: repr(header),
)  # fmt: skip
def test_what_is_no_durable_batch_costs_the_link_or_is_refused(
    run: Run, world: MakeWorld, header: dict[str, Any]
) -> None:
    async def main() -> None:
        async with fleet_of(world, "oak") as (w, nodes):
            oak = nodes.nodes["oak"]
            client = await Speaker.linked(w, oak)
            columns = columns_of(1)
            client.say(Kind.SUBMIT, submitted(key_in(oak, 1), columns, 1) | header, columns)
            await until(lambda: not client.link.up or client.heard(Kind.REFUSED))
            assert not oak.fabric.ownership.batches and oak.leads(oak.id)

    run(main())


def test_a_second_process_of_a_member_waits_until_the_first_one_is_gone(run: Run, world: MakeWorld) -> None:
    async def main() -> None:
        async with fleet_of(world, "oak") as (w, nodes):
            oak = nodes.nodes["oak"]
            first = await executor_of(w, oak)
            me = first.peer.credentials
            oak.fabric.door.standing = lambda: None
            second = await Speaker.linked(w, oak, credentials=me, boot=b"second--")
            await first.hear(Kind.TWIN)
            await second.hear(Kind.TWIN)
            assert first.heard(Kind.TWIN)[0][1] == second.heard(Kind.TWIN)[0][1] == {"q": True}
            second.say(Kind.LEDGER, {}, b"a vote of a copy")
            one, other = standing_of(b"runs----", counted=True), standing_of(b"second--")
            second.say(Kind.TWIN, other.header())
            first.say(Kind.TWIN, one.header())
            _, shown, _ = await first.hear(Kind.TWIN, 2)
            assert shown == {"you": one.header(), "other": other.header()}
            assert (await second.hear(Kind.TWIN, 2))[1] == {"you": other.header(), "other": one.header()}
            assert oak.fabric.node_links[me.id].boot == b"runs----"
            await first.peer.links.close()
            await until(lambda: me.id in oak.fabric.node_links and oak.fabric.node_links[me.id].boot == b"second--")
            assert second.link.up

    run(main())


def test_a_process_that_does_not_answer_gives_way_to_the_next_one_with_all_that_it_said(
    run: Run, world: MakeWorld
) -> None:
    async def main() -> None:
        async with fleet_of(world, "oak") as (w, nodes):
            oak = nodes.nodes["oak"]
            first = await executor_of(w, oak)
            me = first.peer.credentials
            second = await Speaker.linked(w, oak, credentials=me, boot=b"second--")
            load = {"free": 3.0, "wait": 0}
            second.say(Kind.LOAD, {"l": load})
            await second.hear(Kind.TWIN)
            executor = oak.fabric.ownership.executors[me.id]
            assert oak.fabric.node_links[me.id].boot == b"runs----" and executor.free != 3.0
            await until(lambda: oak.fabric.node_links[me.id].boot == b"second--")
            assert executor.free == 3.0
            await until(lambda: not first.link.up)

    run(main())
