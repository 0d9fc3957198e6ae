"""The knowledge log: what the fleet knows, in shards that are merged without coordination.

**Entry** (`entries.Entry`): one statement of one author. ``stamp`` (a hybrid logical clock, `stamps`), ``kind`` (a name of
`kinds.KINDS`), ``key`` (text), ``op`` (`entries.Op`: PUT or DROP), ``value`` (plain MessagePack, see `kernels.plain`), ``tags`` (texts by
which it is found), ``task`` and ``attempt`` (where it was learned, if in a task).

**Segment** (`entries.Segment`): entries that one author made one after the other for one shard, under one signature. The unit in which
knowledge travels, is kept and is compared: whole or not at all. It is named by the hash of its header. An author numbers its entries
without gaps along a *line*, which begins anew only when the author lost what it had numbered.

**Kind** (`kinds.Kind`): a name and the CRDT (Shapiro et al. 2011) by which its entries merge:

===========  =====================================================  ==================  =================================
CRDT         PUT says                                               DROP says           ``get`` gives
===========  =====================================================  ==================  =================================
REGISTER     the key's value                                        the key is gone     the value of the last stamp
SET          an element (plain, hashed by its bytes)                ``[element, seen]`` the elements, in a fixed order
COUNTER      ``[ups, downs]`` of this line, never less than before  (none)              sum of ups less downs
LOG_ODDS     this author's evidence, -`LOG_ODDS_MAX` to that        (none)              sum over authors, bounded
===========  =====================================================  ==================  =================================

lessons, facts and policies are registers, beliefs are log-odds, tallies (outcomes, uses) counters, marks sets.

**Shard** (`shard.Shard`): all segments of a part of the keys (`shard_of`), and what they say together. ``apply(segment, wall_ms)`` in any
order and any number of times gives the same state; ``digest`` is equal on two nodes exactly when they hold the same segments.
``get(kind, key)`` is O(1); `views.Views` has ranges, tags and what to watch. Take a snapshot of ``shard.segments()`` (bytes each, in
a fixed order): applying them anywhere gives the shard again.

**Knowledge** (`knowledge.Knowledge`): ``put``, ``drop``, ``get``, ``query`` and ``watch`` over the shards that a node holds; it stamps, signs
and batches what the node itself says. `keeper.Keeper` is the machine of one node: gossip of the fresh, anti-entropy
(`sync.Exchange` over `merkle.Tree`) for the rest.

To add a kind: one line in `kinds.KINDS`, which says its CRDT and checks its values. Nodes that do not know the kind yet
keep and pass on its segments, and show them once they do.
"""
