"""What comes over a connection that was not asked for must be nobody's answer."""

import asyncio

import pytest

from tests.integration.hostile_answers import (
    ARTIFACTS,
    DIRECTORY,
    DOWNLOAD,
    EVIL,
    MALFORMED,
    all_is_well,
    chunked,
    exchange,
)
from tests.integration.support import (
    API,
    OK,
    PLAIN,
    READ,
    Inbound,
    RawClient,
    Respond,
    Upstream,
    answering,
    settle,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


async def _at_once(inbound: Inbound) -> None:
    await inbound.send(OK + EVIL)


async def _with_the_end_of_the_first(inbound: Inbound) -> None:
    await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
    await settle()
    await inbound.send(b"}" + EVIL)


async def _with_the_last_chunk_of_the_first(inbound: Inbound) -> None:
    await inbound.send(chunked(b"2\r\n{}\r\n"))
    await settle()
    await inbound.send(b"0\r\n\r\n" + EVIL)


async def _a_moment_later(inbound: Inbound) -> None:
    await inbound.send(OK)
    await settle()
    await inbound.send(EVIL)


async def _only_its_beginning(inbound: Inbound) -> None:
    await inbound.send(OK)
    await settle()
    await inbound.send(EVIL[:30])


async def _an_interim_answer(inbound: Inbound) -> None:
    await inbound.send(OK)
    await settle()
    await inbound.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")


async def _as_the_body_of_nothing(inbound: Inbound) -> None:
    await inbound.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(EVIL))
    await settle()
    await inbound.send(EVIL)


SMUGGLED = [
    _at_once,
    _with_the_end_of_the_first,
    _with_the_last_chunk_of_the_first,
    _a_moment_later,
    _only_its_beginning,
    _an_interim_answer,
    _as_the_body_of_nothing,
]


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("smuggle", SMUGGLED)
async def test_a_second_answer_is_nobodys(
    upstream: Upstream, proxy_url: str, smuggle: Respond, target: str
) -> None:
    """A connection is used again only if nothing came over it that was not asked for."""
    sent = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        if len(upstream.seen) == 1:
            await smuggle(inbound)
            sent.set()
        else:
            await inbound.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
                % (len(inbound.target), inbound.target.encode())
            )

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        first = await exchange(client, target)
        assert (first.status, first.body) in {(200, b"{}"), (304, b"")}
        await sent.wait()
        await settle()
        for other in ("/one", f"{API}registered-models/get?name=two", "/three"):
            async with await RawClient.connect(proxy_url) as another:
                assert (await exchange(another, other)).body == other.encode()
            assert (await exchange(client, other)).body == other.encode()
    assert upstream.seen[0].writer is not upstream.seen[1].writer


async def test_a_body_that_head_has_not(upstream: Upstream, proxy_url: str) -> None:
    async def respond(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(EVIL), EVIL))

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        assert (await exchange(client, PLAIN, "HEAD")).status in {200, 502}
        await settle()
        await all_is_well(client, upstream)


@pytest.mark.parametrize(
    "target", ["/-/nothing", PLAIN, DIRECTORY, DOWNLOAD, f"{ARTIFACTS}/mlflow-proxy/m/1/.."]
)
async def test_errors_of_the_proxys_own_keep_to_head(
    upstream: Upstream, client: RawClient, target: str
) -> None:
    upstream.respond = answering(MALFORMED["no-colon"])
    for _ in range(2):
        reply = await exchange(client, target, "HEAD")
        assert reply.status in {400, 404, 502, 503}
        assert int(reply.all("Content-Length")[0]) > 0
    await settle()
    await all_is_well(client, upstream)


async def test_a_connection_that_behaves_is_used_again(upstream: Upstream, client: RawClient) -> None:
    for number in range(5):
        assert (await exchange(client, f"/{number}")).body == b"{}"
    assert len({inbound.writer for inbound in upstream.seen}) == 1


async def test_an_early_answer_and_then_more(upstream: Upstream, proxy_url: str) -> None:
    async def respond(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno" + EVIL)

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        head = f"PUT {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\nContent-Length: 1000\r\n\r\n"
        await client.send(head.encode() + b"begin")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 Too Much\r\n")
        assert await client.reader.readexactly(2) == b"no"
    async with await RawClient.connect(proxy_url) as client:
        await all_is_well(client, upstream)
