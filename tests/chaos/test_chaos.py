"""The plans of the nemesis. The run itself is `make chaos`: it takes a machine of its own, and minutes."""

from __future__ import annotations

from tests.chaos.nemesis import NET_FAULTS, NODE_FAULTS, plan

HOSTS = ["h1", "h2", "h3", "h4", "h5"]


def test_a_seed_gives_the_same_faults_and_every_kind_comes_early() -> None:
    for kinds in (NODE_FAULTS, NET_FAULTS):
        drawn = plan("7", kinds, HOSTS, 40)
        assert drawn == plan("7", kinds, HOSTS, 40)
        assert drawn != plan("8", kinds, HOSTS, 40)
        assert {fault.kind for fault in drawn[: len(kinds)]} == set(kinds)
        assert all(set(fault.hosts) <= set(HOSTS) and fault.lasts_s <= 15.0 for fault in drawn)
    assert plan("7", {}, HOSTS, 40) == []
