"""Connections to the workspace that are kept, and that the other side closes just then."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

import mlflow_proxy.workspace
from mlflow_proxy.budget.queue import Slot
from mlflow_proxy.settings import ConnectionSettings
from mlflow_proxy.upstream.attempt import Sent
from mlflow_proxy.upstream.client import Bounds, HttpClient
from mlflow_proxy.upstream.failures import Peer
from mlflow_proxy.workspace import Call
from tests.certificates import Authority
from tests.integration.support import (
    API,
    HIT,
    OK,
    STORED,
    Api,
    Inbound,
    RawReply,
    Upstream,
    answering,
    proxied,
    raw,
)

WRITE = f"{API}experiments/create"
PLAIN = "/api/2.0/some/thing"
"""A request that means nothing to the proxy."""
READ = f"{API}registered-models/get?name=m"
LATEST = f"{API}registered-models/get-latest-versions"
"""A read that the API takes as POST."""


CHUNKED = ([("Transfer-Encoding", "chunked")], b"2\r\n{}\r\n0\r\n\r\n")
"""Fields and body of a request that the proxy does not hold."""


REGISTERED = b'HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{"registered_model":{"name":"m"}}'


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reads be repeated at once: what is told here is the same each time."""
    monkeypatch.setattr("mlflow_proxy.workspace.backoff", lambda *_: 0.0)


@pytest.fixture(params=["http", "https"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Upstream, str]]:
    """Return an upstream and the URL of a proxy in front of it, with and without TLS."""
    authority = Authority(tmp_path)
    tls = authority.issue("workspace").context() if request.param == "https" else None
    connections = ConnectionSettings(ca_file=str(authority.file)) if tls else None
    async with Upstream(tls=tls) as upstream, proxied(upstream.url, connections=connections) as url:
        yield upstream, url


async def write(url: str, target: str = WRITE, method: str = "POST") -> RawReply:
    return await raw(url, method, target, [("Content-Length", "2")], b"{}")


def connections(upstream: Upstream) -> list[int]:
    """Return over which connection each call came, the first as 0."""
    writers = [call.writer for call in upstream.seen]
    first = list(dict.fromkeys(writers))
    return [first.index(each) for each in writers]


async def hanging_up(inbound: Inbound) -> None:
    await inbound.body()
    inbound.writer.close()


def end(call: Inbound, how: int = socket.SHUT_RDWR) -> None:
    """Send an end at once, and with SHUT_RDWR be deaf from now on: what close() does to a connection."""
    call.writer.get_extra_info("socket").shutdown(how)


