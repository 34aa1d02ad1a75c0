"""One attempt of a request: how far it has come, as aiohttp's tracing reports it.

The budget counts a call from the moment its header left; the patience for an answer begins when the last of
the request did.
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
        """Let the answer's header take ``seconds`` after the last of the request, however it comes.

        aiohttp counts from the last byte that came, so that interim answers, or a header that comes byte by
        byte, would be waited for without end.
        """
        self._header, self._seconds = header, seconds
        try:
            yield
        finally:
            self._header = None  # a body may still be on its way when it was answered early

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Report what was sent over a new connection once it was answered, or failed to be."""
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
