"""Whether and when to retry a failed call. Pure; randomness is an argument."""

from mlflow_proxy.mlflow_api.headers import unix_time

FIRST_BACKOFF = 0.5
"""Seconds. The workspace counts by the second, so half of one is the least that can help."""
LONGEST_BACKOFF = 8.0
"""Seconds. Longer would outlast the patience of the client that waits for the answer."""
FAILURES = 2
"""How often a read is repeated after the workspace could not be reached or could not answer. The clients
repeat it as well, up to seven times each."""
UNAVAILABLE = frozenset({502, 503, 504})
"""Statuses of a workspace that cannot be reached or is overloaded. A 500 may be about this call alone."""
REPEATED = UNAVAILABLE | {500}
"""Statuses after which a read is repeated. 500 too, since clients that go through the Databricks SDK give up
their whole download over a single one (seen with mlflow 2.22)."""
LONGEST_IDLE = 1.5
"""Seconds. A call that must not be repeated takes a connection that was idle for less, or a new one. Servers
close idle ones after 2 s (gunicorn), 5 s (uvicorn, Node, Apache), 60 s and more; a call sent just then fails,
and the proxy cannot know whether it was carried out."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ENDLESS = 1e9
"""Seconds. Longer waits are cut to this, so that they can still be rounded to an integer."""


def repeatable_after_failure(method: str, *, read: bool) -> bool:
    """Whether a call that may have been carried out already may be sent again.

    Only idempotent methods may (RFC 9110 section 9.2.2), and of those PUT and DELETE are left to the client:
    the answer to the second would tell it that there was nothing to delete. ``read`` marks the reads that
    the API takes as POST.
    """
    return read or method in _SAFE


def within_limits(status: int) -> bool:
    """Whether an answer shows that the call was within the workspace's rate limits.

    A workspace may refuse a credential (401, 403) before it checks its limits, and fail (5xx) before, too.
    """
    return status < 500 and status not in {401, 403, 429}


def retry_after_seconds(value: str | None, now: float, date: str | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` field (RFC 9110 section 10.2.3); None if absent or unreadable.

    An HTTP-date counts from the answer's own ``Date``, which the same clock made, or from ``now`` (Unix time)
    if there is none. A date in the past gives 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _ENDLESS)
    moment, since = unix_time(text), unix_time(date or "")
    return None if moment is None else max(0.0, moment - (now if since is None else since))


def backoff(attempt: int, retry_after: float | None, jitter: float) -> float:
    """Return the seconds to wait before trying again.

    ``attempt`` counts failures so far, from 1. ``jitter`` is uniform in [0, 1). ``retry_after`` is honoured,
    plus up to half a second, so that calls refused together do not return together. Without it, exponential
    back-off with equal jitter: between half of the step and the whole.
    """
    if retry_after is not None:
        return retry_after + jitter * FIRST_BACKOFF
    step = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempt, 30))
    return step * (1 + jitter) / 2
