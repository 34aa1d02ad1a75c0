"""Calls to the workspace, the part of the line that spends its budget: budget -> upstream (retry).

What belongs here: one call with all its attempts. What a call is made for, and what becomes of its answer, is
the pipeline's.
"""

import asyncio
import math
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass

import aiohttp
import structlog

from mlflow_proxy.access.sharing import Access
from mlflow_proxy.budget.lines import Deadline
from mlflow_proxy.budget.queue import Queue, Slot
from mlflow_proxy.errors import (
    BadGatewayError,
    ConnectionEndedError,
    GatewayTimeoutError,
    RefusedAloneError,
    TooLargeToShareError,
    TruncatedError,
)
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.headers import CLIENT, Fields, from_proxy
from mlflow_proxy.mlflow_api.messages import UpstreamRequest
from mlflow_proxy.mlflow_api.routes import Group, Route
from mlflow_proxy.party import Party
from mlflow_proxy.upstream.attempt import Sent
from mlflow_proxy.upstream.circuit import Circuit
from mlflow_proxy.upstream.circuit_breaker import Said
from mlflow_proxy.upstream.client import HttpClient, read_whole
from mlflow_proxy.upstream.retry import (
    FAILURES,
    LONGEST_IDLE,
    REPEATED,
    UNAVAILABLE,
    backoff,
    repeatable_after_failure,
    retry_after_seconds,
    within_limits,
)

log = structlog.get_logger(__name__)

_LARGEST_REFUSAL = 64 * 1024
"""Bytes read of a 429's body, so that its connection can be used again."""


class Attempts:
    """Counts the attempts of a call that the workspace may have carried out.

    What never left was not, nor what was answered with 401 or 403, or with a 429 after which the call was
    made again. Any other attempt may have been, whatever its answer was and whether it had one.
    """

    def __init__(self) -> None:
        self._doubtful = 0

    def sent(self) -> None:
        """Note that an attempt has left."""
        self._doubtful += 1

    def refused(self) -> None:
        """Note that the last one was not carried out."""
        self._doubtful -= 1

    @property
    def may_have_worked(self) -> bool:
        """Whether anything may have changed at the workspace."""
        return self._doubtful > 0


@dataclass(frozen=True, slots=True)
class Call:
    """A call to the workspace, and what may be done for it.

    What is ``shared`` is read whole, on behalf of all clients that wait for it: ``party``, if others than the
    request's client may. ``stream`` is a body too large to hold, which can be sent only once.
    """

    group: Group
    request: UpstreamRequest
    deadline: Deadline
    shared: bool
    stream: AsyncIterator[bytes] | None = None
    attempts: Attempts | None = None
    """Notes each attempt and its refusal, if the caller needs to know."""
    party: Party | None = None
    probe: bool = False
    """Whether it is made for the proxy itself, so that its failure says nothing about clients' calls."""
    endpoint: Route | None = None
    """The endpoint that is called, if the route table knows it: its failing answers count together."""
    common: bool = False
    """Whether the clients that wait have credentials of their own, so that each can ask for itself."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An answer, and the seconds after which it asks to be called again.

    ``alone`` is whether the client that asked is refused while others are answered.
    """

    response: aiohttp.ClientResponse
    retry_after: float | None
    alone: bool


