"""The clients file of ``access.sharing = "service"``, and the client's token in a request.

Pure. The file is TOML and holds only digests of tokens, so that reading it gives no access:

    [clients]
    nightly-job = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    two-tokens = ["sha256:...", "sha256:..."]

A table without a client refuses every client. A file without the table is an error: it may be half-written.

Digests are not salted: tokens are long and random (``openssl rand -hex 32``), not chosen by people.
"""

import base64
import binascii
import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable, Mapping

from mlflow_proxy.errors import UnreadableError
from mlflow_proxy.mlflow_api.headers import Fields

UNNAMED = "anyone"
"""The client of a proxy that asks for no tokens."""

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_KNOWN = 4096
"""Tokens already looked up that are remembered; there are only as many as clients."""


class Clients:
    """The clients of one file: their names, by the SHA-256 digests of their tokens."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self._entries = tuple(names.items())
        self._known: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len({name for _, name in self._entries})

    def identify(self, headers: Fields) -> str | None:
        """Return the name of the client that sent a request, None if its token is unknown.

        The token is a ``Bearer`` token (RFC 6750 section 2.1) or the password of ``Basic`` (RFC 7617), which
        is how MLflow clients send MLFLOW_TRACKING_PASSWORD. Two Authorization fields identify no client.
        """
        shown = [value for name, value in headers if name.lower() == "authorization"]
        token = _token(shown[0]) if len(shown) == 1 else None
        return None if token is None else self._name(hashlib.sha256(token).digest())

    def _name(self, digest: bytes) -> str | None:
        # Known tokens may be found fast; for all others the time taken must reveal nothing.
        found = self._known.get(digest)
        if found is None:
            for entry, name in self._entries:
                if hmac.compare_digest(entry, digest):
                    found = name
            if found is not None and len(self._known) < _MOST_KNOWN:
                self._known[digest] = found
        return found


def parse(data: bytes) -> Clients:
    """Read a file of clients. Raises UnreadableError with what is wrong, never showing a token."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        # The parser's own message may show a piece of the line. Lists in lists get too deep for it.
        raise UnreadableError("it is not TOML") from None
    clients = document.pop("clients", None)
    if document or not isinstance(clients, dict):
        raise UnreadableError("it must hold one table, [clients], and nothing else")
    names: dict[bytes, str] = {}
    for name, value in clients.items():
        if not _NAME.fullmatch(name):
            raise UnreadableError("names of clients are 1 to 64 letters, digits and . _ @ -")
        if value == []:
            raise UnreadableError(f"{name} has no token: to shut a client out, take its line away")
        for digest in _digests(name, value):
            if names.setdefault(digest, name) != name:
                raise UnreadableError(f"{names[digest]} and {name} have the same token")
    return Clients(names)


def warning(clients: Clients) -> str:
    """Return the warning to log when this file comes into force, empty for none."""
    return "" if len(clients) else "no client is named, so that all clients are refused"


def _digests(name: str, value: object) -> Iterable[bytes]:
    for each in value if isinstance(value, list) else [value]:
        found = _DIGEST.fullmatch(each.strip().lower()) if isinstance(each, str) else None
        if found is None:
            raise UnreadableError(
                f'the value of {name} must be "sha256:" and 64 hexadecimal digits, '
                "as `printf %s TOKEN | sha256sum` prints them, or a list of such"
            )
        yield bytes.fromhex(found[1])


def _token(value: str) -> bytes | None:
    scheme, _, rest = value.strip().partition(" ")
    shown = rest.strip().encode("utf-8", "surrogateescape")
    match scheme.lower():
        case "bearer":
            return shown or None
        case "basic":
            try:
                decoded = base64.b64decode(shown, validate=True)
            except binascii.Error:
                return None
            # Python's decoder also takes more padding than there may be (RFC 4648 section 3.2).
            _, colon, password = decoded.partition(b":")
            return password or None if colon and base64.b64encode(decoded) == shown else None
    return None
