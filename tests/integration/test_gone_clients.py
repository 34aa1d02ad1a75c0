"""Clients that reset their connection as they are answered: nothing of it is an error of the proxy."""

import asyncio
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from mlflow_proxy.listener.connection import ClientConnection
from tests.integration.support import RawClient, Upstream, answering, proxied, settle

CONNECT = b"CONNECT host:443 HTTP/1.1\r\nHost: host:443\r\n\r\n"
LAST = b"GET /api/2.0/some/thing HTTP/1.1\r\nHost: proxy.localhost\r\nConnection: close\r\n\r\n"


def hello() -> bytes:
    """Return the first bytes of a client that believes the proxy to speak https."""
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="proxy.localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def ask_and_reset(url: str, sent: bytes) -> bytes:
    """Read the answer, whose body is an object of JSON, then reset the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        client.sendall(sent)
        answer = client.recv(4096)
        while not answer.endswith(b"}"):
            answer += client.recv(4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return answer


@pytest.fixture
def resets_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client's reset arrive between an answer's last byte and what follows it."""
    original = web.RequestHandler.finish_response

    async def finish(handler: web.RequestHandler, *arguments: Any) -> Any:
        finished = await original(handler, *arguments)
        assert handler.transport is not None
        reset = select.poll()
        reset.register(handler.transport.get_extra_info("socket").fileno(), 0)
        reset.poll()  # the event loop stands still, so that it cannot hear of it first
        return finished

    monkeypatch.setattr(web.RequestHandler, "finish_response", finish)


@pytest.mark.usefixtures("resets_come_first")
@pytest.mark.parametrize("sent", [hello(), CONNECT, LAST], ids=["https", "CONNECT", "the last request"])
async def test_a_reset_right_after_the_answer(
    upstream: Upstream, proxy_url: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await asyncio.to_thread(ask_and_reset, proxy_url, sent)
    assert answer.startswith(b"HTTP/1.1 200 " if sent is LAST else b"HTTP/1.1 400 ")
    await settle()
    assert not caplog.records


async def test_the_end_is_sent_when_all_else_was(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop would send it in a callback of its own, whose errors nothing of the proxy can catch."""
    left: list[int] = []
    made: Callable[[ClientConnection, asyncio.BaseTransport], None] = ClientConnection.connection_made

    def connection_made(connection: ClientConnection, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # The system takes little, so that the rest has to wait.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end = transport.write_eof

        def write_eof() -> None:
            left.append(transport.get_write_buffer_size())
            end()

        monkeypatch.setattr(transport, "write_eof", write_eof)
        made(connection, transport)

    monkeypatch.setattr(ClientConnection, "connection_made", connection_made)
    body = bytes(48 * 1024)
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with proxied(upstream.url) as url:
        parts = urlsplit(url)
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=4096)
        async with RawClient(reader, writer) as client:
            await client.send(LAST)
            await settle()
            reply = await client.rest()
    assert (reply.status, reply.body) == (200, body)
    assert left == [0]
    assert not caplog.records
