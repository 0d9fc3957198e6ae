"""What each node knows of one batch, for who looks for why it does not end: its owner's view, its log's, its executors'.

`swarm batch explain` shows it, and the chaos run keeps it of what did not end. Nothing is confirmed by anybody: what nodes
say is what they believe at this moment, and where they differ is what is looked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nodes.fabric import boottime_s
from nodes.queries import AskFailed
from swarm.errors import UsageError
from swarm.protocol import ids
from swarm.protocol.ledger.homes import TAG_BYTES, home_of, home_tag, is_local
from swarm.protocol.owner.batches import Batch
from transport.certificates import id_text
from transport.links import Link

if TYPE_CHECKING:
    from nodes.node import Node

PEER_TIMEOUT_S = 5.0
RANGES_SHOWN_MAX = 16
TRACE_SHOWN_MAX = 24


class BatchViews:
    """Registers the question on a node's switchboard."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.switchboard.serve("batch.explain", self._explain)

    async def _explain(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        key = args.get("batch")
        if not isinstance(key, bytes) or len(key) != ids.BATCH_KEY_BYTES:
            raise UsageError("a batch is named by its key", hint="swarm batch list shows the ids of those there are")
        views = [self._view(key)]
        if not args.get("here"):
            links = [one for _, one in sorted(self._node.fabric.node_links.items()) if one.up]
            views += await asyncio.gather(*(self._ask(one, key) for one in links))
        return {"views": views}

    async def _ask(self, link: Link, key: bytes) -> dict[str, Any]:
        try:
            value, _ = await self._node.switchboard.asked(
                link, "batch.explain", {"batch": key, "here": True}, timeout_s=PEER_TIMEOUT_S
            )
        except AskFailed as error:
            return {"node": link.identity.name, "silent": str(error)}
        return dict(value["views"][0])

    def _view(self, key: bytes) -> dict[str, Any]:
        node = self._node
        fabric = node.fabric
        batch = fabric.ownership.batches.get(key)
        return {
            "node": node.name,
            "owner": None if batch is None else self._owner(batch),
            "logs": self._logs(key),
            "runs": [
                {"owner": self._name(owner), "dispatch": dispatch, "token": list(token), "left": _shown(parts)}
                for _, owner, dispatch, token, parts in fabric.execution.held_of(frozenset((key,)))
            ],
            "passed_on": {name: self._name(to) for name, to in fabric.relay.passed_on(key).items()},
            "asks": [self._name(one) for one in fabric.where(key)],
            "linked": [self._name(one) for one, link in sorted(fabric.node_links.items()) if link.up],
        }

    def _owner(self, batch: Batch) -> dict[str, Any]:
        ownership, now = self._node.fabric.ownership, boottime_s()
        states: dict[str, int] = {}
        for _, state in ownership.states(batch):
            states[state] = states.get(state, 0) + 1
        view: dict[str, Any] = {
            "states": states,
            "told": sum(outcomes.count for outcomes, _ in batch.outcomes),
            "client": "" if batch.client is None else batch.client.hex(),
            "client_linked": batch.client in self._node.fabric.client_links,
            "out": [
                {
                    "dispatch": it.number, "at": it.executor.name, "rows": [it.start, it.stop], "left": it.left, "sent": it.sent,
                    "linked": it.executor.linked, "for_s": round(now - it.sent_at, 1), "token": list(it.token or ()),
                }
                for it in ownership.dispatches.values() if it.batch is batch
            ][:RANGES_SHOWN_MAX],
            "written": ownership.on_its_way(batch),
            "adopting": ownership.is_adopting(batch),
            "waits_for": [ids.text(dep) for dep, value in batch.deps.items() if value is None],
            "cancelled": _shown(batch.cancelled),
            "trace": [
                f"{now - at:.1f} s ago: {what} {start}-{stop} {where} {detail if detail is not None else ''}".strip()
                for at, what, start, stop, where, detail in list(batch.trace)[-TRACE_SHOWN_MAX:]
            ],
        }  # fmt: skip
        if batch.durable is not None:
            durable = batch.durable
            view |= {"leads": durable.leads, "epoch": durable.epoch, "open": durable.open, "copies": durable.copies}
        return view

    def _logs(self, key: bytes) -> list[dict[str, Any]]:
        ledger = self._node.ledger
        found: list[dict[str, Any]] = []
        for group in ledger.ledger.groups if ledger is not None else ():
            raft, state = ledger.ledger.raft(group), ledger.ledger.state(group)  # type: ignore[union-attr]
            if raft is None or state is None or home_tag(home_of(group)) != key[:TAG_BYTES]:
                continue
            view: dict[str, Any] = {
                "home": self._name(home_of(group)), "alone": is_local(group), "leads": raft.leads,
                "leader": "" if raft.leader is None else self._name(raft.leader), "term": raft.term,
                "last": raft.last, "commit": raft.commit, "voters": [self._name(one) for one in raft.members.voters],
                "damaged": raft.damaged, "full": raft.full, "knows": key in state.batches,
            }  # fmt: skip
            batch = state.batches.get(key)
            if batch is not None:
                view |= {
                    "unfinished": batch.unfinished, "pending": _shown(batch.pending()), "submitted_in": batch.epoch,
                    "granted": [[start, stop, *token] for start, stop, token in batch.grants()][:RANGES_SHOWN_MAX],
                }  # fmt: skip
            found.append(view)
        return found

    def _name(self, id: bytes) -> str:
        if id == self._node.credentials.id:
            return self._node.name
        names = {member.id: member.name for member in self._node.neighbourhood.members}
        return names.get(id, id_text(id)[:6])


def _shown(ranges: list[tuple[int, int]]) -> list[list[int]]:
    return [list(pair) for pair in ranges[:RANGES_SHOWN_MAX]]
