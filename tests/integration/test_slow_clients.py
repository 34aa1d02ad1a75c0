"""Clients that take their time, or more room than they may. The clock is the test's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from mlflow_proxy.listener.connection import ClientConnection, Timeouts
from mlflow_proxy.listener.runner import BoundedRunner
from mlflow_proxy.settings import AdminSettings, ConnectionSettings, TlsSettings
from tests.certificates import Authority
from tests.integration.support import (
    API,
    OK,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    proxied,
    request_bytes,
    settle,
    stalled,
)

PLAIN = "/api/2.0/some/thing"
HELD = f"{API}runs/log-batch"
"""A write whose body the proxy holds."""

HEAD, CLIENT, IDLE = 30.0, 60.0, 3630.0
"""The default time-outs in seconds."""

Advance = Callable[[float], None]


@pytest.fixture
async def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Let seconds pass at once on the event loop's clock."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    return forward


def keep_alive(target: str = PLAIN) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode()


def timed_out(reply: RawReply, setting: str) -> None:
    assert (reply.status, reply.broken) == (408, False)
    assert reply.complete
    assert reply.all("Connection") == ["close"]
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.json()["error_code"] == "DEADLINE_EXCEEDED"
    assert f"(connections.{setting})" in reply.json()["message"]


# -- heads -----------------------------------------------------------------------------------------

BEGUN = [b"G", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: proxy.localhost\r\nX-A: b\r\n"]


@pytest.mark.parametrize("begun", BEGUN)
async def test_a_head_has_to_end(upstream: Upstream, proxy_url: str, advance: Advance, begun: bytes) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(begun)
        await settle()
        advance(HEAD)
        timed_out(await client.rest(), "head_timeout")
    assert not upstream.seen


async def test_a_head_that_grows_has_to_end_as_soon(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(BEGUN[-1] + b"X-B: ")
        for _ in range(int(HEAD)):
            await settle()
            advance(1)
            with suppress(ConnectionError):
                await client.send(b"x")
        timed_out(await client.rest(), "head_timeout")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_a_connection_over_which_nothing_comes_is_closed(
    proxy_url: str, advance: Advance, sent: bytes
) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(sent)
        await settle()
        advance(HEAD)
        assert await client.rest() == RawReply("", [], b"")


async def test_a_further_head_has_its_own_time(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(keep_alive())
        await client.reader.readuntil(b"{}")
        for _ in range(3):
            advance(IDLE / 4)
            await settle()
        await client.send(BEGUN[-1])
        await settle()
        advance(HEAD - 1)
        await client.send(b"\r\n")
        await client.reader.readuntil(b"{}")
        await client.send(BEGUN[-1])
        await settle()
        advance(HEAD)
        timed_out(await client.rest(), "head_timeout")


async def test_a_further_head_has_time_once_the_answer_before_it_is_there(
    upstream: Upstream, proxy_url: str, advance: Advance
) -> None:
    go = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        await go.wait()
        await inbound.send(OK)

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(keep_alive())
        while not upstream.seen:
            await settle()
        await client.send(BEGUN[-1])
        await settle()
        advance(2 * HEAD)
        await settle()
        go.set()
        await client.reader.readuntil(b"{}")
        await client.send(b"\r\n")
        await client.reader.readuntil(b"{}")


async def test_an_idle_connection_is_closed(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(keep_alive())
        await client.reader.readuntil(b"{}")
        advance(IDLE - 10)
        await settle()
        await client.send(keep_alive())
        await client.reader.readuntil(b"{}")
        advance(IDLE)
        assert await client.rest() == RawReply("", [], b"")


# -- bodies ----------------------------------------------------------------------------------------

LENGTH = [("Content-Length", "100")]
CHUNKED = [("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize("begun", [b"", b"4\r\nwiki\r\n"])
@pytest.mark.parametrize(
    ("target", "fields"), [(PLAIN, LENGTH), (PLAIN, CHUNKED), (HELD, LENGTH), (HELD, CHUNKED)]
)
async def test_a_client_may_not_be_silent_in_its_body(
    upstream: Upstream,
    proxy_url: str,
    advance: Advance,
    target: str,
    fields: list[tuple[str, str]],
    begun: bytes,
) -> None:
    broken = asyncio.Event()

    async def take(inbound: Inbound) -> None:
        try:
            inbound.received = await inbound.body()
        finally:
            broken.set()

    upstream.respond = take
    streams = (target, fields) != (HELD, LENGTH)
    async with await RawClient.connect(proxy_url) as client:
        kept = request_bytes("POST", target, fields, begun).replace(b"Connection: close\r\n", b"")
        await client.send(kept)
        await settle()
        while streams and begun and not upstream.seen:
            await settle()
        advance(CLIENT - 1)
        await settle()
        await client.send(b"4\r\n")
        await settle()
        advance(CLIENT - 1)
        await settle()
        advance(1)
        timed_out(await client.rest(), "client_timeout")
    assert bool(upstream.seen) <= streams
    if upstream.seen:
        await broken.wait()
        assert [inbound.received for inbound in upstream.seen] == [None]


async def test_a_client_that_asked_to_be_told_when_to_go_on(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("POST", PLAIN, [("Expect", "100-continue"), *LENGTH]))
        await client.reader.readuntil(b"\r\n\r\n")
        await settle()
        advance(CLIENT)
        timed_out(await client.rest(), "client_timeout")


async def test_a_body_that_comes_byte_by_byte_is_taken(
    upstream: Upstream, proxy_url: str, advance: Advance
) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("POST", HELD, [("Content-Length", "5")]))
        for byte in (b"h", b"e", b"l", b"l", b"o"):
            await settle()
            advance(CLIENT - 1)
            await client.send(byte)
        assert (await client.rest()).status == 200
    assert upstream.seen[0].received == b"hello"


async def test_a_client_is_not_silent_while_nobody_listens(
    upstream: Upstream, proxy_url: str, advance: Advance
) -> None:
    """The upstream does not read, so neither does the proxy."""
    gate = asyncio.Event()

    async def slowly(inbound: Inbound) -> None:
        await gate.wait()
        inbound.received = await inbound.body()
        await inbound.send(OK)

    upstream.respond = slowly
    body, sent = bytes(64 << 20), 0

    async def upload(client: RawClient) -> None:
        nonlocal sent
        await client.send(request_bytes("PUT", PLAIN, [("Content-Length", str(len(body)))]))
        for start in range(0, len(body), 1 << 20):
            await client.send(body[start : start + (1 << 20)])
            sent += 1

    async with await RawClient.connect(proxy_url) as client:
        uploading = asyncio.create_task(upload(client))
        await stalled(lambda: sent + len(upstream.seen))
        assert not uploading.done()
        for _ in range(3):
            advance(CLIENT)
            await settle()
        gate.set()
        await uploading
        assert (await client.rest()).status == 200
    assert upstream.seen[0].received == body


@pytest.mark.parametrize("ending", [b"0\r\n\r\n", b""])
@pytest.mark.parametrize("beside", [b"1;a=%b\r\nx\r\n", b"0\r\n%b"])
async def test_what_is_no_data_in_a_body_is_bounded(
    upstream: Upstream, proxy_url: str, beside: bytes, ending: bytes
) -> None:
    """Extensions and trailers without end; one trailer may be as long as a field."""
    if beside.startswith(b"0"):
        flood = beside % b"".join(b"X: %b\r\n" % (b"b" * 30_000) for _ in range(100))
    else:
        flood = beside % (b"b" * (3 << 20))
    async with await RawClient.connect(proxy_url) as client:
        with suppress(ConnectionError):
            await client.send(request_bytes("POST", PLAIN, CHUNKED, flood + ending))
        reply = await client.rest()
    assert (reply.status, reply.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "524288 bytes" in reply.json()["message"]
    await settle()
    assert all(inbound.received is None for inbound in upstream.seen)


async def test_chunks_of_a_byte_are_taken(upstream: Upstream, proxy_url: str) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("POST", PLAIN, CHUNKED, b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"))
        assert (await client.rest()).status == 200
    assert upstream.seen[0].received == b"x" * 200_000


# -- answers ---------------------------------------------------------------------------------------

LARGE = bytes(64 << 20)


def pouring(gone: asyncio.Event) -> Callable[[Inbound], "asyncio.Future[None]"]:
    async def pour(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
        try:
            for start in range(0, len(LARGE), 1 << 16):
                await inbound.send(LARGE[start : start + (1 << 16)])
        except ConnectionError:
            gone.set()
            raise

    return lambda inbound: asyncio.ensure_future(pour(inbound))


async def test_a_client_that_does_not_take_its_answer_is_cut_off(
    upstream: Upstream, proxy_url: str, advance: Advance
) -> None:
    gone = asyncio.Event()
    upstream.respond = pouring(gone)
    async with await RawClient.connect(proxy_url) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request_bytes("GET", PLAIN))
        for _ in range(2):  # what the sockets still pass on when first looked at is progress
            await stalled(lambda: len(upstream.seen))
            advance(CLIENT)
        await gone.wait()
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        reply = await client.rest()
    assert reply.broken


async def test_a_client_that_takes_its_answer_slowly_gets_it(
    upstream: Upstream, proxy_url: str, advance: Advance
) -> None:
    upstream.respond = pouring(asyncio.Event())
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("GET", PLAIN))
        await client.reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < len(LARGE) // 4:
            taken += len(await client.reader.readexactly(1 << 19))
            await settle()
            advance(CLIENT - 1)
            await settle()
        assert len(await client.reader.read()) + taken == len(LARGE)


# -- room ------------------------------------------------------------------------------------------


async def test_requests_that_wait_in_a_connection_are_bounded(upstream: Upstream, proxy_url: str) -> None:
    upstream.respond = lambda inbound: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    requests, sent = keep_alive() * 10_000, 0
    async with await RawClient.connect(proxy_url) as client:

        async def pour() -> None:
            nonlocal sent
            while True:
                await client.send(requests)
                sent += 1

        pouring = asyncio.create_task(pour())
        await stalled(lambda: sent + len(upstream.seen))
        assert sent * len(requests) < 32 << 20
        assert not pouring.done()
        pouring.cancel()
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("sent", "status", "limit"),
    [
        (b"GET /" + b"a" * 40_000, 414, "32768 bytes"),
        (BEGUN[-1] + b"X-B: " + b"b" * 40_000, 431, "32767 bytes"),
        (BEGUN[-1] + b"B" * 40_000, 431, "32767 bytes"),
        (BEGUN[-1] + b"X-B: b\r\n" * 200, 431, "128 fields"),
        (BEGUN[-1] + (b"X-B: " + b"b" * 30_000 + b"\r\n") * 5, 431, "131072 bytes"),
    ],
)
async def test_a_head_need_not_end_to_be_too_large(
    proxy_url: str, sent: bytes, status: int, limit: str
) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(sent)
        reply = await client.rest()
    assert (reply.status, reply.all("Connection")) == (status, ["close"])
    assert limit in reply.json()["message"]


# -- the proxy's own endpoints, and the end --------------------------------------------------------


async def test_a_listener_of_their_own_is_as_strict(upstream: Upstream, advance: Advance) -> None:
    told: list[str] = []
    admin = AdminSettings(host="127.0.0.1", port=0)
    async with proxied(upstream.url, admin=admin, administered=told.append):
        async with await RawClient.connect(told[0]) as client:
            await client.send(BEGUN[-1])
            await settle()
            advance(HEAD)
            timed_out(await client.rest(), "head_timeout")
        async with await RawClient.connect(told[0]) as client:
            await client.send(request_bytes("POST", "/-/purge", [*LENGTH, *CHUNKED], b"0\r\n\r\n"))
            reply = await client.rest()
        assert (reply.status, reply.all("Connection")) == (400, ["close"])
        assert reply.json()["error_code"] == "INVALID_PARAMETER_VALUE"


async def test_settings_say_how_long(upstream: Upstream, advance: Advance) -> None:
    connections = ConnectionSettings(head_timeout=2, client_timeout=3, idle_timeout=4)
    async with proxied(upstream.url, connections=connections) as url:
        for sent, seconds, status in ((BEGUN[-1], 2, 408), (request_bytes("POST", PLAIN, LENGTH), 3, 408)):
            async with await RawClient.connect(url) as client:
                await client.send(sent)
                await settle()
                advance(seconds)
                reply = await client.rest()
                assert reply.status == status
                assert f" {seconds} s" in reply.json()["message"]
        async with await RawClient.connect(url) as client:
            await client.send(keep_alive())
            await client.reader.readuntil(b"{}")
            advance(4)
            assert await client.rest() == RawReply("", [], b"")


async def test_nobody_is_let_in_after_the_others_were_told_to_go() -> None:
    """A connection that was accepted before the listener closed, and is made after idle ones were closed."""
    runner = BoundedRunner(web.Application(), 10, "a limit", Timeouts(HEAD, CLIENT, IDLE), shutdown_timeout=1)
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
    application = web.Application()
    application.router.add_get("/", _answer)
    runner = BoundedRunner(application, 10, "a limit", Timeouts(HEAD, CLIENT, IDLE), shutdown_timeout=1)
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


async def _answer(request: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(1000))


# -- TLS -------------------------------------------------------------------------------------------


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
