"""Presence files, remembered peers, seeds and announcements yield hints; damage and malice in them yield nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from transport import bounds
from transport import discovery as discovery_module
from transport.discovery import Announcement, Discovery, Hint, PeerCache, Presence
from transport.interfaces import Interface
from transport.mdns import Mdns
from transport.presence import PresenceWatch, present, read
from transport.seeds import Seeds, parse_seed

TAG = b"t" * 8
KEY = bytes(range(32))


def presence(name: str, n: int, **changes) -> Presence:
    fields = {
        "pid": os.getpid(),
        "id": bytes([n]) * 16,
        "curve_key": KEY,
        "tag": TAG,
        "port": 7000 + n,
        "boot": b"bt%d" % n,
    }
    return Presence(name, **{**fields, **changes})


# -- presence ----------------------------------------------------------------------------------------------------------


def test_presence_is_written_read_and_removed(tmp_path):
    one = presence("oak", 1)
    one.write(tmp_path)
    assert read(tmp_path / "oak.node") == one
    assert (tmp_path / "oak.node").stat().st_mode & 0o777 == 0o600
    assert present(tmp_path, TAG) == [one]
    assert one.hint == Hint(("127.0.0.1",), 7001, bytes([1]) * 16, KEY, "presence", "oak")
    presence("oak", 1, boot=b"next").write(tmp_path)
    one.remove(tmp_path)  # not ours any more: the node has been started again
    assert len(present(tmp_path, TAG)) == 1
    presence("oak", 1, boot=b"next").remove(tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_dead_and_other_fleets_are_not_present(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    presence("dead", 1, pid=gone.pid).write(tmp_path)
    presence("other", 2, tag=b"o" * 8).write(tmp_path)
    assert present(tmp_path, TAG) == []
    assert present(tmp_path / "nowhere", TAG) == []


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=300),
    key=st.sampled_from(["pid", "id", "curve_key", "port", "boot", "addresses"]),
    value=st.none() | st.integers() | st.text(max_size=9) | st.lists(st.none(), max_size=2),
)
def test_damaged_presence_is_none(tmp_path_factory, data, key, value):
    directory = tmp_path_factory.mktemp("presence")
    (directory / "a.node").write_bytes(data)
    assert read(directory / "a.node") is None
    presence("b", 1).write(directory)
    content = json.loads((directory / "b.node").read_text())
    (directory / "b.node").write_text(json.dumps({**content, key: value}))
    found = read(directory / "b.node")
    assert found is None or (found.port > 0 and len(found.curve_key) == 32 and len(found.id) == 16)


def test_presence_follows_no_link_and_reads_no_pipe(tmp_path):
    presence("real", 1).write(tmp_path)
    (tmp_path / "link.node").symlink_to(tmp_path / "real.node")
    os.mkfifo(tmp_path / "pipe.node")
    (tmp_path / "big.node").write_bytes(b" " * (bounds.PRESENCE_BYTES_MAX + 1))
    assert [one.name for one in present(tmp_path, TAG)] == ["real"]


def test_a_watch_tells_of_what_is_new_or_started_again(tmp_path):
    told: list[Hint] = []
    watch = PresenceWatch(tmp_path, TAG, bytes([9]) * 16, told.append)
    presence("self", 9).write(tmp_path)
    presence("oak", 1).write(tmp_path)
    assert watch.look() and [hint.name for hint in told] == ["oak"]
    assert not watch.look()
    presence("elm", 2).write(tmp_path)
    watch.look()
    presence("oak", 1, boot=b"again", port=7100).write(tmp_path)
    watch.look()
    assert [hint.name for hint in told] == ["oak", "elm", "oak"] and told[-1].port == 7100
    watch.forget()
    watch.look()
    assert sorted(hint.name for hint in told[3:]) == ["elm", "oak"]


# -- remembered peers --------------------------------------------------------------------------------------------------


def test_the_cache_remembers_the_latest_first(tmp_path):
    cache = PeerCache(tmp_path / "peers")
    for n in range(3):
        cache.record(bytes([n]) * 16, KEY, [f"10.0.0.{n}", "fe80::1%2"], 7000, f"n{n}")
    cache.record(bytes([0]) * 16, KEY, ["10.0.1.0"], 7000)
    cache.drop(bytes([1]) * 16)
    cache.save()
    again = PeerCache(tmp_path / "peers")
    assert [hint.addresses[0] for hint in again.hints()] == ["10.0.1.0", "10.0.0.2"]
    assert again.hints() == cache.hints() and not again.damaged
    assert os.listdir(tmp_path) == ["peers"]


def test_the_cache_is_bounded_and_forgets(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "CACHED_PEERS_COUNT_MAX", 4)
    now = [1e9]
    cache = PeerCache(tmp_path / "peers", lambda: now[0])
    for n in range(7):
        cache.record(bytes([n]) * 16, KEY, ["10.0.0.1"], 7000)
        now[0] += bounds.CACHED_PEER_LIFE_S / 8
    cache.record(b"x" * 16, KEY, ["0.0.0.0", "nonsense", "224.0.0.1"], 7000)
    cache.record(b"y" * 16, KEY, ["10.0.0.1"], 0)
    assert [hint.id[0] for hint in cache.hints()] == [6, 5, 4, 3]
    cache.save()
    now[0] += bounds.CACHED_PEER_LIFE_S * 5.5 / 8
    assert [hint.id[0] for hint in PeerCache(tmp_path / "peers", lambda: now[0]).hints()] == [6, 5]


def test_a_full_cache_fits_its_file(tmp_path):
    cache = PeerCache(tmp_path / "peers")
    addresses = [f"fe80:1111:2222:3333:4444:5555:6666:777{n}%12" for n in range(9)]
    for n in range(bounds.CACHED_PEERS_COUNT_MAX):
        cache.record(n.to_bytes(16, "big"), KEY, addresses, 65535, "n" * 63)
    cache.save()
    again = PeerCache(tmp_path / "peers")
    assert len(again) == bounds.CACHED_PEERS_COUNT_MAX and not again.damaged


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda s: (
            st.lists(s, max_size=3)
            | st.dictionaries(
                st.sampled_from(["peers", "id", "port", "addresses", "seen_s", "curve_key"]), s, max_size=6
            )
        ),
    ).map(lambda v: json.dumps(v).encode())
)
def test_a_damaged_cache_is_an_empty_one(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cache") / "peers"
    path.write_bytes(data)
    cache = PeerCache(path)
    assert len(cache) == 0
    cache.record(bytes(16), KEY, ["10.0.0.1"], 7000)
    cache.save()
    assert len(PeerCache(path)) == 1


# -- seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host:7700", ("host", 7700)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
        (" a.b:80 ", ("a.b", 80)),
    ],
)
def test_seeds_are_parsed(text, expected):
    assert parse_seed(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host", ":7700", "host:", "host:0", "host:65536", "fd00::1:7700", "[x]:1", "h:7x", "h:-1", "h:٣"]
)
def test_bad_seeds_are_refused_in_words(text):
    with pytest.raises(ValueError, match="no seed"):
        parse_seed(text)
    with pytest.raises(ValueError):
        Discovery(TAG, lambda hint: None, seeds=[text])


def test_seeds_are_asked_again_and_at_once_when_nudged(monkeypatch):
    monkeypatch.setattr(bounds, "SEED_FIRST_S", 0.01)
    told: list[Hint] = []
    events: list[str] = []

    async def body():
        seeds = Seeds(
            ["10.0.0.1:7700", "localhost:7701", "no-such-name.invalid:1"],
            told.append,
            lambda name, facts: events.append(name),
        )
        task = asyncio.create_task(seeds.run())
        async with asyncio.timeout(20):
            while len([hint for hint in told if hint.port == 7701]) < 3:
                await asyncio.sleep(0.005)
            monkeypatch.setattr(bounds, "SEED_FIRST_S", 1000)
            monkeypatch.setattr(bounds, "SEED_MAX_S", 1000)
            before = len(told)
            seeds.nudge()
            while len(told) == before:
                await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(body())
    assert Hint(("10.0.0.1",), 7700, None, None, "seed", "10.0.0.1") in told
    assert any("127.0.0.1" in hint.addresses or "::1" in hint.addresses for hint in told if hint.port == 7701)
    assert set(events) == {"seed_unresolved"}


# -- announcements -----------------------------------------------------------------------------------------------------


def announcement(**changes):
    properties = {b"f": TAG.hex().encode(), b"v": b"1", b"k": z85.encode(KEY), b"b": b"00"}
    properties.update({key.encode(): value for key, value in changes.pop("text", {}).items()})
    fields = {"port": 7700, "addresses": ["fd00::1", "10.0.0.1", "127.0.0.1", "fe80::1%2"], **changes}
    return SimpleNamespace(
        properties=properties, port=fields["port"], parsed_scoped_addresses=lambda: fields["addresses"]
    )


def test_an_announcement_of_the_fleet_is_a_hint_once():
    told: list[Hint] = []
    mdns = Mdns(TAG, None, told.append, lambda id: None)
    for info in (
        announcement(),
        announcement(),
        announcement(text={"b": b"01"}),
        announcement(port=1, text={"b": b"01"}),
    ):
        mdns._heard(b"i" * 16, info)
    assert told[0] == Hint(("10.0.0.1", "fd00::1", "fe80::1%2"), 7700, b"i" * 16, KEY, "mdns")
    assert [hint.port for hint in told] == [7700, 7700, 1]


@pytest.mark.parametrize(
    "info",
    [
        announcement(text={"f": b"00" * 8}),
        announcement(text={"f": None}),
        announcement(text={"v": b"2"}),
        announcement(text={"k": None}),
        announcement(text={"k": b"short"}),
        announcement(text={"k": b"\xff" * 40}),
        announcement(text={"k": b"~" * 40}),
        announcement(port=0),
        announcement(port=None),
        announcement(addresses=["127.0.0.1", "224.0.0.251", "::"]),
        announcement(addresses=[]),
    ],
)
def test_other_announcements_are_none(info):
    mdns = Mdns(TAG, None, pytest.fail, pytest.fail)
    mdns._heard(b"i" * 16, info)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_key_text_is_survived(text):
    hint = Mdns(TAG, None, lambda hint: None, lambda id: None)._read(b"i" * 16, announcement(text={"k": text}))
    assert hint is None or len(hint.curve_key) == 32


def test_names_that_are_heard_are_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "ANNOUNCED_PEERS_COUNT_MAX", 5)
    mdns = Mdns(TAG, None, lambda hint: None, lambda id: None)
    for n in range(20):
        mdns._heard(bytes([n]) * 16, announcement())
    assert len(mdns._known) == 5


# -- all together ------------------------------------------------------------------------------------------------------


def test_what_is_known_is_told_before_open_returns(tmp_path):
    told: list[Hint] = []
    cache = PeerCache(tmp_path / "peers")
    cache.record(bytes([3]) * 16, KEY, ["10.0.0.3"], 7003, "fir")
    cache.record(bytes([9]) * 16, KEY, ["10.0.0.9"], 7009, "self")
    presence("elm", 2).write(tmp_path)

    async def body():
        own = presence("self", 9)
        found = Discovery(
            TAG, told.append, lan=False, seeds=["10.0.0.4:7004"], cache=cache, directory=tmp_path, presence=own
        )
        await found.open()
        assert {hint.source for hint in told} == {"presence", "cache", "seed"} and len(told) == 3
        assert read(tmp_path / "self.node") == own
        presence("oak", 1).write(tmp_path)
        async with asyncio.timeout(60):
            while not any(hint.name == "oak" for hint in told):
                await asyncio.sleep(0.01)
        before = len(told)
        found.nudge()
        assert told[before].source == "cache"
        found.remember(Hint(("10.0.0.5",), 7005, bytes([5]) * 16, KEY, "mdns", "ash"))
        await found.close()
        await found.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(body())
    assert not (tmp_path / "self.node").exists()
    assert [hint.name for hint in PeerCache(tmp_path / "peers").hints()][0] == "ash"


class FakeMdns:
    """Stands for the sockets: `failing` many first attempts have no multicast."""

    made: list[FakeMdns] = []
    failing = 0

    def __init__(self, tag, announcement, on_hint, on_gone):
        self.heard_self, self.closed, self.interfaces = False, None, ()

    async def open(self, interfaces):
        if FakeMdns.failing:
            FakeMdns.failing -= 1
            raise OSError("no multicast")
        self.interfaces = interfaces
        FakeMdns.made.append(self)

    async def close(self, *, goodbye=True):
        self.closed = goodbye


@pytest.fixture
def lan_of_fakes(monkeypatch):
    state = SimpleNamespace(interfaces=(Interface("eth0", 2, ("10.0.0.1",)),), slept_s=0.0)
    FakeMdns.made, FakeMdns.failing = [], 0
    monkeypatch.setattr(discovery_module, "Mdns", FakeMdns)
    monkeypatch.setattr(discovery_module, "interfaces", lambda rule: state.interfaces)
    monkeypatch.setattr(discovery_module, "_slept_s", lambda: state.slept_s)
    monkeypatch.setattr(discovery_module, "_DEAF_AFTER_S", 0.02)
    monkeypatch.setattr(bounds, "INTERFACES_POLL_S", 0.005)
    return state


def run_on_fakes(events, body, **options):
    async def main():
        own = Announcement(bytes(16), KEY, 7700, b"b")
        found = Discovery(
            TAG, lambda hint: None, announcement=own, on_event=lambda *event: events.append(event), **options
        )
        await found.open()
        async with asyncio.timeout(60):
            await body()
        await found.close()

    asyncio.run(main())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def test_another_network_or_a_nap_makes_a_new_announcement(lan_of_fakes):
    events, moved = [], []

    async def body():
        await until(lambda: FakeMdns.made)
        lan_of_fakes.interfaces = (Interface("wlan0", 3, ("192.168.1.5",)),)
        await until(lambda: len(FakeMdns.made) == 2)
        lan_of_fakes.slept_s += 60.0
        await until(lambda: len(FakeMdns.made) == 3)

    run_on_fakes(events, body, on_addresses=moved.append)
    assert [made.closed for made in FakeMdns.made] == [False, False, True]
    assert moved == [(Interface("wlan0", 3, ("192.168.1.5",)),)]
    assert [name for name, _ in events if name != "mdns_deaf"] == [
        "mdns_open",
        "addresses_changed",
        "mdns_open",
        "mdns_open",
    ]


def test_no_multicast_is_said_once_and_tried_again(lan_of_fakes):
    events = []
    FakeMdns.failing = 5

    async def body():
        await until(lambda: any(name == "mdns_deaf" for name, _ in events))

    run_on_fakes(events, body)
    assert [name for name, _ in events] == ["mdns_unavailable", "mdns_open", "mdns_deaf"]


def test_without_lan_nothing_is_announced(lan_of_fakes):
    events = []
    run_on_fakes(events, lambda: asyncio.sleep(0.02), lan=False)
    assert not events and not FakeMdns.made
