"""Whether Redis does what it is needed for, and when it is tried again: now and chance are arguments."""

FIRST_PAUSE = 0.3
"""Seconds until Redis is tried again after it was lost."""
LONGEST_PAUSE = 5.0
"""Seconds between two attempts at most, while it stays away: a crowd of members must not keep it down."""
STEADY = 5.0
"""Seconds for which it has to be there for the next loss to be a first one: a member that is let in and
thrown out at once is not let in sooner for it."""
QUIET = 10.0
"""Seconds at least between two lines of the log about one loss, when its reason changes to and fro."""


class Backoff:
    """How long to wait until Redis is tried again: longer each time that it did not last."""

    def __init__(self) -> None:
        self._losses = 0
        self._since: float | None = None

    def reached(self, now: float) -> None:
        """Note that it is there."""
        self._since = now

    def after_loss(self, now: float, jitter: float) -> float:
        """Count a loss or a vain attempt; returns the seconds to wait.

        Exponential with equal jitter, between half of the step and the whole; ``jitter`` is in [0, 1).
        """
        if self._since is not None and now - self._since >= STEADY:
            self._losses = 0
        self._since = None
        step = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._losses, 30))
        self._losses += 1
        return step * (1 + jitter) / 2


class Reach:
    """What is to be logged about one thing that needs Redis: its loss, a changed reason, its return."""

    def __init__(self) -> None:
        self.reason = ""
        """Why Redis is unreachable now; empty if it is reachable or has not been tried."""
        self._logged: str | None = None
        self._logged_at = 0.0

    def lost(self, reason: str, now: float) -> bool:
        """Note that it cannot be had; returns whether that is worth a line of the log."""
        self.reason = reason
        if self._logged and (reason == self._logged or now < self._logged_at + QUIET):
            return False
        self._logged, self._logged_at = reason, now
        return True

    def back(self) -> bool:
        """Note that it can be had; returns whether that is worth a line of the log."""
        self.reason = ""
        news, self._logged = self._logged != "", ""
        return news
