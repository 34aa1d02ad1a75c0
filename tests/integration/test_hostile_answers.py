"""Answers of a workspace or storage that are broken, or made to break the proxy or the next client."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from mlflow_proxy.settings import BudgetSettings, CacheSettings, ConnectionSettings
from tests.integration.support import (
    API,
    CONFIG,
    LIST,
    MUCH,
    OK,
    SIGN,
    Inbound,
    RawClient,
    RawReply,
    Respond,
    Upstream,
    answering,
    proxied,
    raw,
    settle,
    with_files,
)

READ = f"{API}registered-models/get?name=m"
"""A read that the proxy stores and shares."""
PLAIN = "/api/2.0/some/thing"
"""A request that means nothing to the proxy."""
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
DIRECTORY = f"{ARTIFACTS}?path=mlflow-proxy/m/1"
DOWNLOAD = f"{ARTIFACTS}/mlflow-proxy/m/1/MLmodel"
UNREACHED = {PLAIN: 502, READ: 503}
"""What is answered for a workspace that makes no sense: reads may be asked again."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reads be repeated at once: what is told here is the same each time."""
    monkeypatch.setattr("mlflow_proxy.workspace.backoff", lambda *_: 0.0)


@pytest.fixture
async def client(proxy_url: str) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(proxy_url) as client:
        yield client


async def exchange(client: RawClient, target: str, method: str = "GET") -> RawReply:
    """Send a request over a connection that is kept, and read its answer and no more."""
    await client.send(f"{method} {target} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
    line, *lines = head.split("\r\n")
    reply = RawReply(
        line, [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)], b""
    )
    if method == "HEAD" or reply.status in {204, 304}:
        return reply
    body = bytearray()
    if reply.all("Transfer-Encoding"):
        while size := int(await client.reader.readuntil(b"\r\n"), 16):
            body += (await client.reader.readexactly(size + 2))[:-2]
        await client.reader.readexactly(2)
    else:
        body += await client.reader.readexactly(int(reply.all("Content-Length")[0]))
    return RawReply(reply.line, reply.headers, bytes(body))


def said(reply: RawReply) -> str:
    """Return the message of an error in the API's form; the last resort for bugs is none."""
    assert reply.all("Content-Type") == ["application/json"]
    assert reply.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    message: str = reply.json()["message"]
    assert message
    assert "The proxy failed" not in message
    return message


async def all_is_well(client: RawClient, upstream: Upstream, *targets: str) -> None:
    """Check with the same client, over the same connection, that nothing was left behind."""
    upstream.respond = answering(OK)
    for target in targets or (PLAIN, READ):
        reply = await exchange(client, target)
        assert (reply.status, reply.body) == (200, b"{}")
        assert reply.outcome != "hit", "nothing of before was kept"


def then_close(data: bytes) -> Respond:
    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(data)
        inbound.writer.close()

    return respond


def ok(*fields: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"HTTP/" + version + b" " + status, *fields, b"Content-Length: 2", b"", b"{}"])


def chunked(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *fields, b"", body])


_CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
MALFORMED = {
    "cr-in-a-value": ok(b"X-A: a\rSet-Cookie: b=1"),
    "nul-in-a-value": ok(b"X-A: a\0b"),
    "controls-in-a-value": ok(b"X-A: a\x01\x7f"),
    "nul-in-a-name": ok(b"X\0A: a"),
    "space-in-a-name": ok(b"X A: a"),
    "space-before-the-colon": ok(b"Content-Length : 9"),
    "folded-space-before-the-colon": ok(b"Transfer-Encoding : chunked"),
    "no-name": ok(b": a"),
    "no-colon": ok(b"nonsense"),
    "length-and-coding": chunked(_CHUNKS, b"Content-Length: 2"),
    "two-lengths": ok(b"Content-Length: 3"),
    "the-same-length-twice": ok(b"Content-Length: 2"),
    "a-list-of-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
    "negative-length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "signed-length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "hexadecimal-length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}",
    "empty-length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}",
    "the-longest-length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{}" % (2**64 - 1),
    "a-longer-length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{}" % 2**70,
    "coding-before-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNKS,
    "coding-only": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "unknown-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n" + _CHUNKS,
    "chunked-twice": chunked(_CHUNKS, b"Transfer-Encoding: chunked"),
    "chunked-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS,
    "chunk-size-nonsense": chunked(b"zz\r\nok\r\n0\r\n\r\n"),
    "chunk-size-negative": chunked(b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-prefixed": chunked(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-too-large": chunked(b"f" * 20 + b"\r\nok\r\n0\r\n\r\n"),
    "chunk-too-long": chunked(b"2\r\nokay\r\n0\r\n\r\n"),
    "chunk-lines-end-in-lf": chunked(b"2\nok\n0\n\n"),
    "trailer-that-frames": chunked(b"2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n"),
    "trailer-malformed": chunked(b"2\r\n{}\r\n0\r\nX \0: 1\r\n\r\n"),
    "too-many-fields": ok(*[b"X-A: a"] * 300),
    "too-long-a-field": ok(b"X-A: " + b"a" * 70_000),
    "too-long-a-name": ok(b"a" * 70_000 + b": a"),
    "too-long-a-reason": ok(status=b"200 " + b"a" * 70_000),
    "cr-in-the-reason": ok(status=b"200 a\rSet-Cookie: b=1"),
    "status-99": ok(status=b"99 OK"),
    "status-099": ok(status=b"099 OK"),
    "status-000": ok(status=b"000 OK"),
    "status-1000": ok(status=b"1000 OK"),
    "status-minus": ok(status=b"-200 OK"),
    "status-words": ok(status=b"two hundred"),
    "status-101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + OK,
    "status-101-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "http-0.9": b"<html>hello</html>\r\n\r\n",
    "http-2.0": ok(version=b"2.0"),
    "http-9.9": ok(version=b"9.9"),
    "http-2-frames": b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18,
    "more-than-its-length": OK + b"MORE",
    "more-than-nothing": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nMORE",
    "two-answers-the-first-of-which-was-the-last": ok(b"Connection: close") + OK,
    "old-websocket": ok(b"Sec-WebSocket-Key1: 1"),
}


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_http_is_an_error(
    upstream: Upstream, client: RawClient, target: str, data: bytes
) -> None:
    upstream.respond = then_close(data)
    reply = await exchange(client, target)
    assert reply.status == UNREACHED[target]
    said(reply)
    assert not reply.all("Set-Cookie")
    await all_is_well(client, upstream)


RELAYED = {
    "folded-value": (ok(b"X-A: a", b" Content-Length: 9"), 200, "a Content-Length: 9"),
    "lines-end-in-lf": (b"HTTP/1.1 200 OK\nX-A: a\nContent-Length: 2\n\n{}", 200, "a"),
    "bytes-in-a-value": (ok(b"X-A: \xff\xfe"), 200, ""),
    "bytes-in-the-reason": (ok(b"X-A: a", status=b"200 \xff\xfe\x80"), 200, "a"),
    "controls-in-the-reason": (ok(b"X-A: a", status=b"200 a\0\x01\x7fb"), 200, "a"),
    "no-reason": (ok(b"X-A: a", status=b"200"), 200, "a"),
    "status-999": (ok(b"X-A: a", status=b"999 Odd"), 999, "a"),
    "many-interim-answers": (
        b"HTTP/1.1 103 Early Hints\r\nX-A: no\r\n\r\n" * 500 + ok(b"X-A: a"),
        200,
        "a",
    ),
    "odd-dates-and-ages": (ok(b"X-A: a", b"Date: Mon, 99 Foo 99999 99:99:99", b"Age: \xc2\xb2"), 200, "a"),
    "age-beyond-numbers": (ok(b"X-A: a", b"Age: " + b"9" * 5000), 200, "a"),
    "claims-to-be-cached": (ok(b"X-A: a", b"Cache-Status: other; hit"), 200, "a"),
    "http-1.0": (ok(b"X-A: a", version=b"1.0"), 200, "a"),
}


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize(("data", "status", "value"), RELAYED.values(), ids=RELAYED.keys())
async def test_what_is_merely_odd_is_passed_on_in_good_form(
    upstream: Upstream, client: RawClient, target: str, data: bytes, status: int, value: str
) -> None:
    upstream.respond = answering(data)
    reply = await exchange(client, target)
    assert (reply.status, reply.body, reply.all("X-A")) == (status, b"{}", [value])
    assert reply.line.isprintable()
    await all_is_well(client, upstream, PLAIN)


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("status", [204, 304])
async def test_a_length_of_what_has_no_body(
    upstream: Upstream, client: RawClient, target: str, status: int
) -> None:
    upstream.respond = answering(b"HTTP/1.1 %d Such\r\nContent-Length: 5\r\n\r\n" % status)
    assert (await exchange(client, target)).status == status
    await all_is_well(client, upstream)


@pytest.mark.parametrize(
    "garbage", [b"zz\r\n", b"-1\r\n", b"2\r\nokay\r\n", b"fffffffffffffffffffff\r\n", b"0\r\nX\0Y: 1\r\n\r\n"]
)
async def test_chunks_that_turn_into_garbage_never_look_complete(
    upstream: Upstream, proxy_url: str, garbage: bytes
) -> None:
    begun = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        await inbound.send(chunked(b"5\r\nbegin\r\n"))
        await begun.wait()
        await inbound.send(garbage)

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        await client.reader.readuntil(b"begin")
        begun.set()
        assert not (await client.rest()).complete
    async with await RawClient.connect(proxy_url) as client:
        await all_is_well(client, upstream)


@pytest.mark.parametrize("garbage", [b"zz\r\n", b"-1\r\n", b"0\r\nX\0Y: 1\r\n\r\n"])
async def test_a_body_that_breaks_with_the_end_of_a_chunk_never_looks_complete(
    upstream: Upstream, proxy_url: str, garbage: bytes
) -> None:
    """Whoever reads it is woken by the end of the chunk, and not again by the error (aiohttp 3.14)."""
    begun = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        await inbound.send(chunked(b"5\r\nbegin"))
        await begun.wait()
        await settle()
        await inbound.send(b"\r\n" + garbage)
        await inbound.reader.read()

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(f"GET {PLAIN} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        await client.reader.readuntil(b"begin")
        begun.set()
        assert not (await client.rest()).complete
    async with await RawClient.connect(proxy_url) as client:
        await all_is_well(client, upstream)


@pytest.mark.parametrize("by_reset", [False, True])
@pytest.mark.parametrize("target", [PLAIN, READ])
async def test_a_body_that_the_connection_ends(
    upstream: Upstream, proxy_url: str, target: str, by_reset: bool
) -> None:
    """Only an orderly end is one (RFC 9112 section 8)."""

    async def respond(inbound: Inbound) -> None:
        await inbound.send(b"HTTP/1.1 200 OK\r\n\r\nthe beginning")
        await settle()
        if by_reset:
            inbound.reset()
        else:
            inbound.writer.close()

    upstream.respond = respond
    reply = await raw(proxy_url, "GET", target)
    if not by_reset:
        assert reply.complete
        assert b"the beginning" in reply.body
    elif target == READ:
        assert reply.status == 503
        said(reply)
    else:
        assert reply.broken or not reply.complete


# -- answers that belong to somebody else -----------------------------------------------------------

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


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


# -- answers without an end ---------------------------------------------------------------------------


async def _hints(inbound: Inbound) -> None:
    while True:
        await inbound.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await asyncio.sleep(0)


async def _a_field_byte_by_byte(inbound: Inbound) -> None:
    await inbound.send(b"HTTP/1.1 200 OK\r\nX-A: ")
    while True:
        await inbound.send(b"a")
        await asyncio.sleep(0.01)


async def _fields(inbound: Inbound) -> None:
    await inbound.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        await inbound.send(b"X-%d: a\r\n" % number)
        await asyncio.sleep(0.01)
    await asyncio.Event().wait()


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("endless", [_hints, _a_field_byte_by_byte, _fields])
async def test_a_header_without_end_has_one(upstream: Upstream, endless: Respond, target: str) -> None:
    upstream.respond = endless
    hasty = ConnectionSettings(read_timeout=0.3)
    budget = BudgetSettings(registry_limit=MUCH, patience=2)
    async with (
        proxied(upstream.url, connections=hasty, budget=budget) as url,
        await RawClient.connect(url) as client,
    ):
        reply = await exchange(client, target)
        assert (reply.status, reply.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
        await all_is_well(client, upstream)


@pytest.mark.parametrize("endless", [_hints, _a_field_byte_by_byte])
async def test_storage_has_to_come_to_an_end_as_well(upstream: Upstream, endless: Respond) -> None:
    async with Upstream() as storage:
        upstream.respond = signing(f"{storage.url}/x")
        storage.respond = endless
        async with proxied(upstream.url, connections=ConnectionSettings(read_timeout=0.3)) as url:
            assert (await raw(url, "GET", DOWNLOAD)).status == 504
            storage.respond = answering(OK)
            assert (await raw(url, "GET", DOWNLOAD)).body == b"{}"


# -- content codings -----------------------------------------------------------------------------------

TEXT = b'{"registered_model": {"name": "m"}}'
PACKED = gzip.compress(TEXT)


def coded(coding: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        coding,
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(coded(b"gzip", PACKED), id="gzip"),
        pytest.param(coded(b"x-gzip", PACKED), id="x-gzip"),
        pytest.param(coded(b"deflate", zlib.compress(TEXT)), id="deflate"),
        pytest.param(coded(b"deflate, gzip", gzip.compress(zlib.compress(TEXT))), id="both"),
        pytest.param(
            coded(b"deflate\r\nContent-Encoding: gzip", gzip.compress(zlib.compress(TEXT))), id="two fields"
        ),
        pytest.param(coded(b"identity", TEXT), id="none"),
    ],
)
async def test_answers_in_codings_that_were_asked_for(
    upstream: Upstream, client: RawClient, data: bytes
) -> None:
    upstream.respond = answering(data)
    for outcome in ("fwd=miss; stored", "hit"):
        reply = await exchange(client, READ)
        assert (reply.body, reply.all("Content-Encoding")) == (TEXT, [])
        assert reply.outcome == outcome
    assert upstream.seen[0].all("Accept-Encoding") == ["gzip, deflate"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(coded(b"gzip", TEXT), id="not coded"),
        pytest.param(coded(b"gzip", PACKED[:-9]), id="ends early"),
        pytest.param(coded(b"gzip", PACKED[:-1]), id="ends in its length"),
        pytest.param(coded(b"gzip", PACKED + b"more"), id="more after it"),
        pytest.param(coded(b"gzip", PACKED[:-8] + b"\0" * 8), id="another checksum"),
        pytest.param(coded(b"deflate", PACKED), id="the other coding"),
        pytest.param(coded(b"gzip, gzip", PACKED), id="coded once"),
    ],
)
async def test_an_answer_that_does_not_decode_is_a_broken_one(
    upstream: Upstream, client: RawClient, data: bytes
) -> None:
    upstream.respond = answering(data)
    reply = await exchange(client, READ)
    assert reply.status == 503
    assert "does not decode" in said(reply)
    await all_is_well(client, upstream)
    upstream.respond = answering(data)
    reply = await exchange(client, PLAIN)
    assert reply.all("Content-Encoding")
    assert data.endswith(reply.body), "what only passes through is the client's to decode"


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"br, gzip", b"gzip, gzip, gzip"])
async def test_a_coding_that_was_not_asked_for_is_the_clients_affair(
    upstream: Upstream, client: RawClient, coding: bytes
) -> None:
    """As without the proxy: the one who asks in its own words gets the answer as it came."""
    upstream.respond = answering(coded(coding, b"opaque"))
    for _ in range(2):
        reply = await exchange(client, READ)
        assert (reply.status, reply.body) == (200, b"opaque")
        assert reply.all("Content-Encoding") == [coding.decode()]
        assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=bypass"]
    assert [inbound.all("Accept-Encoding") for inbound in upstream.seen] == [["gzip, deflate"], []] * 2
    await all_is_well(client, upstream)


