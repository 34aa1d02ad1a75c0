"""A read after a write sees it, however the write ended."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault, Hang, Reset
from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import CacheSettings
from tests.integration.support import (
    API,
    BYPASS,
    HIT,
    LIST,
    MISS,
    MODEL,
    OK,
    SIGN,
    STORED,
    Api,
    Inbound,
    RawClient,
    Upstream,
    count,
    first,
    proxied,
    raw,
    request_bytes,
    settle,
)


def only(method: str, fault: Fault) -> Callable[[web.Request], Fault | None]:
    return lambda request: fault if request.method == method else None


_WRITES: list[tuple[str, str, dict[str, Any], str, dict[str, str]]] = [
    ("PATCH", "registered-models/update", {"name": "m", "description": "d"}, MODEL, {"name": "m"}),
    ("POST", "registered-models/set-tag", {"name": "m", "key": "k", "value": "v"}, MODEL, {"name": "m"}),
    ("POST", "registered-models/create", {"name": "n"}, "registered-models/search", {}),
    ("DELETE", "registered-models/delete", {"name": "m"}, MODEL, {"name": "m"}),
    ("POST", "registered-models/rename", {"name": "m", "new_name": "n"}, MODEL, {"name": "m"}),
    ("POST", "registered-models/rename", {"name": "m", "new_name": "n"}, MODEL, {"name": "n"}),
    (
        "POST",
        "registered-models/alias",
        {"name": "m", "alias": "champion", "version": "2"},
        "registered-models/alias",
        {"name": "m", "alias": "champion"},
    ),
    (
        "DELETE",
        "registered-models/alias",
        {"name": "m", "alias": "champion"},
        "registered-models/alias",
        {"name": "m", "alias": "champion"},
    ),
    ("POST", "model-versions/create", {"name": "m", "source": "s"}, MODEL, {"name": "m"}),
    (
        "PATCH",
        "model-versions/update",
        {"name": "m", "version": "1", "description": "d"},
        "model-versions/get",
        {"name": "m", "version": "1"},
    ),
    (
        "POST",
        "model-versions/transition-stage",
        {"name": "m", "version": "2", "stage": "Production", "archive_existing_versions": True},
        "model-versions/get",
        {"name": "m", "version": "1"},
    ),
    (
        "POST",
        "model-versions/set-tag",
        {"name": "m", "version": "1", "key": "k", "value": "v"},
        "model-versions/search",
        {"filter": "name='m'"},
    ),
    ("DELETE", "model-versions/delete", {"name": "m", "version": "1"}, LIST, {"name": "m", "version": "1"}),
    ("DELETE", "registered-models/delete", {"name": "m"}, LIST, {"name": "m", "version": "1"}),
    (
        "POST",
        "registered-models/rename",
        {"name": "m", "new_name": "n"},
        SIGN,
        {"name": "m", "version": "1", "path": "MLmodel"},
    ),
]
_IDS = [f"{write[1]}-{write[3]}" for write in _WRITES]


@pytest.mark.parametrize(("method", "write", "body", "read", "parameters"), _WRITES, ids=_IDS)
async def test_a_read_after_a_write_sees_it(
    workspace: EmulatedWorkspace,
    api: Api,
    method: str,
    write: str,
    body: dict[str, Any],
    read: str,
    parameters: dict[str, str],
) -> None:
    before = await api.get(read, token="reader", **parameters)
    assert (await api.get(read, token="reader", **parameters)).outcome == HIT
    written = await api.call(method, write, body, token="writer")
    assert (written.status, written.outcome) == (200, BYPASS)
    after = await api.get(read, token="reader", **parameters)
    assert after.outcome == STORED
    assert (after.status, after.body) != (before.status, before.body)


@pytest.mark.parametrize(("method", "write", "body", "read", "parameters"), _WRITES, ids=_IDS)
async def test_a_read_in_the_air_during_a_write_is_neither_joined_nor_stored(
    workspace: EmulatedWorkspace,
    api: Api,
    method: str,
    write: str,
    body: dict[str, Any],
    read: str,
    parameters: dict[str, str],
) -> None:
    answers = asyncio.Event()
    workspace.fault = first(1, Hang(answers))
    early = asyncio.create_task(api.get(read, **parameters))
    await workspace.until(count(1))
    assert (await api.call(method, write, body)).status == 200
    late = await api.get(read, **parameters)
    assert late.outcome == STORED
    answers.set()
    old = await early
    assert old.outcome == MISS
    assert (old.status, old.body) != (late.status, late.body)
    again = await api.get(read, **parameters)
    assert (again.outcome, again.body) == (HIT, late.body)


async def test_a_write_whose_answer_is_lost_may_have_happened(workspace: EmulatedWorkspace, api: Api) -> None:
    await api.get(MODEL, name="m")
    workspace.fault = only("PATCH", Reset())
    write = await api.call("PATCH", "registered-models/update", {"name": "m", "description": "lost"})
    assert write.status == 502
    reply = await api.get(MODEL, name="m")
    assert reply.json()["registered_model"]["description"] == "lost"


async def test_a_writer_that_leaves_may_have_written(workspace: EmulatedWorkspace, api: Api) -> None:
    await api.get(MODEL, name="m")
    workspace.fault = only("PATCH", Hang())
    body = {"name": "m", "description": "left"}
    write = asyncio.create_task(api.call("PATCH", "registered-models/update", body))
    await workspace.until(count(2))
    write.cancel()
    await workspace.until(lambda arrivals: arrivals[1].cancelled)
    await settle()
    reply = await api.get(MODEL, name="m")
    assert reply.json()["registered_model"]["description"] == "left"


async def test_a_write_is_seen_from_the_beginning_of_its_answer_on(
    upstream: Upstream, proxy_url: str
) -> None:
    body = b'{"registered_model": {"name": "m"}}'
    model = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def half(inbound: Inbound) -> None:
        await inbound.body()
        await inbound.send(model if inbound.line.startswith("GET") else OK[:-1])

    upstream.respond = half
    read = f"{API}{MODEL}?name=m"
    await raw(proxy_url, "GET", read)
    async with await RawClient.connect(proxy_url) as client:
        body = b'{"name": "m"}'
        fields = [("Content-Length", str(len(body)))]
        await client.send(request_bytes("PATCH", f"{API}registered-models/update", fields, body))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        reply = await raw(proxy_url, "GET", read)
    assert reply.all("Cache-Status") == [f"mlflow-proxy; {STORED}"]


async def test_a_write_whose_body_streams_is_seen_too(workspace: EmulatedWorkspace, api: Api) -> None:
    await api.get(MODEL, name="m")
    body = json.dumps({"name": "m", "description": "streamed"}).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    fields = [("Transfer-Encoding", "chunked")]
    assert (await raw(api.url, "PATCH", f"{API}registered-models/update", fields, chunked)).status == 200
    reply = await api.get(MODEL, name="m")
    assert reply.json()["registered_model"]["description"] == "streamed"


async def test_files_of_a_ready_version_outlive_writes_of_metadata(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    asked = {"name": "m", "version": "1"}
    await api.get("model-versions/get", **asked)
    await api.get(LIST, **asked)
    await api.get(SIGN, **asked, path="MLmodel")
    await api.call("POST", "registered-models/set-tag", {"name": "m", "key": "k", "value": "v"})
    assert (await api.get(LIST, **asked)).outcome == HIT
    assert (await api.get(SIGN, **asked, path="MLmodel")).outcome == HIT
    assert (await api.get("model-versions/get", **asked)).outcome == STORED


async def test_a_write_leaves_other_models_alone(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.models["other"] = Model("other", {"1": ModelVersion()})
    await api.get(MODEL, name="other")
    await api.call("DELETE", "registered-models/delete", {"name": "m"})
    assert (await api.get(MODEL, name="other")).outcome == HIT


@pytest.mark.parametrize(
    ("method", "endpoint"),
    [
        ("POST", "registered-models/never-heard-of"),
        ("PUT", "model-versions/promote?name=m"),
        ("POST", "transition-requests/approve"),
        ("POST", "databricks/registered-models/something"),
        ("PATCH", "registered%2Dmodels/update"),
    ],
)
async def test_a_write_of_unknown_reach_drops_everything(
    workspace: EmulatedWorkspace, api: Api, method: str, endpoint: str
) -> None:
    await api.get(MODEL, name="m")
    workspace.fault = lambda request: None if request.method == "GET" else Answer(200, b"{}")
    assert (await api.call(method, endpoint, {"x": 1})).status == 200
    assert (await api.get(MODEL, name="m")).outcome == STORED


async def test_a_model_made_anew_under_its_name_is_another_one(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """It was deleted and created behind the proxy's back: the creation time tells."""
    async with proxied(workspace.url, cache=CacheSettings(mutable_ttl=0)) as url:
        api = Api(session, url)
        asked = {"name": "m", "version": "1"}
        await api.get("model-versions/get", **asked)
        assert [(await api.get(LIST, **asked)).outcome for _ in range(2)] == [STORED, HIT]
        workspace.models["m"] = Model("m", {"1": ModelVersion({"other": b""}, creation_timestamp=1)})
        await api.get("model-versions/get", **asked)
        reply = await api.get(LIST, **asked)
        assert [file["path"] for file in reply.json()["files"]] == ["other"]


async def test_a_model_made_anew_is_not_ready_because_the_old_one_was(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, cache=CacheSettings(unverified_ttl=0, pending_ttl=0)) as url:
        api = Api(session, url)
        asked = {"name": "m", "version": "1"}
        await api.get("model-versions/get", **asked)
        assert (await api.get(LIST, **asked)).outcome == STORED
        await api.call("DELETE", "registered-models/delete", {"name": "m"})
        workspace.models["m"] = Model("m", {"1": ModelVersion(status="PENDING_REGISTRATION")})
        assert [(await api.get(LIST, **asked)).outcome for _ in range(2)] == [MISS, MISS]
