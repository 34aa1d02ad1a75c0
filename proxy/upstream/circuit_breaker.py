"""Whether a call may be tried at all: a circuit breaker in front of one peer.

What belongs here: when the circuit opens, when a probe may go, and what a refused caller is told. Pure; time
and chance come in. The terms are the usual ones (Nygard, Release It!): closed lets calls through, open
refuses them, half-open has one probe on its way.
"""

from dataclasses import dataclass
from enum import StrEnum

FAILURES = 5
"""Consecutive failures that open the circuit."""
SPAN = 2.0
"""Seconds that the failures must last at least: what is over sooner is the business of the retries."""
WINDOW = 30.0
"""Seconds without a failure after which earlier ones no longer count."""
FIRST_PROBE = 0.5
"""Seconds until the first probe; every failed one doubles them."""
LONGEST_PROBE = 5.0
"""Seconds between two probes at most, so that the end of an outage is noticed soon."""
PROBE_PATIENCE = 10.0
"""Seconds after which a probe that has heard nothing no longer keeps others from trying."""
LEAST_RETRY_AFTER, MOST_RETRY_AFTER = 2.0, 30.0
"""Seconds. Clients wait as told instead of by an exponential back-off of their own, and count their tries."""


class State(StrEnum):
    """What the circuit does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Leave to make one call, in the outage with this number (0 before any); what came of it is told once."""

    outage: int
    probe: bool


class CircuitBreaker:
    """Counts the failures on the way to one peer. Times are monotonic seconds, ``jitter`` is in [0, 1)."""

    def __init__(self) -> None:
        self._failures = 0
        self._first_failure = 0.0
        self._last_failure = 0.0
        self._outage = 0
        self._opened_at: float | None = None
        self._probes = 0
        self._probe_at = 0.0
        self._probe: Permit | None = None

    @property
    def state(self) -> State:
        """What it does with calls now."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self._probe is None else State.HALF_OPEN

    def refuses(self, now: float) -> bool:
        """Whether a call that comes now would get no permit."""
        return self._opened_at is not None and now < self._probe_at

    def admit(self, now: float) -> Permit | None:
        """Return leave to make a call, None if it has to be refused."""
        if self._opened_at is None:
            return Permit(self._outage, probe=False)
        if self.refuses(now):
            return None
        self._probe_at = now + PROBE_PATIENCE
        self._probe = Permit(self._outage, probe=True)
        return self._probe

    def succeeded(self, permit: Permit) -> bool:
        """Note an answer; returns whether it closed the circuit.

        Calls from before an outage do not end it: their answers may have been under way when it began. Any
        probe of this outage does, also one that took so long that another was sent after it.
        """
        if permit.outage != self._outage:
            return False
        if self._opened_at is None:
            self._failures = 0
            return False
        self._opened_at = None
        self._probe = None
        self._failures = 0
        return True

    def failed(self, permit: Permit, now: float, jitter: float) -> bool:
        """Note that there was no answer; returns whether that opened the circuit."""
        if self._opened_at is None:
            return permit.outage == self._outage and not permit.probe and self._count(now, jitter)
        if permit is self._probe:
            self._probe = None
            self._probe_at = now + self._interval(jitter)
        return False

    def gave_up(self, permit: Permit, now: float) -> None:
        """Note that nobody wanted to know any more: says nothing, and the next call may be the probe."""
        if permit is self._probe:
            self._probe = None
            self._probe_at = now

    def retry_after(self, now: float, jitter: float) -> float:
        """Return the seconds after which a refused caller should come back.

        As long again as the outage has lasted, so that callers who count their tries have as much patience
        with it as with an exponential back-off of their own; up to a quarter more, so that they do not come
        back together.
        """
        lasted = now - (now if self._opened_at is None else self._first_failure)
        return min(max(lasted, LEAST_RETRY_AFTER), MOST_RETRY_AFTER) * (1 + jitter / 4)

    def _count(self, now: float, jitter: float) -> bool:
        if not self._failures or now - self._last_failure > WINDOW:
            self._failures, self._first_failure = 0, now
        self._failures += 1
        self._last_failure = now
        if self._failures < FAILURES or now - self._first_failure < SPAN:
            return False
        self._outage += 1
        self._opened_at = now
        self._probes = 0
        self._probe_at = now + self._interval(jitter)
        return True

    def _interval(self, jitter: float) -> float:
        """Return the seconds until the next probe: exponential with equal jitter, as between retries."""
        step = min(LONGEST_PROBE, FIRST_PROBE * 2.0 ** min(self._probes, 10))
        self._probes += 1
        return step * (1 + jitter) / 2
