"""The circuit breaker at work: the clock and the chance that its rules ask for, and what is told of it.

What belongs here: how a call goes through the circuit and how its end is noted. When the circuit opens and
when a probe may go is decided in ``circuit_breaker``.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from proxy.errors import UnreachableError, UpstreamTimeoutError, UpstreamUnavailableError
from proxy.upstream.circuit_breaker import CircuitBreaker, Permit, State

log = structlog.get_logger(__name__)

_LEAST_TO_BE_ANSWERED = 5.0
"""Seconds. A call that had less left before its deadline says nothing about the way to the workspace."""


class Circuit:
    """Refuses calls while the workspace cannot be reached."""

    def __init__(self) -> None:
        self._breaker = CircuitBreaker()

    @property
    def state(self) -> State:
        """What it does with calls now."""
        return self._breaker.state

    def check(self) -> None:
        """Raise UnreachableError if a call that begins now would not be let through."""
        if self._breaker.refuses(time.monotonic()):
            raise self._open()

    @contextmanager
    def through(self, *, telling: bool) -> Iterator[Callable[[bool], None]]:
        """Let a call through unless the circuit is open. Raises UnreachableError.

        Yields what is told, once there is an answer, whether it came from the workspace. If none comes that
        is a failure, unless the call is not ``telling``: one whose body streams may break by its sender's
        fault.
        """
        # It may have opened since the call began to wait, and whoever waits goes out one by one then.
        permit = self._breaker.admit(began := time.monotonic())
        if permit is None:
            raise self._open()
        told = False

        def note_answer(reached: bool) -> None:
            nonlocal told
            told = True
            self._note(permit, reached=reached)

        try:
            yield note_answer
        except (UpstreamUnavailableError, UpstreamTimeoutError) as error:
            hurried = (
                isinstance(error, UpstreamTimeoutError) and time.monotonic() - began < _LEAST_TO_BE_ANSWERED
            )
            if not told and telling and not hurried:
                note_answer(reached=False)
            raise
        finally:
            if not told:
                self._breaker.gave_up(permit, time.monotonic())

    def unreachable(self, message: str) -> UnreachableError:
        """Return the error that says so, and when it is worth coming back."""
        after = self._breaker.retry_after(time.monotonic(), random.random())  # noqa: S311 - keeps no secret
        return UnreachableError(message, retry_after=after)

    def _open(self) -> UnreachableError:
        return self.unreachable(
            "The workspace could not be reached several times in a row; it is tried again every few seconds."
        )

    def _note(self, permit: Permit, *, reached: bool) -> None:
        if reached:
            if self._breaker.succeeded(permit):
                log.info("circuit closed: the workspace answers again")
        elif self._breaker.failed(permit, time.monotonic(), random.random()):  # noqa: S311 - keeps no secret
            log.warning("circuit open: the workspace cannot be reached, calls are not tried")
