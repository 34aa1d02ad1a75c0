"""An upstream that fails or breaks off is an error to all, and never looks like a whole answer."""

import asyncio
import socket
from contextlib import closing, suppress

import pytest

from mlflow_proxy.settings import BudgetSettings, ConnectionSettings
from tests.integration.support import (
    API,
    MUCH,
    OK,
    PLAIN,
    READ,
    UNREACHED,
    Inbound,
    RawClient,
    RawReply,
    Upstream,
    answering,
    proxied,
    raw,
    request_bytes,
)


def error_code(reply: RawReply) -> str:
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.complete
    document = reply.json()
    assert document["message"]
    return str(document["error_code"])


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_refused_is_an_error(target: str) -> None:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port either
        async with proxied(f"http://127.0.0.1:{listener.getsockname()[1]}") as url:
            reply = await raw(url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"])
async def test_an_end_before_the_answer_is_an_error(
    upstream: Upstream, proxy_url: str, target: str, data: bytes
) -> None:
    async def hang_up(inbound: Inbound) -> None:
        await inbound.send(data)
        inbound.writer.close()

    upstream.respond = hang_up
    reply = await raw(proxy_url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_a_reset_is_an_error(upstream: Upstream, proxy_url: str, target: str) -> None:
    async def reset(inbound: Inbound) -> None:
        inbound.reset()

    upstream.respond = reset
    reply = await raw(proxy_url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_an_unknown_host_name_is_an_error(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with proxied("http://workspace.invalid") as url:
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        reply = await raw(url, "GET", target)
    assert reply.status == UNREACHED[target]
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"
    assert "resolved" in reply.json()["message"]


async def test_a_host_name_that_cannot_be_one_is_502() -> None:
    async with proxied(f"http://{'a' * 70}.example") as url:
        assert (await raw(url, "GET", PLAIN)).status == 502


@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_silence_is_504(upstream: Upstream, target: str) -> None:
    async def say_nothing(inbound: Inbound) -> None:
        await asyncio.Event().wait()

    upstream.respond = say_nothing
    impatient = ConnectionSettings(read_timeout=0.1)
    if target == READ:  # what is shared has the patience of those who wait for it
        impatient = ConnectionSettings()
    # Enough to leave in on a slow machine: who loses patience before that gets a 429.
    budget = BudgetSettings(registry_limit=MUCH, patience=2 if target == READ else 0.1)
    async with proxied(upstream.url, connections=impatient, budget=budget) as url:
        reply = await raw(url, "GET", target)
    assert reply.status == 504
    assert error_code(reply) == "DEADLINE_EXCEEDED"


_CUT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n",
]


@pytest.mark.parametrize("data", _CUT)
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_truncated_body_never_looks_complete(
    upstream: Upstream, proxy_url: str, data: bytes, by_reset: bool
) -> None:
    relayed = asyncio.Event()

    async def break_off(inbound: Inbound) -> None:
        await inbound.send(data)
        await relayed.wait()
        if by_reset:
            inbound.reset()
        else:
            inbound.writer.close()

    upstream.respond = break_off
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("GET", PLAIN))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        relayed.set()
        body = bytearray()
        with suppress(ConnectionError):
            while chunk := await client.reader.read(1 << 16):
                body += chunk
    assert b"0\r\n\r\n" not in body
    assert len(body) < 100


async def test_a_truncated_body_ends_a_connection_that_was_to_be_kept(
    upstream: Upstream, proxy_url: str
) -> None:
    async def break_off(inbound: Inbound) -> None:
        await inbound.send(_CUT[0])
        inbound.writer.close()

    upstream.respond = break_off
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        assert not (await client.rest()).complete


@pytest.mark.parametrize("data", _CUT)
async def test_a_truncated_answer_is_an_error_for_all_and_is_not_stored(
    upstream: Upstream, proxy_url: str, data: bytes
) -> None:
    async def break_off(inbound: Inbound) -> None:
        await inbound.send(data)
        inbound.writer.close()

    upstream.respond = break_off
    reply = await raw(proxy_url, "GET", READ)
    assert reply.status == 503
    assert int(reply.all("Retry-After")[0]) >= 1
    assert error_code(reply) == "TEMPORARILY_UNAVAILABLE"
    upstream.respond = answering(OK)
    reply = await raw(proxy_url, "GET", READ)
    assert (reply.status, reply.body) == (200, b"{}")


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_is_never_repeated_from_its_middle(
    upstream: Upstream, proxy_url: str, chunked: bool
) -> None:
    """The upstream drops a kept-alive connection in the middle of the second request's body."""
    await raw(proxy_url, "PUT", PLAIN, [("Content-Length", "0")])
    gone = asyncio.Event()

    async def drop(inbound: Inbound) -> None:
        if upstream.seen[0].writer is inbound.writer:
            await inbound.reader.readuntil(b"first half")
            inbound.reset()
            gone.set()
        else:
            inbound.received = await inbound.body()
            await inbound.send(OK)

    upstream.respond = drop
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "21")
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PUT", PLAIN, [framing]))
        await client.send(b"a\r\nfirst half\r\n" if chunked else b"first half")
        await gone.wait()
        await client.send(b"b\r\nsecond half\r\n0\r\n\r\n" if chunked else b"second half")
        reply = await client.rest()
    assert reply.status == 502
    assert all(inbound.received in {None, b"", b"first halfsecond half"} for inbound in upstream.seen)


async def test_an_upload_that_streams_is_not_repeated_after_a_refusal(
    upstream: Upstream, proxy_url: str
) -> None:
    async def refuse_first(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        refusal = b"HTTP/1.1 429 Too Many\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
        await inbound.send(refusal if len(upstream.seen) == 1 else OK)

    upstream.respond = refuse_first
    framing = [("Transfer-Encoding", "chunked")]
    target = f"{API}model-versions/set-tag"
    reply = await raw(proxy_url, "POST", target, framing, b"4\r\nwiki\r\n0\r\n\r\n")
    assert (reply.status, reply.all("Retry-After")) == (429, ["0"])
    assert [inbound.received for inbound in upstream.seen] == [b"wiki"]
