"""The circuit breakers at work: the clock and the chance that their rules ask for, and what is told of them.

What belongs here: how a call goes through the circuits and how its end is noted. When a circuit opens and
when a probe may go is decided in ``circuit_breaker``.
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
"""Seconds. A call that had less left before its deadline says nothing about the way to the workspace."""
_NO_ANSWER = "The workspace could not be reached several times in a row; it is tried again every few seconds."
_FAILING_ANSWERS = (
    "The workspace could not answer such calls several times in a row, and nothing else succeeded; "
    "they are tried again every few seconds."
)


class Circuit:
    """Refuses calls while the workspace cannot be reached, or those of an endpoint while nothing succeeds."""

    def __init__(self) -> None:
        self._circuits = Circuits()

    @property
    def state(self) -> State:
        """What it does with calls now; open already if those of one endpoint are refused."""
        return self._circuits.state

    def problem(self) -> str | None:
        """Return why a client should not send calls here now, None if they would be tried.

        An endpoint that fails alone is no reason: calls of the others are tried.
        """
        now = time.monotonic()
        if self._circuits.refusing(None, now):
            return _NO_ANSWER
        return _FAILING_ANSWERS if self._circuits.refuses_all(now) else None

    def check(self, endpoint: Hashable | None) -> None:
        """Raise ServiceUnavailableError if a call that begins now would not be let through."""
        refusing = self._circuits.refusing(endpoint, time.monotonic())
        if refusing is not None:
            raise self._refused(refusing)

    @contextmanager
    def through(self, endpoint: Hashable | None, *, telling: bool) -> Iterator[Callable[[Said], None]]:
        """Let a call through unless its circuit is open. Raises ServiceUnavailableError.

        ``endpoint`` is None if answers that fail say nothing about others. Yields what is told, once there is
        an answer, what that says. If none comes that is a failure of the way, unless the call is not
        ``telling``: one whose body streams may break by its sender's fault. That a connection ended which
        had been idle says nothing about the next.
        """
        # It may have opened since the call began to wait, and whoever waits goes out one by one then.
        leave = self._circuits.admit(endpoint, began := time.monotonic())
        if isinstance(leave, CircuitBreaker):
            raise self._refused(leave)
        told = False

        def note_answer(said: Said) -> None:
            nonlocal told
            told = True
            if self._circuits.answered(leave, said, time.monotonic(), _jitter()):
                self._log_change()

        try:
            yield note_answer
        except (BadGatewayError, GatewayTimeoutError) as error:
            hurried = (
                isinstance(error, GatewayTimeoutError) and time.monotonic() - began < _LEAST_TO_BE_ANSWERED
            )
            ended = isinstance(error, ConnectionEndedError)
            if not told and telling and not hurried and not ended:
                told = True
                if self._circuits.unanswered(leave, time.monotonic(), _jitter()):
                    log.warning("circuit open: the workspace cannot be reached, calls are not tried")
            raise
        finally:
            if not told:
                self._circuits.gave_up(leave, time.monotonic())

    def unreachable(self, message: str) -> ServiceUnavailableError:
        """Return the error that says so, and when it is worth coming back."""
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
