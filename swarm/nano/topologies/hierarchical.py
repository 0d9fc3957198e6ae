"""Token buckets down a tree of shares: each group gets its part of the time, and what one does not want the nearest others use.

A share is a part of what the parent has. A pass gives each leaf its guaranteed part of the capacity in tokens; what leaves with
little to do do not want is offered to their siblings in proportion to these shares, then to the siblings of their parent, and so
on (weighted max-min fairness at each level of the tree: Bertsekas and Gallager, "Data Networks", section 6.5.2; the borrowing of
hierarchical token buckets: Devera, "HTB Linux queuing discipline", 2002; link sharing: Floyd and Jacobson, 1995). A leaf runs
while it has tokens, the one that is furthest behind first. A bucket holds what was not used for a while and so allows a burst; an
agent that costs more than there is leaves it in debt, so shares are exact over time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from swarm.errors import ConfigError
from swarm.nano.topologies.contract import Allowance, Due, Grant, checked, oldest_first, positive

NAME: Final = "hierarchical"
SCALE: Final = 1 << 20
"""Tokens in a ns: shares of small passes are not rounded away."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what the parent has, itself parted among children; parts are relative to those of the siblings."""

    part: float
    children: Mapping[str, float | Share]


@dataclass(slots=True)
class _Node:
    """An inner node (with children) or a leaf: a group."""

    name: str
    weight: int
    children: list[_Node]
    demand: int = 0  # tokens that it could use in this pass
    guaranteed: int = 0  # tokens of this pass
    offered: int = 0  # the same, with what others do not want
    bucket: int = 0
    queue: deque[list[Any]] = field(default_factory=deque)  # of [due, agents not granted yet]

    @property
    def part(self) -> int:
        """Tokens of this pass."""
        return max(self.offered, self.guaranteed)

    @property
    def behind(self) -> float:
        """Passes' worth of tokens in the bucket."""
        return self.bucket / max(self.part, 1)


