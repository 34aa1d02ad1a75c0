"""Writes and purges: drop stored answers here at once, and announce it to the other members of the fleet."""

from dataclasses import dataclass

from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.shared import FleetCache
from mlflow_proxy.reading.store import Invalidation


@dataclass(frozen=True, slots=True)
class Purged:
    """The result of a purge: answers dropped here, and whether the fleet was told (None without a fleet)."""

    dropped: int
    announced: bool | None


class Writes:
    """Drops what writes outdate, and announces writes. ``fleet`` is None for a proxy on its own."""

    def __init__(self, memory: Memory, fleet: FleetCache | None) -> None:
        self._memory = memory
        self._fleet = fleet

    def note(self, what: Invalidation) -> int:
        """Drop the answers that a write outdated, so that reads from now on see the write.

        Returns how many were dropped here. The other members are sent the write in the background.
        """
        dropped = self._memory.forget(what)
        if self._fleet is not None:
            self._fleet.announce(what)
        return dropped

    async def announced(self) -> None:
        """Wait until the fleet knows of every write noted so far, or cannot be reached."""
        if self._fleet is not None:
            await self._fleet.announced()

    async def purge(self, what: Invalidation) -> Purged:
        """Drop answers as a write would; returns once the fleet knows of it, or cannot be reached."""
        dropped = self.note(what)
        if self._fleet is None:
            return Purged(dropped, announced=None)
        await self._fleet.announced()
        return Purged(dropped, announced=self._fleet.connected)

    async def disown(self, answer: Answer) -> None:
        """Drop an answer that proved wrong, so that the next caller gets a new one."""
        self._memory.store.discard(answer.key, answer.response)
        if self._fleet is not None:
            await self._fleet.discard(answer.key)
