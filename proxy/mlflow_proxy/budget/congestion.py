"""How fast to call a workspace that others call too: the rate falls when it refuses, and climbs back.

Pure; ``now`` in monotonic seconds comes in. What belongs here: the control law and nothing else.
"""

from typing import Protocol

DECREASE = 0.94
"""What remains of the rate after a congestion event. RFC 9438 calls it beta and uses 0.7, for routers whose
queues must drain; a refused call leaves no queue behind. In simulation (a sliding window of 40, others at 0,
10, 30 and 5 calls a second) 0.9 uses 92, 90 and 92 % of what others leave, 0.94 uses 93, 93 and 94 %, for a
fifth more refusals."""
GROWTH = 0.08
"""Calls a second, per second cubed (RFC 9438's C). In simulation more brings refusals and no use, and half as
much takes longer than 10 s to take up what others leave when they go from 30 calls a second to 5."""


class Congestion(Protocol):
    """What a pacer asks of a control law."""

    def rate(self, now: float) -> float:
        """Return the calls a second that may leave now."""
        ...

    def sustained(self, now: float) -> float:
        """Return the calls a second to expect over the next while, to predict waits with."""
        ...

    def refused(self, passing: float, now: float) -> None:
        """Take note of a congestion event while ``passing`` calls a second got through."""
        ...


class Cubic:
    """Rate control after CUBIC (RFC 9438), with calls a second in place of a congestion window.

    After a refusal the rate drops by a sixteenth, returns fast to just below where the refusal came, stays
    there for some seconds, and only then tries more, faster and faster. It depends on the time alone, not
    on the number of calls, so that a proxy that was idle does not hold on to an old estimate.

    Chosen by simulation (``make bench``): beside others whose calls step from 0 to 10, 30 and 5 a second
    under a sliding window of 40, AIMD that meets as few refusals (1 call a second each second) leaves 12 % of
    the rest unused and CUBIC 7 %; faster AIMD (2.5) leaves 11 % and meets twice the refusals. Where others
    call at random AIMD leaves less unused (22 and 18 % against 31 %).
    """

    def __init__(self, limit: float, floor: float) -> None:
        self._limit = limit
        self._floor = floor
        self._peak = limit
        self._event: float | None = None

    def rate(self, now: float) -> float:
        """Return the calls a second that may leave now: ``floor`` at least, ``limit`` at most.

        Before the moment of the last event it is what the event left.
        """
        if self._event is None:
            return self._limit
        plateau: float = (self._peak * (1 - DECREASE) / GROWTH) ** (1 / 3)
        rate = self._peak + GROWTH * (max(0.0, now - self._event) - plateau) ** 3
        return min(self._limit, max(self._floor, rate))

    def sustained(self, now: float) -> float:
        """Return the calls a second to expect over the next while: the plateau, unless already above it."""
        return max(self.rate(now), min(self._limit, max(self._floor, self._peak)))

    def refused(self, passing: float, now: float) -> None:
        """Fall below what got through when the workspace began to refuse.

        ``passing`` under half the rate counts as half: a refusal that met few calls says little.
        """
        rate = self.rate(now)
        self._peak = max(self._floor, min(rate, max(passing, rate / 2)))
        self._event = now
