"""Whether and when to try again after the workspace refused a call. Pure; randomness comes in."""

from datetime import UTC
from email.utils import parsedate_to_datetime

FIRST_BACKOFF = 0.5
"""Seconds. The workspace counts by the second, so half of one is the least that can help."""
LONGEST_BACKOFF = 8.0
"""Seconds. Longer would outlast the patience of the client that waits for the answer."""
_ENDLESS = 1e9
"""Seconds. What is longer is as good as never, and stays a number that can be rounded."""


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` field (RFC 9110 section 10.2.3); None if absent or unreadable.

    ``now`` is Unix time, needed for the form that is a date. A moment already past gives 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _ENDLESS)
    try:
        moment = parsedate_to_datetime(text)
        # The two old forms of dates name no zone; all HTTP dates are in UTC (RFC 9110 section 5.6.7).
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def backoff(attempt: int, retry_after: float | None, jitter: float) -> float:
    """Return the seconds to wait before trying again after a 429.

    ``attempt`` counts refusals so far, from 1. ``jitter`` is uniform in [0, 1). What the workspace asked
    for is honoured, plus up to half a second so that calls refused together do not return together;
    without that, exponential with equal jitter: between half of the step and the whole.
    """
    if retry_after is not None:
        return retry_after + jitter * FIRST_BACKOFF
    step = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempt, 30))
    return step * (1 + jitter) / 2
