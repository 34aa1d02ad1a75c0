"""A proxy in front of a proxy: the inner one paces, both cache."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import BudgetSettings, CacheSettings
from tests.integration.conftest import FILES
from tests.integration.support import (
    MODEL,
    SIGN,
    Api,
    Inbound,
    Upstream,
    answering,
    count,
    proxied,
)

DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
SLOW = BudgetSettings(registry_limit=1, patience=3)
"""What would send most calls away, if it were kept to."""


@asynccontextmanager
async def chained(upstream: str, budget: BudgetSettings | None = None) -> AsyncIterator[tuple[str, str]]:
    """Serve a proxy, and another in front of it; yields the URLs of the outer and the inner one."""
    async with proxied(upstream) as inner, proxied(inner, budget=budget) as outer:
        yield outer, inner


def said(status: str, *headers: str, body: bytes = b"{}") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


BY_PROXY = "Cache-Status: mlflow-proxy; fwd=miss"


async def test_the_pacing_is_left_to_the_proxy_behind(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with chained(workspace.url, SLOW) as (outer, _):
        api = Api(session, outer)
        await api.get(MODEL, name="first")
        replies = await asyncio.gather(*(api.get(MODEL, name=f"n{number}") for number in range(20)))
        assert {reply.status for reply in replies} == {404}
        assert len(workspace.arrivals) == 21


async def test_calls_that_wait_leave_as_soon_as_the_proxy_behind_is_known(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with chained(workspace.url, BudgetSettings(registry_limit=1, patience=600)) as (outer, inner):
        workspace.hold()
        api = Api(session, outer)
        calls = [asyncio.create_task(api.get(MODEL, name=f"n{number}")) for number in range(50)]
        await api.until_metric("mlflow_proxy_queue_depth", 49)
        await Api(session, inner).until_metric("mlflow_proxy_flights", 1)
        workspace.release()
        assert {reply.status for reply in await asyncio.gather(*calls)} == {404}
        assert (await api.budgets())["registry"]["in_window"] <= 2


async def test_it_paces_again_when_a_workspace_answers(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.respond = answering(said("200 OK", BY_PROXY))
    async with proxied(upstream.url, budget=SLOW) as url:
        api = Api(session, url)
        for number in range(10):
            assert (await api.get(MODEL, name=f"m{number}")).status == 200
        upstream.respond = answering(said("200 OK", "Cache-Status: another-cache; fwd=miss"))
        await api.get(MODEL, name="n")
        replies = await asyncio.gather(*(api.get(MODEL, name=f"n{number}") for number in range(10)))
        assert 429 in {reply.status for reply in replies}


async def test_each_proxy_in_front_has_its_share(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """Also when all of them use the same credential."""
    slow = BudgetSettings(registry_limit=1, patience=600)
    async with (
        proxied(workspace.url, budget=slow) as inner,
        proxied(inner) as one,
        proxied(inner) as two,
    ):
        workspace.hold()
        apis = [Api(session, url) for url in (one, two)]
        # The first answer shows each of them who is behind it.
        first = [asyncio.create_task(api.get(MODEL, name="m")) for api in apis]
        await workspace.until(count(1))
        workspace.release()
        assert [(await each).status for each in first] == [200, 200]
        calls = [
            asyncio.create_task(api.get(MODEL, name=f"{api.url}-{number}"))
            for api in apis
            for number in range(3)
        ]
        behind = Api(session, inner)
        while (await behind.budgets())["registry"]["queued"]["interactive"] < 5:
            pass
        assert (await behind.budgets())["registry"]["clients"] == 2
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_the_workspace_never_hears_on_whose_behalf(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    seen: list[Inbound] = upstream.seen
    async with chained(upstream.url) as (outer, inner):
        api = Api(session, outer)
        for path in (MODEL + "?name=a", MODEL + "?name=b", "/unknown", "/unknown"):
            await api.call("GET", path)
        own = {"Mlflow-Proxy-Client": "somebody"}
        await api.call("GET", "/unknown", headers=own)
        await Api(session, inner).call("GET", MODEL + "?name=c", headers=own)
    assert len(seen) == 6
    assert [inbound.all("Mlflow-Proxy-Client") for inbound in seen] == [[]] * 6


async def test_answers_of_all_in_front_are_one_in_the_proxy_behind(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url) as inner, proxied(inner) as one, proxied(inner) as two:
        for url in (one, two, one):
            for _ in range(3):
                assert (await Api(session, url).get(MODEL, name="m")).status == 200
        assert len(workspace.arrivals) == 1
        assert await Api(session, inner).metric("mlflow_proxy_requests_total", route=MODEL) == 2


async def test_an_answer_is_no_younger_for_having_come_through_two(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    model = b'{"registered_model": {"name": "m"}}'
    upstream.respond = answering(said("200 OK", BY_PROXY, "Age: 900", body=model))
    async with proxied(upstream.url, cache=CacheSettings(mutable_ttl=1000)) as url:
        api = Api(session, url)
        await api.get(MODEL, name="m")
        reply = await api.get(MODEL, name="m")
        assert 900 <= int(reply.headers["Age"]) < 1000
        upstream.respond = answering(said("200 OK", BY_PROXY, "Age: 1000", body=model))
        await api.get(MODEL, name="old")
        await api.get(MODEL, name="old")
    assert len(upstream.seen) == 3


async def test_a_refusal_of_the_proxy_behind_is_passed_on_if_it_outlasts_patience(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.respond = answering(said("429 Too Many Requests", BY_PROXY, "Retry-After: 50"))
    async with proxied(upstream.url, budget=BudgetSettings(patience=40)) as url:
        reply = await Api(session, url).get(MODEL, name="m")
        assert (reply.status, reply.headers["Retry-After"]) == (429, "50")
        assert (await Api(session, url).budgets())["registry"]["pause_seconds"] <= 60
    assert len(upstream.seen) == 1


async def test_a_refusal_that_patience_outlasts_is_not_seen(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    answers = iter([said("429 Too Many Requests", BY_PROXY, "Retry-After: 0"), said("200 OK", BY_PROXY)])

    async def respond(inbound: Inbound) -> None:
        await inbound.body()
        await inbound.send(next(answers))

    upstream.respond = respond
    async with proxied(upstream.url) as url:
        assert (await Api(session, url).get(MODEL, name="m")).status == 200
    assert len(upstream.seen) == 2


async def test_what_the_proxy_behind_has_repeated_is_not_repeated_again(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.respond = answering(said("502 Bad Gateway", BY_PROXY))
    async with proxied(upstream.url) as url:
        assert (await Api(session, url).get(MODEL, name="m")).status == 502
    assert len(upstream.seen) == 1


async def test_files_of_models_through_two_proxies(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with chained(workspace.url) as (outer, _):
        api = Api(session, outer)
        uri = await api.get("model-versions/get-download-uri", name="m", version="1")
        assert uri.json() == {"artifact_uri": "mlflow-artifacts:/mlflow-proxy/m/1"}
        for _ in range(2):
            reply = await api.call("GET", DOWNLOAD)
            assert (reply.status, reply.body) == (200, FILES["MLmodel"])
    assert len(workspace.arrivals.to("model-versions/get-signed-download-uri")) == 1


@pytest.mark.parametrize(("lag", "lifetime", "stored"), [(3600, 900, True), (-3600, 60, False)])
async def test_a_signed_url_expires_by_the_clock_that_signed_it(
    upstream: Upstream, session: aiohttp.ClientSession, lag: int, lifetime: int, stored: bool
) -> None:
    """Whichever way this machine's clock is an hour off."""
    signed = datetime.now(UTC) - timedelta(seconds=lag)
    query = f"X-Amz-Date={signed:%Y%m%dT%H%M%SZ}&X-Amz-Expires={lifetime}&X-Amz-Signature=0"
    body = json.dumps({"signed_uri": f"https://storage.test/f?{query}"}).encode()
    upstream.respond = answering(said("200 OK", f"Date: {format_datetime(signed, usegmt=True)}", body=body))
    async with proxied(upstream.url) as url:
        for _ in range(2):
            reply = await Api(session, url).get(SIGN, name="m", version="1", path="f")
            assert reply.status == 200
    assert len(upstream.seen) == (1 if stored else 2)
