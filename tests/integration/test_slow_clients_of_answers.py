"""A client that does not take its answers is cut off, and takes no room meanwhile."""

import asyncio
from collections.abc import Callable

from tests.integration.slow_clients import CLIENT, Advance, keep_alive
from tests.integration.support import PLAIN, Inbound, RawClient, Upstream, request_bytes, settle, stalled

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
