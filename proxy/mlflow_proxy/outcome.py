"""What the cache did for a request: the parameters of Cache-Status (RFC 9211) and a metric's label."""

from enum import StrEnum


class Outcome(StrEnum):
    """How an answer came about."""

    HIT = "hit"
    STALE = "hit; detail=stale-if-error"
    """An expired answer, since the workspace could not be asked (RFC 5861)."""
    STORED = "fwd=miss; stored"
    MISS = "fwd=miss"
    FILE = "fwd=miss; detail=file"
    """A model's file, which streams from storage."""
    COLLAPSED = "fwd=miss; collapsed"
    REQUEST = "fwd=request"
    """The request itself refused stored answers."""
    BYPASS = "fwd=bypass"
