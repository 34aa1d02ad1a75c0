"""What the memo of hits rests on, and where it is not asked.

Each test that expects a change keeps the memo hot until then: without the check that it is about, the memo
would answer as before.
"""

import asyncio
import dataclasses
from pathlib import Path
from typing import cast

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings, ConnectionSettings, Settings
from tests.integration.conftest import guarded
from tests.integration.framing import send
from tests.integration.memo import (
    FACADE,
    FAST,
    LISTING,
    PROVEN,
    SLOW,
    TOKEN_A,
    Slow,
    answered,
    ask,
    get,
    hot,
    line,
    memo_hits,
    shared,
)
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
    STORED,
    Inbound,
    Upstream,
    answering,
    metrics,
    proxied,
    raw,
    sampled,
    settle,
    until_shared,
)
from tests.machine import Machine

# -- what ends it ----------------------------------------------------------------------------------


LARGE = b'{"registered_model": {"name": "m", "description": "%b"}}' % (b"x" * 60_000)


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
    machine, cache = Machine(), CacheSettings(listing_ttl=50, unverified_ttl=50)
    async with shared("token-a", clock=machine.clock, cache=cache) as (url, _, _):
        await hot(url, get())
        machine.sleep(51)
        assert (await ask(url, get())).outcome == STORED


async def test_the_end_of_a_listing_above_ends_a_directorys() -> None:
    """Door A finds out in the listings above what a client means."""
    root = FACADE.removesuffix("/data")
    machine, cache = Machine(), CacheSettings(listing_ttl=50, unverified_ttl=50)
    async with shared("token-a", clock=machine.clock, cache=cache) as (url, workspace, _):
        await ask(url, get(root))
        machine.sleep(40)
        await hot(url, get(FACADE))
        calls = len(workspace.arrivals.to(LIST))
        machine.sleep(20)
        assert (await ask(url, get(FACADE))).outcome == HIT
        assert len(workspace.arrivals.to(LIST)) == calls + 1


async def test_a_permission_that_is_withdrawn_ends_it_with_the_proof() -> None:
    machine = Machine()
    async with shared("token-a", "token-b", clock=machine.clock) as (url, _, model):
        await hot(url, get(token="token-a"))
        await hot(url, get(token="token-b"))
        model.readers = frozenset({"token-b"})
        machine.sleep(PROVEN.proof_ttl + 1)
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
    machine = Machine()
    async with proxied(workspace.url, access=by_file, clock=machine.clock) as url:
        await hot(url, get(token="token-a"))
        await hot(url, get(token="token-b"))
        replace(clients_file, clients_toml({"job-b": JOBS["job-b"]}))
        machine.sleep(3)
        assert (await ask(url, get(token="token-a"))).status == 401
        assert (await ask(url, get(token="token-b"))).outcome == HIT


async def test_the_proxys_own_token_is_another_principals(
    workspace: EmulatedWorkspace, by_file: AccessSettings, token_file: Path
) -> None:
    machine = Machine()
    async with proxied(workspace.url, access=by_file, clock=machine.clock) as url:
        await hot(url, get())
        calls = len(workspace.arrivals.to(LIST))
        replace(token_file, "another-principal\n")
        machine.sleep(3)
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
    machine, access = Machine(), AccessSettings(sharing="service", token_file=str(token_file))
    async with proxied(workspace.url, access=access, clock=machine.clock) as url:
        await hot(url, get())
        replace(token_file, "another-principal")
        machine.sleep(3)
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
    machine = Machine()
    async with proxied(workspace.url, access=by_file, clock=machine.clock) as url, line(url) as connection:
        await hot(url, get())
        await hot(url, other := get(f"{LISTING}&path=data"))
        machine.sleep(1.5)
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


async def untaken(url: str, count: int, name: str, **labels: str) -> float:
    """Return how many of so many requests are answered to a client that reads none of the answers."""
    async with line(url) as connection:
        transport = cast("asyncio.Transport", connection.client.writer.transport)
        transport.pause_reading()
        before, last = sampled(await metrics(url), name, **labels), -1.0
        await send(connection.client, [get(READ)] * count)
        while (now := sampled(await metrics(url), name, **labels)) != last:
            last = now
            await settle()
        transport.resume_reading()
        for _ in range(count):
            assert (await connection.reply()).body == LARGE
    return now - before


async def test_a_client_that_does_not_read_is_not_answered_on(upstream: Upstream) -> None:
    """What is ready for a client that takes nothing is one answer, and the sockets' buffers."""
    upstream.respond = answered(LARGE)
    async with proxied(upstream.url) as url:
        await hot(url, get(READ))
        assert 5 < await untaken(url, 500, "mlflow_proxy_memo_hits_total") < 400


async def test_nor_is_it_by_the_slow_path(upstream: Upstream) -> None:
    upstream.respond = answered(LARGE)
    async with proxied(upstream.url, cache=CacheSettings(memo_bytes=0, mutable_ttl=3600)) as url:
        await ask(url, get(READ))
        await ask(url, get(READ))
        assert 5 < await untaken(url, 500, "mlflow_proxy_requests_total", outcome=HIT) < 400


async def test_a_client_that_hangs_up_disturbs_no_other(workspace: EmulatedWorkspace) -> None:
    async with shared("token-a") as (url, _, _):
        await hot(url, get())
        for _ in range(20):
            async with line(url) as gone:
                await gone.client.send(get())
        async with line(url) as connection:
            assert (await connection.ask(get())).outcome == HIT
