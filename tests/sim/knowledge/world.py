"""One run: nodes that say things, everything that may go wrong, and what must hold in the end."""

from __future__ import annotations

from random import Random
from typing import Any

from swarm.protocol.knowledge.allowance import Allowance
from swarm.protocol.knowledge.entries import FormatError, read, shard_of, signature_of, signed
from swarm.protocol.knowledge.replicas import holders
from swarm.protocol.knowledge.rules import STRIKE, Quota
from swarm.protocol.knowledge.stamps import time_of
from tests.sim.knowledge.adversary import Adversary
from tests.sim.knowledge.model import Line, Model, Statement
from tests.sim.knowledge.node import Disk, KnowledgeNode, name_of, signature
from tests.sim.knowledge.plan import DAY_S, KnowledgePlan, way_of
from tests.sim.network import Network, Weather
from tests.sim.raft.plan import Step
from tests.sim.raft.truth import Broken
from tests.sim.simulator import Simulator

START_S = 1.7e9
QUOTA = Quota(100_000, 50.0)
ALLOWANCE = Allowance(bytes_max=256 * 1024)
"""More than honest nodes say."""
SETTLE_ROUNDS = 40
"""So many of its intervals anti-entropy may take at most after the last fault is over."""


def author_of(payload: bytes) -> bytes:
    """Whose segment this is; nobody's if it is a proof."""
    return b"" if payload[0] == STRIKE else payload[3:19]


class Trace:
    """What happened, for people."""

    def __init__(self) -> None:
        self.lines: list[str] = []


