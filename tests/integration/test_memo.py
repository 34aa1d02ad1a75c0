"""The memo of hits: it repeats what the slow path answered, and only while the slow path would.

Each test that expects a change keeps the memo hot until then: without the check that it is about, the memo
would answer as before.
"""

import asyncio
import dataclasses
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mlflow_proxy.clock import Clock
from mlflow_proxy.demo.models import Model
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.listener.memo import Memo
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings, ConnectionSettings, Settings
from tests.integration.conftest import guarded, sample
from tests.integration.memo import LISTING, get, hot, line, memo_hits
from tests.integration.service import JOBS, NEXT, PRINCIPAL, clients_toml, replace
from tests.integration.slow_clients import HEAD, IDLE, Advance
from tests.integration.support import (
    API,
    CONFIG,
    HIT,
    LIST,
    MODEL,
    MUCH,
    READ,
    SIGN,
    STORED,
    Inbound,
    RawReply,
    Respond,
    Upstream,
    answering,
    proxied,
    raw,
    settle,
    until_shared,
)

TOKEN_A = [("Authorization", "Bearer token-a")]
PROVEN = AccessSettings(sharing="proven")
SLOW = "/api/2.0/slow/thing"
FACADE = "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/m/1/data"


class Hands:
    """The hands of both clocks: `turn` lets seconds pass."""

    def __init__(self) -> None:
        self._passed = 0.0
        self.clock = Clock(lambda: time.monotonic() + self._passed, lambda: time.time() + self._passed)

    def turn(self, seconds: float) -> None:
        self._passed += seconds


