"""What is stored answers whoever asks the same question again, unless the workspace's own word is wanted."""

import asyncio
from typing import Any

import aiohttp
import pytest

from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import CacheSettings
from tests.integration.support import (
    API,
    BYPASS,
    CONFIG,
    FRESH,
    HIT,
    LATEST,
    LIST,
    MISS,
    MODEL,
    SIGN,
    STORED,
    Api,
    count,
    proxied,
    settle,
)


@pytest.mark.parametrize(
    ("method", "endpoint", "parameters"),
    [
        ("GET", MODEL, {"name": "m"}),
        ("GET", "registered-models/alias", {"name": "m", "alias": "champion"}),
        ("GET", "registered-models/search", {"max_results": "5"}),
        ("POST", LATEST, {"name": "m", "stages": ["Production"]}),
        ("GET", "model-versions/get", {"name": "m", "version": "1"}),
        ("GET", "model-versions/search", {"filter": "name='m'"}),
        ("GET", "model-versions/get-download-uri", {"name": "m", "version": "1"}),
        ("GET", LIST, {"name": "m", "version": "1", "path": "data"}),
        ("GET", SIGN, {"name": "m", "version": "1", "path": "MLmodel"}),
        ("GET", CONFIG, {}),
        ("GET", "/oidc/.well-known/oauth-authorization-server", {}),
    ],
)
async def test_the_second_answer_comes_from_the_store(
    workspace: EmulatedWorkspace, api: Api, method: str, endpoint: str, parameters: dict[str, Any]
) -> None:
    stored = await api.call(method, endpoint, parameters)
    hit = await api.call(method, endpoint, parameters)
    assert (stored.status, stored.outcome, stored.headers.get("Age")) == (200, STORED, None)
    assert (hit.status, hit.outcome, hit.body) == (200, HIT, stored.body)
    assert hit.headers["Age"].isdigit()
    assert stored.ttl is None
    assert hit.ttl is not None
    assert 0 <= hit.ttl <= 3600
    assert hit.headers["Content-Type"] == stored.headers["Content-Type"]
    assert len(workspace.arrivals) == 1


async def test_nothing_is_hit_beyond_its_lifetime(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    cache = CacheSettings(
        listing_ttl=0, unverified_ttl=0, pending_ttl=0, mutable_ttl=0, not_found_ttl=0, discovery_ttl=0,
        signed_url_margin=10**6,
    )  # fmt: skip
    async with proxied(workspace.url, cache=cache) as url:
        api = Api(session, url)
        for _ in range(2):
            assert (await api.get(MODEL, name="m")).outcome == MISS
            assert (await api.get(MODEL, name="nobody")).outcome == MISS
            assert (await api.get(LIST, name="m", version="1")).outcome == MISS
            assert (await api.get(SIGN, name="m", version="1", path="MLmodel")).outcome == MISS
            assert (await api.get(CONFIG)).outcome == MISS
        assert await api.metric("mlflow_proxy_cache_entries") == 0


@pytest.mark.parametrize("prefix", ["/api/2.0/preview/mlflow/", "/ajax-api/2.0/mlflow/"])
async def test_each_prefix_is_asked_for_itself_and_written_for_all(
    workspace: EmulatedWorkspace, api: Api, prefix: str
) -> None:
    endpoints = [MODEL, prefix + MODEL]
    for outcome in (STORED, HIT):
        assert [(await api.get(endpoint, name="m")).outcome for endpoint in endpoints] == [outcome] * 2
    assert [arrival.target for arrival in workspace.arrivals] == [
        f"{API}{MODEL}?name=m",
        f"{prefix}{MODEL}?name=m",
    ]
    await api.call("PATCH", prefix + "registered-models/update", {"name": "m", "description": "new"})
    for endpoint in endpoints:
        reply = await api.get(endpoint, name="m")
        assert reply.outcome == STORED
        assert reply.json()["registered_model"]["description"] == "new"


async def test_spellings_of_one_directory_are_one_listing(workspace: EmulatedWorkspace, api: Api) -> None:
    bodies = {(await api.call("GET", f"{LIST}?{query}")).body for query in (
        "name=m&version=1", "version=1&name=m", "name=m&version=1&path=", "name=m&version=1&path=/",
        "name=m&version=1&page_token=",
    )}  # fmt: skip
    assert len(bodies) == 1
    assert len(workspace.arrivals) == 1
    for path in ("data", "data/", "dat%61"):
        await api.call("GET", f"{LIST}?name=m&version=1&path={path}")
    assert len(workspace.arrivals) == 2


@pytest.mark.parametrize("field", [{"Cache-Control": "no-cache"}, {"Pragma": "no-cache"}])
async def test_a_client_can_ask_for_the_workspaces_own_word(
    workspace: EmulatedWorkspace, api: Api, field: dict[str, str]
) -> None:
    await api.get(MODEL, name="m")
    reply = await api.call("GET", MODEL, {"name": "m"}, headers=field)
    assert reply.outcome == FRESH
    assert len(workspace.arrivals) == 2


async def test_the_workspaces_own_word_is_not_one_that_was_asked_for_before(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.hold()
    early = asyncio.create_task(api.get(MODEL, name="m"))
    await workspace.until(count(1))
    field = {"Cache-Control": "no-cache"}
    fresh = asyncio.create_task(api.call("GET", MODEL, {"name": "m"}, headers=field))
    await settle()
    workspace.release()
    assert [reply.outcome for reply in await asyncio.gather(early, fresh)] == [STORED, FRESH]
    assert len(workspace.arrivals) == 2


async def test_ambiguous_reads_are_not_shared(workspace: EmulatedWorkspace, api: Api) -> None:
    for query in ("name=m&name=m", "name=m&x=%zz", "name=m;x"):
        for _ in range(2):
            assert (await api.call("GET", f"{MODEL}?{query}")).outcome == BYPASS
    assert len(workspace.arrivals) == 6
