"""A connection that ends waits for its client neither for ever nor longer than it needs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from mlflow_proxy.listener.connection import ClientConnection, Timeouts
from mlflow_proxy.listener.runner import BoundedRunner
from mlflow_proxy.settings import TlsSettings
from tests.certificates import Authority
from tests.integration.slow_clients import CLIENT, HEAD, IDLE, Advance
from tests.integration.support import PLAIN, RawClient, Upstream, proxied, request_bytes, settle


async def test_nobody_is_let_in_after_the_others_were_told_to_go() -> None:
    """A connection that was accepted before the listener closed, and is made after idle ones were closed."""
    runner = BoundedRunner(_answer, 10, "a limit", Timeouts(HEAD, CLIENT, IDLE), shutdown_timeout=1)
    await runner.setup()
    protocol = runner.server
    assert protocol is not None
    await runner.cleanup()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(protocol, ours)
        assert await loop.sock_recv(theirs, 1) == b""


class Wire(asyncio.Transport):
    """A transport whose other side takes nothing of what is written, or a byte whenever it is asked."""

    def __init__(self, taking: int) -> None:
        super().__init__()
        self.closing = self.aborted = False
        self._size = 0
        self._taking = taking

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._size += len(data)

    def get_write_buffer_size(self) -> int:
        self._size -= self._taking if self._size else 0
        return self._size

    def is_reading(self) -> bool:
        return not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


@pytest.mark.parametrize("taking", [0, 1])
async def test_a_connection_that_closes_does_not_wait_for_ever(advance: Advance, taking: int) -> None:
    """The end of an answer, too little to make its writer wait, is all that is left to be taken."""
    runner = BoundedRunner(_answer, 10, "a limit", Timeouts(HEAD, CLIENT, IDLE), shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    protocol = cast("Callable[[], ClientConnection]", runner.server)()
    wire = Wire(taking)
    protocol.connection_made(wire)
    protocol.data_received(request_bytes("GET", "/"))
    await settle()
    assert wire.closing
    for _ in range(10):
        advance(CLIENT)
        await settle()
    assert wire.aborted is (taking == 0)
    protocol.connection_lost(None)
    await runner.cleanup()


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=bytes(1000))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def over_tls(upstream: Upstream, authority: Authority) -> AsyncIterator[RawClient]:
    pair = authority.issue("proxy")
    settings = TlsSettings(certificate=str(pair.certificate), key=str(pair.key))
    async with proxied(upstream.url, tls=settings) as url:
        parts = urlsplit(url)
        connection = await asyncio.open_connection(parts.hostname, parts.port, ssl=authority.client())
        async with RawClient(*connection) as client:
            yield client


async def test_a_client_that_does_not_agree_to_the_end_is_not_asked_again_and_again(
    upstream: Upstream, authority: Authority, advance: Advance, monkeypatch: pytest.MonkeyPatch
) -> None:
    rang = 0
    ring = ClientConnection._ring

    def counted(self: ClientConnection) -> None:
        nonlocal rang
        rang += 1
        ring(self)

    monkeypatch.setattr(ClientConnection, "_ring", counted)
    async with over_tls(upstream, authority) as client:
        # From here on it does not even see that the proxy wants to close.
        cast("asyncio.Transport", client.writer.transport).pause_reading()
        await settle()
        advance(HEAD)
        while not rang:
            await settle()
        await settle()
        assert rang == 1


async def test_a_client_that_waits_for_the_end_gets_it_at_once(
    upstream: Upstream, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_proxy.listener.connection._LINGER", 10**6)
    async with over_tls(upstream, authority) as client:
        await client.send(
            f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\nConnection: close\r\n\r\n".encode()
        )
        reply = await client.rest()
        assert (reply.status, reply.complete) == (200, True)
