"""Identical reads that are asked at the same time share one call: a single flight.

A flight belongs to nobody. It outlives the client that started it while others wait for it, and is
cancelled, its place in the queue included, when the last of them leaves.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxy.errors import OverBudgetError
from proxy.mlflow_api.reads import Key, Read


@dataclass(eq=False, slots=True)
class Flight:
    """One call in the air on behalf of whoever waits for it."""

    read: Read
    deadline: float
    """The event loop's time at which the last of its waiters loses patience."""
    storable: bool = field(default=True)
    """False once a write has made its answer doubtful for anyone who did not ask before the write."""
    waiters: int = field(default=0)


T = TypeVar("T")
Call = Callable[[Flight], Awaitable[T]]


class SingleFlight(Generic[T]):
    """At most one joinable flight per key; each brings a ``T``."""

    def __init__(self) -> None:
        self._flights: dict[Key, tuple[Flight, asyncio.Task[T]]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def fetch(self, read: Read, deadline: float, call: Call[T]) -> tuple[T, Flight, bool]:
        """Join the flight for ``read``, or start one with ``call``.

        Returns the answer, the flight, and whether it was joined rather than started. Raises what the
        call raised, to everyone who waits for it; OverBudgetError if ``deadline`` (event loop's time)
        passes while others have patience left.
        """
        joined = read.key in self._flights
        if joined:
            flight, task = self._flights[read.key]
            flight.deadline = max(flight.deadline, deadline)
        else:
            flight = Flight(read, deadline)
            task = asyncio.create_task(self._fly(flight, call))
            task.add_done_callback(_retrieve)
            self._flights[read.key] = flight, task
        flight.waiters += 1
        try:
            return await self._wait(flight, task, deadline), flight, joined
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not task.done():
                self._forget(flight)
                task.cancel()

    def invalidate(self, concerns: Callable[[str | None], bool]) -> None:
        """Let nobody join, and keep nothing of, the flights about models that a write concerns."""
        for flight, _ in list(self._flights.values()):
            if concerns(flight.read.model):
                flight.storable = False
                self._forget(flight)

    async def _fly(self, flight: Flight, call: Call[T]) -> T:
        try:
            return await call(flight)
        finally:
            # Before the waiters wake: whoever asks from here on starts anew.
            self._forget(flight)

    async def _wait(self, flight: Flight, task: asyncio.Task[T], deadline: float) -> T:
        loop = asyncio.get_running_loop()
        while not task.done():
            left = deadline - loop.time()
            if left <= 0 and flight.deadline > deadline:
                raise OverBudgetError(
                    "The workspace has not answered yet; others are still waiting for the same answer.",
                    retry_after=flight.deadline - loop.time(),
                )
            if left <= 0:
                # A flight that nobody prolonged ends by itself now, with the better error: too late to join.
                self._forget(flight)
            await asyncio.wait((task,), timeout=left if left > 0 else None)
        return task.result()

    def _forget(self, flight: Flight) -> None:
        current = self._flights.get(flight.read.key)
        if current is not None and current[0] is flight:
            del self._flights[flight.read.key]


def _retrieve(task: asyncio.Task[T]) -> None:
    """Look at a flight's error, lest asyncio log it when nobody is left to be told."""
    if not task.cancelled():
        task.exception()