async def test_door_a_cannot_read_other_codings(upstream: Upstream, client: RawClient) -> None:
    upstream.respond = answering(coded(b"br", b"opaque"))
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    assert "coding" in said(reply)


@pytest.mark.parametrize("size", [100_001, 50_000_000])
async def test_what_bursts_is_streamed_as_it_came(upstream: Upstream, size: int) -> None:
    bomb = gzip.compress(bytes(size))
    upstream.respond = answering(coded(b"gzip", bomb))
    cache = CacheSettings.model_validate({"max_entry_bytes": 100_000})
    async with proxied(upstream.url, cache=cache) as url, await RawClient.connect(url) as client:
        reply = await exchange(client, READ)
        assert (reply.body, reply.all("Content-Encoding")) == (bomb, ["gzip"])
        assert reply.all("Cache-Status") == ["mlflow-proxy; fwd=bypass"]
        await all_is_well(client, upstream)


@pytest.mark.parametrize("target", [PLAIN, f"{API}registered-models/set-tag", f"{API}runs/log-batch"])
async def test_bodies_of_requests_are_never_decoded(upstream: Upstream, proxy_url: str, target: str) -> None:
    for body in (PACKED, b"not gzip at all"):
        fields = [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]
        assert (await raw(proxy_url, "POST", target, fields, body)).status == 200
        assert upstream.seen[-1].received == body
        assert upstream.seen[-1].all("Content-Encoding") == ["gzip"]


