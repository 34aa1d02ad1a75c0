"""What storage says must be the whole file or an error, and nothing about the connection."""

import pytest

from tests.integration.hostile_answers import (
    DOWNLOAD,
    MALFORMED,
    all_is_well,
    exchange,
    ok,
    said,
    signing,
    then_close,
)
from tests.integration.support import OK, RawClient, Upstream, answering

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/100\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 416 No\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}",
        *MALFORMED.values(),
    ],
)
async def test_what_storage_says_is_the_whole_file_or_an_error(
    upstream: Upstream, client: RawClient, data: bytes
) -> None:
    """A client that did not ask for a part would take it for the file."""
    async with Upstream() as storage:
        upstream.respond = signing(f"{storage.url}/x")
        storage.respond = then_close(data)
        reply = await exchange(client, DOWNLOAD)
        assert reply.status == 502
        said(reply)
        storage.respond = answering(OK)
        assert (await exchange(client, DOWNLOAD)).body == b"{}"


async def test_storage_has_no_say_about_the_connection(upstream: Upstream, client: RawClient) -> None:
    told = ok(
        b"Set-Cookie: a=1",
        b"Cache-Status: mlflow-proxy; hit",
        b"Location: /x",
        b"X-A: 1",
        status=b"200 \xff\0\x01",
    )
    async with Upstream() as storage:
        upstream.respond = signing(f"{storage.url}/x")
        storage.respond = answering(told)
        reply = await exchange(client, DOWNLOAD)
        assert (reply.status, reply.body) == (200, b"{}")
        assert {name.lower() for name, _ in reply.headers} <= {"content-length", "cache-status", "date"}
        assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=miss; detail=file"]
        await all_is_well(client, upstream)
