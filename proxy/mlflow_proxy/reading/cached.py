"""Stored answers: fresh ones, and expired ones while nobody can give a newer one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.errors import BadGatewayError, GatewayTimeoutError, ServiceUnavailableError
from mlflow_proxy.mlflow_api.reads import Read
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.party import Party
from mlflow_proxy.reading.answer import Answer, Reader, from_store
from mlflow_proxy.reading.freshness import may_be_stale
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.store import Entry
from mlflow_proxy.upstream.circuit import Circuit
from mlflow_proxy.upstream.retry import UNAVAILABLE


class Cached:
    """Answers from the store, else from ``below``.

    Callers that refuse stored answers (``Cache-Control: no-cache``) are answered by ``direct``, whose answers
    are theirs alone. ``stale_if_error`` are the seconds for which an expired answer may still be used, and
    ``patience`` those that any answer may have taken to arrive.
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
            with self._retryable():
                answer = await self._direct.read(question, caller, party)
            return replace(answer, outcome=Outcome.REQUEST)
        now = self._memory.clock.now()
        entry = self._memory.store.get(question.key, now)
        if entry is not None:
            return self._stored(question, entry, Outcome.HIT, now)
        try:
            with self._retryable():
                answer = await self._below.read(question, caller, party)
        except (ServiceUnavailableError, GatewayTimeoutError):
            stale = self._stale(question, caller)
            if stale is None:
                raise
            return stale
        if answer.response.status in UNAVAILABLE and (stale := self._stale(question, caller)) is not None:
            return stale
        return answer

    def _stale(self, question: Read, caller: Caller) -> Answer | None:
        """Return an expired answer that may be used while the workspace gives no other (RFC 5861)."""
        now = self._memory.clock.now()
        entry = self._memory.store.get_stale(question.key, now, self._stale_if_error)
        if entry is None or not may_be_stale(
            question.route.freshness, survives=entry.survives_metadata_writes
        ):
            return None
        if entry.stored_at <= self._memory.refusals.last(caller.partition, question.model):
            return None
        return self._stored(question, entry, Outcome.STALE, now)

    def _stored(self, question: Read, entry: Entry, outcome: Outcome, now: float) -> Answer:
        # The answer took time to arrive.
        return from_store(question.key, entry, outcome, entry.stored_at - self._patience, now)

    @contextmanager
    def _retryable(self) -> Iterator[None]:
        """Turn a read's 502 into 503: the Databricks SDK retries only 503.

        Each caller gets a Retry-After of its own. Below, the failure stays what it is, so that the fleet
        shares it.
        """
        try:
            yield
        except BadGatewayError as error:
            raise self._circuit.unreachable(str(error)) from error
