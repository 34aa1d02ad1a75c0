"""A body may take its time but not be silent, nor bring without end what is no data."""

import asyncio
from contextlib import suppress

import pytest

from tests.integration.slow_clients import CHUNKED, CLIENT, LENGTH, Advance, timed_out
from tests.integration.support import (
    HELD,
    OK,
    PLAIN,
    Inbound,
    RawClient,
    Upstream,
    request_bytes,
    settle,
    stalled,
)


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
