"""aiohttp's client connections, with the behaviour that a proxy needs in addition.

What belongs here: every use of aiohttp's private client API below a request. It is why pyproject.toml pins
aiohttp to a minor version; test_aiohttp_parts fails if a part is gone, and test_hostile_answers_*,
test_ended_connections and test_storage_destinations_* if one behaves differently.

    ``TCPConnector._factory``                   makes the protocol of a connection: ours fails broken bodies
    ``TCPConnector._get``                       takes a connection from the pool: only one that is alive
    ``TCPConnector._release``                   returns it to the pool: unexpected bytes close it
    ``TCPConnector._conns``                     the pool: the most recently used is taken first
    ``TCPConnector._create_proxy_connection``   connects through a forward proxy: ours times out
    ``TCPConnector._loop``                      the event loop of the pool
    ``ResponseHandler._parser``                 None while no answer is expected
    ``ResponseHandler._payload``                the body that is being read
    ``ClientSession._retry_connection``         whether aiohttp repeats a request by itself (in ``client``)
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
"""Whether the connection being opened leads to a forward proxy, which the operator trusts."""


@dataclass
class Wanted:
    """A request's demand on its connection, and the connection that it got.

    ``idle`` is the most seconds that the connection may have been idle; 0 for a new one. ``used`` is the
    reused connection, None if it is new.
    """

    idle: float = math.inf
    used: "_Protocol | None" = None

    @property
    def unread(self) -> bool:
        """Whether the peer provably closed the connection before it received any byte of the request."""
        return self.used is not None and self.used.unread


_wanted: ContextVar[Wanted] = ContextVar("_wanted")


@contextmanager
def wanting(idle: float) -> Iterator[Wanted]:
    """Set the demand for the request that is made in this context; yields it."""
    before = _wanted.set(wanted := Wanted(idle))
    try:
        yield wanted
    finally:
        _wanted.reset(before)


class RefusedAddressError(OSError):
    """An OSError, so that aiohttp passes it on; ``__cause__`` is the RefusedDestinationError."""


class _Protocol(ResponseHandler):
    """aiohttp's protocol, which also fails a body that is malformed in the middle or ends badly.

    With aiohttp's own, the reader of a malformed body waits for ever, and a body delimited by the end of the
    connection looks complete (both measured): after a reset, and over TLS without a closure alert.
    """

    unread = False
    """Whether the peer closed the connection before it received any byte of the current request."""
    _acknowledged: int | None = None
    """The bytes that the peer had acknowledged before the current request was sent."""

    def begin(self) -> None:
        """Note that the next request is sent now."""
        self.unread = False
        self._acknowledged = acknowledged(self.transport)

    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        # Servers close the connection after an unexpected error, some without Connection: close
        # (uvicorn: once it has logged the error, which takes milliseconds).
        if data[0].code >= 500:
            self.force_close()
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        self._break_body(exc)

    def eof_received(self) -> None:
        # Only here: the socket is closed by the time the request fails.
        before, transport = self._acknowledged, self.transport
        self.unread = before is not None and has_ended(transport) and acknowledged(transport) == before
        # A framed body is complete by now, or aiohttp notices that its end is missing.
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
            # A reader woken by the end of a chunk does not check for errors: it would wait again, for ever.
            body.feed_eof()


def _is_orderly_end(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the peer ended the connection, rather than something on the network path.

    Over TLS the peer sends close_notify (RFC 9112 section 9.8). asyncio does not report whether it did, but
    has read everything before it: after close_notify OpenSSL now reads an end, without it wants more data.
    Without TLS there is only FIN, which a middlebox may send as well; the result is then True.
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
    """aiohttp's connector with a time-out for forward proxies and a stricter pool.

    aiohttp takes bytes that arrive on an idle connection for the answer to the next request, which may be
    another client's: here such a connection is closed. aiohttp reuses the connection that has been idle
    longest, which the peer is the likeliest to close: here the most recently used. ``limit`` is the most
    connections, ``destinations`` are the allowed destinations, None for any.
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
        # Without a parser every received byte counts as unexpected, and closes the connection.
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
        """Return how long the next connection of the pool has been idle, in seconds; inf if there is none."""
        since = (since for protocol, since in self._conns.get(key, ()) if protocol.is_connected())
        return monotonic() - next(since, -math.inf)


def _open_socket(destinations: Destinations, info: AddrInfoType) -> socket.socket:
    """Return a socket for a resolved address. Raises RefusedAddressError if it is no allowed destination."""
    family, kind, protocol, _, address = info
    if not _towards_proxy.get():
        try:
            destinations.check_address(str(address[0]))
        except RefusedDestinationError as error:
            raise RefusedAddressError(str(error)) from error
    return socket.socket(family, kind, protocol)