class Hierarchical:
    """Shares of time for groups.

    ``Hierarchical({"fast": .7, "rest": .3})``; deeper: ``{"robots": Share(.6, {"left": 1, "right": 1}), "rest": .4}``.
    The leaves are the groups. What is not used is lent, and not asked back.

    Args:
        shares: Of the tree's first level, numbers above 0; they need not add up to 1.
        burst_ns: A leaf that used nothing may use its share of so much time at once.
    """

    def __init__(self, shares: Mapping[str, float | Share], burst_ns: int = 1_000_000) -> None:
        self._burst_ns = positive("burst_ns", burst_ns)
        self._root = _Node("", 1, _grow(shares))
        self._leaves = {leaf.name: leaf for leaf in _leaves(self._root)}
        if len(self._leaves) < sum(1 for _ in _leaves(self._root)):
            raise ConfigError("a group stands at two places of the tree", hint="its shares cannot both be meant")
        self._bound: set[str] = set()
        self._allowance = Allowance()

    def bind(self, groups: Sequence[str], seed: int) -> None:
        """Each group must be a leaf of the tree: ConfigError. The seed is not used."""
        for group in groups:
            if group not in self._leaves:
                raise ConfigError(
                    f"the group {group!r} has no share", hint=f"there are shares for {', '.join(sorted(self._leaves))}"
                )
        self._bound.update(groups)

    def begin(self, now_ns: int, capacity_ns: int) -> None:
        """A pass of so much begins."""
        self._allowance.begin(capacity_ns)

    def order(self, now_ns: int, due: Sequence[Due]) -> Iterator[Grant]:
        """The leaf that is furthest behind first, in it the longest waiting."""
        leaves = self._enter(due)
        self._pour(leaves, max((one.cost_of(1) for one in due if one.agents > 0), default=0))
        while leaves and not self._allowance.over:
            leaves.sort(key=lambda leaf: -leaf.behind)
            paying = [leaf for leaf in leaves if leaf.bucket > 0]
            for leaf in paying or leaves:
                # who has tokens may have less to do than they are for: the others then use what is left, part by part
                tokens = leaf.bucket if paying else max(leaf.offered, 1)
                yield from self._serve(leaf, -(-tokens // SCALE))
            leaves = [leaf for leaf in leaves if leaf.queue]

    def _serve(self, leaf: _Node, budget_ns: int) -> Iterator[Grant]:
        """Agents of this leaf until they cost so much or more."""
        while leaf.queue and budget_ns > 0 and not self._allowance.over:
            one, left = leaf.queue[0]
            agents = min(left, one.within(min(budget_ns, self._allowance.left_ns)))
            grant = Grant(one, agents)
            budget_ns -= grant.cost_ns
            leaf.bucket -= grant.cost_ns * SCALE
            self._allowance.spend(grant.cost_ns)
            leaf.queue[0][1] -= agents
            if agents == left:
                leaf.queue.popleft()
            yield grant

    def _enter(self, due: Sequence[Due]) -> list[_Node]:
        """Put what is due into the queues. The leaves that have any, as the tree has them."""
        for leaf in self._leaves.values():
            leaf.demand = 0
            leaf.queue.clear()
        for one in oldest_first(due):
            if one.group not in self._bound:
                raise KeyError(one.group)
            leaf = self._leaves[one.group]
            leaf.queue.append([one, one.agents])
            leaf.demand += one.cost_ns * SCALE
        return [leaf for leaf in self._leaves.values() if leaf.queue]

    def _pour(self, wanting: Sequence[_Node], largest_ns: int) -> None:
        """The tokens of a pass. `largest_ns` is the cost of one agent at most."""
        capacity_ns = self._allowance.capacity_ns
        _sum_up(self._root)
        _part(self._root, capacity_ns * SCALE)
        # Others' large agents can keep a leaf from running for some passes: its bucket has room for that.
        room_ns = self._burst_ns + 2 * (capacity_ns + max(largest_ns, -self._allowance.left_ns))
        for leaf in self._leaves.values():
            leaf.bucket += leaf.part
        # Measured costs above those declared leave fewer tokens than may be spent: all are lifted, as their parts are.
        usable = min(self._allowance.left_ns * SCALE, self._root.demand)
        missing = usable - sum(leaf.bucket for leaf in wanting)
        if missing > 0:
            total = sum(leaf.part for leaf in wanting) or 1
            for leaf in wanting:
                leaf.bucket += missing * leaf.part // total
        for leaf in self._leaves.values():
            room = leaf.part * room_ns // max(capacity_ns, 1)
            leaf.bucket = max(-room - largest_ns * SCALE, min(room, leaf.bucket))

    def ran(self, grant: Grant, cost_ns: int) -> None:
        """The group bears what its agents did cost."""
        difference_ns = cost_ns - grant.cost_ns
        self._leaves[grant.due.group].bucket -= difference_ns * SCALE
        self._allowance.correct(difference_ns)

    def save(self) -> dict[str, Any]:
        """The tree and its buckets."""
        return {
            "topology": NAME,
            "shares": [_plain(node) for node in self._root.children],
            "burst_ns": self._burst_ns,
            "groups": sorted(self._bound),
            "owed_ns": self._allowance.owed_ns,
            "buckets": {name: leaf.bucket for name, leaf in self._leaves.items()},
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """Where `save` was."""
        saved = checked(saved, NAME)
        one = cls(_tree(saved["shares"]), saved["burst_ns"])
        one._bound.update(saved["groups"])
        one._allowance.owed_ns = saved["owed_ns"]
        for name, bucket in saved["buckets"].items():
            one._leaves[name].bucket = bucket
        return one


PART: Final = 10**9
"""Parts are kept as whole numbers of 10^-9."""


def _grow(shares: Mapping[str, float | Share]) -> list[_Node]:
    if not shares:
        raise ConfigError("a tree without shares", hint='name the groups: {"fast": .7, "rest": .3}')
    nodes = []
    for name, share in shares.items():
        part, below = (share.part, share.children) if isinstance(share, Share) else (share, None)
        weight = round(part * PART) if 0 < part <= 1e6 else 0
        if weight < 1:
            raise ConfigError(f"the share of {name!r} is {part!r}", hint="it is a number above 0, a million at most")
        nodes.append(_Node(name, weight, [] if below is None else _grow(below)))
    return nodes


def _plain(node: _Node) -> list[Any]:
    return [node.name, node.weight, [_plain(child) for child in node.children]]


def _tree(plain: Sequence[Any]) -> dict[str, float | Share]:
    return {name: Share(weight / PART, _tree(below)) if below else weight / PART for name, weight, below in plain}


def _leaves(node: _Node) -> Iterator[_Node]:
    for child in node.children:
        if child.children:
            yield from _leaves(child)
        else:
            yield child


def _sum_up(node: _Node) -> int:
    if node.children:
        node.demand = sum(_sum_up(child) for child in node.children)
    return node.demand


def _part(node: _Node, tokens: int) -> None:
    """What each node below is guaranteed, and what it is offered."""
    node.guaranteed = node.offered = tokens
    stack = [node]
    while stack:
        at = stack.pop()
        weights = [child.weight for child in at.children]
        guaranteed = [at.guaranteed * weight // sum(weights) for weight in weights]
        offered = max_min(at.offered, weights, [child.demand for child in at.children])
        for child, least, most in zip(at.children, guaranteed, offered):
            child.guaranteed, child.offered = least, most
            if child.children:
                stack.append(child)


def max_min(amount: int, weights: Sequence[int], demands: Sequence[int]) -> list[int]:
    """Weighted max-min fair parts of an amount: nobody gets more than it wants, and nobody who gets less than it wants
    could get more without that one who has less for his weight gets less."""
    parts = [0] * len(weights)
    wanting = list(range(len(weights)))
    while wanting:
        total = sum(weights[i] for i in wanting)
        content = [i for i in wanting if demands[i] * total <= amount * weights[i]]
        if not content:
            for i in wanting:
                parts[i] = amount * weights[i] // total
            break
        for i in content:
            parts[i] = demands[i]
        amount -= sum(parts[i] for i in content)
        wanting = [i for i in wanting if i not in content]
    return parts
