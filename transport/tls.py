"""Keys and certificates of the bulk lane's TLS, each pinned to a member of the fleet.

A process makes itself a key (ECDSA on P-256) and a self-signed X.509 certificate (RFC 5280) that live in its memory alone
and for two days. What binds them to the fleet is an *announcement*: the certificate with the signature of the process'
identity over it, told on the control link. A context for one peer trusts exactly the certificate that this peer has
announced: it is the only root, on both sides (mutual TLS 1.3, RFC 8446), and after the handshake the peer's certificate is
compared with it byte by byte. No authority, no name, no session ticket takes part.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgpack

from transport import bounds
from transport.identity import Credentials, Identity, Untrusted

CONTEXTS_CACHED_COUNT_MAX: Final = 512
_SIGNED: Final = b"swarm tls 1\0"


@dataclass(frozen=True, slots=True)
class _Key:
    """A key with its certificate; ``pem`` is both, for OpenSSL to load."""

    der: bytes
    pem: bytes
    renew_s: float


class TlsIdentity:
    """One process' side of every TLS connection that it makes or takes. For any thread."""

    def __init__(self, credentials: Credentials, wall: Callable[[], float] = time.time) -> None:
        self._credentials = credentials
        self._wall = wall
        self._lock = threading.Lock()
        self._key: _Key | None = None
        self._announcement = b""
        self._contexts: OrderedDict[tuple[bytes, bytes, bool], ssl.SSLContext] = OrderedDict()

    def announcement(self) -> bytes:
        """What to tell a peer on the control link, so that it pins this process' certificate."""
        with self._lock:
            self._renewed()
            return self._announcement

    def context(self, peer: bytes, *, server: bool) -> ssl.SSLContext:
        """A context in which the certificate `peer` (DER), and no other, is accepted."""
        with self._lock:
            key = self._renewed()
            name = (key.der, peer, server)
            context = self._contexts.get(name)
            if context is None:
                context = self._contexts[name] = _context(key, peer, server=server)
                while len(self._contexts) > CONTEXTS_CACHED_COUNT_MAX:
                    self._contexts.popitem(last=False)
            return context

    def _renewed(self) -> _Key:
        now_s = self._wall()
        if self._key is None or now_s >= self._key.renew_s:
            self._key = _make(now_s)
            signature = self._credentials.sign(_SIGNED + self._key.der)
            self._announcement = bytes(msgpack.packb([self._key.der, signature]))
        return self._key


def read_announcement(announcement: object, identity: Identity) -> bytes:
    """The certificate (DER) that a member has announced. Raises `Untrusted` and nothing else, whatever the bytes are."""
    if type(announcement) is not bytes or len(announcement) > bounds.TLS_ANNOUNCEMENT_BYTES_MAX:
        raise _malformed(identity)
    try:
        der, signature = msgpack.unpackb(announcement, max_array_len=2, max_ext_len=0)
    except Exception:  # msgpack raises a dozen types for a stranger's bytes
        raise _malformed(identity) from None
    if type(der) is not bytes or type(signature) is not bytes or not identity.signed(_SIGNED + der, signature):
        raise Untrusted(
            "bad-signature", f"the TLS key shown is not one of {identity.name}", "altered on its way, or forged"
        )
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

    try:
        # Exactly one certificate: OpenSSL would take any number of them as roots.
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError:
        raise _malformed(identity) from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise _malformed(identity)
    return der


def proven(connection: ssl.SSLSocket, peer: bytes) -> bool:
    """Whether the other side of a finished handshake holds the key of this certificate, over TLS 1.3."""
    return connection.version() == "TLSv1.3" and connection.getpeercert(binary_form=True) == peer


def _malformed(identity: Identity) -> Untrusted:
    return Untrusted("malformed", f"{identity.name} announces a TLS certificate that is none", "a damaged peer")


def _make(now_s: float) -> _Key:
    # Imported here: most processes never send anything large, and this takes 50 ms.
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm")])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # The peer's clock may be behind by more than a leeway: what limits the use of this key is the announcement.
        .not_valid_before(datetime.fromtimestamp(now_s - bounds.TLS_CERTIFICATE_LIFE_S, UTC))
        .not_valid_after(datetime.fromtimestamp(now_s + bounds.TLS_CERTIFICATE_LIFE_S, UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert len(der) <= bounds.TLS_CERTIFICATE_BYTES_MAX, len(der)
    renew_s = now_s + bounds.TLS_CERTIFICATE_LIFE_S - bounds.TLS_CERTIFICATE_RENEW_S
    return _Key(der, certificate.public_bytes(serialization.Encoding.PEM) + private, renew_s)


def _context(key: _Key, peer: bytes, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Names prove nothing here: the one certificate that is trusted is the peer's own.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0  # a resumed session would not show its certificate again
    _load(context, key.pem)
    context.load_verify_locations(cadata=peer)
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Give OpenSSL a key, which it takes from files only: from memory where the system has such files."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("swarm-tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    descriptor, path = tempfile.mkstemp(prefix="swarm-tls-")  # 0600
    try:
        os.write(descriptor, pem)
        os.close(descriptor)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
