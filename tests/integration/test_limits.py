"""What is bounded on the side of the clients, and how a proxy stops under load."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from mlflow_proxy.serving import serving
from mlflow_proxy.settings import BudgetSettings, ConnectionSettings, Settings
from mlflow_proxy.upstream import client as upstream_client
from tests.integration.support import (
    MODEL,
    MUCH,
    OK,
    OWN,
    QUIET,
    Api,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    answering,
    proxied,
    raw,
    request_bytes,
    settle,
)

PLAIN = "/api/2.0/dbfs/get-status"


@dataclass
class Held:
    """An upstream that keeps back every answer until told."""

    upstream: Upstream

    def __post_init__(self) -> None:
        self.go = asyncio.Event()
        self.upstream.respond = self._respond

    async def _respond(self, inbound: Inbound) -> None:
        await self.go.wait()
        await answering(OK)(inbound)

    async def until(self, number: int) -> None:
        """Wait until so many calls have arrived."""
        while len(self.upstream.seen) < number:
            await settle()


@pytest.fixture
def held(upstream: Upstream) -> Held:
    return Held(upstream)


# -- bounded ---------------------------------------------------------------------------------------


async def test_requests_are_bounded(held: Held, session: aiohttp.ClientSession) -> None:
    connections = ConnectionSettings(max_requests=3)
    async with proxied(held.upstream.url, connections=connections) as url:
        api = Api(session, url)
        paths = (MODEL, PLAIN, "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/m/1")
        calls = [asyncio.create_task(api.call("GET", path, {"name": "m"})) for path in paths]
        await held.until(3)
        assert await api.metric("mlflow_proxy_requests_in_flight") == 3
        for path in paths:
            reply = await api.get(path, name="m")
            assert reply.status == 503
            assert reply.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert "3 requests" in reply.json()["message"]
            assert "connections.max_requests" in reply.json()["message"]
            assert int(reply.headers["Retry-After"]) >= 1
        async with session.get(url + "/-/healthz") as response:
            assert response.status == 200
        held.go.set()
        await asyncio.gather(*calls)
        assert await api.metric("mlflow_proxy_requests_in_flight") == 0
        assert (await api.get(PLAIN)).status == 200


@pytest.mark.parametrize("told_what_is_ready", [True, False])
async def test_connections_are_bounded(
    upstream: Upstream, told_what_is_ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows too, whose event loop takes connections by itself."""
    if not told_what_is_ready:
        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", _not_implemented)
    connections = ConnectionSettings(max_clients=2)
    async with proxied(upstream.url, connections=connections) as url, AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            clients.append(await stack.enter_async_context(await RawClient.connect(url)))
            await settle()
        async with await RawClient.connect(url) as client:
            reply = await client.rest()
        assert reply.status == 503
        assert reply.all("Connection") == ["close"]
        assert reply.complete
        assert "2 connections" in reply.json()["message"]
        assert "connections.max_clients" in reply.json()["message"]
        # Those who are there are served, and whoever leaves makes room.
        await clients[0].send(request_bytes("GET", PLAIN))
        assert (await clients[0].rest()).status == 200
        await clients[0].close()
        while (await raw(url, "GET", PLAIN)).status == 503:
            pass


def _not_implemented(*arguments: object) -> None:
    raise NotImplementedError