# -- what the JSON says ----------------------------------------------------------------------------------


def saying(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def signing(url: str) -> Respond:
    return with_files(answering(saying(json.dumps({"signed_uri": url}).encode())), "MLmodel")


DEEP = [b"[" * depth + b"]" * depth for depth in (300, 900, 990, 1100, 100_000)]
ODD_JSON = [
    *(b'{"model_version": {"name": "m", "version": "1", "creation_timestamp": %b}}' % deep for deep in DEEP),
    *(b'{"artifact_uri": "s3://x", "more": %b}' % deep for deep in DEEP),
    b'{"registered_model": {"latest_versions": {"name": "m"}}}',
    b'{"model_versions": [{"name": "\\ud800", "version": "\\udfff", "status": "\\ud800"}]}',
    b'{"model_version": {"name": "m", "version": %b, "creation_timestamp": %b}}' % (b"9" * 4000, b"9" * 4000),
    b'{"model_version": {"name": "m", "version": "1", "creation_timestamp": 1e999}}',
    b'{"model_version": {"name": "m", "version": "1", "creation_timestamp": NaN}}',
    b"9" * 10_000,
    b'"\xff\xfe"',
    b"\xff\xfe{\0}\0",
    b"",
    b"null",
]


@pytest.mark.parametrize("endpoint", ["registered-models/get", "model-versions/get-download-uri", LIST, SIGN])
@pytest.mark.parametrize("body", ODD_JSON, ids=range(len(ODD_JSON)))
async def test_json_that_nobody_can_read_is_passed_on(
    upstream: Upstream, client: RawClient, endpoint: str, body: bytes
) -> None:
    upstream.respond = answering(saying(body))
    reply = await exchange(client, f"{API}{endpoint}?name=m&version=1&path=a")
    assert (reply.status, reply.body) == (200, body)
    await all_is_well(client, upstream, PLAIN)


@pytest.mark.parametrize("deep", DEEP[:-1])
async def test_a_download_uri_beside_what_nests_deep(
    upstream: Upstream, client: RawClient, deep: bytes
) -> None:
    upstream.respond = answering(saying(b'{"artifact_uri": "dbfs:/x", "more": %b}' % deep))
    reply = await exchange(client, f"{API}model-versions/get-download-uri?name=m&version=1")
    assert reply.status == 200
    assert reply.body.startswith((b'{"artifact_uri": "mlflow-artifacts:/', b'{"artifact_uri": "dbfs:/x"'))
    await all_is_well(client, upstream, PLAIN)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity"])
async def test_numbers_that_cannot_be_written_again(
    upstream: Upstream, client: RawClient, number: bytes
) -> None:
    body = b'{"artifact_uri": "dbfs:/x", "more": %b}' % number
    upstream.respond = answering(saying(body))
    reply = await exchange(client, f"{API}model-versions/get-download-uri?name=m&version=1")
    assert (reply.status, reply.body) == (200, body)


def files(*entries: object) -> bytes:
    return json.dumps({"files": entries}).encode()


def file(path: object, **more: object) -> dict[str, object]:
    return {"path": path, "is_dir": False, "file_size": 1, **more}


UNREADABLE = [
    files(file(1)),
    files(file(None)),
    files(file(["a"])),
    files({"is_dir": True}),
    files("a"),
    files(None),
    files(["a"]),
    files(file("a", is_dir="false")),
    files(file("a", is_dir=0)),
    files(file("a", is_dir=[])),
    b'{"files": {"path": "a"}}',
    b'{"files": "a"}',
    b'{"files": 0}',
    b'{"files": [], "next_page_token": 5}',
    b'{"files": [], "next_page_token": ["a"]}',
    b'{"files": [], "next_page_token": true}',
    b'{"files": [{"path": "a", "file_size": 1e999}]}',
    b"[]",
    b"null",
    b"<html>Log in</html>",
    b"",
    *(b'{"files": %b}' % deep for deep in DEEP[1:]),
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_what_is_no_listing_is_an_error(upstream: Upstream, client: RawClient, body: bytes) -> None:
    upstream.respond = answering(saying(body))
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    said(reply)
    upstream.respond = answering(saying(files(file("good"))))
    reply = await exchange(client, DIRECTORY)
    assert reply.json() == {"files": [{"path": "good", "is_dir": False, "file_size": 1}]}


ASTRAY = [
    files(file("..")),
    files(file("../../etc/passwd")),
    files(file("a/../../b")),
    files(file("a/..")),
    files(file("../", is_dir=True)),
    files(file(".", is_dir=True)),
    files(file("./a")),
    files(file("")),
    files(file("/")),
    files(file("/etc/passwd")),
    files(file("//host/share")),
    files(file("a//b")),
    files(file("..\\..\\evil.dll")),
    files(file("C:\\evil.dll")),
    files(file("a\0b")),
    files(file("a\ud800")),
    files(file("good"), file("..")),
    files(file("%2e%2e")),
]


@pytest.mark.parametrize("body", ASTRAY, ids=range(len(ASTRAY)))
async def test_a_listing_that_could_lead_a_client_astray_is_an_error(
    upstream: Upstream, client: RawClient, body: bytes
) -> None:
    """Clients repeat no 409: asking again would lead to the same name."""
    upstream.respond = answering(saying(body))
    reply = await exchange(client, DIRECTORY)
    assert (reply.status, reply.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    assert reply.all("Content-Type") == ["application/json"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([file("a")], [{"path": "a", "is_dir": False, "file_size": 1}]),
        ([file("x/y/a")], [{"path": "a", "is_dir": False, "file_size": 1}]),
        ([file("..a"), file("...")], [{"path": p, "is_dir": False, "file_size": 1} for p in ("..a", "...")]),
        ([file("a", file_size="12")], [{"path": "a", "is_dir": False, "file_size": 12}]),
        ([file("a", file_size=None)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=-1)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=True)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=1.5)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size=10**400)], [{"path": "a", "is_dir": False}]),
        ([file("a", file_size={})], [{"path": "a", "is_dir": False}]),
        ([file("a", is_dir=None)], [{"path": "a", "is_dir": False, "file_size": 1}]),
        ([file("d/", is_dir=True)], [{"path": "d", "is_dir": True}]),
        ([{"path": "a"}], [{"path": "a", "is_dir": False}]),
        (
            [file("C:evil"), file("a:b"), file("a\nb"), file("a\x7f"), file("%61"), file("~")],
            [
                {"path": p, "is_dir": False, "file_size": 1}
                for p in ("C:evil", "a:b", "a\nb", "a\x7f", "%61", "~")
            ],
        ),
    ],
)
async def test_what_a_listing_says_is_told_in_good_form(
    upstream: Upstream, client: RawClient, entries: list[object], expected: list[object]
) -> None:
    upstream.respond = answering(saying(files(*entries)))
    reply = await exchange(client, DIRECTORY)
    assert (reply.status, reply.json()) == (200, {"files": expected})