class Workspace:
    """The one upstream at ``origin``, called within its budgets.

    ``queues`` are those of the groups that have a limit.
    """

    def __init__(
        self,
        origin: str,
        client: HttpClient,
        queues: Mapping[Group, Queue],
        access: Access,
        metrics: Metrics,
    ) -> None:
        self._origin = origin
        self._client = client
        self._queues = queues
        self._access = access
        self._metrics = metrics
        self._name = secrets.token_hex(8)
        self._behind_proxy = False
        self.circuit = Circuit()

    @asynccontextmanager
    async def call(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Call the workspace within its budget, again after a failure while there is time.

        Raises AnswerableError; RefusedAloneError for a ``common`` call that its client keeps from the others.

        A refused call was not executed, so any method may be repeated (facts: 429s come before the work).
        What failed otherwise may have been: only reads are repeated then, and not often. All of this is for
        calls of the API that this proxy knows. Of others it does not know what their limit is and how it is
        best met: what the workspace says passes at once.
        """
        refusals = failures = renewals = 0
        while True:
            sent = await self._access.upstream_headers(call.request)
            async with AsyncExitStack() as stack:
                try:
                    attempt = await stack.enter_async_context(
                        self._reaching(call, sent, returned=refusals > 0)
                    )
                except (BadGatewayError, GatewayTimeoutError):
                    failures += 1
                    delay = self._after_failure(call, failures, None)
                    if delay is None:
                        raise
                else:
                    response = attempt.response
                    if call.attempts is not None and response.status in {401, 403}:
                        call.attempts.refused()
                    if response.status == 429 and call.stream is None:
                        if attempt.alone and call.common:
                            raise RefusedAloneError(call.request.client)
                        refusals += 1
                        delay = self._after_refusal(call, refusals, attempt.retry_after)
                        if call.attempts is not None and delay is not None:
                            call.attempts.refused()
                    elif response.status in REPEATED and not self._behind_proxy:
                        failures += 1
                        delay = self._after_failure(call, failures, attempt.retry_after)
                    elif response.status in {401, 403} and await self._access.renewed(
                        call.request,
                        sent,
                        response.status,
                        response.headers.items(),
                        repeatable=renewals == 0 and call.stream is None,
                    ):
                        renewals += 1
                        delay = 0.0
                    else:
                        delay = None
                    if delay is None:
                        yield response
                        return
                    await _drain(response)
            await asyncio.sleep(delay)

    def _after_refusal(self, call: Call, refusals: int, asked: float | None) -> float | None:
        """Return the seconds to wait after a 429, None if it is the client's."""
        if not _known(call):
            return None
        if call.group in self._queues and not self._behind_proxy:
            return 0.0  # its queue knows how long, for every call in it
        return _in_time(call, backoff(refusals, asked, random.random()))  # noqa: S311 - keeps no secret

    def _after_failure(self, call: Call, failures: int, asked: float | None) -> float | None:
        """Return the seconds to wait before a failed call is repeated, None if it is not."""
        if not _known(call) or failures > FAILURES or not _repeatable(call):
            return None
        return _in_time(call, backoff(failures, asked, random.random()))  # noqa: S311 - keeps no secret

    @asynccontextmanager
    async def _reaching(self, call: Call, headers: Fields, *, returned: bool) -> AsyncIterator[_Attempt]:
        """Make an attempt, and once more over a new connection if the one that it took has ended.

        Only what was not read goes out again, or may be made twice; of any API, since nothing was said yet.
        """
        idle = math.inf if _repeatable(call) else LONGEST_IDLE
        async with AsyncExitStack() as stack:
            try:
                attempt = await stack.enter_async_context(
                    self._attempt(call, headers, idle, returned=returned)
                )
            except ConnectionEndedError as error:
                if error.unread and call.attempts is not None:
                    call.attempts.refused()
                if not (_repeatable(call) or (error.unread and call.stream is None)):
                    raise
                attempt = await stack.enter_async_context(self._attempt(call, headers, 0.0, returned=True))
            yield attempt

    @asynccontextmanager
    async def _attempt(
        self, call: Call, headers: Fields, idle: float, *, returned: bool
    ) -> AsyncIterator[_Attempt]:
        queue = self._queues.get(call.group)
        slot = None
        endpoint = _telling_endpoint(call)
        self.circuit.check(endpoint)
        if queue is not None:
            slot = await queue.acquire(
                call.deadline, client=call.request.client, party=call.party, returned=returned
            )
        # What is shared is read whole, so all of it counts; a stream may take as long as it flows.
        within = call.deadline() - asyncio.get_running_loop().time() if call.shared else None
        status = "error"
        with (
            slot if slot is not None else nullcontext(),
            self.circuit.through(endpoint, telling=call.stream is None and not call.probe) as note_answer,
        ):
            try:
                async with self._client.open(
                    call.request.method,
                    self._origin + call.request.target,
                    self._introduced(call.request, headers),
                    call.stream or call.request.body or None,
                    on_sent=_noting(call, slot),
                    within=within,
                    idle=idle,
                ) as response:
                    status = str(response.status)
                    self._note_who_answers(response)
                    note_answer(self._said(call, response.status))
                    retry_after, alone = _retry_after(response), False
                    if response.status == 429:
                        self._metrics.refusals.labels(call.group).inc()
                        alone = slot is not None and slot.refused(retry_after)
                    elif slot is not None and within_limits(response.status):
                        slot.answered()
                    yield _Attempt(response, retry_after, alone)
            finally:
                self._metrics.upstream_calls.labels(call.group, status).inc()

    def _said(self, call: Call, status: int) -> Said:
        """Return what an answer says about the workspace."""
        if call.probe:
            return Said.REACHED
        if status not in UNAVAILABLE:
            return Said.SUCCEEDED
        # A proxy in between speaks for itself; it is there as long as it answers.
        return Said.REACHED if self._behind_proxy else Said.FAILED

    def _note_who_answers(self, response: aiohttp.ClientResponse) -> None:
        """Leave the pacing to a proxy of this kind between here and the workspace."""
        behind = from_proxy(response.headers.items())
        if behind != self._behind_proxy:
            log.info("the upstream is a proxy and paces" if behind else "the upstream is no proxy")
            self._behind_proxy = behind
            for queue in self._queues.values():
                queue.stand_aside(behind)

    def _introduced(self, request: UpstreamRequest, headers: Fields) -> Fields:
        """Return a request's fields, and for another proxy on whose behalf it is made."""
        if not self._behind_proxy:
            return headers
        return (*headers, (CLIENT, request.client.behalf or self._name))


def _known(call: Call) -> bool:
    """Whether it is of the API that the route table knows."""
    return call.shared or call.group is not Group.NONE


def _repeatable(call: Call) -> bool:
    """Whether it can be made again, and may be although it may have been carried out."""
    return call.stream is None and repeatable_after_failure(call.request.method, read=call.shared)


def _telling_endpoint(call: Call) -> Route | None:
    """Return the endpoint that an answer of 502, 503 or 504 says something about, None for none.

    What streams may fail by its sender's fault, and what was asked for the proxy itself is no client's call.
    """
    return None if call.stream is not None or call.probe else call.endpoint


def _noting(call: Call, slot: Slot | None) -> Sent:
    """Return what to call when an attempt has left."""

    def sent() -> None:
        if slot is not None:
            slot.sent()
        if call.attempts is not None:
            call.attempts.sent()

    return sent


def _in_time(call: Call, delay: float) -> float | None:
    return delay if asyncio.get_running_loop().time() + delay < call.deadline() else None


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    return retry_after_seconds(response.headers.get("Retry-After"), time.time(), response.headers.get("Date"))


async def _drain(response: aiohttp.ClientResponse) -> None:
    try:
        await read_whole(response, _LARGEST_REFUSAL)
    except (TruncatedError, TooLargeToShareError):
        response.close()
