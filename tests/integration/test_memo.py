"""The memo of hits: it repeats what the slow path answered, and only while the slow path would.

Each test that expects a change keeps the memo hot until then: without the check that it is about, the memo
would answer as before.
"""

import asyncio
import gc
from pathlib import Path

import pytest

from mlflow_proxy.listener.memo import Memo
from mlflow_proxy.settings import CacheSettings, ConnectionSettings, TlsSettings
from tests.certificates import Authority
from tests.integration.memo import (
    FACADE,
    FAST,
    LISTING,
    SLOW,
    Line,
    Slow,
    answered,
    ask,
    get,
    hot,
    line,
    memo_hits,
    shared,
)
from tests.integration.support import (
    API,
    CONFIG,
    HIT,
    MODEL,
    READ,
    SIGN,
    STORED,
    RawClient,
    RawReply,
    Upstream,
    metrics,
    proxied,
    raw,
    sampled,
    settle,
)
from tests.machine import Machine


def same(one: RawReply, other: RawReply) -> bool:
    """Whether two answers differ in nothing but what a second changes."""
    told = [[each for each in reply.headers if each[0] != "Age"] for reply in (one, other)]
    return (one.line, one.body, one.outcome) == (other.line, other.body, other.outcome) and [
        name for name, _ in told[0]
    ] == [name for name, _ in told[1]]


@pytest.mark.parametrize(
    "target",
    [
        LISTING,
        f"{LISTING}&path=data",
        f"{API}{SIGN}?name=m&version=1&path=MLmodel",
        READ,
        f"{API}{MODEL}?name=missing",
        f"{LISTING.replace('name=m', 'name=missing')}",
        CONFIG,
        FACADE,
    ],
)
async def test_what_was_a_hit_is_answered_by_the_memo(target: str) -> None:
    async with shared("token-a") as (url, workspace, _), line(url) as connection:
        replies = [await connection.ask(get(target)) for _ in range(5)]
        calls = len(workspace.arrivals)
        replies += [await connection.ask(get(target)) for _ in range(5)]
        assert await memo_hits(url) >= 7
        assert {reply.outcome for reply in replies[2:]} == {HIT}
        assert all(same(reply, replies[2]) for reply in replies[3:])
        assert len(workspace.arrivals) == calls
        text = await metrics(url)
    counted = sum(reply.outcome == HIT for reply in replies)
    assert sampled(text, "mlflow_proxy_requests_total", outcome=HIT) == counted
    assert sampled(text, "mlflow_proxy_request_seconds_count", outcome=HIT) == counted


async def test_age_and_ttl_are_those_of_the_moment() -> None:
    machine = Machine()
    async with shared("token-a", clock=machine.clock) as (url, _, _), line(url) as connection:
        for _ in range(3):
            await connection.ask(get())
        ages, left = [], []
        for _ in range(5):
            reply = await connection.ask(get())
            ages.append(int(reply.all("Age")[0]))
            left.append(int(reply.all("Cache-Status")[0].rpartition("=")[2]))
            machine.sleep(7)
        assert await memo_hits(url) == 6
    assert [age - ages[0] for age in ages] == [0, 7, 14, 21, 28]
    assert [left[0] - each for each in left] == [0, 7, 14, 21, 28]


# -- what is not remembered ------------------------------------------------------------------------

ODD: dict[str, tuple[bytes, ...]] = {
    "in two packets": (get()[:-2], get()[-2:]),
    "in single bytes": tuple(bytes([each]) for each in get()),
    "behind an empty line": (b"\r\n" + get(),),
    "with a body": (get(LISTING, "token-a", "Content-Length: 2") + b"{}",),
    "with a body to come": (get(LISTING, "token-a", "Content-Length: 2"), b"{}"),
    "with an expectation": (get(LISTING, "token-a", "Expect: 100-continue"),),
    "refusing what is stored": (get(LISTING, "token-a", "Cache-Control: no-cache"),),
    "with a long head": (get(LISTING, "token-a", f"X-Request-Id: {'x' * 9000}"),),
}


@pytest.mark.parametrize("parts", ODD.values(), ids=ODD)
async def test_what_is_odd_takes_the_slow_path(parts: tuple[bytes, ...]) -> None:
    async with shared("token-a") as (url, _, _), line(url) as connection:
        for _ in range(3):
            if b"Expect" in parts[0]:
                await connection.client.send(parts[0])
                go_on = await connection.client.reader.readuntil(b"\r\n\r\n")
                assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
                reply = await connection.reply()
            else:
                reply = await connection.ask(*parts)
            assert reply.status == 200 or b"Content-Length" in parts[0]
        assert await memo_hits(url) == 0


