"""The fleet's answers: those that another member has stored, or is fetching now."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from mlflow_proxy.access.sharing import Access, Caller
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader, from_store
from mlflow_proxy.reading.learning import Learning
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.personal import why_personal
from mlflow_proxy.reading.store import Entry, Invalidation


@dataclass(slots=True)
class Turn:
    """The fleet's reply to a question: an answer, or None if this member has to fetch it."""

    found: Entry | None = None
    joined: bool = False
    """Whether ``found`` comes from another member's flight; else it was stored before the question."""
    brought: Entry | None = None
    """Set by the member that fetched. An expired entry reaches only the members that wait, unstored."""


class FleetCache(Protocol):
    """The cache and flights that the members of a fleet share: see ``fleet.shared_cache``."""

    @property
    def connected(self) -> bool:
        """Whether answers are shared now."""
        ...

    def turn(self, read: Read, deadline: Callable[[], float]) -> AbstractAsyncContextManager[Turn]:
        """Ask the fleet for an answer; if the turn has none, this member has to fetch it."""
        ...

    async def discard(self, key: Key) -> None:
        """Drop an answer that proved wrong."""
        ...

    def announce(self, what: Invalidation) -> None:
        """Announce a write to all members, in the background."""
        ...

    async def announced(self) -> None:
        """Wait until the fleet knows of every write noted so far, or cannot be reached."""
        ...


class Shared:
    """Answers from the fleet, else from ``below``, whose answer it gives to the fleet.

    ``patience`` is the longest that an answer may have taken to arrive, in seconds.
    """

    def __init__(
        self,
        below: Reader,
        fleet: FleetCache,
        memory: Memory,
        learning: Learning,
        access: Access,
        patience: float,
    ) -> None:
        self._below = below
        self._fleet = fleet
        self._memory = memory
        self._learning = learning
        self._access = access
        self._patience = patience

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read."""
        asked = self._memory.generations.moment
        async with self._fleet.turn(question, party.until) as turn:
            if turn.found is None:
                answer = await self._below.read(question, caller, party)
                if self._access.owns(question.partition):
                    turn.brought = answer.entry if answer.personal is None else _withheld(answer.entry)
                return answer
            entry = turn.found
        personal = why_personal(question, entry.response) if question.common else None
        if personal is None:
            self._learning.note(question, entry.response, caller, asked)
        as_of = entry.stored_at - self._patience  # the workspace decided up to ``patience`` earlier
        if turn.joined or personal is not None:
            return Answer(question.key, entry, Outcome.COLLAPSED, as_of, personal=personal)
        return from_store(question.key, entry, Outcome.HIT, as_of, self._memory.clock.now())


def _withheld(entry: Entry) -> Entry:
    """Return an expired, empty entry: the waiting members learn only that they have to ask themselves."""
    return replace(entry, response=StoredResponse(entry.response.status, "", (), b""), expires_at=0.0)
