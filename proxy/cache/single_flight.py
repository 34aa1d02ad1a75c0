"""Identical reads that are asked at the same time share one call: a single flight.

A flight belongs to nobody. It outlives the client that started it while others wait for it, and is
cancelled, its places in the queue included, when the last of them leaves.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxy.errors import OverBudgetError
from proxy.mlflow_api.reads import Key, Read
from proxy.party import Party


@dataclass(eq=False, slots=True)
class Flight:
    """One call in the air on behalf of whoever waits for it."""

    read: Read
    deadline: float
    """The event loop's time at which the last of its waiters loses patience."""
    storable: bool = field(default=True)
    """False once a write has made its answer doubtful for anyone who did not ask before the write."""
    party: Party = field(default_factory=Party)
    """The clients that wait for it."""


_flying: ContextVar[Flight | None] = ContextVar("flying", default=None)
"""The flight that this task is: what it asks on its way, those wait for who wait for the flight."""


T = TypeVar("T")
Call = Callable[[Flight], Awaitable[T]]


class SingleFlight(Generic[T]):
    """At most one joinable flight per key; each brings a ``T``."""

    def __init__(self) -> None:
        self._flights: dict[Key, tuple[Flight, asyncio.Task[T]]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def fetch(self, read: Read, deadline: float, client: str, call: Call[T]) -> tuple[T, Flight, bool]:
        """Join the flight for ``read``, or start one with ``call``, on behalf of ``client``.

        What a flight asks on its way is asked on behalf of all who wait for it.

        Returns the answer, the flight, and whether it was joined rather than started. Raises what the
        call raised, to everyone who waits for it; OverBudgetError if ``deadline`` (event loop's time)
        passes while others have patience left.
        """
        outer = _flying.get()
        waiting = Party(client) if outer is None else outer.party
        joined = read.key in self._flights
        if joined:
            flight, task = self._flights[read.key]
            flight.deadline = max(flight.deadline, deadline)
        else:
            flight = Flight(read, deadline)
            task = asyncio.create_task(self._fly(flight, call))
            task.add_done_callback(_retrieve)
            self._flights[read.key] = flight, task
        try:
            with flight.party.joined(waiting):
                return await self._wait(flight, task, deadline), flight, joined
        finally:
            if not flight.party.clients and not task.done():
                self._forget(flight)
                task.cancel()

    def invalidate(self, concerns: Callable[[str | None], bool]) -> None:
        """Let nobody join, and keep nothing of, the flights about models that a write concerns."""
        for flight, _ in list(self._flights.values()):
            if concerns(flight.read.model):
                flight.storable = False
                self._forget(flight)

    async def _fly(self, flight: Flight, call: Call[T]) -> T:
        _flying.set(flight)
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
