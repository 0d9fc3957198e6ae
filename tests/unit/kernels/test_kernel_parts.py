"""Parts of a call on the threads of a crew, in C: the same as in one part, and without a race."""

from __future__ import annotations

import re

from sanitized import build, clean


def test_parts_are_joined_to_what_one_would_have_been(tmp_path):
    said = clean(build("parts_tsan.c", tmp_path))
    found = re.findall(r"(\d) threads: ([0-9a-f]{16}), (\d+) measured", said)
    assert [int(threads) for threads, *_ in found] == [1, 2, 3, 4]
    assert len({(hash_, measured) for _, hash_, measured in found}) == 1
