"""The answer to a read, and the protocol of the stack's readers."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import Key, Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.personal import Personal
from mlflow_proxy.reading.store import Entry
from mlflow_proxy.term import Terms


class Answer(NamedTuple):
    """A complete response and where it came from.

    Attributes:
        key: the cache key.
        entry: the response and its expiry; an expired entry must not be stored.
        outcome: how the cache answered (RFC 9211).
        as_of: a time (the clock's ``now``) at or before the workspace's decision.
        age: seconds since the response was made, if it was stored.
        ttl: remaining freshness in seconds, if it was stored; below 0 if it has expired.
        personal: why only this caller may have it although the question was shared; None if all sharers may.
        terms: until when the caller would be answered the same; None if that is not known.

    """

    key: Key
    entry: Entry
    outcome: Outcome
    as_of: float
    age: float | None = None
    ttl: float | None = None
    personal: Personal | None = None
    terms: Terms | None = None

    @property
    def response(self) -> StoredResponse:
        """The workspace's response."""
        return self.entry.response


def from_store(
    key: Key, entry: Entry, outcome: Outcome, as_of: float, now: float, terms: Terms | None = None
) -> Answer:
    """Return a stored entry as an answer, with its age and ttl at ``now``."""
    age, ttl = now - entry.stored_at, entry.expires_at - now
    return Answer(key, entry, outcome, as_of, age, ttl, terms=terms)


class Reader(Protocol):
    """One reader of the stack."""

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """Return the answer to a caller's question; ``party`` are the clients that wait for it.

        Error responses of the workspace are answers. Raises AnswerableError when there is no response, and
        NotShareableError when the response has to be streamed to the caller instead.
        """
        ...


Ask = Callable[[Read, Caller, Party], Awaitable[Answer]]
"""``Reader.read`` of the top of the stack."""
