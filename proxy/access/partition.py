"""Which stored answers a request may be served from: those fetched with its own credential, or shared ones.

Credentials themselves are never kept: a partition is a keyed hash.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from proxy.mlflow_api.headers import HOP_BY_HOP, NEUTRAL, UNSHARED, without

PUBLIC = "public"
"""The partition of documents that the workspace gives to anyone."""


def common_partition(headers: Iterable[tuple[str, str]], key: bytes) -> str:
    """Name what is left of a request's credential without its Authorization.

    Those who have proven that they may read a model share its answers under this name. Whatever else the
    request carries still counts, since it may choose what is asked about.
    """
    return "common-" + partition(without(headers, frozenset({"authorization"})), key)


def counted(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the fields of a request that say who is asking: all that are not known to be neutral.

    Of the request's fields these alone go out with a call that others may share. Their names are spelt alike,
    so that equal partitions ask equally.
    """
    return tuple((spelt, value) for name, value in headers if (spelt := _spelt(name)))


@lru_cache(maxsize=128)  # names are 32 KiB at most, and usually the same few
def _spelt(name: str) -> str:
    """Return a field's name as all spell it, empty for one that is neutral."""
    lower = name.lower()
    if lower in HOP_BY_HOP or lower in NEUTRAL or lower in UNSHARED:
        return ""
    return "-".join(part.capitalize() for part in lower.split("-"))


def partition(headers: Iterable[tuple[str, str]], key: bytes) -> str:
    """Name the credential behind a request.

    ``headers`` are the request's fields, ``key`` up to 64 random bytes, of this process or of its fleet.
    Every field that is not known to be neutral counts, since one nobody told us about may carry a credential;
    order and repetition count as well. Returns 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(key=key, digest_size=16)
    for field in counted(headers):
        for part in field:
            encoded = part.encode("utf-8", "surrogateescape")
            # Lengths keep ("ab", "c") apart from ("a", "bc").
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