@pytest.mark.parametrize("body", [b"{}", b'{"files": null}', b'{"files": [], "next_page_token": null}'])
async def test_an_empty_directory(upstream: Upstream, client: RawClient, body: bytes) -> None:
    upstream.respond = answering(saying(body))
    assert (await exchange(client, DIRECTORY)).json() == {"files": []}


async def test_pages_that_go_round(upstream: Upstream, client: RawClient) -> None:
    async def respond(inbound: Inbound) -> None:
        token = "b" if "page_token=a" in inbound.target else "a"
        await inbound.send(saying(json.dumps({"files": [file("x")], "next_page_token": token}).encode()))

    upstream.respond = respond
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    assert "goes round" in said(reply)
    asked = [inbound.target for inbound in upstream.seen if LIST in inbound.target]
    assert len(asked) == 3, "the first, a, b, and a is known"
    await all_is_well(client, upstream, PLAIN)


async def test_pages_that_never_end(upstream: Upstream, client: RawClient) -> None:
    page = 7_000_000

    async def respond(inbound: Inbound) -> None:
        token = str(len(upstream.seen))
        await inbound.send(saying(json.dumps({"next_page_token": token, "x": "a" * page}).encode()))

    upstream.respond = respond
    reply = await exchange(client, DIRECTORY)
    assert reply.status == 502
    assert "no end" in said(reply)
    await all_is_well(client, upstream, PLAIN)


