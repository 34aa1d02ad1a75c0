"""Applies the circuit breakers to calls: supplies the clock and randomness, logs changes, raises refusals.

``circuit_breaker`` has the rules: when a circuit opens and when a probe may go.
"""

import random
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import structlog

from mlflow_proxy.errors import (
    BadGatewayError,
    ConnectionEndedError,
    GatewayTimeoutError,
    ServiceUnavailableError,
)
from mlflow_proxy.upstream.circuit_breaker import CircuitBreaker, Circuits, Said, State

log = structlog.get_logger(__name__)

_LEAST_TO_BE_ANSWERED = 5.0
"""Seconds. The time-out of a call that had less left before its deadline is no failure of the workspace."""
_NO_ANSWER = "The workspace could not be reached several times in a row; it is tried again every few seconds."
_FAILING_ANSWERS = (
    "The workspace could not answer such calls several times in a row, and nothing else succeeded; "
    "they are tried again every few seconds."
)


class Circuit:
    """Refuses all calls while the workspace is unreachable, or an endpoint's while no call succeeds."""

    def __init__(self) -> None:
        self._circuits = Circuits()

    @property
    def state(self) -> State:
        """The state for metrics; open as soon as the calls of one endpoint are refused."""
        return self._circuits.state

    def problem(self) -> str | None:
        """Return why a client should send no calls now, None if they would be tried.

        One failing endpoint is no reason: calls to other endpoints are tried.
        """
        now = time.monotonic()
        if self._circuits.refusing(None, now):
            return _NO_ANSWER
        return _FAILING_ANSWERS if self._circuits.refuses_all(now) else None

    def check(self, endpoint: Hashable | None) -> None:
        """Raise ServiceUnavailableError if a call that begins now would be refused."""
        refusing = self._circuits.refusing(endpoint, time.monotonic())
        if refusing is not None:
            raise self._refused(refusing)

    @contextmanager
    def through(self, endpoint: Hashable | None, *, telling: bool) -> Iterator[Callable[[Said], None]]:
        """Let a call through unless its circuit is open. Raises ServiceUnavailableError.

        ``endpoint`` is None if the call's failing answers do not count. Yields a function to be called with
        what the answer says (``Said``). A call without an answer counts as a failure of the workspace, except
        when ``telling`` is False (its body streams, so the client may be at fault), when it had little time,
        or when an idle connection ended.
        """
        # Checked again: the circuit may have opened while the call waited in the queue.
        leave = self._circuits.admit(endpoint, began := time.monotonic())
        if isinstance(leave, CircuitBreaker):
            raise self._refused(leave)
        noted = False

        def note_answer(said: Said) -> None:
            nonlocal noted
            noted = True
            if self._circuits.answered(leave, said, time.monotonic(), _jitter()):
                self._log_change()

        try:
            yield note_answer
        except (BadGatewayError, GatewayTimeoutError) as error:
            hurried = (
                isinstance(error, GatewayTimeoutError) and time.monotonic() - began < _LEAST_TO_BE_ANSWERED
            )
            ended = isinstance(error, ConnectionEndedError)
            if not noted and telling and not hurried and not ended:
                noted = True
                if self._circuits.unanswered(leave, time.monotonic(), _jitter()):
                    log.warning("circuit open: the workspace cannot be reached, calls are not tried")
            raise
        finally:
            if not noted:
                self._circuits.gave_up(leave, time.monotonic())

    def unreachable(self, message: str) -> ServiceUnavailableError:
        """Return a 503 with this message and the circuit's Retry-After."""
        return ServiceUnavailableError(message, self._circuits.retry_after(time.monotonic(), _jitter()))

    def _refused(self, by: CircuitBreaker) -> ServiceUnavailableError:
        message = _NO_ANSWER if self._circuits.is_way(by) else _FAILING_ANSWERS
        return ServiceUnavailableError(message, by.retry_after(time.monotonic(), _jitter()))

    def _log_change(self) -> None:
        if self.state is State.CLOSED:
            log.info("circuit closed: the workspace answers again")
        else:
            log.warning("circuit open: the workspace cannot answer some calls, which are not tried")


def _jitter() -> float:
    return random.random()  # noqa: S311 - keeps no secret
