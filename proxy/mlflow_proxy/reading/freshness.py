"""Freshness lifetimes (RFC 9111), in seconds. Pure."""

from dataclasses import dataclass

from mlflow_proxy.mlflow_api.answers import READY
from mlflow_proxy.mlflow_api.routes import Freshness


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Freshness lifetimes in seconds (RFC 9111 section 4.2), by kind of answer."""

    listing: float
    """Files of a version known to be READY."""
    unverified: float
    """Files of a version whose status is not known."""
    pending: float
    """Files of a version known not to be READY."""
    mutable: float
    not_found: float
    discovery: float
    signed_url: float
    """At most, for a signed URL: it may stop working before its stated expiry, and clients cannot tell."""
    signed_url_margin: float
    """A signed URL is not served this close to its expiry: the client still has to use it."""


NOT_AT_ALL = 0.0


def lifetime(
    freshness: Freshness,
    status: int,
    lifetimes: Lifetimes,
    *,
    version_status: str | None = None,
    url_expires_in: float | None = None,
) -> float:
    """Return the freshness lifetime of an answer in seconds, 0 if it must not be stored.

    ``version_status`` is the model version's last known status (LISTING only); ``url_expires_in`` is the
    seconds until the signed URL expires, None if unknown (SIGNED_URL only).

    Only 200 and 404 are ever stored: other errors are not results, and the proxy does not know what another
    2xx means.
    """
    if freshness is Freshness.NEVER:
        return NOT_AT_ALL
    if status == 404:
        return lifetimes.not_found
    if status != 200:
        return NOT_AT_ALL
    match freshness:
        case Freshness.MUTABLE:
            return lifetimes.mutable
        case Freshness.DISCOVERY:
            return lifetimes.discovery
        case Freshness.SIGNED_URL:
            if url_expires_in is None:
                return NOT_AT_ALL
            left = url_expires_in - lifetimes.signed_url_margin
            return max(NOT_AT_ALL, min(left, lifetimes.signed_url))
        case Freshness.LISTING:
            if version_status is None:
                return lifetimes.unverified
            return lifetimes.listing if version_status == READY else lifetimes.pending


def may_be_stale(freshness: Freshness, *, survives: bool) -> bool:
    """Whether an expired answer may be served while the workspace cannot answer (RFC 5861).

    Only listings that survive writes of metadata: those of READY versions, which cannot change. No signed
    URLs: storage refuses them once they have expired.
    """
    return freshness is Freshness.LISTING and survives


def survives_metadata_writes(freshness: Freshness, status: int, version_status: str | None) -> bool:
    """Whether an answer stays valid when anything about its model but its files is written.

    Not for a pending version or a 404: the write may make the version READY, or create what was missing.
    """
    if status != 200:
        return False
    match freshness:
        case Freshness.LISTING:
            return version_status == READY
        case Freshness.SIGNED_URL | Freshness.DISCOVERY:
            return True
        case _:
            return False
