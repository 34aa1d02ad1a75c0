"""Connections to the other side: what they have to do beyond what aiohttp's do.

What belongs here: the seam with aiohttp's client below a request. These parts of aiohttp are not public,
which is why pyproject.toml holds it to a minor version; test_aiohttp_parts fails if one is gone, and
test_hostile_answers, test_ended_connections and test_storage_destinations if one works otherwise.

    ``TCPConnector._factory``                   makes what speaks over a connection: ours breaks off bodies
    ``TCPConnector._get``                       takes a connection from the pool: only one that is alive
    ``TCPConnector._release``                   puts it back: one that says anything unasked is closed
    ``TCPConnector._conns``                     the pool: the one used last is taken first
    ``TCPConnector._create_proxy_connection``   waits for a forward proxy: not for ever
    ``TCPConnector._loop``                      the event loop that the pool is of
    ``ResponseHandler._parser``                 whether an answer is expected
    ``ResponseHandler._payload``                the body that is being read
    ``ClientSession._retry_connection``         whether a request is repeated unasked (in ``client``)
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import cast

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.tracing import Trace

from mlflow_proxy.errors import RefusedDestinationError
from mlflow_proxy.upstream.destination import Destinations
from mlflow_proxy.upstream.kernel import acknowledged, has_ended, is_silent

_towards_proxy: ContextVar[bool] = ContextVar("_towards_proxy", default=False)
"""Whether the connection being opened is to a forward proxy, which the operator has named."""


@dataclass
class Wanted:
    """What a request asks of its connection, and the one that it got.

    ``idle`` is for how many seconds at most it may have been idle; 0 for a new one. ``used`` is the
    connection if it had been used before, None if it is new.
    """

    idle: float = math.inf
    used: "_Protocol | None" = None

    @property
    def unread(self) -> bool:
        """Whether the other side provably had closed the connection before it got any of the request."""
        return self.used is not None and self.used.unread


_wanted: ContextVar[Wanted] = ContextVar("_wanted")


@contextmanager
def wanting(idle: float) -> Iterator[Wanted]:
    """Ask so much of the connection of the request that is made in this context."""
    before = _wanted.set(wanted := Wanted(idle))
    try:
        yield wanted
    finally:
        _wanted.reset(before)


class RefusedAddressError(OSError):
    """What aiohttp lets pass of an error that is raised where it opens a socket; ``__cause__`` is ours."""


class _Protocol(ResponseHandler):
    """aiohttp's, which tells who reads a body neither of nonsense in the middle of it nor of a bad end.

    Without the first they would wait for ever, and without the second a body that the end of its connection
    ends would look complete (both measured): after a reset, and over TLS also without a closure alert.
    """

    unread = False
    """Whether the other side closed the connection before any of the request that is out came to it."""
    _acknowledged: int | None = None
    """Of how many bytes the other side had said that they came before that request went out."""

    def begin(self) -> None:
        """Note that the next request goes out now."""
        self.unread = False
        self._acknowledged = acknowledged(self.transport)

    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        # Servers close the connection after an error that they had not expected, some without a word of it
        # before (uvicorn: once it has logged the error, which takes milliseconds).
        if data[0].code >= 500:
            self.force_close()
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        self._break_body(exc)

    def eof_received(self) -> None:
        # Only now: when a request hears of it, the socket is closed.
        before, transport = self._acknowledged, self.transport
        self.unread = before is not None and has_ended(transport) and acknowledged(transport) == before
        # Of a body that is framed all is there by now, or its end is missed anyway.
        if not _is_orderly_end(self.transport):
            self._break_body(aiohttp.ClientPayloadError("the connection ended without close_notify"))
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None:
            self._break_body(exc)
        super().connection_lost(exc)

    def _break_body(self, error: BaseException) -> None:
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            known = isinstance(error, aiohttp.ClientError | OSError)
            body.set_exception(error if known else aiohttp.ClientPayloadError(type(error).__name__))
            # A reader that the end of a chunk has woken looks for no error: it would wait again, for ever.
            body.feed_eof()


def _is_orderly_end(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a connection from which nothing more comes was ended by the other side, not by the way.

    TLS says so with close_notify (RFC 9112 section 9.8). asyncio reports its absence no differently, but has
    read all there was before: now OpenSSL reads an end after close_notify, and waits for more without it.
    Without TLS there is only FIN, which anything on the way may send as well.
    """
    secured = transport.get_extra_info("ssl_object") if transport is not None else None
    if secured is None:
        return True
    try:
        return not secured.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


class Connector(aiohttp.TCPConnector):
    """aiohttp's, that waits for no forward proxy for ever, and for whom silence is the rule between requests.

    aiohttp keeps what arrives on an idle connection and takes it for the answer to the next request. That
    next request may be another client's, so a connection that says anything unasked is closed. It takes the
    one that has been idle for longest, too, which is the likeliest to be closed by the other side just then:
    here it is the one that was used last. ``limit`` is how many there may be, ``destinations`` are the places
    that may be connected to, None for any.
    """

    def __init__(self, limit: int, destinations: Destinations | None) -> None:
        super().__init__(
            limit=limit,
            socket_factory=partial(_open_socket, destinations) if destinations is not None else None,
        )
        self._factory = cast("partial[ResponseHandler]", partial(_Protocol, loop=self._loop))

    async def _create_proxy_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's
    ) -> tuple[asyncio.BaseTransport, ResponseHandler]:
        before = _towards_proxy.set(True)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                return await super()._create_proxy_connection(req, traces, timeout)
        finally:
            _towards_proxy.reset(before)

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        # Without a parser every byte counts as left over, be it a whole answer or the beginning of one.
        protocol._parser = None
        if (idle := self._conns.get(key)) and idle[-1][0] is protocol:
            idle.rotate()

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        wanted = _wanted.get()
        wanted.used = None
        while self._idle(key) < wanted.idle and (found := await super()._get(key, traces)) is not None:
            protocol = cast("_Protocol", found.protocol)
            if not protocol.should_close and is_silent(protocol.transport):
                protocol.begin()
                wanted.used = protocol
                return found
            found.close()
        return None

    def _idle(self, key: ConnectionKey) -> float:
        """Return for how long the next connection to be taken has been idle, in seconds."""
        since = (since for protocol, since in self._conns.get(key, ()) if protocol.is_connected())
        return monotonic() - next(since, -math.inf)


def _open_socket(destinations: Destinations, info: AddrInfoType) -> socket.socket:
    """Return a socket for an address unless it is refused: here no name stands between any more."""
    family, kind, protocol, _, address = info
    if not _towards_proxy.get():
        try:
            destinations.check_address(str(address[0]))
        except RefusedDestinationError as error:
            raise RefusedAddressError(str(error)) from error
    return socket.socket(family, kind, protocol)
