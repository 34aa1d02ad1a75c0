"""A head has to end in its time and size, at each listener, as the settings say."""

import asyncio
from contextlib import suppress

import pytest

from mlflow_proxy.settings import AdminSettings, ConnectionSettings
from tests.integration.slow_clients import BEGUN, CHUNKED, HEAD, IDLE, LENGTH, Advance, keep_alive, timed_out
from tests.integration.support import (
    OK,
    PLAIN,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    proxied,
    request_bytes,
    settle,
)


@pytest.mark.parametrize("begun", BEGUN)
async def test_a_head_has_to_end(upstream: Upstream, proxy_url: str, advance: Advance, begun: bytes) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(begun)
        await settle()
        advance(HEAD)
        timed_out(await client.rest(), "head_timeout")
    assert not upstream.seen


async def test_a_head_that_grows_has_to_end_as_soon(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(BEGUN[-1] + b"X-B: ")
        for _ in range(int(HEAD)):
            await settle()
            advance(1)
            with suppress(ConnectionError):
                await client.send(b"x")
        timed_out(await client.rest(), "head_timeout")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_a_connection_over_which_nothing_comes_is_closed(
    proxy_url: str, advance: Advance, sent: bytes
) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(sent)
        await settle()
        advance(HEAD)
        assert await client.rest() == RawReply("", [], b"")


async def test_a_further_head_has_its_own_time(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(keep_alive())
        await client.reader.readuntil(b"{}")
        for _ in range(3):
            advance(IDLE / 4)
            await settle()
        await client.send(BEGUN[-1])
        await settle()
        advance(HEAD - 1)
        await client.send(b"\r\n")
        await client.reader.readuntil(b"{}")
        await client.send(BEGUN[-1])
        await settle()
        advance(HEAD)
        timed_out(await client.rest(), "head_timeout")


async def test_a_further_head_has_time_once_the_answer_before_it_is_there(
    upstream: Upstream, proxy_url: str, advance: Advance
) -> None:
    go = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        await go.wait()
        await inbound.send(OK)

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(keep_alive())
        while not upstream.seen:
            await settle()
        await client.send(BEGUN[-1])
        await settle()
        advance(2 * HEAD)
        await settle()
        go.set()
        await client.reader.readuntil(b"{}")
        await client.send(b"\r\n")
        await client.reader.readuntil(b"{}")


async def test_an_idle_connection_is_closed(proxy_url: str, advance: Advance) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(keep_alive())
        await client.reader.readuntil(b"{}")
        advance(IDLE - 10)
        await settle()
        await client.send(keep_alive())
        await client.reader.readuntil(b"{}")
        advance(IDLE)
        assert await client.rest() == RawReply("", [], b"")


@pytest.mark.parametrize(
    ("sent", "status", "limit"),
    [
        (b"GET /" + b"a" * 40_000, 414, "32768 bytes"),
        (BEGUN[-1] + b"X-B: " + b"b" * 40_000, 431, "32767 bytes"),
        (BEGUN[-1] + b"B" * 40_000, 431, "32767 bytes"),
        (BEGUN[-1] + b"X-B: b\r\n" * 200, 431, "128 fields"),
        (BEGUN[-1] + (b"X-B: " + b"b" * 30_000 + b"\r\n") * 5, 431, "131072 bytes"),
    ],
)
async def test_a_head_need_not_end_to_be_too_large(
    proxy_url: str, sent: bytes, status: int, limit: str
) -> None:
    async with await RawClient.connect(proxy_url) as client:
        await client.send(sent)
        reply = await client.rest()
    assert (reply.status, reply.all("Connection")) == (status, ["close"])
    assert limit in reply.json()["message"]


async def test_a_listener_of_their_own_is_as_strict(upstream: Upstream, advance: Advance) -> None:
    told: list[str] = []
    admin = AdminSettings(host="127.0.0.1", port=0)
    async with proxied(upstream.url, admin=admin, administered=told.append):
        async with await RawClient.connect(told[0]) as client:
            await client.send(BEGUN[-1])
            await settle()
            advance(HEAD)
            timed_out(await client.rest(), "head_timeout")
        async with await RawClient.connect(told[0]) as client:
            await client.send(request_bytes("POST", "/-/purge", [*LENGTH, *CHUNKED], b"0\r\n\r\n"))
            reply = await client.rest()
        assert (reply.status, reply.all("Connection")) == (400, ["close"])
        assert reply.json()["error_code"] == "INVALID_PARAMETER_VALUE"


async def test_settings_say_how_long(upstream: Upstream, advance: Advance) -> None:
    connections = ConnectionSettings(head_timeout=2, client_timeout=3, idle_timeout=4)
    async with proxied(upstream.url, connections=connections) as url:
        for sent, seconds, status in ((BEGUN[-1], 2, 408), (request_bytes("POST", PLAIN, LENGTH), 3, 408)):
            async with await RawClient.connect(url) as client:
                await client.send(sent)
                await settle()
                advance(seconds)
                reply = await client.rest()
                assert reply.status == status
                assert f" {seconds} s" in reply.json()["message"]
        async with await RawClient.connect(url) as client:
            await client.send(keep_alive())
            await client.reader.readuntil(b"{}")
            advance(4)
            assert await client.rest() == RawReply("", [], b"")
