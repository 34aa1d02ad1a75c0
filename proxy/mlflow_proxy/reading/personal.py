"""What of an answer all callers may have who have proven that they may read what it is about. Pure.

``now`` comes in, that of ``mlflow_proxy.clock``.
"""

from dataclasses import dataclass
from enum import StrEnum
from http.client import responses

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.descriptions import describes
from mlflow_proxy.mlflow_api.headers import directives, vary
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Read

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


@dataclass(frozen=True, slots=True)
class _Row:
    """Personal answers in a row: how many, when and why the last one."""

    count: int
    last: float
    why: Personal


class PersonalPlaces:
    """Where the workspace says of each answer that it depends on who asks, so that none is worth sharing."""

    def __init__(self) -> None:
        self._in_a_row: LRUCache[Place, _Row] = LRUCache(_MOST_PLACES)
        self._told: set[str] = set()
        """Names of the routes that have had such a place: each model is a place of its own."""

    def note(self, place: Place, personal: Personal | None, now: float) -> bool:
        """Note a success that was asked for in a common name.

        Returns whether its place is the first of its route from which nothing can be shared.
        """
        if personal is None:
            self._in_a_row.pop(place, None)
        if personal is None or personal is Personal.UNDESCRIBED:
            return False  # a gateway's word for one caller says nothing about the others
        before = self._in_a_row.get(place)
        count = 1 + (before.count if before is not None else 0)
        self._in_a_row[place] = _Row(count, now, personal)
        _, route = place
        news = count == _IN_A_ROW and route not in self._told
        if news:
            self._told.add(route)
        return news

    def known(self, place: Place, now: float) -> Personal | None:
        """Return why to ask in each caller's own name at once, None if an answer may be shared."""
        row = self._in_a_row.get(place)
        return row.why if row and row.count >= _IN_A_ROW and now < row.last + _TRIED_AGAIN else None
