"""For how long an answer may be used again. Pure decisions; seconds throughout."""

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
    """A signed URL, however late it says that it expires: it may end earlier, and clients cannot tell."""
    signed_url_margin: float
    """A signed URL is not given out in the last seconds before its expiry: the client still has to use it."""


NOT_AT_ALL = 0.0


def lifetime(
    freshness: Freshness,
    status: int,
    lifetimes: Lifetimes,
    *,
    version_status: str | None = None,
    url_expires_in: float | None = None,
) -> float:
    """Return for how many seconds an answer may be stored, 0 for not at all.

    ``version_status`` is what is known of the model version's status (LISTING only), ``url_expires_in``
    the seconds until the signed URL ends at the earliest, None when that is not known (SIGNED_URL only).

    Only 200 and 404 are ever stored: other errors are not results, and an unknown success is not ours
    to interpret.
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
    """Whether an answer may be given out beyond its lifetime while nobody can give a newer one.

    Only what cannot change: listings that survive writes of metadata, which are those of READY versions. Not
    signed URLs, which their storage refuses once they have expired.
    """
    return freshness is Freshness.LISTING and survives


def survives_metadata_writes(freshness: Freshness, status: int, version_status: str | None) -> bool:
    """Whether an answer stays right when something about its model, other than its files, is written.

    A write may be the one that makes a pending version READY, or creates what was not found.
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
