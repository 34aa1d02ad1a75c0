"""A connection on which one request is asked after the other, and what of them the memo answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mlflow_proxy.clock import Clock
from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, CacheSettings
from tests.integration.conftest import sample
from tests.integration.framing import send
from tests.integration.support import (
    LIST,
    MUCH,
    Inbound,
    RawClient,
    RawReply,
    Respond,
    Upstream,
    answering,
    fields,
    metrics,
    proxied,
    sampled,
)

TOKEN_A = [("Authorization", "Bearer token-a")]
PROVEN = AccessSettings(sharing="proven")
SLOW = "/api/2.0/slow/thing"
FACADE = "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/m/1/data"
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
        await send(self.client, parts)
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
    return int(sampled(await metrics(url), "mlflow_proxy_memo_hits_total"))


async def hot(url: str, request: bytes) -> None:
    """Ask until the memo answers: at most once for the store, once for the memo, and once of it."""
    before = await memo_hits(url)
    async with line(url) as connection:
        for _ in range(3):
            reply = await connection.ask(request)
            if await memo_hits(url) > before:
                return
    raise AssertionError(reply)


@asynccontextmanager
async def shared(
    *readers: str, clock: Clock | None = None, cache: CacheSettings | None = None
) -> AsyncIterator[tuple[str, EmulatedWorkspace, Model]]:
    """Serve a workspace whose model these tokens may read, to clients that share answers by proof."""
    model = sample()
    model.readers = frozenset(readers)
    async with (
        EmulatedWorkspace([model], WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proxied(workspace.url, access=PROVEN, clock=clock, cache=cache) as url,
    ):
        yield url, workspace, model


class Slow:
    """What holds back the answers to one target."""

    def __init__(self, upstream: Upstream) -> None:
        self.go = asyncio.Event()
        upstream.respond = self._respond

    async def _respond(self, inbound: Inbound) -> None:
        if inbound.target == SLOW:
            await self.go.wait()
        await answered(b"slow" if inbound.target == SLOW else FAST)(inbound)


FAST = b'{"registered_model": {"name": "m"}}'


def answered(body: bytes) -> Respond:
    return answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def ask(url: str, request: bytes) -> RawReply:
    async with line(url) as connection:
        return await connection.ask(request)
