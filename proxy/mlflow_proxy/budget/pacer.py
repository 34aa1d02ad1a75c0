"""When the next call of one budget group may leave. Pure; ``now`` in monotonic seconds comes in.

Three things decide, each with an idea of its own: the sliding window (never more than the limit), the
congestion control (less than that while others use the same limit), and a pause that the workspace asked for.
"""

import math
from collections.abc import Sequence

from mlflow_proxy.budget.congestion import Congestion
from mlflow_proxy.budget.sliding_window import Grant, SlidingWindow

CALM = 60.0
"""Seconds. For so long after a refusal calls are spaced evenly instead of leaving as soon as the window
has room, so that finding out how much others use costs a refusal or two and not a burst of them."""
LONGEST_PAUSE = 60.0
"""Seconds. A ``Retry-After`` beyond that is tried again then: no client waits longer anyway, and a wrong
value must not silence the proxy for hours."""
SLACK = 0.1
"""Seconds. How late evenly spaced calls may be and still be made up for: timers fire late and never early."""


class Pacer:
    """The budget of one group: an exact limit, and a rate below it that follows the workspace's refusals.

    ``limit`` is in calls per ``window`` seconds; the window is a second and the margin for jitter. An idle
    budget may be spent at once. From the moment that a call has to wait, calls are spaced evenly: a
    client that makes one call after the other then waits for a turn each time, and not for the next window.
    """

    def __init__(self, limit: int, window: float, congestion: Congestion) -> None:
        self.limit = limit
        self.window = window
        self._window = SlidingWindow(limit, window)
        self._congestion = congestion
        self._evenly = -math.inf
        self._interval = 0.0
        self._declined = -math.inf
        self._waited = False
        self._pause_until = -math.inf
        self._event = -math.inf
        self._refused: list[float] = []
        self.share = float(limit)
        """How much of the limit this pacer may use; less than all of it is spaced evenly."""
        self.last_refusal: float | None = None
        """When the workspace refused a call last, None if it never did."""

    # -- grants ------------------------------------------------------------------------------------

    def try_grant(self, now: float) -> Grant | None:
        """Let one call leave, or return None when none may."""
        if now < self._not_before(now):
            grant = None
        else:
            rate = self.rate(now)
            grant = self._window.try_grant(now, math.ceil(rate))
        if grant is None:
            self._declined, self._waited = now, True
        else:
            self._interval = self.window / rate
            made_up_for = self._waited and now <= self._evenly + SLACK
            self._evenly = (self._evenly if made_up_for else max(self._evenly, now)) + self._interval
            self._waited = False
        return grant

    def sent(self, grant: Grant, now: float) -> None:
        """See SlidingWindow.sent."""
        self._window.sent(grant, now)

    def give_up(self, grant: Grant) -> None:
        """See SlidingWindow.give_up."""
        if grant.held:
            self._evenly -= self._interval
        self._window.give_up(grant)

    def refused(self, grant: Grant, now: float, retry_after: float | None = None) -> None:
        """Note that the workspace refused a call that was sent; ``retry_after`` in seconds if it said so.

        The rate falls once per congestion event: refusals of calls that were sent before it fell say nothing
        about the rate since.
        """
        sent_at = now if grant.sent_at is None else grant.sent_at
        self._refused.append(sent_at)
        self.last_refusal = now
        if retry_after is not None:
            self._pause_until = max(self._pause_until, now + min(retry_after, LONGEST_PAUSE))
        if sent_at > self._event:
            # The rate climbs with what is learnt, and during a pause nothing is.
            self._congestion.refused(self._passing(now), max(now, self._pause_until))
            self._event = now

    # -- what lies ahead ---------------------------------------------------------------------------

    def next_moment(self, now: float) -> float | None:
        """Return when to ask again after a grant was declined, None if that hangs on a held call."""
        not_before = self._not_before(now)
        if now < not_before:
            return not_before
        place = self._window.next_place()
        # Held calls keep no one waiting for ever while the rate climbs.
        return now + self.window / self.rate(now) if place is None and self._spaced(now) else place

    def wait(self, ahead: int, now: float) -> float:
        """Predict the seconds until a call can leave that has ``ahead`` others before it."""
        rate = min(self.share, self._congestion.sustained(now))
        wait = self._window.wait(ahead, now, math.ceil(rate))
        if wait > 0 or now < self._not_before(now) or self._spaced(now):
            start = max(0.0, self._pause_until - now, self._evenly - now)
            wait = max(wait, start + ahead * self.window / rate)
        return wait

    # -- what it knows -----------------------------------------------------------------------------

    def rate(self, now: float) -> float:
        """Return the calls that may leave per window now."""
        return min(self.share, self._congestion.rate(now))

    def in_window(self, now: float) -> int:
        """Return how many calls count against the limit at ``now``."""
        return self._window.in_window(now)

    def departures(self, now: float) -> Sequence[float]:
        """See SlidingWindow.departures."""
        return self._window.departures(now)

    def outside(self, now: float) -> float:
        """Estimate the calls a second that others make: what of the limit the workspace does not give us."""
        return self.limit - self._congestion.sustained(now)

    def pause(self, now: float) -> float:
        """Return the seconds left of a pause that the workspace asked for."""
        return max(0.0, self._pause_until - now)

    def _spaced(self, now: float) -> bool:
        refused = self.last_refusal is not None and now < max(self.last_refusal, self._pause_until) + CALM
        return refused or self.share < self.limit or now < self._declined + 2 * self.window

    def _not_before(self, now: float) -> float:
        return max(self._pause_until, self._evenly) if self._spaced(now) else self._pause_until

    def _passing(self, now: float) -> float:
        """Count the calls of the last window that were not refused, as far as known."""
        self._refused = [each for each in self._refused if each + self.window > now]
        return self.in_window(now) - len(self._refused)
