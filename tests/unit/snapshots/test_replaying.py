"""Any moment can be restored, to the entry: the snapshot and the log give what a model gives that applies entry after entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.snapshots.replaying import LogEntry, OutOfRetention, replay

KEYS = st.integers(0, 8).map(lambda i: b"k%d" % i)
ENTRIES = st.lists(
    st.builds(LogEntry, st.integers(0, 30), st.sampled_from(["s", "other"]), KEYS, st.none() | st.binary(max_size=3)),
    max_size=30,
)


@given(ENTRIES, st.integers(0, 30), st.integers(0, 30), st.randoms())
def test_every_moment_is_as_it_was(entries, since, until, random):
    entries = sorted(entries, key=lambda entry: entry.stamp)
    states = {}
    state: dict[bytes, bytes] = {}
    for stamp in range(31):
        for entry in entries:
            if entry.stamp == stamp and entry.shard == "s":
                state = {key: value for key, value in state.items() if key != entry.key}
                if entry.value is not None:
                    state[entry.key] = entry.value
        states[stamp] = sorted(state.items())
    if until < since:
        with pytest.raises(OutOfRetention) as caught:
            list(replay("s", states[since], entries, since=since, until=until))
        assert caught.value.earliest == since
        return
    groups = [[entry for entry in entries if entry.stamp == stamp] for stamp in range(31)]
    random.shuffle(groups)  # any order, but for entries of one stamp
    shuffled = [entry for group in groups for entry in group]
    assert list(replay("s", states[since], shuffled, since=since, until=until)) == states[until]
