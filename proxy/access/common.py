"""What of an answer all callers may have who have proven that they may read what it is about. Pure.

``now`` in monotonic seconds comes in.
"""

from enum import StrEnum
from http.client import responses

from cachetools import LRUCache

from proxy.mlflow_api.descriptions import describes
from proxy.mlflow_api.headers import directives, vary
from proxy.mlflow_api.messages import StoredResponse
from proxy.mlflow_api.reads import Read

SHARED_FIELDS = frozenset(
    {
        "access-control-allow-credentials",  # a browser asks under the name of its page, which counts
        "access-control-allow-origin",
        "access-control-expose-headers",
        "cache-control",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "retry-after",
        "vary",
        "x-content-type-options",
    }
)
"""Response fields that others than the caller get. All else may be about that one: a token that a gateway
hands out (``X-Auth-Request-Access-Token``), the place that it is sent to (``Location``)."""

_MOST_PLACES = 4096
_IN_A_ROW = 2
_TRIED_AGAIN = 60.0
"""Seconds for which a place that gave ``_IN_A_ROW`` personal answers is taken to give no others."""


class Personal(StrEnum):
    """Why an answer is for the caller alone who got it."""

    UNDESCRIBED = "undescribed"
    """It is no success that describes what was asked for: a refusal, a failure, a redirect, a login page."""
    VARY = "vary"
    """The workspace says that it depends on the credential."""
    CACHE_CONTROL = "cache-control"
    """The workspace says that it is private, or not to be stored."""


def why_personal(read: Read, response: StoredResponse) -> Personal | None:
    """Return why an answer is its caller's own; None if all may have it who may read the model."""
    if not describes(read, response):
        return Personal.UNDESCRIBED
    varies = vary(response.headers)
    if "*" in varies or "authorization" in varies:
        return Personal.VARY
    if not directives(response.headers, "cache-control").isdisjoint({"private", "no-store"}):
        return Personal.CACHE_CONTROL
    return None


def shared_form(response: StoredResponse) -> StoredResponse:
    """Return an answer without the fields that may be about the caller who got it.

    Its reason phrase is the usual one: a gateway's own may be about that one, too.
    """
    kept = tuple((name, value) for name, value in response.headers if name.lower() in SHARED_FIELDS)
    return StoredResponse(response.status, responses.get(response.status, ""), kept, response.body)


Place = tuple[str, str]
"""Who would share an answer, and the name of its route."""


class PersonalPlaces:
    """Where the workspace says of each answer that it depends on who asks, so that none is worth sharing."""

    def __init__(self) -> None:
        self._in_a_row: LRUCache[Place, tuple[int, float]] = LRUCache(_MOST_PLACES)

    def note(self, place: Place, personal: Personal | None, now: float) -> bool:
        """Note a success that was asked for in a common name; returns whether that was news."""
        if personal is None:
            self._in_a_row.pop(place, None)
        if personal is None or personal is Personal.UNDESCRIBED:
            return False  # a gateway's word for one caller says nothing about the others
        count, _ = self._in_a_row.get(place, (0, now))
        self._in_a_row[place] = count + 1, now
        return count + 1 == _IN_A_ROW

    def known(self, place: Place, now: float) -> bool:
        """Whether to ask in each caller's own name at once."""
        count, last = self._in_a_row.get(place, (0, now))
        return count >= _IN_A_ROW and now < last + _TRIED_AGAIN
