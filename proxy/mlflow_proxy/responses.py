"""How answers go out to a client: stored ones, errors of our own, and bodies relayed as they arrive."""

import math
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus

import structlog
from aiohttp import web
from multidict import CIMultiDict

from mlflow_proxy.errors import AnswerableError, TruncatedError
from mlflow_proxy.listener.sockets import reset
from mlflow_proxy.mlflow_api.headers import CACHE_NAME
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.reading.answer import Answer

log = structlog.get_logger(__name__)


class Reply(web.StreamResponse):
    """A response with just the fields given, and a Cache-Status that says its ``outcome``.

    ``ttl`` is in seconds if it was stored. aiohttp fills in a Content-Type and a Server field where there is
    none, which a proxy must not; ``remove_defaults`` takes them out again.
    """

    def __init__(
        self,
        status: int,
        reason: str | None,
        headers: Iterable[tuple[str, str]],
        outcome: Outcome,
        ttl: float | None = None,
    ) -> None:
        told = [*headers, _cache_status(outcome, ttl)]
        super().__init__(status=status, reason=reason, headers=CIMultiDict(told))
        self.outcome = outcome
        self.given = frozenset(name.lower() for name in self.headers)
        self.ended = False
        """Whether all of it was sent. If not, its connection is closed."""


async def remove_defaults(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler for ``on_response_prepare``."""
    if isinstance(response, Reply):
        for name in ("Content-Type", "Server"):
            if name.lower() not in response.given:
                response.headers.popall(name, None)


def _cache_status(outcome: Outcome, ttl: float | None = None) -> tuple[str, str]:
    """Return the Cache-Status field (RFC 9211); ``ttl`` in seconds if it was stored, below 0 if expired."""
    left = f"; ttl={math.floor(ttl)}" if ttl is not None else ""
    return "Cache-Status", f"{CACHE_NAME}; {outcome}{left}"


async def send_answer(request: web.Request, answer: Answer, response: StoredResponse | None = None) -> Reply:
    """Send an answer of the stack; ``response`` takes the place of its response, if given."""
    sent = answer.response if response is None else response
    return await send_whole(request, sent, answer.outcome, answer.age, answer.ttl)


async def send_whole(
    request: web.Request,
    response: StoredResponse,
    outcome: Outcome,
    age: float | None = None,
    ttl: float | None = None,
) -> Reply:
    """Send a complete response; ``age`` and ``ttl`` in seconds for one that was stored."""
    fields = [*response.headers, *described(len(response.body), age)]
    reply = Reply(response.status, response.reason, fields, outcome, ttl)
    return await _send(request, reply, None, last=response.body)


def described(length: int, age: float | None = None) -> list[tuple[str, str]]:
    """Return the fields of a body of ``length`` bytes, ``age`` seconds old if it was stored.

    Sources: RFC 9110 section 8.6, RFC 9111 section 5.1.
    """
    size = ("Content-Length", str(length))
    return [size] if age is None else [size, ("Age", str(int(age)))]


async def send_error(request: web.Request, error: AnswerableError, outcome: Outcome) -> Reply:
    """Send an error of the proxy's own, in the shape of the API's errors."""
    headers = (("Content-Type", "application/json"), *error.headers.items())
    phrase = HTTPStatus(error.status).phrase
    return await send_whole(request, StoredResponse(error.status, phrase, headers, error.body()), outcome)


async def relay(
    request: web.Request,
    status: int,
    reason: str | None,
    headers: Iterable[tuple[str, str]],
    body: AsyncIterator[bytes],
    outcome: Outcome,
    ttl: float | None = None,
) -> Reply:
    """Send a body as it arrives; ``ttl`` in seconds if it was stored.

    If it breaks off, the client's connection is aborted: a truncated body must never look complete.
    """
    return await _send(request, Reply(status, reason, headers, outcome, ttl), body)


async def _send(
    request: web.Request, reply: Reply, body: AsyncIterator[bytes] | None, last: bytes = b""
) -> Reply:
    transport = request.transport
    try:
        await reply.prepare(request)
        # What HEAD asks about may be gigabytes that storage sends all the same.
        if body is not None and request.method != "HEAD":
            async for chunk in body:
                await reply.write(chunk)
        # The last of it leaves together with a header still held back: one packet for a small answer.
        # After HEAD it would be taken for the beginning of the next answer.
        await reply.write_eof(last if request.method != "HEAD" else b"")
        reply.ended = True
    except (TruncatedError, ConnectionResetError) as error:
        log.info("answer broke off", status=reply.status, reason=str(error))
    finally:
        # Also when this is cancelled or fails: what has begun and not ended must not look complete.
        if not reply.ended and transport is not None:
            reset(transport)
    return reply
