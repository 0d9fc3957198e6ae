"""Planted faults: mutations of the protocol, each of one place, that the simulator has to find.

A simulator that finds nothing proves little unless it finds what is there. Each fault is text in a source file and what it
becomes; `plant` has the changed text run in place of the file, so it must be called before the protocol is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType


@dataclass(frozen=True)
class Fault:
    """What is changed, and what comes of it."""

    module: str
    text: str
    becomes: str
    why: str
    breaks: tuple[str, ...]
    """The properties of which one is seen not to hold."""
    found_by: int
    """The first seed that sees it, when it was planted."""


SAFETY = ("election-safety", "leader-completeness", "state-machine-safety")
FAULTS = {
    "vote-unsynced": Fault(
        "replica", "self._vote_write = self.written + 1", "self._vote_write = 0",
        "A vote is answered before it is on disk: after a crash its voter votes again in the same term.",
        SAFETY, 603,
    ),
    "vote-twice": Fault(
        "election", "and replica.vote.candidate in (None, sender)", "and True",
        "A member votes for every candidate of a term.",
        SAFETY, 34,
    ),
    "vote-log": Fault(
        "log", "(self.last_term, self.last) > (term, index)", "self.last > index",
        "The longer log wins, not the one with the later last term.",
        SAFETY, 19,
    ),
    "commit-old-term": Fault(
        "leading", "or replica.log.term(index) != replica.term", "or False",
        "An entry of an earlier term is committed by counting its copies (figure 8 of the paper).",
        SAFETY, 206,
    ),
    "ack-unsynced": Fault(
        "following", "flags=self.flags(), durable=match)", "flags=self.flags(), durable=0)",
        "Entries are acknowledged before they are on disk.",
        ("durability", *SAFETY), 3,
    ),
    "leader-unsynced": Fault(
        "leading", "return self._replica.log.stable if voter", "return self._replica.log.last if voter",
        "A leader counts itself before its entries are on disk.",
        ("durability", *SAFETY), 3,
    ),
    "change-early": Fault(
        "leading", "if replica.commit < self._term_start:\n            return Refusal.NOT_YET", "",
        "A leader changes the members before it has committed an entry of its own term (the bug of 2015).",
        ("liveness", *SAFETY), 843,
    ),
    "change-two": Fault(
        "leading", "if replica.members_index > replica.commit:\n            return Refusal.PENDING", "",
        "A second change of the members begins before the first is committed.",
        ("liveness", *SAFETY), 0,
    ),
    "damage-ignored": Fault(
        "replica", "self.damaged = recovered.damaged", "self.damaged = False",
        "A member whose log was found damaged votes and counts as if it had all that it ever acknowledged.",
        SAFETY, 12,
    ),
    "truncate-stable": Fault(
        "log", "self.stable = min(self.stable, first - 1)", "pass",
        "Entries that took the place of others count as on disk because those were.",
        ("durability", "liveness", *SAFETY), 19,
    ),
    "conflict-kept": Fault(
        "log", "if self.term(index) != entry.term:", "if index > self.last:",
        "An entry that conflicts with the leader's is kept.",
        ("durability", "log-matching", *SAFETY), 1,
    ),
    "commit-unmatched": Fault(
        "leading", "commit=min(peer.match, replica.commit)", "commit=replica.commit",
        "A heartbeat tells a member to commit what it may have otherwise.",
        SAFETY, 1,
    ),
    "read-unconfirmed": Fault(
        "leading", "return 0 if peer.damaged else peer.round", "return self._round",
        "A leader answers reads without asking whether it still leads.",
        ("linearizable-reads",), 74,
    ),
    "read-early": Fault(
        "leading", "if self._new_reads and replica.commit >= self._term_start:", "if self._new_reads:",
        "A new leader answers reads before it knows what is committed.",
        ("linearizable-reads",), 1,
    ),
    "term-kept": Fault(
        "replica", "self.vote = Vote(term, candidate, ", "self.vote = Vote(term, candidate or self.vote.candidate, ",
        "The vote of an earlier term counts in a later one: nobody can be elected.",
        ("liveness",), 0,
    ),
    "step-back-blind": Fault(
        "raft", "if knows:", "if True:",
        "A leader that has committed nothing of its term yet goes back to where it was the only voter, by a log that says so.",
        ("durability", "liveness", *SAFETY), 177,
    ),
    "match-unconfirmed": Fault(
        "progress", "self.next = max(self.next, match + 1)", "self.match = max(self.match, self.next - 1)",
        "What was sent counts as acknowledged with the first answer.",
        ("durability", "liveness", *SAFETY), 0,
    ),
}  # fmt: skip
PACKAGE = "swarm.protocol.raft"


class _Planted(Loader):
    def __init__(self, code: CodeType) -> None:
        self._code = code

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


class _Finder(MetaPathFinder):
    def __init__(self, fault: Fault, package: str) -> None:
        self._fault = fault
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != f"{self._package}.{self._fault.module}":
            return None
        found = PathFinder.find_spec(fullname, path)
        assert found is not None and found.origin is not None
        source = mutated(self._fault, Path(found.origin).read_text())
        return ModuleSpec(fullname, _Planted(compile(source, found.origin, "exec")), origin=found.origin)


def mutated(fault: Fault, source: str) -> str:
    """The source with the fault in it. AssertionError if its place is not found, or not once."""
    assert source.count(fault.text) == 1, (fault.module, fault.text, source.count(fault.text))
    return source.replace(fault.text, fault.becomes)


def plant(name: str) -> None:
    """From here on the protocol has this fault. It must not have been imported yet."""
    plant_in(PACKAGE, FAULTS[name])


def plant_in(package: str, fault: Fault) -> None:
    """The same for a fault of another package."""
    assert not any(module.startswith(package) for module in sys.modules), "too late: the protocol is imported"
    sys.meta_path.insert(0, _Finder(fault, package))
