"""The progress of one attempt of a request, as aiohttp's tracing reports it.

The budget counts a call from when its header was sent; the time-out for the answer starts when the last byte
of the request was sent.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

Sent = Callable[[], None]


@dataclass
class Attempt:
    """A request on its way out. ``on_sent`` is called when it has left (see ``HttpClient.open``)."""

    on_sent: Sent | None = None
    queued: bool = False
    """Whether it waits for a connection of the pool."""
    _connected: bool = False
    _unreported: bool = False
    _header: asyncio.Timeout | None = None
    _seconds: float | None = None

    @contextmanager
    def awaiting(self, header: asyncio.Timeout, seconds: float | None) -> Iterator[None]:
        """Time out unless the answer's header is complete ``seconds`` after the last byte of the request.

        aiohttp restarts its time-out with every byte received, so interim responses (1xx), or a header that
        arrives byte by byte, could extend it without end.
        """
        self._header, self._seconds = header, seconds
        try:
            yield
        finally:
            self._header = None  # a body may still be on its way when it was answered early

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Call ``on_sent`` for a request over a new connection once it was answered or has failed."""
        try:
            yield
        finally:
            if self._unreported and self.on_sent is not None:
                self.on_sent()

    def connected(self) -> None:
        """Note that a new connection was opened for it."""
        self._connected = True

    def header_sent(self) -> None:
        """Note that its header was written to the connection."""
        self.progressed()
        if self._connected:
            self._unreported = True
        elif self.on_sent is not None:
            self.on_sent()

    def progressed(self) -> None:
        """Note that some of the request was written to the connection."""
        if self._header is not None and self._seconds is not None and not self._header.expired():
            self._header.reschedule(asyncio.get_running_loop().time() + self._seconds)


def tracing() -> aiohttp.TraceConfig:
    """Return the tracing that keeps each request's ``Attempt`` (its ``trace_request_ctx``) up to date."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_connected)
    trace.on_connection_queued_start.append(_queued)
    trace.on_connection_queued_end.append(_dequeued)
    trace.on_request_headers_sent.append(_header_sent)
    trace.on_request_chunk_sent.append(_progressed)
    return trace


def _attempt(context: SimpleNamespace) -> Attempt:
    attempt: Attempt = context.trace_request_ctx
    return attempt


async def _connected(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionCreateEndParams
) -> None:
    _attempt(context).connected()


async def _queued(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionQueuedStartParams
) -> None:
    _attempt(context).queued = True


async def _dequeued(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionQueuedEndParams
) -> None:
    _attempt(context).queued = False


async def _header_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    _attempt(context).header_sent()


async def _progressed(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestChunkSentParams
) -> None:
    _attempt(context).progressed()
