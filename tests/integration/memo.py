"""A connection on which one request is asked after the other, and what of them the memo answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.integration.support import LIST, RawClient, RawReply, fields, raw

LISTING = f"/api/2.0/mlflow/{LIST}?name=m&version=1"


def get(target: str = LISTING, token: str = "token-a", *more: str) -> bytes:
    """Return a request as clients that keep their connections send it."""
    lines = [f"GET {target} HTTP/1.1", "Host: proxy.localhost", f"Authorization: Bearer {token}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


class Line:
    """One connection that stays open."""

    def __init__(self, client: RawClient) -> None:
        self.client = client

    async def ask(self, *parts: bytes) -> RawReply:
        """Send the parts of a request, each in a packet of its own, and return the answer."""
        for part in parts:
            await self.client.send(part)
            if len(parts) > 1:
                await asyncio.sleep(0.01)
        return await self.reply()

    async def reply(self, *, head: bool = False) -> RawReply:
        """Return the next answer, which has a length, and if it is to HEAD no body."""
        received = (await self.client.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = received.removesuffix("\r\n\r\n").split("\r\n")
        reply = RawReply(line, fields(lines), b"")
        length = 0 if head else int(reply.all("Content-Length")[0])
        return RawReply(reply.line, reply.headers, await self.client.reader.readexactly(length))


@asynccontextmanager
async def line(url: str) -> AsyncIterator[Line]:
    async with await RawClient.connect(url) as client:
        yield Line(client)


async def memo_hits(url: str) -> int:
    """Return how many requests the memo has answered."""
    text = (await raw(url, "GET", "/-/metrics")).body.decode()
    [sample] = [each for each in text.splitlines() if each.startswith("mlflow_proxy_memo_hits_total ")]
    return int(float(sample.rpartition(" ")[2]))


async def hot(url: str, request: bytes) -> None:
    """Ask until the memo answers: at most once for the store, once for the memo, and once of it."""
    before = await memo_hits(url)
    async with line(url) as connection:
        for _ in range(3):
            reply = await connection.ask(request)
            if await memo_hits(url) > before:
                return
    raise AssertionError(reply)
