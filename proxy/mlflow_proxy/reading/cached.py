"""Stored answers: fresh ones, and expired ones while the workspace cannot answer (RFC 5861)."""

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.errors import BadGatewayError, GatewayTimeoutError, ServiceUnavailableError
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader, from_store
from mlflow_proxy.reading.freshness import may_be_stale
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.store import Entry
from mlflow_proxy.term import Terms
from mlflow_proxy.upstream.circuit import Circuit
from mlflow_proxy.upstream.retry import UNAVAILABLE


class Cached:
    """Answers from the store, else from ``below``.

    Callers that refuse stored answers (``Cache-Control: no-cache``) are answered by ``direct``, which neither
    shares nor stores. ``stale_if_error`` is how many seconds an expired answer may still be served;
    ``patience`` is the longest that an answer may have taken to arrive, in seconds.
    """

    def __init__(
        self,
        below: Reader,
        direct: Reader,
        memory: Memory,
        circuit: Circuit,
        *,
        stale_if_error: float,
        patience: float,
    ) -> None:
        self._below = below
        self._direct = direct
        self._memory = memory
        self._circuit = circuit
        self._stale_if_error = stale_if_error
        self._patience = patience

    async def read(self, question: Read, caller: Caller, party: Party) -> Answer:
        """See Reader.read."""
        if caller.fresh:
            try:
                answer = await self._direct.read(question, caller, party)
            except BadGatewayError as error:
                raise self._retryable(error) from error
            return answer._replace(outcome=Outcome.REQUEST)
        now = self._memory.clock.now()
        entry = self._memory.store.get(question.key, now)
        if entry is not None:
            return self._stored(question, entry, Outcome.HIT, now, (self._memory.store.term(question.key),))
        try:
            answer = await self._below.read(question, caller, party)
        except (BadGatewayError, ServiceUnavailableError, GatewayTimeoutError) as error:
            if (stale := self._stale(question, caller)) is not None:
                return stale
            if isinstance(error, BadGatewayError):
                raise self._retryable(error) from error
            raise
        if answer.response.status in UNAVAILABLE and (stale := self._stale(question, caller)) is not None:
            return stale
        return answer

    def _stale(self, question: Read, caller: Caller) -> Answer | None:
        """Return an expired answer that may be served on an error (RFC 5861), None if there is none."""
        now = self._memory.clock.now()
        entry = self._memory.store.get_stale(question.key, now, self._stale_if_error)
        if entry is None or not may_be_stale(
            question.route.freshness, survives=entry.survives_metadata_writes
        ):
            return None
        if entry.stored_at <= self._memory.refusals.last(caller.partition, question.model):
            return None
        return self._stored(question, entry, Outcome.STALE, now)

    def _stored(
        self, question: Read, entry: Entry, outcome: Outcome, now: float, terms: Terms | None = None
    ) -> Answer:
        # The workspace decided up to ``patience`` seconds before the answer was stored.
        return from_store(question.key, entry, outcome, entry.stored_at - self._patience, now, terms)

    def _retryable(self, error: BadGatewayError) -> ServiceUnavailableError:
        """Return a 503 in place of a read's 502: the Databricks SDK retries only 503.

        Each caller gets a Retry-After of its own. Readers below see the 502, which the fleet shares.
        """
        return self._circuit.unreachable(str(error))
