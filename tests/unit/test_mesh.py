"""Processes in a mesh hear one another in turns, whatever connections do, and nobody else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from transport.mesh import HELLO, NUMBER, TOKEN_BYTES, Mesh, key_pair

TOKEN = bytes(range(TOKEN_BYTES))


def meshes(count: int, token_of: Callable[[int], bytes] = lambda _: TOKEN) -> list[Mesh]:
    keys = [key_pair() for _ in range(count)]
    return [Mesh(me, [public for public, _ in keys], keys[me][1], token_of(me)) for me in range(count)]


def together(those: list[Mesh], what: Callable[[Mesh], Any]) -> list[Any]:
    """Each in a thread of its own."""
    results: list[Any] = [None] * len(those)

    def run(mesh: Mesh) -> None:
        results[mesh.me] = what(mesh)

    threads = [threading.Thread(target=run, args=(mesh,)) for mesh in those]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def joined(those: list[Mesh]) -> None:
    where = {mesh.me: f"127.0.0.1:{mesh.port}" for mesh in those}
    for mesh in those:
        mesh.connect(where)
    assert together(those, lambda mesh: mesh.join(20)) == [True] * len(those)


def test_all_hear_all_in_turns():
    those = meshes(4)
    joined(those)

    def turns(mesh: Mesh) -> list[bytes]:
        heard = []
        for number in range(50):
            for peer in mesh.peers:
                mesh.send(peer, number, [b"%d>%d@%d" % (mesh.me, peer, number), b"x" * (number * 100)])
            for peer in mesh.peers:
                parts = mesh.receive(peer, number, 20)
                assert parts is not None
                assert len(parts[1]) == number * 100
                heard.append(bytes(parts[0]))
        return heard

    for me, heard in enumerate(together(those, turns)):
        assert heard == [b"%d>%d@%d" % (peer, me, number) for number in range(50) for peer in range(4) if peer != me]
    for mesh in those:
        mesh.close()


def test_what_a_broken_connection_lost_is_sent_again():
    one, two = those = meshes(2)
    joined(those)
    lost: list[Any] = []
    sends = two._send

    def loses_the_first(peer: int, number: int, parts: Any) -> None:
        if number == 1 and not lost:
            lost.append(number)
            return
        sends(peer, number, parts)

    two._send = loses_the_first  # type: ignore[method-assign]

    def turns(mesh: Mesh) -> list[bytes]:
        heard = []
        for number in range(4):
            mesh.send(1 - mesh.me, number, [b"%d" % number])
            parts = mesh.receive(1 - mesh.me, number, 20)
            assert parts is not None
            heard.append(bytes(parts[0]))
        return heard

    assert together(those, turns) == [[b"0", b"1", b"2", b"3"]] * 2
    assert lost == [1]
    for mesh in those:
        mesh.close()


def test_who_has_not_the_token_is_not_heard():
    those = meshes(2, lambda me: TOKEN if me == 0 else os.urandom(TOKEN_BYTES))
    where = {mesh.me: f"127.0.0.1:{mesh.port}" for mesh in those}
    those[1].connect(where)
    assert together(those, lambda mesh: mesh.join(0.5)) == [False, False]
    for mesh in those:
        mesh.close()


@pytest.mark.parametrize("keys", ["right", "none", "another"])
def test_who_has_not_the_key_gets_no_word_in(keys):
    listening = meshes(2)[0]
    context = zmq.Context(1)
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.ROUTING_ID, b"1")
    if keys != "none":
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = listening._publics[0] if keys == "right" else zmq.curve_keypair()[0]
    stranger.connect(f"tcp://127.0.0.1:{listening.port}")
    stranger.send_multipart([HELLO, TOKEN])
    assert listening.join(0.7) is (keys == "right")
    stranger.close()
    context.term()
    listening.close()


def test_messages_that_are_none_are_passed_over():
    one, two = those = meshes(2)
    joined(those)
    dealer = two._dealers[0]
    for junk in ([b""], [b"short"], [HELLO], [HELLO, b"wrong"], [NUMBER.pack(77), b"far ahead"], [b"x" * 100]):
        dealer.send_multipart(junk)
    two.send(0, 0, [b"right"])
    assert one.receive(1, 0, 20) == [b"right"]
    assert one.receive(1, 1, 0.1) is None
    for mesh in those:
        mesh.close()
