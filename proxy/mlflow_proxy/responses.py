"""How answers go out to a client: stored ones, errors of our own, and bodies relayed as they arrive."""

import time
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus

import structlog
from aiohttp import web

from mlflow_proxy.errors import AnswerableError, TruncatedError
from mlflow_proxy.listener.connection import is_last
from mlflow_proxy.listener.memo import Hit
from mlflow_proxy.listener.sockets import reset
from mlflow_proxy.mlflow_api.headers import field, without
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.response_heads import complete, has_body, status_and_fields
from mlflow_proxy.outcome import Outcome
from mlflow_proxy.reading.answer import Answer

log = structlog.get_logger(__name__)


class Reply(web.StreamResponse):
    """What was sent in answer to a request: the server asks it whether the connection stays open.

    ``last`` is whether the connection is closed behind it; ``hit`` is for the memo, if it may be given again.
    Nothing is left for the server to send.
    """

    def __init__(self, status: int, outcome: Outcome, *, last: bool, hit: Hit | None = None) -> None:
        super().__init__(status=status)
        self.outcome = outcome
        self.last = last
        self.hit = None if last else hit
        self.ended = False
        """Whether all of it was sent. If not, its connection is closed."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return not self.last

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send no head: it was sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end: it was sent."""


async def send_answer(
    request: web.BaseRequest, answer: Answer, response: StoredResponse | None = None
) -> Reply:
    """Send an answer of the stack; ``response`` takes the place of its response, if given."""
    sent, entry = answer.response if response is None else response, answer.entry
    hit = None
    if answer.outcome is Outcome.HIT and answer.terms is not None:
        hit = Hit(sent, entry.stored_at, entry.expires_at, answer.terms)
    return await send_whole(request, sent, answer.outcome, answer.age, answer.ttl, hit)


async def send_whole(
    request: web.BaseRequest,
    response: StoredResponse,
    outcome: Outcome,
    age: float | None = None,
    ttl: float | None = None,
    hit: Hit | None = None,
) -> Reply:
    """Send a complete response; ``age`` and ``ttl`` in seconds for one that was stored.

    ``hit`` is the same as the memo may give it again.
    """
    reply = Reply(response.status, outcome, last=is_last(request), hit=hit)
    date = None if response.dated else time.time()
    minor = request.version.minor
    head = complete(response.head, outcome, age, ttl, date=date, minor=minor, last=reply.last)
    body = b"" if request.method == "HEAD" or not has_body(response.status) else response.body
    # All in one write: one packet for a small answer.
    await _send(request, reply, head + body)
    return reply


async def send_error(request: web.BaseRequest, error: AnswerableError, outcome: Outcome) -> Reply:
    """Send an error of the proxy's own, in the shape of the API's errors."""
    headers = (("Content-Type", "application/json"), *error.headers.items())
    phrase = HTTPStatus(error.status).phrase
    return await send_whole(request, StoredResponse(error.status, phrase, headers, error.body()), outcome)


async def relay(
    request: web.BaseRequest,
    status: int,
    reason: str,
    headers: Iterable[tuple[str, str]],
    body: AsyncIterator[bytes],
    outcome: Outcome,
    age: float | None = None,
    ttl: float | None = None,
) -> Reply:
    """Send a body as it arrives; ``age`` and ``ttl`` in seconds if it was stored.

    If it breaks off, the client's connection is aborted: a truncated body must never look complete.
    """
    minor, fields = request.version.minor, list(headers)
    declared = field(fields, "content-length")
    length = int(declared) if declared else None
    if not has_body(status):
        fields = without(fields, frozenset({"content-length"}))
    # What HEAD asks about may be gigabytes that storage sends all the same.
    follows = has_body(status) and request.method != "HEAD"
    # Of unknown length: in chunks, or up to the end of the connection (RFC 9112 section 6.3).
    chunked = follows and length is None and minor > 0
    reply = Reply(status, outcome, last=is_last(request) or (follows and length is None and not chunked))
    date = None if any(name.lower() == "date" for name, _ in fields) else time.time()
    shared = status_and_fields(status, reason, fields)
    head = complete(shared, outcome, age, ttl, date=date, minor=minor, last=reply.last, chunked=chunked)
    await _send(request, reply, head, body if follows else None, length, chunked=chunked)
    return reply


async def _send(
    request: web.BaseRequest,
    reply: Reply,
    first: bytes,
    body: AsyncIterator[bytes] | None = None,
    length: int | None = None,
    *,
    chunked: bool = False,
) -> None:
    """Write ``first``, which has the head, and then a body of ``length`` bytes (None: unknown) if any."""
    transport, writer = request.transport, request.writer
    try:
        await writer.write(first)
        if body is not None:
            if chunked:
                writer.enable_chunking()
            else:
                writer.length = length
            async for chunk in body:
                await writer.write(chunk)
        await writer.write_eof()
        # The next request is not answered before the client has taken most of this.
        await writer.drain()
        reply.ended = True
    except (TruncatedError, ConnectionResetError) as error:
        log.info("answer broke off", status=reply.status, reason=str(error))
    finally:
        # Also when this is cancelled or fails: what has begun and not ended must not look complete.
        if not reply.ended and transport is not None:
            reset(transport)
