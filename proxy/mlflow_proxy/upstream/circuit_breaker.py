"""Circuit breakers in front of the workspace: whether a call may be tried.

What belongs here: when a circuit opens, when a probe may go, and the Retry-After of a refused call. Pure;
time and randomness are arguments. Terms as in Nygard, Release It!: closed lets calls through, open refuses
them, half-open has one probe in flight.

The circuit of the way to the workspace opens for all calls, after calls without an answer. The circuit of an
endpoint opens for that endpoint alone, after 502, 503 and 504 while no other call succeeds: one feature may
fail while the others work.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

FAILURES = 5
"""Consecutive failures that open the circuit."""
SPAN = 2.0
"""Seconds from the first failure to the last, at least: retries handle shorter ones."""
WINDOW = 30.0
"""Seconds without a failure after which earlier ones no longer count."""
FIRST_PROBE = 0.5
"""Seconds until the first probe; every failed probe doubles them."""
LONGEST_PROBE = 5.0
"""Seconds between two probes at most, so that the end of an outage is noticed soon."""
PROBE_PATIENCE = 10.0
"""Seconds after which another probe may go although the last one has had no answer."""
LEAST_RETRY_AFTER, MOST_RETRY_AFTER = 2.0, 30.0
"""Seconds. Clients follow Retry-After instead of their own exponential back-off, and count their tries."""


class State(StrEnum):
    """What the circuit does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Permission for one call in an outage (numbered, 0 before the first); its result is noted once."""

    outage: int
    probe: bool


class CircuitBreaker:
    """Counts failures of one kind. Times are monotonic seconds, ``jitter`` is in [0, 1)."""

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

    def open_since(self, moment: float) -> bool:
        """Whether it is open, and was opened at that moment or later."""
        return self._opened_at is not None and self._opened_at >= moment

    def refuses(self, now: float) -> bool:
        """Whether a call that comes now would get no permit."""
        return self._opened_at is not None and now < self._probe_at

    def admit(self, now: float) -> Permit | None:
        """Return a permit for a call, None if the call is refused."""
        if self._opened_at is None:
            return Permit(self._outage, probe=False)
        if self.refuses(now):
            return None
        self._probe_at = now + PROBE_PATIENCE
        self._probe = Permit(self._outage, probe=True)
        return self._probe

    def succeeded(self, permit: Permit) -> bool:
        """Note an answer; returns whether it closed the circuit.

        Answers to calls from before the outage do not close it: they may have been sent before it began. Any
        probe of this outage does, even after a later probe was sent.
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
        """Note that the call was cancelled: neither success nor failure; the next call may be the probe."""
        if permit is self._probe:
            self._probe = None
            self._probe_at = now

    def retry_after(self, now: float, jitter: float) -> float:
        """Return the Retry-After of a refused call in seconds.

        As long as the outage has lasted, so that clients that count their tries last as long as with their
        own exponential back-off; plus up to a quarter, so that they do not return together.
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


class Said(StrEnum):
    """What an answer says about the workspace."""

    SUCCEEDED = "succeeded"
    """The workspace processes calls, even if it refuses this one."""
    FAILED = "failed"
    """The workspace, or this endpoint, cannot answer at the moment."""
    REACHED = "reached"
    """The workspace can be reached; whether it processes calls is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Leave:
    """The permits for one call: of the circuit of the way, and of its endpoint's circuit if it has one."""

    began: float
    way: Permit
    endpoint: Permit | None
    circuit: CircuitBreaker | None
    """The endpoint's circuit at that time; once ``Circuits`` has dropped it, results noted here are void."""


class Circuits:
    """The circuit of the way to the workspace, and those of the endpoints whose failures count.

    An endpoint is any hashable name; there must be few. None stands for calls whose failing answers do not
    count. Any success clears the failures of all endpoints, except circuits that opened after its call began.
    """

    def __init__(self) -> None:
        self._way = CircuitBreaker()
        self._endpoints: dict[Hashable, CircuitBreaker] = {}

    @property
    def state(self) -> State:
        """The state for metrics; open as soon as the calls of one endpoint are refused."""
        if self._way.state is not State.CLOSED:
            return self._way.state
        states = {circuit.state for circuit in self._endpoints.values()}
        return next((each for each in (State.OPEN, State.HALF_OPEN) if each in states), State.CLOSED)

    def refuses_all(self, now: float) -> bool:
        """Whether the whole workspace seems down: all calls are refused, or those of several endpoints."""
        refused = sum(circuit.refuses(now) for circuit in self._endpoints.values())
        return self._way.refuses(now) or refused > 1

    def is_way(self, circuit: CircuitBreaker) -> bool:
        """Whether a circuit is that of the way, and not an endpoint's."""
        return circuit is self._way

    def refusing(self, endpoint: Hashable | None, now: float) -> CircuitBreaker | None:
        """Return the circuit that would refuse a call that comes now, None if it would get a permit."""
        asked = (self._way, None if endpoint is None else self._endpoints.get(endpoint))
        return next((circuit for circuit in asked if circuit is not None and circuit.refuses(now)), None)

    def admit(self, endpoint: Hashable | None, now: float) -> Leave | CircuitBreaker:
        """Return the permits for a call, or the circuit that refuses it."""
        circuit = None if endpoint is None else self._endpoints.setdefault(endpoint, CircuitBreaker())
        if circuit is not None and circuit.refuses(now):
            return circuit  # first: a refused call must not use up the way's probe
        way = self._way.admit(now)
        if way is None:
            return self._way
        return Leave(now, way, None if circuit is None else circuit.admit(now), circuit)

    def answered(self, leave: Leave, said: Said, now: float, jitter: float) -> bool:
        """Note an answer; returns whether that opened or closed a circuit."""
        changed = self._way.succeeded(leave.way)
        if said is Said.SUCCEEDED:
            return self._clear(leave) or changed
        if leave.circuit is None or leave.endpoint is None:
            return changed
        if said is Said.FAILED:
            return leave.circuit.failed(leave.endpoint, now, jitter) or changed
        leave.circuit.gave_up(leave.endpoint, now)
        return changed

    def unanswered(self, leave: Leave, now: float, jitter: float) -> bool:
        """Note that there was no answer; returns whether that opened the circuit of the way."""
        if leave.circuit is not None and leave.endpoint is not None:
            leave.circuit.gave_up(leave.endpoint, now)
        return self._way.failed(leave.way, now, jitter)

    def gave_up(self, leave: Leave, now: float) -> None:
        """Note that the call was cancelled: neither success nor failure; the next call may be the probe."""
        self._way.gave_up(leave.way, now)
        if leave.circuit is not None and leave.endpoint is not None:
            leave.circuit.gave_up(leave.endpoint, now)

    def retry_after(self, now: float, jitter: float) -> float:
        """Return the Retry-After in seconds for a call that got no answer."""
        return self._way.retry_after(now, jitter)

    def _clear(self, leave: Leave) -> bool:
        """Clear the failures of all endpoints, except circuits that opened after the call began."""
        kept = {name: each for name, each in self._endpoints.items() if each.open_since(leave.began)}
        closed = any(
            each.state is not State.CLOSED for name, each in self._endpoints.items() if name not in kept
        )
        self._endpoints = kept
        return closed
