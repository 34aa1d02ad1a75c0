"""Storing what a flight brought, so that it lies there before those who wait for the flight go on."""

from dataclasses import replace

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader
from mlflow_proxy.reading.memory import Memory


class Kept:
    """Stores the fresh answers of ``below``, unless a write has outdated them since they were asked for."""

    def __init__(self, below: Reader, memory: Memory, access: Access) -> None:
        self._below = below
        self._memory = memory
        self._access = access

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read."""
        asked = self._memory.generations.moment
        answer = await self._below.read(question, caller, party)
        if answer.personal is not None and answer.outcome is not Outcome.MISS:
            return answer  # another member's caller's own
        # For all who share the question, or for its caller alone.
        owned = question if answer.personal is None else question.owned_by(caller.partition)
        kept = (
            answer.entry.expires_at > self._memory.clock.now()
            and self._access.owns(owned.partition)
            and self._memory.generations.holds(asked, question.model)
            and self._memory.store.put(owned.key, answer.entry)
        )
        outcome = Outcome.STORED if kept and answer.outcome is Outcome.MISS else answer.outcome
        return replace(answer, key=owned.key, outcome=outcome)