@asynccontextmanager
async def as_it_goes_out(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> AsyncIterator[None]:
    """Let something happen once, after a call has got its connection and before any of it is written."""
    noting, left = mlflow_proxy.workspace._noting, iter([happens])

    def with_it(call: Call, slot: Slot | None) -> Sent:
        sent = noting(call, slot)

        def noted() -> None:
            sent()
            next(left, lambda: None)()

        return noted

    with monkeypatch.context() as patch:
        patch.setattr("mlflow_proxy.workspace._noting", with_it)
        yield
    assert next(left, None) is None, "it has happened"


# -- which connection is taken ---------------------------------------------------------------------


async def test_a_connection_is_used_again(kept: tuple[Upstream, str]) -> None:
    upstream, url = kept
    for _ in range(3):
        assert (await write(url)).status == 200
    assert connections(upstream) == [0, 0, 0]


@pytest.mark.parametrize("status", [b"500 Internal Server Error", b"501 Not Implemented", b"503 Unavailable"])
async def test_no_connection_is_kept_after_a_failure(kept: tuple[Upstream, str], status: bytes) -> None:
    upstream, url = kept
    upstream.respond = answering(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
    assert (await write(url)).status == int(status[:3])
    upstream.respond = answering(OK)
    assert (await write(url)).status == 200
    assert connections(upstream) == [0, 1]


async def test_an_answer_that_is_the_callers_fault_leaves_its_connection(kept: tuple[Upstream, str]) -> None:
    upstream, url = kept
    upstream.respond = answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}")
    for _ in range(2):
        assert (await write(url)).status == 400
    assert connections(upstream) == [0, 0]


async def test_the_connection_that_was_used_last_is_taken(upstream: Upstream, proxy_url: str) -> None:
    both, second = asyncio.Barrier(2), asyncio.Event()

    async def together(inbound: Inbound) -> None:
        await inbound.body()
        await both.wait()
        if inbound is upstream.seen[1]:
            await second.wait()
        await inbound.send(OK)

    upstream.respond = together
    calls = {asyncio.create_task(write(proxy_url)) for _ in range(2)}
    _, [last] = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    second.set()
    await last
    upstream.respond = answering(OK)
    await write(proxy_url)
    assert connections(upstream) == [0, 1, 1]


async def test_what_may_not_be_made_twice_takes_no_connection_that_was_idle(
    upstream: Upstream, proxy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(proxy_url)
    monkeypatch.setattr("mlflow_proxy.workspace.LONGEST_IDLE", 0.0)
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        assert (await write(proxy_url, method=method)).status == 200
    assert connections(upstream) == [0, 1, 2, 3, 4]
    await raw(proxy_url, "GET", PLAIN)
    await raw(proxy_url, "GET", READ)
    assert connections(upstream) == [0, 1, 2, 3, 4, 4, 4], "what may be is sent over the last of them"


async def test_readiness_asks_over_a_new_connection(upstream: Upstream, proxy_url: str) -> None:
    await write(proxy_url)
    assert (await raw(proxy_url, "GET", "/-/readyz")).status == 200
    assert connections(upstream) == [0, 1]


async def test_what_can_be_sent_only_once_takes_no_connection_that_was_idle(
    upstream: Upstream, proxy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(proxy_url)
    for _ in range(2):
        await raw(proxy_url, "GET", READ, *CHUNKED)
        monkeypatch.setattr("mlflow_proxy.workspace.LONGEST_IDLE", 0.0)
    assert connections(upstream) == [0, 0, 1]


# -- an end that comes as a call goes out ----------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("POST", WRITE, b"{}"), ("DELETE", PLAIN, b""), ("POST", WRITE, b"x" * 900_000)],
)
async def test_what_was_not_read_is_sent_once_more(
    kept: tuple[Upstream, str], method: str, target: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream, url = kept
    await write(url)
    async with as_it_goes_out(monkeypatch, lambda: end(upstream.seen[0])):
        assert (await raw(url, method, target, [("Content-Length", str(len(body)))], body)).status == 200
    assert connections(upstream) == [0, 1], "it came once"
    assert upstream.seen[1].received == body


async def test_a_call_that_goes_out_again_is_a_further_call(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession
) -> None:
    async with proxied(upstream.url) as url:
        api = Api(session, url)
        await write(url)
        async with as_it_goes_out(monkeypatch, lambda: end(upstream.seen[0])):
            assert (await write(url)).status == 200
        assert await api.metric("mlflow_proxy_upstream_calls_total", group="experiments") == 3
        assert (await api.budgets())["experiments"]["in_window"] == 3


async def test_what_can_be_sent_only_once_is_sent_once(
    upstream: Upstream, proxy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(proxy_url)
    async with as_it_goes_out(monkeypatch, lambda: end(upstream.seen[0])):
        assert (await raw(proxy_url, "PUT", PLAIN, *CHUNKED)).status == 502
    assert len(upstream.seen) == 1
    upstream.respond = answering(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 2\r\n\r\n{}")
    assert (await raw(proxy_url, "GET", READ, *CHUNKED)).status == 503
    assert [call.received for call in upstream.seen[1:]] == [b"{}"]


async def test_what_was_not_read_and_then_refused_changes_nothing(
    upstream: Upstream, proxy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.respond = answering(REGISTERED)
    assert (await raw(proxy_url, "GET", READ)).outcome == STORED
    upstream.respond = answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}")
    async with as_it_goes_out(monkeypatch, lambda: end(upstream.seen[0])):
        assert (await write(proxy_url, f"{API}registered-models/set-tag")).status == 403
    assert (await raw(proxy_url, "GET", READ)).outcome == HIT


@pytest.mark.parametrize("how", ["close", "reset", "end"])
async def test_what_was_read_is_not_sent_again(kept: tuple[Upstream, str], how: str) -> None:
    upstream, url = kept
    await write(url)

    async def hang_up(inbound: Inbound) -> None:
        await inbound.body()
        if how == "reset":
            inbound.reset()
        elif how == "end":
            end(inbound)
        else:
            inbound.writer.close()

    upstream.respond = hang_up
    reply = await write(url)
    assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
    assert connections(upstream) == [0, 0]


async def test_what_may_have_been_read_is_not_sent_again(
    kept: tuple[Upstream, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset as a call goes out: it may have been read, but for all the proxy knows."""
    upstream, url = kept
    await write(url)
    async with as_it_goes_out(monkeypatch, upstream.seen[0].reset):
        assert (await write(url)).status == 502
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("GET", PLAIN, b""), ("HEAD", PLAIN, b""), ("GET", READ, b""), ("POST", LATEST, b'{"name": "m"}')],
)
async def test_what_may_be_made_twice_goes_out_once_more(
    upstream: Upstream, proxy_url: str, method: str, target: str, body: bytes
) -> None:
    await write(proxy_url)

    async def hang_up(inbound: Inbound) -> None:
        upstream.respond = answering(OK if method != "HEAD" else OK[:-2])
        await hanging_up(inbound)

    upstream.respond = hang_up
    fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))] if body else []
    assert (await raw(proxy_url, method, target, fields, body)).status == 200
    assert connections(upstream) == [0, 0, 1]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH"])
async def test_a_write_that_ends_without_an_answer_is_made_once(
    upstream: Upstream, proxy_url: str, method: str
) -> None:
    upstream.respond = hanging_up
    for target in (WRITE, PLAIN):
        assert (await write(proxy_url, target, method)).status == 502
    assert len(upstream.seen) == 2


async def test_every_call_without_an_answer_counts(
    upstream: Upstream, proxy_url: str, session: aiohttp.ClientSession
) -> None:
    await write(proxy_url)
    upstream.respond = hanging_up
    assert (await raw(proxy_url, "GET", READ)).status == 503
    assert (await raw(proxy_url, "GET", PLAIN)).status == 502
    api = Api(session, proxy_url)
    assert await api.metric("mlflow_proxy_upstream_calls_total") == len(upstream.seen)
    assert (await api.budgets())["registry"]["in_window"] == 4, "one over the kept connection, and three"


# -- what has come before a call, and the event loop has not read yet ------------------------------


async def once_more(upstream: Upstream, happens: Callable[[], None]) -> bytes:
    """Make two calls over one client and let something happen as the second one begins; return its answer."""

    def tls() -> bool:
        if upstream.seen:
            happens()
        return True

    client = HttpClient(Peer("it", "it"), Bounds(5, 5, 9), repeats=False, tls=tls)
    try:
        for _ in range(2):
            async with client.open(
                "POST", upstream.url + PLAIN, [("Content-Length", "2")], b"{}"
            ) as response:
                body = await response.read()
    finally:
        await client.close()
    return body


async def test_an_end_that_has_come_is_noticed(upstream: Upstream) -> None:
    assert await once_more(upstream, lambda: end(upstream.seen[0], socket.SHUT_WR)) == b"{}"
    assert connections(upstream) == [0, 1]


async def test_what_was_said_unasked_is_no_answer(upstream: Upstream) -> None:
    def speak() -> None:
        os.write(upstream.seen[0].writer.get_extra_info("socket").fileno(), OK.replace(b"{}", b"no"))

    assert await once_more(upstream, speak) == b"{}"
    assert connections(upstream) == [0, 1]
