"""Answers that are not HTTP, or that break off or turn into garbage, must not look like good ones."""

import asyncio

import pytest

from tests.integration.hostile_answers import MALFORMED, all_is_well, chunked, exchange, ok, said, then_close
from tests.integration.support import (
    PLAIN,
    READ,
    UNREACHED,
    Inbound,
    RawClient,
    Upstream,
    answering,
    raw,
    settle,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_http_is_an_error(
    upstream: Upstream, client: RawClient, target: str, data: bytes
) -> None:
    upstream.respond = then_close(data)
    reply = await exchange(client, target)
    assert reply.status == UNREACHED[target]
    said(reply)
    assert not reply.all("Set-Cookie")
    await all_is_well(client, upstream)


RELAYED = {
    "folded-value": (ok(b"X-A: a", b" Content-Length: 9"), 200, "a Content-Length: 9"),
    "lines-end-in-lf": (b"HTTP/1.1 200 OK\nX-A: a\nContent-Length: 2\n\n{}", 200, "a"),
    "bytes-in-a-value": (ok(b"X-A: \xff\xfe"), 200, ""),
    "bytes-in-the-reason": (ok(b"X-A: a", status=b"200 \xff\xfe\x80"), 200, "a"),
    "controls-in-the-reason": (ok(b"X-A: a", status=b"200 a\0\x01\x7fb"), 200, "a"),
    "no-reason": (ok(b"X-A: a", status=b"200"), 200, "a"),
    "status-999": (ok(b"X-A: a", status=b"999 Odd"), 999, "a"),
    "many-interim-answers": (
        b"HTTP/1.1 103 Early Hints\r\nX-A: no\r\n\r\n" * 500 + ok(b"X-A: a"),
        200,
        "a",
    ),
    "odd-dates-and-ages": (ok(b"X-A: a", b"Date: Mon, 99 Foo 99999 99:99:99", b"Age: \xc2\xb2"), 200, "a"),
    "age-beyond-numbers": (ok(b"X-A: a", b"Age: " + b"9" * 5000), 200, "a"),
    "claims-to-be-cached": (ok(b"X-A: a", b"Cache-Status: other; hit"), 200, "a"),
    "http-1.0": (ok(b"X-A: a", version=b"1.0"), 200, "a"),
}


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize(("data", "status", "value"), RELAYED.values(), ids=RELAYED.keys())
async def test_what_is_merely_odd_is_passed_on_in_good_form(
    upstream: Upstream, client: RawClient, target: str, data: bytes, status: int, value: str
) -> None:
    upstream.respond = answering(data)
    reply = await exchange(client, target)
    assert (reply.status, reply.body, reply.all("X-A")) == (status, b"{}", [value])
    assert reply.line.isprintable()
    await all_is_well(client, upstream, PLAIN)


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("status", [204, 304])
async def test_a_length_of_what_has_no_body(
    upstream: Upstream, client: RawClient, target: str, status: int
) -> None:
    upstream.respond = answering(b"HTTP/1.1 %d Such\r\nContent-Length: 5\r\n\r\n" % status)
    assert (await exchange(client, target)).status == status
    await all_is_well(client, upstream)


@pytest.mark.parametrize(
    "garbage", [b"zz\r\n", b"-1\r\n", b"2\r\nokay\r\n", b"fffffffffffffffffffff\r\n", b"0\r\nX\0Y: 1\r\n\r\n"]
)
async def test_chunks_that_turn_into_garbage_never_look_complete(
    upstream: Upstream, proxy_url: str, garbage: bytes
) -> None:
    begun = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        await inbound.send(chunked(b"5\r\nbegin\r\n"))
        await begun.wait()
        await inbound.send(garbage)

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        await client.reader.readuntil(b"begin")
        begun.set()
        assert not (await client.rest()).complete
    async with await RawClient.connect(proxy_url) as client:
        await all_is_well(client, upstream)


@pytest.mark.parametrize("garbage", [b"zz\r\n", b"-1\r\n", b"0\r\nX\0Y: 1\r\n\r\n"])
async def test_a_body_that_breaks_with_the_end_of_a_chunk_never_looks_complete(
    upstream: Upstream, proxy_url: str, garbage: bytes
) -> None:
    """Whoever reads it is woken by the end of the chunk, and not again by the error (aiohttp 3.14)."""
    begun = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        await inbound.send(chunked(b"5\r\nbegin"))
        await begun.wait()
        await settle()
        await inbound.send(b"\r\n" + garbage)
        await inbound.reader.read()

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        await client.reader.readuntil(b"begin")
        begun.set()
        assert not (await client.rest()).complete
    async with await RawClient.connect(proxy_url) as client:
        await all_is_well(client, upstream)


@pytest.mark.parametrize("by_reset", [False, True])
@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_a_body_that_the_connection_ends(
    upstream: Upstream, proxy_url: str, target: str, by_reset: bool
) -> None:
    """Only an orderly end is one (RFC 9112 section 8)."""

    async def respond(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\n\r\nthe beginning")
        await settle()
        if by_reset:
            inbound.reset()
        else:
            inbound.writer.close()

    upstream.respond = respond
    reply = await raw(proxy_url, "GET", target)
    if not by_reset:
        assert reply.complete
        assert b"the beginning" in reply.body
    elif target == READ:
        assert reply.status == 503
        said(reply)
    else:
        assert reply.broken or not reply.complete
