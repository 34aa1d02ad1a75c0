"""Which answers this member is fetching for all, and which it waits for from another member."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Held = tuple[str, str]
"""The name of a question, and of the flight that fetches its answer."""


@dataclass(frozen=True, slots=True)
class Lead:
    """The lead in fetching an answer: ``standing`` is the generation in which it began."""

    name: str
    flight: str
    model: str
    standing: str
    server_time: float
    began: float

    def server_now(self, now: float) -> float:
        """Return the time of Redis' clock, in Unix seconds, when this member's clock says ``now``."""
        return self.server_time + (now - self.began)


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits for a flight of another member; ``landed`` is set when it may ask again."""

    landed: asyncio.Event
    flight: str = ""


class Leases:
    """The flights that this member leads, and those that its calls wait for."""

    def __init__(self) -> None:
        self.leads: dict[str, Lead] = {}
        """By flight."""
        self.waiters: dict[str, list[Waiter]] = {}
        """By the name of the question."""

    def led(self) -> list[Held]:
        """Return the flights that this member leads."""
        return [(lead.name, lead.flight) for lead in self.leads.values()]

    def awaited(self) -> list[Held]:
        """Return the flights of other members that calls wait for, each once."""
        return [
            (name, flight)
            for name, waiters in self.waiters.items()
            for flight in dict.fromkeys(waiter.flight for waiter in waiters)
            if flight
        ]

    @contextmanager
    def waiter(self, name: str) -> Iterator[Waiter]:
        """Yield what is woken when an answer of that name has landed."""
        waiter = Waiter(asyncio.Event())
        waiters = self.waiters.setdefault(name, [])
        waiters.append(waiter)
        try:
            yield waiter
        finally:
            waiters.remove(waiter)
            if not waiters:
                del self.waiters[name]

    def wake(self, name: str) -> None:
        """Let all calls ask again that wait for an answer of that name."""
        for waiter in self.waiters.get(name, ()):
            waiter.landed.set()

    def wake_all(self) -> None:
        """Let all calls ask again."""
        for name in self.waiters:
            self.wake(name)
