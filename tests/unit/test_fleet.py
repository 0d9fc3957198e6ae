"""The files of a fleet: made once, read strictly, shared by the processes of a home, and clear about what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
from nacl.signing import SigningKey

from transport import bounds
from transport.fleet import Fleet, create_fleet, enroll, host_name
from transport.identity import Untrusted
from transport.private_files import FleetError, locked, read_private, write_private

NOW = 1_800_000_000.0
YEAR = bounds.CERTIFICATE_LIFE_S


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return create_fleet(tmp_path / "home" / "fleet", admin="oak")


def failed(call: Callable[..., object], *arguments: object, **named: object) -> FleetError:
    with pytest.raises(FleetError) as caught:
        call(*arguments, **named)
    return caught.value


# -- made and read --------------------------------------------------------------------------------------------------


def test_a_fleet_is_made_once_and_read_back(fleet: Fleet) -> None:
    again = create_fleet(fleet.directory, name="other")
    assert fleet.fresh and not again.fresh
    assert (again.id, again.name, again.trust.secret) == (fleet.id, fleet.name, fleet.trust.secret)
    assert again.is_admin and [admin.name for admin in again.trust.admins] == ["oak"]
    assert fleet.name == f"lab-{fleet.id.hex()[:4]}"
    assert Fleet.load(fleet.directory).trust.tag == fleet.trust.tag


def test_two_fleets_share_nothing(fleet: Fleet, tmp_path: Path) -> None:
    other = create_fleet(tmp_path / "other", name="rack")
    assert other.name == "rack"
    assert {other.id, other.trust.secret, other.trust.tag}.isdisjoint({fleet.id, fleet.trust.secret, fleet.trust.tag})
    credentials = enroll(other, tmp_path / "n", "node", "elm", [], NOW)
    with pytest.raises(Untrusted, match="another fleet"):
        fleet.trust.verify(credentials.certificate, NOW)


def test_everything_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = create_fleet(tmp_path / "home" / "fleet")
        enroll(made, tmp_path / "home" / "node", "node", "oak", [], NOW)
    finally:
        os.umask(old)
    for path in (tmp_path / "home").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_three_processes_at_once_make_one_fleet(tmp_path: Path) -> None:
    code = """
