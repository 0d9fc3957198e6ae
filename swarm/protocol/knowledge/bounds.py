"""Every bound of the knowledge log, with its unit; the formulas between them are asserted."""

from __future__ import annotations

from typing import Final

ID_BYTES: Final = 16
"""Of an author, and of a segment."""
DIGEST_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

FUTURE_MS: Final = 60_000
"""A stamp further ahead of this node's clock is refused: it is taken when its time has come."""
RETENTION_MS: Final = 30 * 86_400_000
"""So long what is out of date, and what says that something is gone, is kept. Who is away for longer has to begin anew."""

KEY_BYTES_MAX: Final = 512
KIND_BYTES_MAX: Final = 32
VALUE_BYTES_MAX: Final = 64 * 1024
"""Larger values are blobs, and the entry has their id."""
BLOB_BYTES_MAX: Final = 16 << 20
TAGS_MAX: Final = 16
TAG_BYTES_MAX: Final = 64
TASK_BYTES: Final = 16
ATTEMPT_MAX: Final = (1 << 31) - 1
SEEN_MAX: Final = 256
"""Lines that the DROP of an element of a set may name."""

DROPS_MAX: Final = 8
"""Removals of one element that count of one line, the last ones."""

SEGMENT_ENTRIES_MAX: Final = 4096
SEGMENT_BYTES_MAX: Final = 256 * 1024
SHARDS_MAX: Final = 1 << 15
SHARDS: Final = 16
"""How many shards a fleet has unless it was made with another number."""

QUOTA_BURST: Final = 100_000
QUOTA_PER_S: Final = 50.0
"""Entries that an author may have made on one line: so many at once, and so many a second since the line began."""
AUTHOR_BYTES_MAX: Final = 16 << 20
AUTHOR_ENTRIES_MAX: Final = 100_000
"""What of one author is held in one shard: of more the last. Authors that keep the rules say no more than that."""
AUTHOR_BYTES_PER_S: Final = 16 * 1024
"""What a node takes of one author in one shard, after as much at once as is held."""
LINES_MAX: Final = 16
"""Lines of one author in one shard; the last begun stay."""

LOG_ODDS_MAX: Final = 8.0
"""The evidence of one author: a probability of 0.9997."""
LOG_ODDS_SUM_MAX: Final = 40.0
COUNT_MAX: Final = 1 << 53

LEAF_SEGMENTS_MAX: Final = 16
"""Segments under one leaf of the Merkle tree before it is split."""
MESSAGE_BYTES_MAX: Final = 512 * 1024
"""Of one message of an exchange, or of gossip."""
ITEMS_MAX: Final = 16_384
"""Places of the tree, or segments wanted, named in one message."""
OPEN_ITEMS_MAX: Final = 1 << 19
"""Of these, all that one exchange has still to talk about."""
WATCH_EVENTS_MAX: Final = 65_536
"""What a watcher did not read yet; beyond that it is told to look anew."""
REFUSED_KEPT_MAX: Final = 4096
WAITING_MAX: Final = 1024
"""Segments that wait for their author's certificate or for their time."""

assert KEY_BYTES_MAX + VALUE_BYTES_MAX + TAGS_MAX * (TAG_BYTES_MAX + 2) + 256 <= SEGMENT_BYTES_MAX
assert 2 * SEGMENT_BYTES_MAX <= MESSAGE_BYTES_MAX
assert SEGMENT_BYTES_MAX <= AUTHOR_BYTES_MAX and SEGMENT_ENTRIES_MAX <= AUTHOR_ENTRIES_MAX
assert LOG_ODDS_MAX <= LOG_ODDS_SUM_MAX
