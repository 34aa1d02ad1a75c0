"""Storing a flight's answer before the callers that wait for the flight wake up."""

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader
from mlflow_proxy.reading.memory import Memory


class Kept:
    """Stores the fresh answers of ``below``, unless a write has outdated them since the question."""

    def __init__(self, below: Reader, memory: Memory, access: Access) -> None:
        self._below = below
        self._memory = memory
        self._access = access

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read."""
        asked = self._memory.generations.moment
        answer = await self._below.read(question, caller, party)
        if answer.personal is not None and answer.outcome is not Outcome.MISS:
            return answer  # only the caller at the other member may have it
        # Under the shared key, or under the caller's own.
        owned = question if answer.personal is None else question.owned_by(caller.partition)
        kept = (
            answer.entry.expires_at > self._memory.clock.now()
            and self._access.owns(owned.partition)
            and self._memory.generations.holds(asked, question.model)
            and self._memory.store.put(owned.key, answer.entry)
        )
        outcome = Outcome.STORED if kept and answer.outcome is Outcome.MISS else answer.outcome
        return answer._replace(key=owned.key, outcome=outcome)