import sys, pathlib
from transport.fleet import create_fleet, enroll
sys.stdin.readline()
home = pathlib.Path(sys.argv[1])
fleet = create_fleet(home / "fleet")
credentials = enroll(fleet, home / "client", "client", "me", ["code"], 1e9)
print(fleet.fresh, fleet.id.hex(), fleet.trust.secret.hex(), credentials.certificate.hex(), sep=",")
"""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=60)[0].strip().split(",") for process in started]
    assert sorted(line[0] for line in lines) == ["False", "False", "True"]
    assert len({tuple(line[1:]) for line in lines}) == 1, "same fleet, same secret, same client certificate"
    assert not [
        path for path in tmp_path.iterdir() if path.name not in ("fleet", "client", ".fleet.lock", ".client.lock")
    ]


def test_no_fleet_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    error = failed(Fleet.load, tmp_path / "none")
    assert error.reason == "missing" and "swarm node" in error.hint and error.path == tmp_path / "none"


@pytest.mark.parametrize("name", ["", "a b", "x" * 64, "\x1b[31m"])
def test_names_that_a_terminal_would_choke_on_are_refused(tmp_path: Path, name: str) -> None:
    assert failed(create_fleet, tmp_path / "fleet", name=name).reason == "bad-name"
    assert not (tmp_path / "fleet").exists()


def test_the_host_has_a_name_that_a_certificate_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for raw in ("", "...", "ümlaut box.local", "-" * 5, "a" * 200):
        monkeypatch.setattr("platform.node", lambda raw=raw: raw)
        assert create_fleet(tmp_path / (host_name()[:20] + str(len(raw)))).trust.admins[0].name == host_name()


# -- damaged, unreadable, open to others ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fleet", "secret", "admin.key"])
def test_a_garbled_or_cut_file_is_named(fleet: Fleet, name: str) -> None:
    path = fleet.directory / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content in (bytes(flipped), whole[:-1], b"", b"\xff" * 50, whole.replace(b" 1 ", b" 9 ", 1)):
        path.write_bytes(content)
        error = failed(Fleet.load, fleet.directory)
        assert error.reason == "damaged" and error.path == path and str(path) in str(error) and error.hint
    path.write_bytes(whole)
    assert Fleet.load(fleet.directory).id == fleet.id


def test_one_file_in_the_place_of_another_is_found(fleet: Fleet) -> None:
    os.replace(fleet.directory / "admin.key", fleet.directory / "secret")
    assert failed(Fleet.load, fleet.directory).reason == "damaged"


@pytest.mark.parametrize("name", ["fleet", "secret"])
def test_a_lost_file_is_not_made_anew(fleet: Fleet, name: str) -> None:
    """A new one would be another fleet, or one that has forgotten its revocations."""
    (fleet.directory / name).unlink()
    assert failed(create_fleet, fleet.directory).reason in ("damaged", "missing")
    assert (fleet.directory / "admin.key").exists()


@pytest.mark.parametrize("name", ["fleet", "secret", "admin.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_open_is_refused(fleet: Fleet, name: str, mode: int) -> None:
    path = fleet.directory / name
    path.chmod(mode)
    error = failed(Fleet.load, fleet.directory)
    assert error.reason == "permissions" and error.path == path and f"chmod 600 {path}" in error.hint


def test_a_directory_that_others_may_write_is_refused(fleet: Fleet) -> None:
    fleet.directory.chmod(0o770)
    error = failed(Fleet.load, fleet.directory)
    assert error.reason == "permissions" and "chmod 700" in error.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_file_of_another_user_is_refused(fleet: Fleet) -> None:
    os.chown(fleet.directory / "secret", 12345, 12345)
    assert failed(Fleet.load, fleet.directory).reason == "permissions"


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A directory of a user whom file modes do stop: the one who runs this, or somebody else if that is root."""
    with tempfile.TemporaryDirectory() as directory:
        root = os.geteuid() == 0
        if root:
            os.chown(directory, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(directory)
        finally:
            if root:
                os.seteuid(0)


def test_an_unreadable_file_is_named(plain_user: Path) -> None:
    fleet = create_fleet(plain_user / "fleet")
    enroll(fleet, plain_user / "n", "node", "oak", [], NOW)
    for path, call in (
        (fleet.directory / "admin.key", lambda: Fleet.load(fleet.directory)),
        (plain_user / "n" / "keys", lambda: enroll(fleet, plain_user / "n", "node", "oak", [], NOW)),
        (fleet.directory, lambda: create_fleet(fleet.directory)),
    ):
        mode = path.stat().st_mode
        path.chmod(0)
        error = failed(call)
        assert error.reason == "unreadable" and str(path) in str(error) and error.hint
        path.chmod(mode)
    assert Fleet.load(fleet.directory).is_admin


def test_a_place_where_nothing_can_be_written_is_named(plain_user: Path) -> None:
    (plain_user / "home").mkdir(0o500)
    error = failed(create_fleet, plain_user / "home" / "fleet")
    assert error.reason == "unwritable" and str(plain_user / "home") in str(error)
    (plain_user / "home").chmod(0o700)
    (plain_user / "home" / "file").touch()
    assert failed(create_fleet, plain_user / "home" / "file" / "fleet").reason == "unwritable"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_private(path, "secret", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = failed(write_private, path, "secret", b"new")
    assert error.reason == "unwritable" and "No space" in str(error)
    assert read_private(path, "secret") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_a_full_disk_kept_from_being_saved_counts_and_is_saved_later(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Fleet.load(fleet.directory)
    gone = enroll(fleet, tmp_path / "n", "node", "elm", [], NOW).id
    blob = fleet.revoke(gone, NOW)
    (fleet.directory / "fleet").unlink()
    write_private(fleet.directory / "fleet", "fleet", _unrevoked(fleet))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert other.trust.apply_revocation(blob) == gone
        assert other.unsaved is not None and other.unsaved.reason == "unwritable"
    assert not Fleet.load(fleet.directory).trust.revoked(gone)
    other.refresh()
    assert other.unsaved is None
    assert Fleet.load(fleet.directory).trust.revoked(gone)


def _unrevoked(fleet: Fleet) -> bytes:
    founder = fleet.trust.chain.founder
    return msgpack.packb([1, fleet.name, founder.key, founder.name, [], []])


def test_a_lock_that_somebody_sits_on_is_an_error_and_no_hang(tmp_path: Path) -> None:
    with locked(tmp_path / "x"):
        error = failed(lambda: locked(tmp_path / "x", timeout_s=0.05).__enter__())
    assert error.reason == "locked"
    with locked(tmp_path / "x", timeout_s=0.05):
        pass


# -- enrolment ------------------------------------------------------------------------------------------------------


def test_a_node_keeps_its_keys_and_its_certificate(fleet: Fleet, tmp_path: Path) -> None:
    first = enroll(fleet, tmp_path / "n", "node", "oak", ["code"], NOW)
    assert first.identity.expires_s == NOW + YEAR
    assert enroll(fleet, tmp_path / "n", "node", "oak", ["code"], NOW + 100).certificate == first.certificate
    assert enroll(fleet, tmp_path / "m", "node", "elm", ["code"], NOW).id != first.id


@pytest.mark.parametrize(
    "later", [YEAR * 0.8, YEAR + 5, 3 * YEAR, -10 * YEAR], ids=["near", "past", "long-past", "clock-set-back"]
)
def test_an_ending_certificate_is_renewed_where_the_admin_key_is(fleet: Fleet, tmp_path: Path, later: float) -> None:
    first = enroll(fleet, tmp_path / "n", "node", "oak", [], NOW)
    restarted = Fleet.load(fleet.directory)  # who has seen a later time knows that a clock is wrong
    second = enroll(restarted, tmp_path / "n", "node", "oak", [], NOW + later)
    assert second.id == first.id and second.identity.expires_s == NOW + later + YEAR


def test_other_wishes_make_another_certificate_with_the_same_keys(fleet: Fleet, tmp_path: Path) -> None:
    first = enroll(fleet, tmp_path / "n", "node", "oak", ["code"], NOW)
    second = enroll(fleet, tmp_path / "n", "node", "oak-2", [], NOW)
    assert (second.id, second.identity.name, second.identity.grants) == (first.id, "oak-2", frozenset())


def test_without_the_admin_key_a_certificate_is_kept_while_it_is_good(fleet: Fleet, tmp_path: Path) -> None:
    enroll(fleet, tmp_path / "n", "node", "oak", ["code"], NOW)
    (fleet.directory / "admin.key").unlink()
    plain = Fleet.load(fleet.directory)
    assert not plain.is_admin
    assert enroll(plain, tmp_path / "n", "node", "other", [], NOW + YEAR - 5).identity.name == "oak"
    assert failed(enroll, plain, tmp_path / "n", "node", "oak", [], NOW + YEAR).reason == "expired"
    error = failed(enroll, plain, tmp_path / "m", "node", "elm", [], NOW)
    assert error.reason == "not-enrolled" and "swarm fleet join" in error.hint
    for call in (lambda: plain.revoke(bytes(16), NOW), lambda: plain.add_admin(bytes(32), "x")):
        assert failed(call).reason == "not-admin"


def test_a_revoked_node_is_not_let_in_again_by_itself(fleet: Fleet, tmp_path: Path) -> None:
    credentials = enroll(fleet, tmp_path / "n", "node", "elm", [], NOW)
    fleet.revoke(credentials.id, NOW, reason="sold")
    error = failed(enroll, fleet, tmp_path / "n", "node", "elm", [], NOW)
    assert error.reason == "revoked" and "delete" in error.hint
    (tmp_path / "n" / "certificate").unlink()
    assert failed(enroll, fleet, tmp_path / "n", "node", "elm", [], NOW).reason == "revoked"
    (tmp_path / "n" / "keys").unlink()
    assert enroll(fleet, tmp_path / "n", "node", "elm", [], NOW).id != credentials.id


def test_keys_that_are_not_those_of_the_certificate_are_refused(fleet: Fleet, tmp_path: Path) -> None:
    enroll(fleet, tmp_path / "n", "node", "oak", [], NOW)
    enroll(fleet, tmp_path / "m", "node", "oak", [], NOW)
    os.replace(tmp_path / "m" / "keys", tmp_path / "n" / "keys")
    error = failed(enroll, fleet, tmp_path / "n", "node", "oak", [], NOW)
    assert error.reason == "key-mismatch" and str(tmp_path / "n") in str(error)


def test_a_certificate_is_renewed_only_while_it_is_good(fleet: Fleet, tmp_path: Path) -> None:
    old = enroll(fleet, tmp_path / "n", "node", "oak", ["code"], NOW)
    new = fleet.trust.verify(fleet.renew(old.certificate, NOW + 50), NOW + 50)
    assert (new.id, new.grants, new.expires_s) == (old.id, {"code"}, NOW + 50 + YEAR)
    with pytest.raises(Untrusted):
        fleet.renew(old.certificate, NOW + YEAR)


# -- several processes, several admins ------------------------------------------------------------------------------


def test_what_one_process_revokes_the_others_of_the_home_learn(fleet: Fleet, tmp_path: Path) -> None:
    node = Fleet.load(fleet.directory)
    gone = [enroll(fleet, tmp_path / name, "node", name, [], NOW).id for name in ("elm", "fir")]
    assert not node.refresh()
    fleet.revoke(gone[0], NOW)
    assert node.refresh() and not node.refresh()
    assert node.trust.revoked(gone[0])
    node.trust.apply_revocation(Fleet.load(fleet.directory).revoke(gone[1], NOW))
    assert all(Fleet.load(fleet.directory).trust.revoked(id) for id in gone)
    fleet.refresh()
    assert fleet.trust.revocations() == node.trust.revocations()


def test_what_two_processes_learn_at_the_same_time_is_merged(fleet: Fleet, tmp_path: Path) -> None:
    one, two = Fleet.load(fleet.directory), Fleet.load(fleet.directory)
    first, second = (enroll(fleet, tmp_path / name, "node", name, [], NOW).id for name in ("elm", "fir"))
    one.revoke(first, NOW)
    two.revoke(second, NOW)
    assert Fleet.load(fleet.directory).trust.revocations() == two.trust.revocations()
    assert len(two.trust.revocations()) == 2


def test_an_admin_key_is_replaced(fleet: Fleet, tmp_path: Path) -> None:
    """The laptop that founded the fleet goes; the desktop takes over; the nodes that the laptop let in stay."""
    node = enroll(fleet, tmp_path / "n", "node", "oak", [], NOW)
    (fleet.directory / "admin.key").rename(tmp_path / "laptop.key")
    desktop = Fleet.load(fleet.directory)
    key = desktop.make_admin_key()
    assert desktop.make_admin_key() == key == desktop.admin_public_key
    assert not desktop.is_admin
    assert failed(desktop.issue, "node", "x", bytes(32), bytes(32), [], NOW).reason == "not-admin"
    fleet.add_admin(key, "desktop")
    assert failed(fleet.add_admin, key, "desktop").reason == "exists"
    assert desktop.refresh() and desktop.is_admin
    desktop.retire_admin(fleet.admin_public_key or b"", NOW + 10)
    assert fleet.refresh() and not fleet.is_admin
    assert desktop.trust.verify(node.certificate, NOW + 20) == node.identity
    assert failed(desktop.retire_admin, key, NOW).reason == "bad-admins"
    assert [admin.name for admin in Fleet.load(fleet.directory).trust.admins] == ["oak", "desktop"]


def test_what_a_removed_admin_revoked_stays_revoked(fleet: Fleet, tmp_path: Path) -> None:
    gone = enroll(fleet, tmp_path / "n", "node", "elm", [], NOW).id
    (fleet.directory / "admin.key").rename(tmp_path / "kept.key")
    second = Fleet.load(fleet.directory)
    fleet.add_admin(second.make_admin_key(), "second")
    second.refresh()
    second.revoke(gone, NOW, reason="sold")
    fleet.refresh()
    fleet.remove_admin(second.admin_public_key or b"")
    assert fleet.trust.revoked(gone) and [entry.reason for entry in fleet.trust.entries()] == ["sold"]
    second.refresh()
    assert not second.is_admin and second.trust.revoked(gone)


def test_a_file_that_became_another_fleets_stops_the_process(fleet: Fleet, tmp_path: Path) -> None:
    other = create_fleet(tmp_path / "other")
    (fleet.directory / "fleet").unlink()
    os.replace(other.directory / "fleet", fleet.directory / "fleet")
    assert failed(fleet.refresh).reason == "wrong-fleet"
    (fleet.directory / "fleet").unlink()
    assert failed(fleet.refresh).reason == "missing"


def test_an_admin_key_of_somebody_else_gives_no_power(fleet: Fleet) -> None:
    (fleet.directory / "admin.key").unlink()
    write_private(fleet.directory / "admin.key", "admin", SigningKey.generate().encode())
    assert not Fleet.load(fleet.directory).is_admin
