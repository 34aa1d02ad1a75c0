"""The rate limits a workspace may be enforcing: pure decisions, with the time passed in.

What belongs here: one class per way of counting calls. Which of them Databricks uses is not published,
so the emulated workspace can enforce any of them and a proxy has to satisfy all.
"""

from collections import deque
from collections.abc import Callable
from math import floor
from typing import Protocol


class Limiter(Protocol):
    """Decides about one call at a time; `now` is in seconds and never goes back."""

    def admit(self, now: float) -> float | None:
        """Return None when the call is admitted, else the seconds after which one would be.

        A refused call consumes nothing: hammering a limiter does not prolong the refusal.
        """
        ...


class SlidingWindow:
    """At most `limit` admitted calls in any half-open interval of `window` seconds."""

    def __init__(self, limit: int, window: float = 1.0) -> None:
        self._window = window
        self._admitted: deque[float] = deque(maxlen=_positive(limit))

    def admit(self, now: float) -> float | None:
        """Admit unless the last `limit` admitted calls all lie within the window."""
        if len(self._admitted) == self._admitted.maxlen:
            age = now - self._admitted[0]
            if age < self._window:
                return self._window - age
        self._admitted.append(now)
        return None


class FixedWindow:
    """At most `limit` admitted calls between two multiples of `window` seconds.

    Twice the limit can pass around a boundary, which is what makes it differ from `SlidingWindow`.
    """

    def __init__(self, limit: int, window: float = 1.0) -> None:
        self._limit = _positive(limit)
        self._window = window
        self._index = 0
        self._admitted = 0

    def admit(self, now: float) -> float | None:
        """Admit until the current window has had its `limit` calls."""
        index = floor(now / self._window)
        if index != self._index:
            self._index, self._admitted = index, 0
        if self._admitted >= self._limit:
            return (index + 1) * self._window - now
        self._admitted += 1
        return None


class TokenBucket:
    """A bucket of `capacity` tokens, full at first, refilled at `rate` a second; a call takes one."""

    def __init__(self, rate: float, capacity: int) -> None:
        self._rate = rate
        self._capacity = _positive(capacity)
        self._tokens = float(capacity)
        self._updated: float | None = None

    def admit(self, now: float) -> float | None:
        """Admit while there is a whole token."""
        if self._updated is not None:
            self._tokens = min(self._capacity, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return None


class BatchReported:
    """A token bucket that hears of calls late: every `period` seconds, all of them at once.

    Whatever arrives in between passes, and when too much did, everything is refused until the debt is paid.
    Bursts pass and refusals come in rows, which is how the vendor describes its limits (unconfirmed).
    """

    def __init__(self, rate: float, capacity: int, period: float = 0.5) -> None:
        self._rate = rate
        self._capacity = _positive(capacity)
        self._period = period
        self._tokens = float(capacity)
        self._unreported = 0
        self._reported: float | None = None

    def admit(self, now: float) -> float | None:
        """Admit unless the last report left a debt that is not paid yet."""
        if self._reported is None:
            self._reported = now
        while now >= self._reported + self._period:
            self._reported += self._period
            self._tokens = min(self._capacity, self._tokens + self._period * self._rate) - self._unreported
            self._unreported = 0
        tokens = self._tokens + (now - self._reported) * self._rate
        if tokens < 0:
            return -tokens / self._rate
        self._unreported += 1
        return None


_FACTORIES: dict[str, Callable[[int, int], Limiter]] = {
    "sliding": lambda limit, _: SlidingWindow(limit),
    "fixed": lambda limit, _: FixedWindow(limit),
    "token-bucket": TokenBucket,
    "batch-reported": BatchReported,
}

LIMITERS = tuple(_FACTORIES)
"""The names `make_limiter` knows."""


def make_limiter(name: str, limit: int, capacity: int | None = None) -> Limiter:
    """Make the limiter called `name` (one of `LIMITERS`) for `limit` calls a second.

    `capacity` is the token bucket's, by default one second's worth.

    Raises ValueError if the name is unknown or a number is not positive.
    """
    if name not in _FACTORIES:
        raise ValueError(f"unknown limiter {name!r}: choose one of {', '.join(LIMITERS)}")
    return _FACTORIES[name](limit, limit if capacity is None else capacity)


def _positive(number: int) -> int:
    if number < 1:
        raise ValueError(f"a limit must be at least 1, not {number}")
    return number
