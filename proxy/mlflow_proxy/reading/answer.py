"""What a read brings, and what each reader of the stack looks like."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.personal import Personal
from mlflow_proxy.reading.store import Entry


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response and how it came about.

    Attributes:
        key: under which it is stored, if it is.
        entry: the response with the times for which it may be used; one that has expired must not be kept.
        outcome: what became of the question.
        as_of: a moment (the clock's ``now``) that is not after the workspace's decision.
        age: seconds since it was made, if it was stored.
        ttl: seconds for which it will be used, if it was stored; below 0 if it has expired.
        personal: why it is the caller's own although it was asked for in a common name; None if others may
            have it.

    """

    key: Key
    entry: Entry
    outcome: Outcome
    as_of: float
    age: float | None = None
    ttl: float | None = None
    personal: Personal | None = None

    @property
    def response(self) -> StoredResponse:
        """The workspace's words."""
        return self.entry.response


def from_store(key: Key, entry: Entry, outcome: Outcome, as_of: float, now: float) -> Answer:
    """Return an answer that was stored, with the age and ttl that it has now."""
    return Answer(key, entry, outcome, as_of, now - entry.stored_at, entry.expires_at - now)


class Reader(Protocol):
    """One reader of the stack."""

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """Return the answer to a caller's question while somebody of ``party`` waits for it.

        Errors of the workspace are answers. Raises AnswerableError when there is none, and NotShareableError
        when what came must not be read whole and shared.
        """
        ...


Ask = Callable[[Read, Caller, Party], Awaitable[Answer]]
"""``Reader.read`` of the top of the stack."""
