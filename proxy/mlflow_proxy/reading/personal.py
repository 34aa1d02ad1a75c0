"""Which answers, and which of their fields, callers with a proof for the model may share. Pure.

``now`` is that of ``mlflow_proxy.clock``, in seconds.
"""

from dataclasses import dataclass
from enum import StrEnum
from http.client import responses

from cachetools import LRUCache

from mlflow_proxy.mlflow_api.descriptions import describes
from mlflow_proxy.mlflow_api.headers import directives, vary
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.term import Term

SHARED_FIELDS = frozenset(
    {
        "access-control-allow-credentials",  # the Origin that it depends on is part of the question's key
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
"""Response fields that other callers get. Any other field may be about the first caller alone: a gateway's
token (``X-Auth-Request-Access-Token``), a redirect for this caller (``Location``)."""

_MOST_ROUTES = 4096
_IN_A_ROW = 2
_TRIED_AGAIN = 60.0
"""Seconds without a shared question to a route after ``_IN_A_ROW`` personal answers."""


class Personal(StrEnum):
    """Why only the caller that got an answer may have it."""

    UNDESCRIBED = "undescribed"
    """It does not describe the object asked for: a refusal, a failure, a redirect, a login page."""
    VARY = "vary"
    """``Vary`` names the credential, or ``*`` (RFC 9110 section 12.5.5)."""
    CACHE_CONTROL = "cache-control"
    """``Cache-Control`` is ``private`` or ``no-store`` (RFC 9111 section 5.2.2)."""


def why_personal(read: Read, response: StoredResponse) -> Personal | None:
    """Return why only its caller may have an answer; None if every caller that may read the model may."""
    if not describes(read, response):
        return Personal.UNDESCRIBED
    varies = vary(response.headers)
    if "*" in varies or "authorization" in varies:
        return Personal.VARY
    if not directives(response.headers, "cache-control").isdisjoint({"private", "no-store"}):
        return Personal.CACHE_CONTROL
    return None


def shared_form(response: StoredResponse) -> StoredResponse:
    """Return the response with only ``SHARED_FIELDS`` and the standard reason phrase.

    Other fields, and a gateway's own reason phrase, may be about the caller that got the response.
    """
    kept = tuple((name, value) for name, value in response.headers if name.lower() in SHARED_FIELDS)
    return StoredResponse(response.status, responses.get(response.status, ""), kept, response.body)


RouteKey = tuple[str, str]
"""The common partition, and the name of a route."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Consecutive personal answers: how many, and the time and reason of the last one."""

    count: int
    last: float
    why: Personal


class PersonalRoutes:
    """Routes whose answers the workspace marks as each caller's own, so that sharing them always fails."""

    def __init__(self) -> None:
        self._in_a_row: LRUCache[RouteKey, _Row] = LRUCache(_MOST_ROUTES)
        self._reported: set[str] = set()
        """Names of the routes that ``note`` has reported: each model has a partition of its own."""
        self.term = Term()
        """Until when no further route is one of these."""

    def note(self, key: RouteKey, personal: Personal | None, now: float) -> bool:
        """Note a 200 answer to a shared question.

        Returns True once for each route name: when its answers turn out not to be shareable.
        """
        if personal is None:
            self._in_a_row.pop(key, None)
        if personal is None or personal is Personal.UNDESCRIBED:
            return False  # a gateway's page for one caller says nothing about other callers
        before = self._in_a_row.get(key)
        count = 1 + (before.count if before is not None else 0)
        self._in_a_row[key] = _Row(count, now, personal)
        self.term = self.term.followed()
        _, route = key
        first = count == _IN_A_ROW and route not in self._reported
        if first:
            self._reported.add(route)
        return first

    def known(self, key: RouteKey, now: float) -> Personal | None:
        """Return why each caller should ask for itself at once, None if sharing is worth a try."""
        row = self._in_a_row.get(key)
        return row.why if row and row.count >= _IN_A_ROW and now < row.last + _TRIED_AGAIN else None
