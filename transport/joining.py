"""Entering a fleet by a token: what the joiner sends, and what it checks before it believes the reply and writes
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
from blake3 import blake3
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from transport import bounds
from transport.certificates import Keys, check_wish, fleet_of
from transport.fleet import Fleet, install_fleet, load_keys, save_certificate, save_keys
from transport.identity import SECRET_BYTES, Admin, AdminChain, Credentials, Trust, Untrusted
from transport.private_files import FleetError, locked, set_aside
from transport.signed import decode, key_field, malformed, name_field, unseal
from transport.tokens import REFUSALS, REPLY, REPLY_ORDER, REQUEST, Token, refusal


@dataclass(frozen=True, slots=True)
class Applicant:
    """One certificate that is wished for: the keys in this directory, this role and name."""

    directory: Path
    role: str
    name: str
    keys: Keys = field(repr=False)


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What the joiner sends (``message``), and what it must remember to check the reply."""

    token: Token
    applicants: tuple[Applicant, ...]
    message: bytes


def request_join(token: Token, wishes: Sequence[tuple[Path, str, str]]) -> JoinRequest:
    """Prepare to join with these ``(directory, role, name)``; keys that are not there yet are made and saved first.

    A machine asks for its node and its clients at once. Raises `FleetError`: ``bad-name``, and what files may raise.
    """
    assert 0 < len(wishes) <= bounds.JOIN_APPLICANTS_COUNT_MAX
    applicants = []
    for directory, role, name in wishes:
        try:
            check_wish(name, role, frozenset())
        except ValueError as error:
            raise FleetError("bad-name", str(error), "choose another") from error
        if role == "node" and token.role == "client":
            raise refusal("token-role")
        with locked(directory):
            keys = load_keys(directory) or save_keys(directory, Keys.create())
        applicants.append(Applicant(directory, role, name, keys))
    rows = [[a.role, a.name, a.keys.sign_key, a.keys.curve_key] for a in applicants]
    body: bytes = msgpack.packb([1, token.fleet, token.keys.sign_key, rows])
    signatures = [keys.sign(body, REQUEST) for keys in (token.keys, *(a.keys for a in applicants))]
    message: bytes = msgpack.packb([body, signatures])
    assert len(message) <= bounds.JOIN_BYTES_MAX
    return JoinRequest(token, tuple(applicants), message)


def accept_join(
    request: JoinRequest, reply: bytes, fleet_dir: Path, now_wall_s: float, *, replace: bool = False
) -> tuple[Fleet, list[Credentials]]:
    """Check the issuer's reply against the token, and only then write: the fleet's files, and a certificate for
    each applicant.

    A home that has this fleet already keeps what it knows. If it has another one, that is moved aside to
    ``fleet.NAME.N`` when ``replace`` is given. Raises `FleetError`: a reason of `REFUSALS`; ``exists`` for another
    fleet; ``bad-reply`` when the reply is not from the fleet that the token is for; that of `Untrusted` when a clock
    is wrong; and what files may raise.
    """
    _raise_refusal(reply)
    try:
        trust, certificates = _read_reply(request, reply)
        joined = [
            Credentials(trust.verify(certificate, now_wall_s), certificate, applicant.keys)
            for certificate, applicant in zip(certificates, request.applicants, strict=True)
        ]
        if any(c.identity.role != a.role for c, a in zip(joined, request.applicants)):
            raise malformed(REPLY, "certifies another role")
    except Untrusted as error:
        if error.reason in ("expired", "not-yet-valid", "revoked"):
            raise FleetError(error.reason, str(error), error.hint, None, **error.facts) from error
        raise FleetError(
            "bad-reply",
            f"the answer is not that of the token's fleet: {error}",
            "get a new token; if this comes again, somebody is in between",
        ) from error
    with locked(fleet_dir):
        present = _present(fleet_dir)
        if present is not None and present.id != trust.fleet:
            if not replace:
                raise FleetError(
                    "exists",
                    f"this home is in the fleet {present.name} already",
                    "`swarm fleet join --replace` moves that one aside, or set SWARM_HOME to have both",
                    fleet_dir,
                )
            set_aside(fleet_dir, present.name)
            present = None
        if present is None:
            install_fleet(fleet_dir, trust)
    fleet = Fleet.load(fleet_dir)
    if fleet.trust.absorb(trust.admin_chain(), trust.held()):
        fleet.save()
    for applicant, credentials in zip(request.applicants, joined):
        save_certificate(applicant.directory, credentials.certificate)
    return fleet, joined


def _present(fleet_dir: Path) -> Fleet | None:
    try:
        return Fleet.load(fleet_dir)
    except FleetError as error:
        if error.reason != "missing" or error.path != fleet_dir:
            raise
        return None


def _read_reply(request: JoinRequest, reply: bytes) -> tuple[Trust, list[bytes]]:
    fields, signer = unseal(REPLY, reply, REPLY_ORDER, bounds.JOIN_REPLY_BYTES_MAX)
    if fields["v"] != 1 or fields["request"] != blake3(request.message).digest():
        raise malformed(REPLY, "answers something else")
    founder = Admin(key_field(fields["founder"], REPLY), name_field(fields["founder_name"], REPLY))
    if fleet_of(founder.key) != request.token.fleet:
        raise Untrusted("wrong-fleet", "its founder's key is not that of the token", "get a new token")
    lists = [fields[name] for name in ("chain", "revocations", "certificates")]
    if not all(isinstance(blobs, list) and all(type(blob) is bytes for blob in blobs) for blobs in lists):
        raise malformed(REPLY, "has lists of something else")
    chain, revocations, certificates = (list(blobs) for blobs in lists if isinstance(blobs, list))
    admins = AdminChain(founder, chain)
    admin = admins.get(signer)
    if admin is None or admin.retired_s is not None:
        raise Untrusted("unknown-admin", "it is signed by a key that is no admin", "get a new token")
    sealed = fields["secret"]
    if type(sealed) is not bytes or len(certificates) != len(request.applicants):
        raise malformed(REPLY, "does not have what was asked for")
    try:
        secret = SealedBox(PrivateKey(request.applicants[0].keys.curve_secret)).decrypt(sealed)
    except (CryptoError, ValueError) as error:
        raise malformed(REPLY, "is sealed to somebody else") from error
    if len(secret) != SECRET_BYTES:
        raise malformed(REPLY, "has a secret of the wrong length")
    return Trust(admins, name_field(fields["name"], REPLY), secret, revocations), certificates


def _raise_refusal(reply: bytes) -> None:
    try:
        outer = decode(reply, bounds.JOIN_REPLY_BYTES_MAX, REPLY)
    except Untrusted as error:
        raise FleetError("bad-reply", f"the answer cannot be read: {error}", error.hint) from error
    if isinstance(outer, list) and len(outer) == 2 and outer[0] == "refused":
        raise refusal(outer[1] if type(outer[1]) is str and outer[1] in REFUSALS else "malformed")
