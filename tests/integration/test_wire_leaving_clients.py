"""A client that goes in the middle of a body takes its call to the upstream with it."""

import asyncio

import pytest

from tests.integration.support import PLAIN, Inbound, RawClient, Upstream, request_bytes, stalled
from tests.integration.wire import BLOCK


async def test_a_client_that_goes_in_the_middle_of_its_upload(upstream: Upstream, proxy_url: str) -> None:
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(inbound: Inbound) -> None:
        try:
            ended.set_result(await inbound.body())
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            ended.set_exception(error)

    upstream.respond = take
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PUT", PLAIN, [("Content-Length", "100")], b"half"))
        await stalled(lambda: len(upstream.seen))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await ended


async def test_a_client_that_goes_in_the_middle_of_its_download(upstream: Upstream, proxy_url: str) -> None:
    gone = asyncio.Event()

    async def pour(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await inbound.send(b"10000\r\n" + BLOCK + b"\r\n")
        except ConnectionError:
            gone.set()
            raise

    upstream.respond = pour
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("GET", PLAIN))
        await client.reader.readexactly(1000)
    await gone.wait()
