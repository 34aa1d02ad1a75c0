"""Bodies cross the proxy whole in both directions, each at the pace of whoever takes it."""

import asyncio

import pytest

from mlflow_proxy.settings import CacheSettings
from tests.integration.support import (
    API,
    OK,
    PLAIN,
    READ,
    Inbound,
    RawClient,
    Upstream,
    answering,
    proxied,
    raw,
    request_bytes,
    stalled,
)
from tests.integration.wire import BLOCK


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_head_tells_the_length_and_sends_nothing(
    upstream: Upstream, proxy_url: str, target: str
) -> None:
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: x\r\n\r\n")
    reply = await raw(proxy_url, "HEAD", target)
    assert (reply.status, reply.all("Content-Length"), reply.body) == (200, ["1234"], b"")
    assert upstream.seen[0].line == f"HEAD {target} HTTP/1.1"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_have_none(upstream: Upstream, proxy_url: str, status: int) -> None:
    upstream.respond = answering(b'HTTP/1.1 %d Such\r\nETag: "x"\r\n\r\n' % status)
    reply = await raw(proxy_url, "GET", PLAIN, [("If-None-Match", '"x"')])
    assert (reply.line, reply.all("ETag"), reply.body) == (f"HTTP/1.1 {status} Such", ['"x"'], b"")
    assert not reply.all("Transfer-Encoding")
    assert upstream.seen[0].all("If-None-Match") == ['"x"']


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("target", [PLAIN, f"{API}registered-models/odd", f"{API}runs/log-batch"])
async def test_any_method_takes_its_body_along(
    upstream: Upstream, proxy_url: str, method: str, target: str
) -> None:
    assert (await raw(proxy_url, method, target, [("Content-Length", "3")], b"\x00\xff\n")).status == 200
    [inbound] = upstream.seen
    assert (inbound.line, inbound.received) == (f"{method} {target} HTTP/1.1", b"\x00\xff\n")
    assert inbound.all("Content-Length") == ["3"]
    assert not inbound.all("Content-Type")


@pytest.mark.parametrize("target", [PLAIN, f"{API}model-versions/set-tag"])
async def test_a_chunked_upload_stays_chunked(upstream: Upstream, proxy_url: str, target: str) -> None:
    body = b"4\r\nwiki\r\n5;ext=1\r\npedia\r\n0\r\n\r\n"
    reply = await raw(proxy_url, "POST", target, [("Transfer-Encoding", "chunked")], body)
    assert reply.status == 200
    [inbound] = upstream.seen
    assert inbound.received == b"wikipedia"
    assert inbound.all("Transfer-Encoding") == ["chunked"]
    assert not inbound.all("Content-Length")


async def test_a_chunked_answer_arrives_whole(upstream: Upstream, proxy_url: str) -> None:
    upstream.respond = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert (await raw(proxy_url, "GET", READ)).body == b"abcde"
    reply = await raw(proxy_url, "GET", PLAIN)
    assert reply.complete
    assert b"abc" in reply.body
    assert b"de" in reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("target", [PLAIN, f"{API}registered-models/odd"])
async def test_no_body_is_not_an_empty_one(
    upstream: Upstream, proxy_url: str, method: str, target: str
) -> None:
    await raw(proxy_url, method, target)
    assert [name.lower() for name, _ in upstream.seen[0].headers] == ["host"]


@pytest.mark.parametrize("fields", ["", "Connection: keep-alive\r\n"])
async def test_a_client_of_http_1_0_gets_no_chunks(upstream: Upstream, proxy_url: str, fields: str) -> None:
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.0\r\n{fields}\r\n".encode())
        reply = await client.rest()
    assert (reply.status, reply.body, reply.all("Transfer-Encoding")) == (200, b"{}", [])


async def test_interim_answers_are_not_the_answer(upstream: Upstream, proxy_url: str) -> None:
    upstream.respond = answering(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
    assert (await raw(proxy_url, "GET", PLAIN)).status == 200


async def test_an_upload_that_is_refused_early_is_answered_early(upstream: Upstream, proxy_url: str) -> None:
    async def refuse(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    upstream.respond = refuse
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PUT", PLAIN, [("Content-Length", "1000")], b"the beginning"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 Too Much\r\n")
        assert await client.reader.readexactly(2) == b"no"


BLOCKS = 1024
FAR_LESS = (BLOCKS // 2) << 16
"""Sockets' buffers on the way hold some of the 64 MiB, and so may the proxy, but not half of it."""


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_waits_for_a_slow_upstream(
    upstream: Upstream, proxy_url: str, chunked: bool
) -> None:
    gate = asyncio.Event()
    taken = 0

    async def slowly(inbound: Inbound) -> None:
        nonlocal taken
        await gate.wait()
        if chunked:
            taken = len(await inbound.body())
        while not chunked and taken < BLOCKS << 16:
            taken += len(await inbound.reader.read(1 << 20))
        await inbound.send(OK)

    upstream.respond = slowly
    sent = 0
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(BLOCKS << 16))

    async def upload(client: RawClient) -> None:
        nonlocal sent
        await client.send(request_bytes("PUT", PLAIN, [framing]))
        for _ in range(BLOCKS):
            await client.send(b"10000\r\n" + BLOCK + b"\r\n" if chunked else BLOCK)
            sent += len(BLOCK)
        if chunked:
            await client.send(b"0\r\n\r\n")

    async with await RawClient.connect(proxy_url) as client:
        uploading = asyncio.create_task(upload(client))
        await stalled(lambda: sent + len(upstream.seen))
        assert upstream.seen, "the request does not wait for its body"
        assert not uploading.done()
        assert 0 < sent < FAR_LESS
        gate.set()
        await uploading
        assert (await client.rest()).status == 200
    assert taken == BLOCKS << 16


async def test_a_large_download_waits_for_a_slow_client(upstream: Upstream, proxy_url: str) -> None:
    sent = 0

    async def largely(inbound: Inbound) -> None:
        nonlocal sent
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BLOCKS << 16))
        for _ in range(BLOCKS):
            await inbound.send(BLOCK)
            sent += len(BLOCK)

    upstream.respond = largely
    async with await RawClient.connect(proxy_url) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request_bytes("GET", PLAIN))
        await stalled(lambda: sent)
        assert 0 < sent < FAR_LESS
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        length = len((await client.rest()).body)
    assert length == BLOCKS << 16


async def test_an_expectation_is_met_before_the_body_comes(upstream: Upstream, proxy_url: str) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("POST", PLAIN, [("Expect", "100-continue"), ("Content-Length", "2")]))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert (await client.rest()).status == 200
    assert upstream.seen[0].received == b"hi"
    assert not upstream.seen[0].all("Expect")


async def test_an_answer_too_large_to_store_streams(upstream: Upstream) -> None:
    body = bytes(10_000)
    upstream.respond = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with proxied(upstream.url, cache=CacheSettings.model_validate({"max_entry_bytes": 5000})) as url:
        reply = await raw(url, "GET", READ)
    assert reply.body == body
    assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=bypass"]
