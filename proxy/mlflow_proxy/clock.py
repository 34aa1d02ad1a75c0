"""What time it is for whatever ends: stored answers, proofs, refusals, credentials, what a file said.

Pure: the two clocks are passed in. While a machine or a VM sleeps its monotonic clock stands still, and the
wall clock is right again afterwards; but that one is set back as well. So time passes here by whichever of
both says more, and never goes back.

What that costs: a wall clock that is set forward ends things early. The first answer of a time server after a
start without a clock of one's own ends whatever there is, once; so does the return from a step back by
mistake. Both cost calls, and make no answer wrong.

What merely waits goes by the monotonic clock: the deadlines of requests, pauses, the budget's windows, the
circuit, time-outs of connections. Setting the wall clock must not cut a wait short or let calls leave early,
and seconds in which the machine sleeps do not count.
"""

from collections.abc import Callable
from threading import Lock

LEAP = 1.0
"""Seconds by which the wall clock has to get ahead before they count, and so by which things may end late.
Smaller ones are how unevenly two clocks can be read; but they add up until they count."""


class Clock:
    """A monotonic clock and a wall clock (Unix time) as one. May be asked in any thread."""

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.wall = wall
        """What the wall clock says: for what is compared with its own words, such as the times of files."""
        self._ahead = self._ahead_at_first = wall() - monotonic()
        self._leapt = 0.0
        self._settling = Lock()

    def now(self) -> float:
        """Return the time in seconds, which means something in comparison with other such times only."""
        now = self._monotonic()
        ahead = self.wall() - now
        if not 0.0 <= ahead - self._ahead <= LEAP:
            self._settle(ahead)
        return now + self._leapt

    def leapt(self) -> float:
        """Return for how many seconds in all the monotonic clock stood still.

        What was under way while it grew may have ended that long before it was seen.
        """
        self.now()
        return self._leapt

    def latest_unix(self) -> float:
        """Return Unix time at the latest: a wall clock that was set back may be wrong."""
        return max(self.wall(), self._ahead_at_first + self.now())

    def _settle(self, ahead: float) -> None:
        """Count how far the wall clock got ahead, or remember where it went back to."""
        with self._settling:
            grown = ahead - self._ahead
            if grown > LEAP:
                self._leapt += grown
            if grown > LEAP or grown < 0.0:
                self._ahead = ahead
