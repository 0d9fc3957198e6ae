"""Chunks as they are stored: compressed where it pays, encrypted where there is a key, and opened again.

Encryption is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under keys that are derived from the fleet's by BLAKE3, per shard. The
nonce is a keyed hash of the content (a synthetic one, as in RFC 5297), not of the place: the same content has the same ciphertext,
so unchanged chunks stay shared between snapshots that are encrypted, a nonce never stands for two contents, and all that shows is
which chunks did not change, which the shared files show as well.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from blake3 import blake3
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_ABYTES,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from swarm.snapshots.errors import SnapshotKeyNeeded
from swarm.snapshots.format import COMPRESSED, ENCRYPTED, KEYS, malformed

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
LEVEL: Final = 1
"""Of zstd: the fastest. Higher ones take more time than the disk saves."""
PAYS: Final = (7, 8)
"""Compression pays when it leaves at most so much."""
_CONTEXT: Final = "swarm snapshots 2026-11 "


class Sealer:
    """Makes stored chunks of raw ones and raw ones of stored ones, in any thread."""

    def __init__(self, shard: str, key: bytes | None = None, *, compress: bool = True) -> None:
        """``key``: 32 bytes, the fleet's; None leaves the chunks readable. ValueError for another length."""
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes, not {KEY_BYTES}")
        self.compress = compress
        self.encrypted = key is not None
        self._local = threading.local()
        self._key = self._nonce_key = self._content_key = b""
        self.check = b"\0" * 16
        """What the header has of the key: a hash, by which another key is known before anything is opened."""
        if key is not None:
            material = key + shard.encode("ascii")
            self._key = blake3(material, derive_key_context=_CONTEXT + "encryption").digest()
            self._nonce_key = blake3(material, derive_key_context=_CONTEXT + "nonce").digest()
            self._content_key = blake3(material, derive_key_context=_CONTEXT + "content").digest()
            self.check = blake3(material, derive_key_context=_CONTEXT + "check").digest(length=16)

    def content_hash(self, raw: bytes) -> bytes:
        """Of what is in a chunk; keyed where there is a key, so that it tells others nothing."""
        return blake3(raw, key=self._content_key).digest() if self.encrypted else blake3(raw).digest()

    def seal(self, raw: bytes, kind: int) -> tuple[bytes, int]:
        """(stored, form) of a raw chunk."""
        stored, form = raw, 0
        if self.compress and kind != KEYS:
            smaller = self._compressor().compress(raw)
            if len(smaller) * PAYS[1] <= len(raw) * PAYS[0]:
                stored, form = smaller, COMPRESSED
        if not self.encrypted:
            return stored, form
        form |= ENCRYPTED
        nonce = blake3(bytes([kind, form]) + stored, key=self._nonce_key).digest(length=NONCE_BYTES)
        return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(stored, bytes([kind, form]), nonce, self._key), form

    def open(self, stored: Any, form: int, kind: int, raw_bytes: int, where: str) -> Any:
        """The raw chunk again, a buffer of ``raw_bytes``; never more memory than that is taken. SnapshotMalformed, SnapshotKeyNeeded."""
        if form & ENCRYPTED:
            if not self.encrypted:
                raise key_needed(where)
            stored = bytes(stored)
            if len(stored) < NONCE_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES:
                raise malformed(where, "has an encrypted chunk that is too short to be one")
            try:
                stored = crypto_aead_xchacha20poly1305_ietf_decrypt(
                    stored[NONCE_BYTES:], bytes([kind, form]), stored[:NONCE_BYTES], self._key
                )
            except CryptoError:
                raise malformed(where, "has a chunk that was not encrypted with this key") from None
        if form & COMPRESSED:
            stored = self._decompressed(stored, raw_bytes, where)
        if len(stored) != raw_bytes:
            raise malformed(where, f"has a chunk of {len(stored)} bytes that says it has {raw_bytes}")
        return stored

    def _decompressed(self, stored: Any, raw_bytes: int, where: str) -> bytes:
        import zstandard

        decompressor = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        try:
            # what the frame says of its size is what would be taken from memory: it is looked at first
            if zstandard.frame_content_size(stored) != raw_bytes:
                raise malformed(where, "has a compressed chunk that does not say how much it holds")
            raw: bytes = decompressor.decompress(stored, max_output_size=raw_bytes)
        except zstandard.ZstdError as error:
            raise malformed(where, f"has a chunk that cannot be decompressed ({error})") from None
        return raw

    def _compressor(self) -> Any:
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            import zstandard

            compressor = self._local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
        return compressor


def key_needed(where: str) -> SnapshotKeyNeeded:
    """It is encrypted, and there is no key for it."""
    return SnapshotKeyNeeded(f"{where} is encrypted", hint="give the key of the fleet that it was made in", path=where)


def check_key(sealer: Sealer, encrypted: bool, check: bytes, where: str) -> None:
    """SnapshotKeyNeeded when a header says that it takes a key, and it is not this one."""
    if not encrypted:
        return
    if not sealer.encrypted:
        raise key_needed(where)
    if sealer.check != check:
        raise SnapshotKeyNeeded(
            f"{where} is encrypted with another key", hint="give the key of the fleet that it was made in", path=where
        )
