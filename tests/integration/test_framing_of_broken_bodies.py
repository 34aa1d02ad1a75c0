"""A body whose framing breaks after it began never looks like a whole one, and is no error of the proxy."""

import asyncio

import pytest

from tests.integration.framing import chunked
from tests.integration.support import OK, PLAIN, Inbound, RawClient, Upstream, answering, raw, settle


@pytest.mark.parametrize("garbage", [b"zz\r\n", b"4 ; a\r\nwiki\r\n0\r\n\r\n", b"0\r\nX A: b\r\n\r\n"])
async def test_a_body_that_breaks_with_the_end_of_a_chunk_never_looks_complete(
    upstream: Upstream, proxy_url: str, garbage: bytes
) -> None:
    """Whoever reads it is woken by the end of the chunk, and looks for no error (aiohttp 3.14)."""
    begun = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        assert await inbound.reader.readexactly(9) == b"4\r\nwiki\r\n"
        begun.set()
        rest = await inbound.reader.read()
        inbound.received = b"wiki" if rest == b"0\r\n\r\n" else None
        await inbound.send(OK)

    for _ in range(2):  # over a new connection to the workspace, and over one that is kept
        begun.clear()
        upstream.respond = respond
        async with await RawClient.connect(proxy_url) as client:
            await client.send(chunked(b"4\r\nwiki"))
            await begun.wait()
            await settle()
            await client.send(b"\r\n" + garbage)
            reply = await client.rest()
        assert reply.status == 400
        assert upstream.seen[-1].received is None, "a shorter request than was made"
        upstream.respond = answering(OK)
        assert (await raw(proxy_url, "GET", PLAIN)).status == 200


async def test_a_body_that_breaks_when_nobody_wanted_it_is_no_error(
    proxy_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(
            b"GET /-/healthz HTTP/1.1\r\nHost: proxy.localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nxx"
        )
        assert b" 200 " in await client.reader.readuntil(b"\r\n\r\n")
        for piece in (b"xx\r\n", b" ; e\r\n"):
            await settle()
            await client.send(piece)
        await client.rest()
    assert not caplog.records
