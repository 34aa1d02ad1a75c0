"""Writes and purges: forgotten here at once, and told to the other members of the fleet."""

from dataclasses import dataclass

from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.shared import FleetCache
from mlflow_proxy.reading.store import Invalidation


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did: answers dropped here, and whether the fleet knows; None if there is none."""

    dropped: int
    told: bool | None


class Writes:
    """What this proxy has to say of writes. ``fleet`` is None for a proxy on its own."""

    def __init__(self, memory: Memory, fleet: FleetCache | None) -> None:
        self._memory = memory
        self._fleet = fleet

    def note(self, what: Invalidation) -> int:
        """Let no read that begins now, here or at another member, see what was true before a write.

        Returns how many answers were dropped here. Other members hear of it in the background.
        """
        dropped = self._memory.forget(what)
        if self._fleet is not None:
            self._fleet.tell(what)
        return dropped

    async def told(self) -> None:
        """Wait until the fleet knows of every write noted so far, or cannot be reached."""
        if self._fleet is not None:
            await self._fleet.told()

    async def purge(self, what: Invalidation) -> Purged:
        """Do what a write would, without one; returns once the fleet can know of it."""
        dropped = self.note(what)
        if self._fleet is None:
            return Purged(dropped, told=None)
        await self._fleet.told()
        return Purged(dropped, told=self._fleet.connected)

    async def disown(self, answer: Answer) -> None:
        """Forget an answer that proved wrong, so that the next who asks gets another."""
        self._memory.store.discard(answer.key, answer.response)
        if self._fleet is not None:
            await self._fleet.discard(answer.key)