CLOSING = {
    "close": get(LISTING, "token-a", "Connection: close"),
    "upgrade": get(LISTING, "token-a", "Connection: upgrade", "Upgrade: h2c"),
    "HTTP/1.0": get().replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("request_", CLOSING.values(), ids=CLOSING)
async def test_connections_that_end_end_as_before(request_: bytes) -> None:
    async with shared("token-a") as (url, _, _):
        await hot(url, get())
        before = await memo_hits(url)
        for _ in range(3):
            async with line(url) as connection:
                await connection.client.send(request_)
                reply = await connection.client.rest()
            assert (reply.status, reply.broken) == (200, False)
        assert await memo_hits(url) == before


async def test_http_1_0_that_stays_is_told_so_each_time() -> None:
    request = get(LISTING, "token-a", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with shared("token-a") as (url, _, _), line(url) as connection:
        for _ in range(4):
            reply = await connection.ask(request)
            assert reply.line.startswith("HTTP/1.0 200")
            assert reply.all("Connection") == ["keep-alive"]
        assert await memo_hits(url) == 0


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with shared("token-a") as (url, _, _), line(url) as connection:
        await hot(url, get())
        await hot(url, other := get(READ))
        before = await memo_hits(url)
        for _ in range(3):
            await connection.client.send(get() + other + get())
            bodies = [(await connection.reply()).body for _ in range(3)]
            assert b"files" in bodies[0] == bodies[2]
            assert b"registered_model" in bodies[1]
        assert await memo_hits(url) == before


async def test_a_hit_behind_a_request_that_waits_waits_for_it(upstream: Upstream) -> None:
    slow = Slow(upstream)
    async with proxied(upstream.url) as url, line(url) as connection:
        await hot(url, get(READ))
        await connection.client.send(get(SLOW))
        while len(upstream.seen) < 2:
            await settle()
        await connection.client.send(get(READ))
        await settle()
        slow.go.set()
        assert [(await connection.reply()).body for _ in range(2)] == [b"slow", FAST]


# -- what is almost the same -----------------------------------------------------------------------

FIELDS = (b"Host: proxy.localhost\r\n", b"Authorization: Bearer token-a\r\n")
ALMOST = {
    "another token of equal length": get(token="token-b"),
    "another byte in the target": get(LISTING.replace("version=1", "version=2")),
    "another method of equal length": get().replace(b"GET", b"PUT"),
    "fields in another order": get().replace(b"".join(FIELDS), b"".join(FIELDS[::-1])),
    "a field's name in another case": get().replace(b"Host:", b"host:"),
    "a field more": get(LISTING, "token-a", "X-Request-Id: 1"),
    "another host": get().replace(b"proxy.localhost", b"proxy.local-ost"),
}


@pytest.mark.parametrize("request_", ALMOST.values(), ids=ALMOST)
async def test_another_head_is_another_question(request_: bytes) -> None:
    async with shared("token-a") as (url, _, _):
        await hot(url, get())
        before = await memo_hits(url)
        reply = await ask(url, request_)
        assert await memo_hits(url) == before
    async with shared("token-a") as (cold, _, _):
        await ask(cold, get())
        alone = await ask(cold, request_)
    # Not the bodies: each workspace has other storage.
    assert (reply.status, len(reply.body), reply.outcome) == (alone.status, len(alone.body), alone.outcome)


# -- what is kept ----------------------------------------------------------------------------------


async def test_it_is_bounded() -> None:
    cache = CacheSettings(memo_bytes=10_000, mutable_ttl=3600)
    async with shared(*(f"token-{n}" for n in range(50)), cache=cache) as (url, _, _):
        for number in range(50):
            await hot(url, get(token=f"token-{number}"))
        status = (await raw(url, "GET", "/-/status.json")).json()
        assert 5_000 < status["cache"]["memo_bytes"] <= 10_000


async def test_none_is_kept_if_the_operator_says_so() -> None:
    async with shared("token-a", cache=CacheSettings(memo_bytes=0)) as (url, _, _), line(url) as connection:
        for _ in range(4):
            reply = await connection.ask(get())
        assert reply.outcome == HIT
        assert await memo_hits(url) == 0


async def test_addresses_are_told_apart_where_they_count(upstream: Upstream) -> None:
    """A proxy that passes on where its clients are asks for each address: the upstream may refuse some."""
    upstream.respond = answered(FAST)
    connections = ConnectionSettings(forwarded_fields="always")
    request = get(READ)
    async with proxied(upstream.url, connections=connections, host=("127.0.0.1", "127.0.0.2")) as url:
        await hot(url, request)
        calls = len(upstream.seen)
        reader, writer = await asyncio.open_connection(
            *url.removeprefix("http://").split(":"), local_addr=("127.0.0.3", 0)
        )
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert STORED.encode() in head
        assert len(upstream.seen) == calls + 1
        assert upstream.seen[-1].all("X-Forwarded-For") == ["127.0.0.3"]


async def test_a_connection_that_is_older_than_that_remembers_nothing(upstream: Upstream) -> None:
    """Whether addresses count may change while a connection is open, whose digests say nothing of its own."""
    upstream.respond = answered(FAST)
    async with proxied(upstream.url) as url, line(url) as connection:
        await connection.ask(get(READ))
        for memo in [each for each in gc.get_objects() if isinstance(each, Memo)]:
            memo.by_address = lambda: True
        for _ in range(4):
            assert (await connection.ask(get(READ))).outcome in {STORED, HIT}
        assert await memo_hits(url) == 0


async def test_hits_by_tls_are_answered_too(upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("proxy")
    settings = TlsSettings(certificate=str(pair.certificate), key=str(pair.key))
    upstream.respond = answered(FAST)
    others = {id(each) for each in gc.get_objects() if isinstance(each, Memo)}
    async with proxied(upstream.url, tls=settings) as url:
        host, _, port = url.removeprefix("https://").partition(":")
        connection = await asyncio.open_connection(host, port, ssl=authority.client())
        async with RawClient(*connection) as client:
            replies = [await Line(client).ask(get(READ)) for _ in range(5)]
        assert [reply.outcome for reply in replies] == [STORED, HIT, HIT, HIT, HIT]
        assert all(same(reply, replies[1]) for reply in replies[2:])
        [memo] = [each for each in gc.get_objects() if isinstance(each, Memo) and id(each) not in others]
        assert memo.hits == 3


async def test_no_credential_lies_in_what_is_remembered() -> None:
    secret = "dapi-only-in-heads"
    async with shared(secret) as (url, _, _):
        await hot(url, get(token=secret))
        memos = [each for each in gc.get_objects() if isinstance(each, Memo) and len(each)]
        held = repr([vars(each) for each in memos])
    assert memos
    assert secret not in held
