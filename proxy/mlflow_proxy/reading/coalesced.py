"""Identical questions that are asked at the same time share one call: a single flight.

A flight belongs to no caller. It outlives the one that started it while others wait for it, and is cancelled,
its places in the queue included, when the last of them leaves.
"""

import asyncio
from dataclasses import dataclass, replace

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.clock import Clock
from mlflow_proxy.errors import OverBudgetError
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader
from mlflow_proxy.reading.generations import Generations, Moment


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """One question in the air, for those of ``party``.

    ``began`` is the moment among the writes since when, ``leapt`` what the clock said of sleeps by then.
    """

    party: Party
    began: Moment
    leapt: float
    task: asyncio.Task[Answer]


class Coalesced:
    """At most one joinable flight per key; each brings the answer of ``below``.

    A flight that began before a write which concerns its model cannot be joined after it; nor can one from
    before this machine slept, whose answer may be from then, too.
    """

    def __init__(self, below: Reader, generations: Generations, clock: Clock) -> None:
        self._below = below
        self._generations = generations
        self._clock = clock
        self._flights: dict[Key, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """Join the flight for a question, or start one, on behalf of ``party``.

        Raises what the call raised, to all who wait for it; OverBudgetError if the deadline of ``party``
        passes while others have patience left.
        """
        flight, joined = self._joinable(question), True
        if flight is None:
            flight, joined = self._start(question, caller, party.deadline), False
        try:
            with flight.party.joined(party):
                answer = await self._wait(question.key, flight, party.deadline)
        finally:
            if not flight.party.clients and not flight.task.done():
                self._remove(question.key, flight.party)
                flight.task.cancel()
        return replace(answer, outcome=Outcome.COLLAPSED, age=None, ttl=None) if joined else answer

    def _joinable(self, question: Read) -> _Flight | None:
        flight = self._flights.get(question.key)
        if flight is None or flight.leapt != self._clock.leapt():
            return None
        return flight if self._generations.holds(flight.began, question.model) else None

    def _start(self, question: Read, caller: Caller, deadline: float) -> _Flight:
        party = Party(deadline=deadline)
        task = asyncio.create_task(self._fly(question, caller, party))
        task.add_done_callback(_retrieve)
        flight = _Flight(party, self._generations.moment, self._clock.leapt(), task)
        self._flights[question.key] = flight
        return flight

    async def _fly(self, question: Read, caller: Caller, party: Party) -> Answer:
        try:
            return await self._below.read(question, caller, party)
        finally:
            # Before those who wait are woken: a question that comes from here on starts anew.
            self._remove(question.key, party)

    async def _wait(self, key: Key, flight: _Flight, deadline: float) -> Answer:
        loop = asyncio.get_running_loop()
        while not flight.task.done():
            left = deadline - loop.time()
            if left <= 0 and flight.party.deadline > deadline:
                raise OverBudgetError(
                    "The workspace has not answered yet; others are still waiting for the same answer.",
                    retry_after=flight.party.deadline - loop.time(),
                )
            if left <= 0:
                # A flight that nobody prolonged ends by itself now, with the better error: too late to join.
                self._remove(key, flight.party)
            await asyncio.wait((flight.task,), timeout=left if left > 0 else None)
        return flight.task.result()

    def _remove(self, key: Key, party: Party) -> None:
        current = self._flights.get(key)
        if current is not None and current.party is party:
            del self._flights[key]


def _retrieve(task: asyncio.Task[Answer]) -> None:
    """Look at a flight's error, lest asyncio log it when no caller is left to get it."""
    if not task.cancelled():
        task.exception()
