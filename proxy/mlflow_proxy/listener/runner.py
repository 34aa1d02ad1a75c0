"""Listening for clients, so many at a time."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

from aiohttp import HttpVersion11, web

from mlflow_proxy.errors import OverloadedError
from mlflow_proxy.listener.connection import ClientConnection, Ending, Timeouts, is_last
from mlflow_proxy.listener.memo import Memo

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_MOST_REFUSED = 16
"""TLS handshakes beyond the bound of connections, only to say so; those of more are not even begun."""


class BoundedRunner(web.ServerRunner):
    """Serves ``most`` connections at a time, a number set by ``limit``; others get a 503 and are closed.

    Those whose TLS handshake is under way are counted too: they are open. ``leaving`` is whether clients are
    asked to go elsewhere: their connections are closed behind the next answer. ``memo`` may answer hits.
    """

    __slots__ = ("_ending", "_limit", "_memo", "_most", "_opening", "_stopping", "_timeouts")

    def __init__(
        self,
        handler: Handler,
        most: int,
        limit: str,
        timeouts: Timeouts,
        *,
        shutdown_timeout: float,
        handler_cancellation: bool = False,
        leaving: Callable[[], bool] = lambda: False,
        memo: Memo | None = None,
    ) -> None:
        # The low-level server: every request would pay for a router and middlewares that decide nothing here.
        server = web.Server(_answering(handler), handler_cancellation=handler_cancellation)
        super().__init__(server, shutdown_timeout=shutdown_timeout)
        self._memo = memo
        self._ending = Ending(stopping=lambda: self._stopping, leaving=leaving)
        self._most = most
        self._limit = limit
        self._opening: dict[asyncio.Task[None], asyncio.BaseProtocol | None] = {}
        self._timeouts = timeouts
        self._stopping = False

    @property
    def server(self) -> web.Server | None:
        """What its sites call for each new connection."""
        server = super().server
        if server is None:
            return None
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            if len(server.connections) >= self._most:
                return _Refusal(self._most, self._limit)
            return ClientConnection(
                server,
                loop=loop,
                timeouts=self._timeouts,
                ending=self._ending,
                memo=self._memo,
                access_log=None,
            )

        return cast("web.Server", protocol)

    def take(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve a connection that was accepted, by TLS if there is a context for it.

        One above the limit is answered and closed before the next is accepted, so that refused connections
        take no more descriptors than the bound allows.
        """
        taken = self._taken()
        if taken >= self._most and (context is None or taken >= self._most + _MOST_REFUSED):
            with connection:
                connection.setblocking(False)
                if context is None:
                    with suppress(OSError):  # it has gone
                        connection.send(_refusal(self._most, self._limit))
            return
        task = asyncio.get_running_loop().create_task(self._open(connection, context))
        self._opening[task] = None
        task.add_done_callback(self._opening.pop)

    async def shutdown(self) -> None:
        """Accept no more connections: called when idle connections are closed."""
        self._stopping = True
        await super().shutdown()

    async def cleanup(self) -> None:
        """Stop, TLS handshakes that are under way included."""
        await super().cleanup()
        for task in self._opening:
            task.cancel()
        if self._opening:
            await asyncio.wait(self._opening)

    async def _open(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        factory, task = self.server, asyncio.current_task()
        assert factory is not None  # noqa: S101 - nothing is accepted before it is set up
        assert task is not None  # noqa: S101 - it is one

        def protocol() -> asyncio.BaseProtocol:
            made = self._opening[task] = factory()
            return made

        with suppress(OSError):  # it has gone, or speaks no TLS, or none that is spoken here
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=context)

    def _taken(self) -> int:
        """Return how many connections are open. aiohttp counts those that have been made."""
        server = super().server
        being_made = sum(getattr(each, "transport", None) is None for each in self._opening.values())
        return being_made + (len(server.connections) if server is not None else 0)


def _answering(handler: Handler) -> Handler:
    """Return a handler whose requests send their bodies, and whose last answers close their connections."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "Expect" in request.headers:
            await _let_the_body_come(request)
        response = await handler(request)
        if is_last(request):
            response.force_close()
        return response

    return handle


async def _let_the_body_come(request: web.BaseRequest) -> None:
    """Meet the one expectation there is (RFC 9110 section 10.1.1); others are ignored, as they may be."""
    if request.version >= HttpVersion11 and request.headers["Expect"].lower() == "100-continue":
        with suppress(ConnectionError):  # the client has gone
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Else aiohttp believes that the answer has begun.
            request.writer.output_size = 0


class _Refusal(asyncio.Protocol):
    """Answers whatever may be asked over a connection, and closes it."""

    def __init__(self, most: int, limit: str) -> None:
        self._answer = _refusal(most, limit)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say so at once: what is asked does not matter."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - what a server gets
        transport.write(self._answer)
        transport.close()


def _refusal(most: int, limit: str) -> bytes:
    error = OverloadedError(f"{most} connections are open ({limit}).")
    body = error.body()
    head = [f"HTTP/1.1 {error.status} Service Unavailable", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", "Connection: close"]
    head += [f"{name}: {value}" for name, value in error.headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + body
