"""How many calls left within the last second: an exact sliding window. Pure; ``now`` comes in.

A limit of 40 a second *as the workspace sees it* has two enemies between here and there. Calls travel
for different lengths of time, so the window here is longer than a second by a margin for that jitter.
And a call that is granted may first have to open a connection, so it counts as held from its grant until
it was really sent, and only then does its window begin.

aiolimiter is not used here: its leaky bucket of 40 a second that starts full lets out 79 calls within one
second, and one that never exceeds 40 sustains less than the limit (docs/design.md, Libraries).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Grant:
    """Permission for one call to leave. Held until the call was sent, or was given up."""

    held: bool = field(default=True)
    sent_at: float | None = field(default=None)
    """When the call went out last, None if it did not yet."""


class SlidingWindow:
    """Never lets more than ``limit`` calls leave within any ``window`` seconds.

    An idle window may be spent at once. In sustained use the rate is ``limit / window``: with a limit of
    40 and a window of 1.04 s (a margin of 40 ms) that is 38.46 calls a second, 3.8 % under the limit.
    """

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._held = 0
        self._sent: deque[float] = deque()

    def in_window(self, now: float) -> int:
        """Return how many calls count against the limit at ``now``."""
        while self._sent and self._sent[0] + self.window <= now:
            self._sent.popleft()
        return self._held + len(self._sent)

    def departures(self, now: float) -> Sequence[float]:
        """Return when the calls left that count at ``now``, in order."""
        self.in_window(now)
        return tuple(self._sent)

    def try_grant(self, now: float, limit: int | None = None) -> Grant | None:
        """Let one call leave, or return None when the window is full; a lower ``limit`` holds this once."""
        if self.in_window(now) >= self._lower(limit):
            return None
        self._held += 1
        return Grant()

    def sent(self, grant: Grant, now: float) -> None:
        """Note that the granted call went out at ``now``.

        Said again for the same grant, it counts one more call: the HTTP client may repeat a request that
        met a connection the other side had just closed, and every attempt spends.
        """
        if grant.held:
            grant.held = False
            self._held -= 1
        grant.sent_at = now
        self._sent.append(now)

    def give_up(self, grant: Grant) -> None:
        """Note that the granted call will not be sent; does nothing if it was."""
        if grant.held:
            grant.held = False
            self._held -= 1

    def wait(self, ahead: int, now: float, limit: int | None = None) -> float:
        """Predict the seconds until a call can leave that has ``ahead`` others before it.

        Calls held at ``now`` are taken to be sent at once; a lower ``limit`` is taken to last.
        """
        limit = self._lower(limit)
        free = limit - self.in_window(now)
        if ahead < free:
            return 0.0
        # Places come free in the order in which they were taken, and again a window later. Calls that were
        # sent twice, or under a higher limit, may have overfilled the window; as many of its oldest make
        # no room when they leave it.
        taken = [*self._sent, *[now] * (self._held + max(free, 0))][max(-free, 0) :]
        rounds, place = divmod(ahead - max(free, 0), limit)
        return taken[place] + self.window * (rounds + 1) - now

    def next_place(self) -> float | None:
        """Return the moment at which the next place comes free, None if that hangs on a held call."""
        return self._sent[0] + self.window if self._sent else None

    def _lower(self, limit: int | None) -> int:
        return self.limit if limit is None else min(limit, self.limit)