class KnowledgeWorld:
    """A run of a plan."""

    def __init__(self, plan: KnowledgePlan, trace: bool = False) -> None:
        self.plan = plan
        self.trace = Trace() if trace else None
        self.rng = Random(f"world {plan.seed}")
        self.network = Network(self.rng, Weather(loss=0.01, duplication=0.01, reordering=0.05))
        self.sim = Simulator(self.network)
        self.model = Model()
        self.disks = {number: Disk() for number in range(plan.nodes)}
        self.skews = [60 * self.rng.random() - 30 for _ in range(plan.nodes)]
        """Seconds that each wall clock is ahead: any two may believe each other's stamps."""
        self.revoked: dict[int, set[bytes]] = {number: set() for number in range(plan.nodes)}
        self.banned: set[bytes] = set()
        self.restored: set[bytes] = set()
        """Nodes whose disk was an old copy once: they may have used numbers twice."""
        self.nodes: dict[int, KnowledgeNode] = {}
        self.evil = Adversary(plan.nodes, Random(f"evil {plan.seed}"), plan.shards, QUOTA)
        self.ids = [name_of(number) for number in range(plan.nodes + 1)]
        """The one that lies is a member, too."""
        self.sim.start(self.evil.id, self.evil)
        for number in range(plan.nodes):
            self.start(number)

    def note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.lines.append(f"{self.sim.now:10.2f} {text}")

    # --- nodes ----------------------------------------------------------------------------------------------------------

    def start(self, number: int) -> None:
        node = KnowledgeNode(
            number, self.sim.now, self.disks[number], Random(f"{self.plan.seed} {number} {self.sim.now}"),
            lambda: START_S + self.sim.now + self.skews[number], self.plan.config, self.plan.replication,
            self.plan.shards, QUOTA, self.revoked[number], ALLOWANCE,
        )  # fmt: skip
        self.nodes[number] = node
        node.keeper.members(self.sim.now, self.ids)
        self.sim.start(node.id, node)

    def stop(self, number: int) -> None:
        self.gather(number)
        del self.nodes[number]
        self.sim.stop(name_of(number))

    def gather(self, number: int) -> None:
        """Nobody but the liar may have been found to lie."""
        keeper = self.nodes[number].keeper
        for violation in keeper.violations:
            if violation.peer != self.evil.id:
                raise Broken(f"accusation: node {number} accuses {violation.peer.decode()}: {violation.why}")
        keeper.violations.clear()

    def say(self, number: int, call: Any) -> None:
        """A node says something: it is sealed and on its disk with that."""
        node = self.nodes.get(number)
        if node is None or node.id in self.banned:
            return
        before = {line: ranges[-1][1] for line, ranges in self._own(node).items()}
        call(node.knowledge)
        for segment in node.knowledge.take():
            node.keeper._keep.append((segment.shard, segment.raw))
            node.keeper._spread(self.sim.now, segment.shard, segment.raw)
            self.model.add(segment.line, segment.rows())
            if segment.first < before.get((segment.shard, *segment.line), 0):
                raise Broken(f"numbers: node {number} uses numbers twice: {segment}")
        self.sim.settle(node.id)

    def _own(self, node: KnowledgeNode) -> dict[Any, list[tuple[int, int]]]:
        return {
            (shard.number, *line): ranges
            for shard in node.knowledge.shards.values()
            for line, ranges in shard.lines().items()
            if line[0] == node.id
        }

    # --- steps ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole run, and what must hold after it."""
        for step in self.plan.steps:
            self.sim.run(step.at)
            self.note(str(step))
            self._step(step)
        self.sim.run(self.plan.duration_s)
        self._calm_down()
        self._check()

    def _step(self, step: Step) -> None:
        a, b, c = step.arguments[:3]
        number = int(a * self.plan.nodes)
        node = self.nodes.get(number)
        wall_ms = int((START_S + self.sim.now + self.skews[number]) * 1000)
        key = f"k{int(b * 6)}"
        match step.name:
            case "put":
                self.say(number, lambda it: it.put("facts", key, [c, "x"], wall_ms, tags=["t"] if c < 0.3 else []))
            case "again":
                self.say(number, lambda it: it.put("lessons", f"l{int(b * 3)}", {"n": c}, wall_ms))
            case "many":
                self.say(number, lambda it: [it.put("facts", f"m{i}", c, wall_ms) for i in range(int(c * 60))])
            case "drop":
                self.say(number, lambda it: it.drop("facts", key, wall_ms))
            case "add":
                self.say(number, lambda it: it.put("marks", f"s{int(b * 3)}", int(c * 4), wall_ms))
            case "take-out":
                self.say(number, lambda it: it.drop("marks", f"s{int(b * 3)}", wall_ms, int(c * 4)))
            case "count":
                self.say(number, lambda it: it.count("tallies", f"c{int(b * 3)}", wall_ms, int(c * 5), int(b * 3)))
            case "believe":
                self.say(number, lambda it: it.put("beliefs", f"b{int(b * 3)}", 16 * c - 8, wall_ms))
            case "use":
                self.say(number, lambda it: self._use(self.nodes[number], key, wall_ms))
            case "prune":
                self.say(number, lambda it: self._prune(self.nodes[number], wall_ms, b < 0.5))
            case "bring-back":
                self.say(number, lambda it: self._bring_back(self.nodes[number], wall_ms))
            case "policy":
                # Facts are pruned within minutes, or within days.
                cycle_s = (3600.0 if self.plan.week else 1.0) * (1 + int(3 * b))
                self.say(
                    number,
                    lambda it: it.put("policies", "fading", {"cycle_s": cycle_s, "threshold": 0.4 + c / 2}, wall_ms),
                )
            case "crash":
                if node is not None:
                    self.stop(number)
                    self.sim.at(self.sim.now + self._for_s(b), lambda: self._back(number))
            case "away":
                if node is not None:
                    self._cut([number], self._for_s(b))
            case "part":
                self._cut([n for n in range(self.plan.nodes) if (n * c * 7) % 1 < 0.5], self._for_s(b))
            case "weather":
                self.network.weather = Weather(loss=0.4 * b, duplication=0.2 * c, reordering=0.3, jitter_s=0.05)
            case "clock":
                # It stays within what others believe; back or ahead.
                self.skews[number] = 60 * b - 30
            case "ahead":
                self.skews[number] = 300.0
                self.sim.at(self.sim.now + 5.0, lambda: self._set_right(number))
            case "pause":
                if node is not None:
                    self.sim.pause(node.id)
                    self.sim.at(self.sim.now + 0.1 * self._for_s(b), lambda: self.sim.resume(name_of(number)))
            case "lie":
                there = [self.nodes[n].id for n in sorted(self.nodes)]
                if there:
                    self.evil.lie(way_of(b), int((START_S + self.sim.now) * 1000), there)
                    self.sim.settle(self.evil.id)
            case "revoke" | "restore" if self.sim.now > self.plan.config.retention_ms / 1000:
                pass  # what was out of date by what is taken back now may be forgotten: the model keeps it
            case "revoke" if self.plan.nodes > 3 and not self.banned - {self.evil.id}:
                self._revoke(number if b < 0.7 else self.plan.nodes)
            case "restore":
                self._restore(number)
        self.sim.trace_in(step.name.encode())

    def _use(self, node: KnowledgeNode, key: str, wall_ms: int) -> None:
        for _ in range(3):
            node.weights.use(key)
        node.weights.say_uses(wall_ms)

    def _prune(self, node: KnowledgeNode, wall_ms: int, anybody: bool) -> None:
        """The steward does, or any holder: several that do may not matter."""
        there = node.keeper.holds if anybody else node.keeper.leads
        pruned = node.weights.prune(wall_ms, there, self.plan.config.retention_ms)
        if any(node.knowledge.get("facts", key) is not None for key in pruned):
            raise Broken(f"values: node {node.number} has pruned {pruned}, and still finds some")

    def _bring_back(self, node: KnowledgeNode, wall_ms: int) -> None:
        for key, _ in node.weights.pruned()[:1]:
            node.weights.restore(key, wall_ms)
            if node.knowledge.get("facts", key) is None:
                raise Broken(f"values: node {node.number} has brought back {key}, and does not find it")

    def _for_s(self, share: float) -> float:
        return share * (7 * DAY_S if self.plan.week else 60.0)

    def _cut(self, some: list[int], for_s: float) -> None:
        one = [name_of(number) for number in some]
        other = [id for id in self.ids if id not in one]
        self.network.part(one, other)
        self.sim.at(self.sim.now + for_s, self.network.heal)

    def _back(self, number: int) -> None:
        if number not in self.nodes:
            self.start(number)

    def _set_right(self, number: int) -> None:
        self.skews[number] = 0.0

    def _revoke(self, number: int) -> None:
        """An admin revokes an author; the nodes hear of it one after the other."""
        author = name_of(number)
        self.banned.add(author)
        for n in range(self.plan.nodes):
            self.sim.at(self.sim.now + 5 * self.rng.random(), lambda n=n: self._hears(n, author))

    def _hears(self, number: int, author: bytes) -> None:
        self.revoked[number].add(author)
        node = self.nodes.get(number)
        if node is not None:
            node.keeper.revoked(author)

    def _restore(self, number: int) -> None:
        """Somebody restores an old copy of a node's disk: what it says next uses numbers again that others have seen."""
        if number not in self.nodes or self.nodes[number].id in self.banned or len(self.disks[number].payloads) < 2:
            return
        payloads = self.disks[number].payloads
        rest = payloads[len(payloads) // 2 :]
        elsewhere = {one for other, disk in self.disks.items() if other != number for one in disk.payloads}
        if any(one not in elsewhere for one in rest):
            return  # nobody could know it any more
        half_ms = int((START_S + self.sim.now) * 1000) - self.plan.config.retention_ms // 2
        if any(one[0] != STRIKE and read(one).last_time < time_of(half_ms) for _, one in rest):
            return  # it would be as one that was away for longer than the retention
        self.restored.add(name_of(number))
        self.stop(number)
        del payloads[len(payloads) // 2 :]
        self.start(number)

    # --- what must hold -------------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """Every fault is over; whoever is revoked is known to be, and nodes that were down are back."""
        self.network.heal()
        self.network.weather = Weather()
        self.skews = [0.0 for _ in self.skews]
        for number in range(self.plan.nodes):
            self.sim.resume(name_of(number))
            self._back(number)
            for author in sorted(self.banned):
                self._hears(number, author)
        # Stamps that were ahead of all clocks are believed when their time has come.
        self.sim.run(self.sim.now + 400.0)
        horizon = time_of(int((START_S + self.sim.now) * 1000) - self.plan.config.retention_ms)
        every_s = self.plan.config.sync_every_s
        for _ in range(SETTLE_ROUNDS):
            self.sim.run(self.sim.now + every_s)
            for number in sorted(self.nodes):
                for shard in self.nodes[number].knowledge.shards.values():
                    shard.expire(horizon)
            if self._differing() is None and not self._undelivered():
                return

    def _holders(self, shard: int) -> list[KnowledgeNode]:
        ids = holders(shard, self.ids, self.plan.replication)
        return [node for number, node in sorted(self.nodes.items()) if node.id in ids]

    def _differing(self) -> str | None:
        for shard in range(self.plan.shards):
            there = self._holders(shard)
            digests = {node.knowledge.shard(shard).digest for node in there}
            if len(digests) > 1:
                sizes = [(node.number, len(node.knowledge.shard(shard))) for node in there]
                return f"shard {shard}: (node, segments) {sizes}"
        return None

    def _undelivered(self) -> bool:
        """Whether a node still has something that no holder of its shard has."""
        for shard in range(self.plan.shards):
            there = self._holders(shard)
            held = set(there[0].knowledge.shard(shard).segments()) if there else set()
            for node in self.nodes.values():
                if there and shard in node.knowledge.shards:
                    mine = node.knowledge.shard(shard)
                    if any(
                        one not in held and read(one).line not in mine.struck()
                        for one in mine.segments()
                        if one[0] != STRIKE
                    ):
                        return True
        return False

    def _check(self) -> None:
        for number in sorted(self.nodes):
            self.gather(number)
        differing = self._differing()
        if differing is not None:
            raise Broken(f"convergence: after {SETTLE_ROUNDS} rounds {differing}")
        struck: dict[int, set[Line]] = {}
        for shard in range(self.plan.shards):
            there = self._holders(shard)
            if there:
                struck[shard] = set(there[0].knowledge.shard(shard).struck())
        self._check_refusals()
        self._check_values(struck)
        self.sim.trace_in(b"".join(node.knowledge.shard(0).digest for node in self._holders(0)))

    def _check_refusals(self) -> None:
        """Nothing that breaks a rule is held anywhere."""
        for number, node in sorted(self.nodes.items()):
            for shard in node.knowledge.shards.values():
                for one, other in self.evil.contradict:
                    if shard.has(one) and shard.has(other):
                        raise Broken(f"refusal: node {number} holds two segments that contradict each other")
                liars = sum(len(payload) for payload in shard.segments() if author_of(payload) == self.evil.id)
                if liars > ALLOWANCE.bytes_max:
                    raise Broken(f"refusal: node {number} holds {liars} bytes of the one that lies")
                for author, _ in shard.struck():
                    if author != self.evil.id and author not in self.restored:
                        raise Broken(
                            f"numbers: node {number} strikes a line of {author.decode()}, which has numbered well"
                        )
                for payload in shard.segments():
                    if payload[0] == STRIKE:
                        continue
                    try:
                        segment = read(payload)
                        segment.rows()
                    except FormatError as error:
                        raise Broken(f"refusal: node {number} holds what is malformed: {error}") from None
                    if segment.id in self.evil.never:
                        raise Broken(f"refusal: node {number} holds a lie: {segment}")
                    message = signed(payload)
                    if signature_of(payload) != signature(segment.author, message):
                        raise Broken(f"refusal: node {number} holds what {segment.author.decode()} did not sign")
                    if segment.author in self.banned:
                        raise Broken(f"refusal: node {number} holds what a revoked author said: {segment}")

    def _add_liar(self, model: Model) -> None:
        """What the liar said of facts that others have put, and has neither contradicted nor been banned for, counts as what anybody says."""
        for shard in range(self.plan.shards):
            for node in self._holders(shard)[:1]:
                mine = node.knowledge.shard(shard)
                for kind in ("uses", "pruned"):
                    for key in mine.keys(kind):
                        model.said += [
                            Statement((said.line.author, said.line.life), said.time, kind, key, said.op, said.value)
                            for said in mine.said(kind, key)
                            if said.line.author == self.evil.id
                        ]

    def _check_values(self, struck: dict[int, set[Line]]) -> None:
        """All holders know what follows from what honest nodes have said."""
        honest = Model()
        honest.said = [
            one
            for one in self.model.said
            if one.line not in struck.get(shard_of(one.kind, one.key, self.plan.shards), ())
            and one.line[0] not in self.banned
        ]
        self._add_liar(honest)
        expected = honest.values()
        wall_ms = int((START_S + self.sim.now) * 1000)
        facts = {key for kind, key in expected if kind == "facts"}
        weights = {key: honest.weight(key, wall_ms) for key in sorted(facts)}
        for number, node in sorted(self.nodes.items()):
            cycle_ms, threshold = honest.fading()
            if (node.weights.fading.cycle_ms, node.weights.fading.threshold) != (cycle_ms, threshold):
                raise Broken(
                    f"values: node {number} goes by {node.weights.fading}, the policy says {cycle_ms} {threshold}"
                )
            for key, wanted in weights.items():
                if node.keeper.holds(shard_of("facts", key, self.plan.shards)):
                    found = node.weights.weight(key, wall_ms)
                    if found != wanted:
                        raise Broken(f"values: at node {number} {key} weighs {found}, it should weigh {wanted}")
        for number, node in sorted(self.nodes.items()):
            for shard in range(self.plan.shards):
                if node not in self._holders(shard):
                    continue
                mine = node.knowledge.shard(shard)
                for kind in ("facts", "lessons", "marks", "tallies", "beliefs"):
                    keys = {
                        key for of, key in expected if of == kind and shard_of(kind, key, self.plan.shards) == shard
                    }
                    keys |= {key for key in mine.keys(kind) if not key.startswith("evil/")}
                    for key in sorted(keys):
                        found, wanted = mine.get(kind, key), expected.get((kind, key))
                        if found != wanted:
                            raise Broken(f"values: node {number} has {kind} {key} as {found}, it should be {wanted}")
