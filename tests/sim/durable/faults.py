"""Planted faults of the owner: mutations of one place each, that the simulator has to find."""

from __future__ import annotations

from tests.sim.raft.faults import Fault, plant_in

OWNER = "swarm.protocol.owner"
FAULTS = {
    "told-early": Fault(
        "ending", "if batch.durable is None:\n            self.reveal", "if True:\n            self.reveal",
        "Outcomes are told before they are committed.",
        ("revealed-early",), 0,
    ),
    "grant-left-out": Fault(
        "recording", "if durable.epoch == durable.leads and not durable.again and batch.spec.rerun:", "if True:",
        "Later attempts go out without a grant.",
        ("two-tokens", "twice", "assertion"), 0,
    ),
    "again-forgotten": Fault(
        "recording", "durable.epoch == durable.leads and not durable.again and", "durable.epoch == durable.leads and",
        "What came back goes out again, in the same epoch, without a grant.",
        ("two-tokens",), 0,
    ),
    "start-not-granted": Fault(
        "recording", "not durable.again and batch.spec.rerun:", "not durable.again:",
        "What may not be repeated begins before its log knows that.",
        ("twice",), 13,
    ),
    "grant-not-awaited": Fault(
        "recording", "        dispatch.sent = False\n", "        self._holdings.emit(handed(dispatch))\n",
        "An attempt goes out when its grant is proposed, not when it is committed.",
        ("two-tokens", "twice"), 0,
    ),
    "stale-adopted": Fault(
        "leading", " and state.accepts(row, token)]", "]",
        "A new leader adopts attempts whatever their token is.",
        ("assertion", "stale-outcome"), 18,
    ),
    "lost-begins-again": Fault(
        "leading", "elif not batch.spec.rerun and state.token(index) is not None and not state.left(index):", "elif False:",
        "A new leader begins what may not be repeated, and may have begun, once more.",
        ("twice",), 10,
    ),
    "nobody-goes-on": Fault(
        "leading", "                    columns.release(index)\n                    ready += 1\n", "                    pass\n",
        "A new leader leaves lying what nobody has.",
        ("liveness",), 10,
    ),
    "result-not-kept": Fault(
        "keeping", "        if not wanted:\n", "        if wanted:\n",
        "An outcome is taken before what it refers to is kept.",
        ("not-kept", "not-named"), 0,
    ),
    "outcome-before-its-batch": Fault(
        "recording", "        durable.unwritten = []\n", "",
        "Outcomes of a batch are proposed while what the batch needs is still being kept.",
        ("assertion",), 1,
    ),
    "state-not-written": Fault(
        "moving", "        if token is None:\n            return True\n", "        if True:\n            return True\n",
        "A task that left at a safe point is handed on before its state is in the log.",
        ("state-lost",), 0,
    ),
    "state-forgotten": Fault(
        "leading", "        batch.saved = {index: (moved, content) for index, (moved, _, content) in state.saved.items()}\n", "",
        "A new leader begins anew what had left at a safe point.",
        ("state-lost",), 30,
    ),
    "left-is-running": Fault(
        "leading", "and not state.left(index):", "and not state.saved.get(index):",
        "A new leader takes what went on from a state, and may not be repeated, for what has left.",
        ("twice",), 10,
    ),
}  # fmt: skip


def plant(name: str) -> None:
    """From here on the owner has this fault. It must not have been imported yet."""
    plant_in(OWNER, FAULTS[name])
