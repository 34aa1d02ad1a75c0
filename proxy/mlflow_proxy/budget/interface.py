"""What a queue asks of its budget, what it holds at most, and what both report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mlflow_proxy.budget.sliding_window import Grant


class Budget(Protocol):
    """What a queue asks of its budget: see ``Pacer`` (embedded) and ``SharedPacer`` (of a fleet)."""

    limit: int
    window: float
    last_refusal: float | None

    def try_grant(self, now: float) -> Grant | None:
        """See Pacer.try_grant."""
        ...

    def sent(self, grant: Grant, now: float) -> None:
        """See Pacer.sent."""
        ...

    def give_up(self, grant: Grant) -> None:
        """See Pacer.give_up."""
        ...

    def refused(self, grant: Grant, now: float, retry_after: float | None = None) -> None:
        """See Pacer.refused."""
        ...

    def next_moment(self, now: float) -> float | None:
        """See Pacer.next_moment."""
        ...

    def wait(self, ahead: int, now: float) -> float:
        """See Pacer.wait."""
        ...

    def rate(self, now: float) -> float:
        """See Pacer.rate."""
        ...

    def in_window(self, now: float) -> int:
        """See Pacer.in_window."""
        ...

    def outside(self, now: float) -> float:
        """See Pacer.outside."""
        ...

    def pause(self, now: float) -> float:
        """See Pacer.pause."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one queue holds at most, in calls.

    ``background`` is the share of the budget that background calls may use, from 0 to 1.
    """

    per_client: int = 2_000
    total: int = 10_000
    background: float = 0.25


@dataclass(frozen=True, slots=True)
class Status:
    """What a queue and its budget are doing; rates in calls a second.

    ``rate`` is what may leave now, ``outside`` an estimate of what callers beside the proxy use of the limit.
    ``queued`` counts each call once, however many clients wait for it; ``refused_alone`` are clients that the
    workspace refuses while it answers all others.
    """

    limit: int
    rate: float
    in_window: int
    queued: Mapping[str, int]
    clients: int
    outside: float
    seconds_since_429: float | None
    pause_seconds: float
    refused_alone: int