# -- what is no answer of its endpoint ---------------------------------------------------------------------

ANSWERS = {
    READ: b'{"registered_model": {"name": "m"}}',
    f"{API}{LIST}?name=m&version=1": files(file("MLmodel")),
    CONFIG: b'{"oidc_endpoint": "https://w.test/oidc"}',
    "/oidc/.well-known/oauth-authorization-server": (
        b'{"authorization_endpoint": "https://w.test/a", "token_endpoint": "https://w.test/t"}'
    ),
}
NO_ANSWERS = {
    "html": b"<html>Sign in</html>",
    "error": b'{"error_code": "INTERNAL_ERROR", "message": "no"}',
    "another-api": b'{"status": "ok"}',
    "another-endpoint": b'{"experiment": {"name": "m"}}',
    "array": b"[]",
    "brackets": b"[" * 100_000,
    "closed-brackets": b"[" * 100_000 + b"]" * 100_000,
    "members": b'{"files":' * 100_000,
}


@pytest.mark.parametrize("wrong", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
@pytest.mark.parametrize("target", ANSWERS)
async def test_what_is_no_answer_of_its_endpoint_is_told_once_and_not_kept(
    upstream: Upstream, proxy_url: str, target: str, wrong: bytes
) -> None:
    with capture_logs() as logs:
        for body, outcomes in ((wrong, ["fwd=miss"]), (ANSWERS[target], ["fwd=miss; stored", "hit"])):
            upstream.respond = answering(saying(body))
            for outcome in outcomes:
                reply = await raw(proxy_url, "GET", target)
                assert (reply.status, reply.body, reply.outcome) == (200, body, outcome)
    assert not [line for line in logs if "exc_info" in line or line["log_level"] in {"error", "critical"}]


@pytest.mark.parametrize(
    "target", [f"{API}{LIST}?name=m&version=1", f"{API}registered-models/get-latest-versions?name=m"]
)
async def test_nothing_is_an_answer_where_all_may_be_missing(
    upstream: Upstream, proxy_url: str, target: str
) -> None:
    for outcome in ("fwd=miss; stored", "hit"):
        assert (await raw(proxy_url, "GET", target)).outcome == outcome


# -- storage ---------------------------------------------------------------------------------------------


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