async def test_connections_to_the_workspace_are_bounded(
    monkeypatch: pytest.MonkeyPatch, held: Held, session: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr(upstream_client, "_LONGEST_WAIT", 0.0)
    connections = ConnectionSettings(max_connections=2, connect_timeout=1.0)
    async with proxied(held.upstream.url, connections=connections) as url:
        api = Api(session, url)
        calls = [asyncio.create_task(api.get(PLAIN)) for _ in range(2)]
        await held.until(2)
        reply = await api.get(PLAIN)
        assert reply.status == 503
        assert "All 2 connections to the workspace" in reply.json()["message"]
        assert "connections.max_connections" in reply.json()["message"]
        assert await api.metric("mlflow_proxy_circuit_open") == 0
        held.go.set()
        assert [call.status for call in await asyncio.gather(*calls)] == [200, 200]
        assert (await api.get(PLAIN)).status == 200


# -- stopping --------------------------------------------------------------------------------------


@dataclass
class Stoppable:
    """A proxy that is told to stop while it works."""

    url: str
    _leave: asyncio.Event
    stopped: "asyncio.Task[None]"

    def stop(self) -> None:
        self._leave.set()


@asynccontextmanager
async def stoppable(
    upstream: Upstream, grace: float, delay: float = 0.0, budget: BudgetSettings | None = None
) -> AsyncIterator[Stoppable]:
    settings = Settings(
        upstream=upstream.url,
        port=0,
        shutdown_grace=grace,
        shutdown_delay=delay,
        budget=budget or BudgetSettings(registry_limit=MUCH),
        access=OWN,
        connections=QUIET,
    )
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def serve() -> None:
        async with serving(settings) as url:
            started.set_result(url)
            await leave.wait()

    task = asyncio.create_task(serve())
    try:
        yield Stoppable(await started, leave, task)
    finally:
        leave.set()
        await task


async def refused(url: str) -> None:
    """See that nobody listens any more, once that has come about."""
    await settle()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(url)


def keep_alive(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode()


async def test_what_is_in_flight_is_finished(held: Held) -> None:
    async with stoppable(held.upstream, grace=600) as proxy, await RawClient.connect(proxy.url) as client:
        await client.send(keep_alive(PLAIN))
        await held.until(1)
        proxy.stop()
        await refused(proxy.url)
        held.go.set()
        reply = await client.rest()
        assert (reply.status, reply.body, reply.broken) == (200, b"{}", False)
        assert reply.all("Connection") == ["close"]
        await proxy.stopped


async def test_idle_connections_are_closed(held: Held) -> None:
    held.go.set()
    async with stoppable(held.upstream, grace=600) as proxy, await RawClient.connect(proxy.url) as client:
        await client.send(keep_alive(PLAIN))
        assert await client.reader.readuntil(b"{}")
        proxy.stop()
        assert await client.reader.read() == b""
        await proxy.stopped


@pytest.mark.parametrize("target", [PLAIN, "/api/2.0/mlflow/registered-models/get?name=m"])
async def test_what_takes_longer_than_the_grace_is_told_so(held: Held, target: str) -> None:
    async with stoppable(held.upstream, grace=0.1) as proxy, await RawClient.connect(proxy.url) as client:
        await client.send(keep_alive(target))
        await held.until(1)
        proxy.stop()
        stopping_is_said(await client.rest())
        await proxy.stopped


async def test_who_waits_in_the_queue_is_told_so(held: Held) -> None:
    budget = BudgetSettings(registry_limit=1, patience=600)
    async with stoppable(held.upstream, 0.1, budget=budget) as proxy, AsyncExitStack() as stack:
        clients = []
        for number in range(5):
            clients.append(await stack.enter_async_context(await RawClient.connect(proxy.url)))
            await clients[-1].send(keep_alive(f"/api/2.0/mlflow/{MODEL}?name=m{number}"))
        await held.until(1)
        proxy.stop()
        for client in clients:
            stopping_is_said(await client.rest())
        await proxy.stopped
        assert len(held.upstream.seen) == 1


def stopping_is_said(reply: RawReply) -> None:
    assert reply.status == 503
    assert reply.complete
    assert json.loads(reply.body)["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert reply.all("Retry-After") == ["1"]
    assert reply.all("Connection") == ["close"]


def halfway(head: bytes) -> Callable[[Inbound], "asyncio.Future[None]"]:
    async def respond(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        await inbound.send(b"5\r\nhello\r\n" if b"chunked" in head else b"hello")
        await asyncio.Event().wait()

    return lambda inbound: asyncio.ensure_future(respond(inbound))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("head", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"Connection: close"])
async def test_what_is_cut_off_does_not_look_complete(upstream: Upstream, head: bytes, version: str) -> None:
    upstream.respond = halfway(head)
    async with stoppable(upstream, grace=0.1) as proxy, await RawClient.connect(proxy.url) as client:
        await client.send(f"GET {PLAIN} HTTP/{version}\r\nHost: proxy.localhost\r\n\r\n".encode())
        received = await client.reader.readuntil(b"hello")
        proxy.stop()
        # An end that is no reset would make a body without a length complete.
        with pytest.raises(ConnectionResetError):
            received += await client.reader.read()
        assert not received.endswith(b"0\r\n\r\n")
        await proxy.stopped


async def test_load_balancers_get_the_time_they_need(held: Held) -> None:
    held.go.set()
    async with stoppable(held.upstream, grace=600, delay=1.0) as proxy:
        async with await RawClient.connect(proxy.url) as client:
            await client.send(keep_alive("/-/readyz"))
            assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        proxy.stop()
        await settle()
        ready = await raw(proxy.url, "GET", "/-/readyz")
        assert (ready.status, ready.json()["reason"]) == (503, "The proxy is stopping.")
        async with await RawClient.connect(proxy.url) as client:
            await client.send(keep_alive(PLAIN))
            reply = await client.rest()
        assert (reply.status, reply.all("Connection")) == (200, ["close"])
        await proxy.stopped
        await refused(proxy.url)
