"""Uses of the fleet's secret: keyed names, and authenticated encryption of answers.

An attacker with access to Redis but without the secret learns no signed URL, and cannot have a forged answer
served. The attacker can delete answers, and replay an old one under its own key while it is fresh.
"""

import hashlib
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mlflow_proxy.errors import UnreadableError

_NONCE = 12
"""Bytes, at random: 2**32 answers may be sealed under one secret (NIST SP 800-38D section 8.3), which is
three years of 40 a second."""


class Sealing:
    """Keys derived from a secret for one workspace (HKDF, RFC 5869), so that two workspaces never mix."""

    def __init__(self, secret: str, workspace: str) -> None:
        def derive(purpose: str) -> bytes:
            info = f"mlflow-proxy 1 {purpose} {workspace}".encode()
            return HKDF(SHA256(), length=32, salt=None, info=info).derive(secret.encode())

        self.partition_key = derive("partitions")
        """Keys the hashes of credentials, alike on all members."""
        self.fingerprint = derive("fingerprint")[:8].hex()
        """Tells secrets apart without giving them away."""
        self._names = derive("names")
        self._cipher = AESGCM(derive("answers"))

    def name(self, *parts: object) -> str:
        """Return a name for what these JSON values describe: 32 hexadecimal digits."""
        text = json.dumps(parts, sort_keys=True).encode()
        return hashlib.blake2b(text, key=self._names, digest_size=16).hexdigest()

    def seal(self, content: bytes, place: str) -> bytes:
        """Encrypt what is to stand in a place, and in no other (AES-256-GCM)."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, content, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what stood in a place. Raises UnreadableError if no member put it there."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise UnreadableError("not sealed by a member of this fleet, or for another place") from error
