"""Interfaces of containers and VPNs do not count, unless asked for; the rest are told best first."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace

import pytest

from transport import bounds
from transport import interfaces as module
from transport.interfaces import Interface, InterfaceRule, announced, interfaces, useful


@pytest.mark.parametrize(
    "name",
    [
        "docker0",
        "br-4f1a2b3c4d5e",
        "veth12ab",
        "virbr0",
        "cni0",
        "tun0",
        "tap1",
        "wg0",
        "tailscale0",
        "zt5u4y",
        "utun3",
    ],
)
def test_containers_and_tunnels_do_not_count(name):
    assert not InterfaceRule().counts(name)
    assert InterfaceRule(allow=(name[:3] + "*",)).counts(name)
    assert not InterfaceRule(allow=("*",), deny=(name,)).counts(name)


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "wlan0", "wlp2s0", "br0", "bond0", "en0", "eno1", "usb0"])
def test_real_ones_count(name):
    assert InterfaceRule().counts(name)
    assert not InterfaceRule(deny=("*",)).counts(name)
    assert not InterfaceRule(allow=("other*",)).counts(name)


def test_useful_addresses_come_best_first_without_what_leads_nowhere():
    texts = [
        "fe80::1%2",
        "2001:db8::5",
        "169.254.7.7",
        "127.0.0.1",
        "::1",
        "8.8.4.4",
        "10.0.0.7",
        "224.0.0.1",
        "0.0.0.0",
        "no",
    ]
    assert useful(texts) == ("10.0.0.7", "8.8.4.4", "2001:db8::5", "169.254.7.7", "fe80::1%2")


def test_every_interface_gets_a_word_in():
    many = Interface("a0", 2, tuple(f"10.0.0.{n}" for n in range(1, 20)))
    other = Interface("b0", 3, ("192.168.1.9", "fe80::9%3"))
    bare = Interface("c0", 4, ("fe80::7%4",))
    told = announced([many, other, bare])
    assert len(told) == bounds.HINT_ADDRESSES_COUNT_MAX
    assert "192.168.1.9" in told and "fe80::7%4" in told and "fe80::9%3" not in told
    assert told[-1] == "fe80::7%4"


def test_the_machine_as_ifaddr_sees_it(monkeypatch):
    def adapter(name, index, *ips):
        return SimpleNamespace(name=name, nice_name=name, index=index, ips=[SimpleNamespace(ip=ip) for ip in ips])

    adapters = [
        adapter("lo", 1, "127.0.0.1", ("::1", 0, 0)),
        adapter("docker0", 3, "172.17.0.1"),
        adapter("eth1", 5, "10.2.2.2"),  # unplugged
        adapter("eth0", 2, ("fe80::2", 0, 2), ("fd00::2", 0, 0), "10.1.1.1"),
    ]
    monkeypatch.setattr(module.ifaddr, "get_adapters", lambda: adapters)
    monkeypatch.setattr(module, "_running", lambda name: name != "eth1")
    assert interfaces() == (Interface("eth0", 2, ("10.1.1.1", "fd00::2", "fe80::2%2")),)
    assert [i.name for i in interfaces(InterfaceRule(allow=("docker*",)))] == ["docker0"]


def test_this_machine():
    for interface in interfaces():
        assert interface.addresses and not any(ipaddress.ip_address(a).is_loopback for a in interface.addresses)
