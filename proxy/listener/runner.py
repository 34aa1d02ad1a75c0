"""Listening for clients, so many at a time."""

import asyncio
from typing import cast

from aiohttp import web

from proxy.errors import OverloadedError
from proxy.listener.connection import ClientConnection, Timeouts


class BoundedRunner(web.AppRunner):
    """Serves ``most`` connections at a time, which ``limit`` says; more of them are told so and closed."""

    __slots__ = ("_limit", "_most", "_stopping", "_timeouts")

    def __init__(
        self,
        application: web.Application,
        most: int,
        limit: str,
        timeouts: Timeouts,
        *,
        shutdown_timeout: float,
        handler_cancellation: bool = False,
    ) -> None:
        super().__init__(
            application,
            access_log=None,
            shutdown_timeout=shutdown_timeout,
            handler_cancellation=handler_cancellation,
        )
        self._most = most
        self._limit = limit
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
                server, loop=loop, timeouts=self._timeouts, stopping=lambda: self._stopping, access_log=None
            )

        return cast("web.Server", protocol)

    async def shutdown(self) -> None:
        """Let in nobody else: called when idle connections are closed."""
        self._stopping = True
        await super().shutdown()


class _Refusal(asyncio.Protocol):
    """Answers whatever may be asked over a connection, and closes it."""

    def __init__(self, most: int, limit: str) -> None:
        error = OverloadedError(f"{most} connections are open ({limit}).")
        body = error.body()
        head = [f"HTTP/1.1 {error.status} Service Unavailable", "Content-Type: application/json"]
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in error.headers.items()]
        self._answer = "\r\n".join([*head, "", ""]).encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say so at once: what is asked does not matter."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - what a server gets
        transport.write(self._answer)
        transport.close()