@asynccontextmanager
async def shared(
    *readers: str, hands: Hands | None = None, **settings: object
) -> AsyncIterator[tuple[str, EmulatedWorkspace, Model]]:
    """Serve a workspace whose model these tokens may read, to clients that share answers by proof."""
    model = sample()
    model.readers = frozenset(readers)
    clock = None if hands is None else hands.clock
    async with (
        EmulatedWorkspace([model], WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proxied(workspace.url, access=PROVEN, clock=clock, **settings) as url,  # type: ignore[arg-type]
    ):
        yield url, workspace, model


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
        text = (await raw(url, "GET", "/-/metrics")).body.decode()
    counted = sum(reply.outcome == HIT for reply in replies)
    assert sampled(text, "mlflow_proxy_requests_total") == counted
    assert sampled(text, "mlflow_proxy_request_seconds_count") == counted


def sampled(text: str, name: str) -> float:
    """Return the sum of a metric's samples about hits."""
    lines = [each for each in text.splitlines() if each.startswith(name) and f'outcome="{HIT}"' in each]
    return sum(float(each.rpartition(" ")[2]) for each in lines)


async def test_age_and_ttl_are_those_of_the_moment() -> None:
    hands = Hands()
    async with shared("token-a", hands=hands) as (url, _, _), line(url) as connection:
        for _ in range(3):
            await connection.ask(get())
        ages, left = [], []
        for _ in range(5):
            reply = await connection.ask(get())
            ages.append(int(reply.all("Age")[0]))
            left.append(int(reply.all("Cache-Status")[0].rpartition("=")[2]))
            hands.turn(7)
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


async def ask(url: str, request: bytes) -> RawReply:
    async with line(url) as connection:
        return await connection.ask(request)


# -- what ends it ----------------------------------------------------------------------------------


async def test_a_write_ends_it() -> None:
    body = b'{"name": "m", "description": "new!"}'
    fields = [*TOKEN_A, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    async with shared("token-a") as (url, _, _):
        await hot(url, get(READ))
        assert (await raw(url, "PATCH", f"{API}registered-models/update", fields, body)).status == 200
        reply = await ask(url, get(READ))
        assert reply.outcome == STORED
        assert reply.json()["registered_model"]["description"] == "new!"


async def test_a_purge_ends_it() -> None:
    async with shared("token-a") as (url, workspace, _):
        await hot(url, get())
        calls = len(workspace.arrivals.to(LIST))
        assert (await raw(url, "POST", "/-/purge?all=true")).status == 200
        assert (await ask(url, get())).outcome == STORED
        assert len(workspace.arrivals.to(LIST)) == calls + 1


async def test_the_end_of_the_answers_lifetime_ends_it() -> None:
    hands, cache = Hands(), CacheSettings(listing_ttl=50, unverified_ttl=50)
    async with shared("token-a", hands=hands, cache=cache) as (url, _, _):
        await hot(url, get())
        hands.turn(51)
        assert (await ask(url, get())).outcome == STORED


async def test_a_permission_that_is_withdrawn_ends_it_with_the_proof() -> None:
    hands = Hands()
    async with shared("token-a", "token-b", hands=hands) as (url, _, model):
        await hot(url, get(token="token-a"))
        await hot(url, get(token="token-b"))
        model.readers = frozenset({"token-b"})
        hands.turn(PROVEN.proof_ttl + 1)
        assert (await ask(url, get(token="token-a"))).status == 403
        assert (await ask(url, get(token="token-b"))).status == 200


async def test_a_refusal_of_anything_about_the_model_ends_it() -> None:
    version = f"{API}model-versions/get?name=m&version=1"
    async with shared("token-a", "token-b") as (url, _, model):
        await hot(url, get())
        model.readers = frozenset({"token-b"})
        assert (await ask(url, get())).outcome == HIT  # by the proof
        assert (await ask(url, get(version, "token-a", "Cache-Control: no-cache"))).status == 403
        assert (await ask(url, get())).status == 403


async def test_a_write_of_permissions_ends_it() -> None:
    async with shared("token-a", "token-b") as (url, _, model):
        await hot(url, get())
        model.readers = frozenset({"token-b"})
        headers = [("Authorization", "Bearer token-b"), ("Content-Length", "2")]
        await raw(url, "PATCH", "/api/2.0/permissions/registered-models/1", headers, b"{}")
        assert (await ask(url, get())).status == 403


async def test_a_client_that_is_shut_out_is_refused(
    workspace: EmulatedWorkspace, by_file: AccessSettings, clients_file: Path
) -> None:
    hands = Hands()
    async with proxied(workspace.url, access=by_file, clock=hands.clock) as url:
        await hot(url, get(token="token-a"))
        await hot(url, get(token="token-b"))
        replace(clients_file, clients_toml({"job-b": JOBS["job-b"]}))
        hands.turn(3)
        assert (await ask(url, get(token="token-a"))).status == 401
        assert (await ask(url, get(token="token-b"))).outcome == HIT


async def test_the_proxys_own_token_is_another_principals(
    workspace: EmulatedWorkspace, by_file: AccessSettings, token_file: Path
) -> None:
    hands = Hands()
    async with proxied(workspace.url, access=by_file, clock=hands.clock) as url:
        await hot(url, get())
        calls = len(workspace.arrivals.to(LIST))
        replace(token_file, "another-principal\n")
        hands.turn(3)
        assert (await ask(url, get())).outcome == STORED
        assert len(workspace.arrivals.to(LIST)) == calls + 1


async def test_a_principal_that_the_workspace_refuses_ends_at_once(token_file: Path) -> None:
    access = AccessSettings(sharing="service", token_file=str(token_file))
    async with guarded(PRINCIPAL, NEXT) as workspace, proxied(workspace.url, access=access) as url:
        await hot(url, get())
        workspace.options = dataclasses.replace(workspace.options, tokens=frozenset({NEXT}))
        replace(token_file, NEXT)
        assert (await raw(url, "GET", f"{API}{MODEL}?name=m")).status == 200  # is refused, and reads the file
        assert (await ask(url, get())).outcome == STORED


async def test_the_proxys_own_token_is_looked_at_each_second(
    workspace: EmulatedWorkspace, token_file: Path
) -> None:
    hands, access = Hands(), AccessSettings(sharing="service", token_file=str(token_file))
    async with proxied(workspace.url, access=access, clock=hands.clock) as url:
        await hot(url, get())
        replace(token_file, "another-principal")
        hands.turn(3)
        assert (await ask(url, get())).outcome == STORED


async def test_another_kind_of_upstream_ends_it(upstream: Upstream) -> None:
    """Answers are shared in another way from then on: who has no proof needs one."""
    document, status = b'{"oidc_endpoint": "https://w/oidc"}', b"503 Down"

    async def respond(inbound: Inbound) -> None:
        if inbound.target == CONFIG:
            head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(document))
            await answering(head + document)(inbound)
        else:
            await answered(FAST if MODEL in inbound.target else b'{"files": []}')(inbound)

    upstream.respond = respond
    async with proxied(upstream.url, access=AccessSettings(sharing="auto")) as url:
        await hot(url, get())
        status = b"200 OK"
        await until_shared(url)
        before = await memo_hits(url)
        await ask(url, get())
        assert await memo_hits(url) == before
        assert [each.target for each in upstream.seen if MODEL in each.target] == [READ]


async def test_what_is_confirmed_goes_on(workspace: EmulatedWorkspace, by_file: AccessSettings) -> None:
    """The files are looked at each second: one request does, and what they said still holds for all."""
    hands = Hands()
    async with proxied(workspace.url, access=by_file, clock=hands.clock) as url, line(url) as connection:
        await hot(url, get())
        await hot(url, other := get(f"{LISTING}&path=data"))
        hands.turn(1.5)
        before = await memo_hits(url)
        assert (await connection.ask(get())).outcome == HIT  # looks
        assert await memo_hits(url) == before
        assert (await connection.ask(other)).outcome == HIT
        assert await memo_hits(url) == before + 1


async def test_an_evicted_answer_is_asked_for_again() -> None:
    one = get(READ)
    cache = CacheSettings(max_bytes=4000, mutable_ttl=3600)
    async with shared("token-a", cache=cache) as (url, _, _), line(url) as connection:
        await hot(url, one)
        for number in range(4):
            await connection.ask(get(f"{API}{MODEL}?name=other-{number}"))
        assert (await connection.ask(one)).outcome == STORED


async def test_the_memo_keeps_what_it_answers_from_being_evicted() -> None:
    one = get(READ)
    cache = CacheSettings(max_bytes=8000, mutable_ttl=3600, not_found_ttl=3600)
    async with shared("token-a", cache=cache) as (url, _, _), line(url) as connection:
        await hot(url, one)
        for number in range(20):
            await connection.ask(get(f"{API}{MODEL}?name=other-{number}"))
            assert (await connection.ask(one)).outcome == HIT
        assert await memo_hits(url) == 21


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


# -- limits and ends -------------------------------------------------------------------------------


async def test_requests_above_the_limit_are_refused_all_the_same(upstream: Upstream) -> None:
    slow = Slow(upstream)
    async with proxied(upstream.url, connections=ConnectionSettings(max_requests=1)) as url:
        await hot(url, get(READ))
        async with line(url) as waiting, line(url) as connection:
            await waiting.client.send(get(SLOW))
            while len(upstream.seen) < 2:
                await settle()
            assert (await connection.ask(get(READ))).status == 503
            slow.go.set()
            await waiting.reply()
            assert (await connection.ask(get(READ))).status == 200


async def test_a_proxy_that_leaves_closes_behind_its_answer(
    workspace: EmulatedWorkspace, advance: Advance
) -> None:
    settings = Settings(
        upstream=workspace.url,
        port=0,
        shutdown_delay=5,
        shutdown_grace=0.01,
        access=PROVEN,
        budget=BudgetSettings(registry_limit=MUCH),
    )
    served = serving(settings)
    url = await served.__aenter__()
    async with line(url) as connection:
        await hot(url, get())
        ending = asyncio.create_task(served.__aexit__(None, None, None))
        await settle()
        reply = await connection.ask(get())
        assert reply.all("Connection") == ["close"]
        assert await connection.client.reader.read() == b""
        advance(settings.shutdown_delay)
        await ending


async def test_what_it_answers_keeps_a_connection_from_being_idle(advance: Advance) -> None:
    async with shared("token-a") as (url, _, _), line(url) as connection:
        await hot(url, get())
        for _ in range(4):
            assert (await connection.ask(get())).status == 200
            advance(IDLE / 2)
            await settle()
        advance(IDLE)
        await settle()
        assert await connection.client.reader.read() == b""


async def test_a_connection_whose_first_request_it_answers_stays_open(advance: Advance) -> None:
    async with shared("token-a") as (url, _, _):
        await hot(url, get())
        async with line(url) as connection:
            before = await memo_hits(url)
            assert (await connection.ask(get())).status == 200
            assert await memo_hits(url) == before + 1
            advance(HEAD + 1)
            await settle()
            assert (await connection.ask(get())).status == 200


async def test_a_client_that_does_not_read_is_not_answered_on(upstream: Upstream) -> None:
    """What is ready for a client that takes nothing is one answer, and the sockets' buffers."""
    large = b'{"registered_model": {"name": "m", "description": "%b"}}' % (b"x" * 60_000)
    upstream.respond = answered(large)
    request = get(READ)
    async with proxied(upstream.url) as url, line(url) as connection:
        await hot(url, request)
        connection.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before, last = await memo_hits(url), -1
        for _ in range(500):
            await connection.client.send(request)
            for _ in range(5):  # each in a packet of its own
                await asyncio.sleep(0)
        while (hits := await memo_hits(url)) != last:
            last = hits
            await settle()
        assert 5 < hits - before < 400
        connection.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(500):
            assert (await connection.reply()).body == large


async def test_a_client_that_hangs_up_disturbs_no_other(workspace: EmulatedWorkspace) -> None:
    async with shared("token-a") as (url, _, _):
        await hot(url, get())
        for _ in range(20):
            async with line(url) as gone:
                await gone.client.send(get())
        async with line(url) as connection:
            assert (await connection.ask(get())).outcome == HIT


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


async def test_no_credential_lies_in_what_is_remembered() -> None:
    secret = "dapi-only-in-heads"
    async with shared(secret) as (url, _, _):
        await hot(url, get(token=secret))
        memos = [each for each in gc.get_objects() if isinstance(each, Memo) and len(each)]
        held = repr([vars(each) for each in memos])
    assert memos
    assert secret not in held
