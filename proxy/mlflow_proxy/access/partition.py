"""Which stored answers a request may be served from: names of partitions, as keyed hashes. Pure.

Credentials themselves are never kept.
"""

import hashlib
from dataclasses import dataclass

from mlflow_proxy.mlflow_api.caller_fields import CallerIdentity

PUBLIC = "public"
"""The partition of documents that the workspace gives to anyone."""


@dataclass(frozen=True, slots=True)
class Partitions:
    """Three names that one request has, each of 32 hexadecimal digits.

    Attributes:
        own: partition of answers fetched with exactly this credential, from exactly this address.
        paced: fairness key of the budget: this credential, from any address.
        common: shared by all callers that differ only in credential and address. Those with a proof that
            they may read a model share answers about it.

    """

    own: str
    paced: str
    common: str


def partitions(identity: CallerIdentity, key: bytes, mode: str = "") -> Partitions:
    """Return the partitions of a request.

    ``key`` is up to 64 random bytes, of this process or of its fleet. ``mode`` (up to 16 ASCII characters)
    separates the answers of fleet members with different sharing modes. Order and repetition of fields count
    within each class.
    """
    digest = hashlib.blake2b(key=key, digest_size=16, person=mode.encode("ascii"))
    names = []
    for fields in (identity.counted, identity.credential, identity.address):
        for field in fields:
            for part in field:
                encoded = part.encode("utf-8", "surrogateescape")
                # Lengths keep ("ab", "c") apart from ("a", "bc").
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
        # A field of one class is never equal to one of another: name and value decide the class.
        names.append(digest.hexdigest())
    common, paced, own = names
    return Partitions(own, paced, common)
