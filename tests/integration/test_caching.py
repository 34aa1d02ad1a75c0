"""What is stored, shared and dropped between clients and the emulated workspace."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault, Hang, Reset, Truncate, no_fault
from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import DISCOVERY, EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import CacheSettings
from mlflow_proxy.upstream.retry import FAILURES
from tests.integration.conftest import sample
from tests.integration.support import (
    API,
    BYPASS,
    COLLAPSED,
    CONFIG,
    FRESH,
    HIT,
    LATEST,
    LIST,
    MISS,
    MODEL,
    MUCH,
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


# -- hit, miss, stored -----------------------------------------------------------------------------


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


# -- by kind of answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 501])
async def test_errors_are_not_results(workspace: EmulatedWorkspace, api: Api, status: int) -> None:
    workspace.fault = first(1, Answer(status, b'{"error_code": "X"}', {"Retry-After": "0"}))
    reply = await api.get(MODEL, name="m")
    assert (reply.status, reply.body, reply.outcome) == (status, b'{"error_code": "X"}', MISS)
    assert (await api.get(MODEL, name="m")).status == 200


async def test_what_was_not_found_is_stored_until_it_is_written(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, cache=CacheSettings(not_found_ttl=3600)) as url:
        api = Api(session, url)
        assert [(await api.get(MODEL, name="new")).outcome for _ in range(2)] == [STORED, HIT]
        await api.call("POST", "registered-models/create", {"name": "new"})
        assert (await api.get(MODEL, name="new")).status == 200


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
async def test_files_of_a_version_that_is_not_ready_are_listed_anew(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, status: Literal["PENDING_REGISTRATION"]
) -> None:
    model = workspace.models["m"]
    model.versions["3"] = ModelVersion({"early": b""}, status=status)
    cache = CacheSettings(listing_ttl=3600, unverified_ttl=0, pending_ttl=0, mutable_ttl=0)
    async with proxied(workspace.url, cache=cache) as url:
        api = Api(session, url)
        for _ in range(3):
            assert (await api.get(LIST, name="m", version="3")).outcome == MISS
        model.versions["3"] = ModelVersion({"early": b"", "late": b""})
        replies = [await api.get(LIST, name="m", version="3") for _ in range(2)]
        assert [reply.outcome for reply in replies] == [STORED, HIT]
        assert [file["path"] for file in replies[1].json()["files"]] == ["early", "late"]


@pytest.mark.parametrize("form", ["aws", "azure", "gcp"])
@pytest.mark.parametrize(("lifetime", "outcomes"), [(900, [STORED, HIT]), (100, [MISS, MISS])])
async def test_a_signed_url_is_stored_while_it_has_time(
    session: aiohttp.ClientSession,
    form: Literal["aws", "azure", "gcp"],
    lifetime: int,
    outcomes: list[str],
) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0, signed_url_form=form, signed_url_lifetime=lifetime)
    async with EmulatedWorkspace([sample()], options) as workspace, proxied(workspace.url) as url:
        api = Api(session, url)
        asked = {"name": "m", "version": "1", "path": "MLmodel"}
        assert [(await api.get(SIGN, **asked)).outcome for _ in range(2)] == outcomes


def signed(query: str, fields: Sequence[dict[str, str]] = ()) -> Answer:
    """Return an answer about a URL that was signed at noon, as its Date says."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    said = {"signed_uri": f"https://s.example/f?{query}", "headers": list(fields)}
    return Answer(200, json.dumps(said).encode(), {"Date": format_datetime(noon, usegmt=True)})


AWS_SIGNED = "X-Amz-Date=20260301T120000Z&X-Amz-Expires={}&X-Amz-Signature=a"
AZURE_SIGNED = "se=2026-03-01T13:00:00Z&sig=a"


@pytest.mark.parametrize(
    ("answer", "ttl"),
    [
        (signed(AWS_SIGNED.format(900)), 780),
        (signed(AWS_SIGNED.format(604800)), 900),
        (signed(AZURE_SIGNED), 900),
        (signed(f"{AZURE_SIGNED}&ske=2026-03-01T12:05:00Z"), 180),
        (signed(f"{AZURE_SIGNED}&ske=2026-03-02T12:05:00Z"), 900),
        (signed(f"{AWS_SIGNED.format(604800)}&X-Amz-Security-Token=IQo"), 180),
        (signed(AWS_SIGNED.format(900), [{"name": "x-amz-security-token", "value": "IQo"}]), 180),
        (signed(f"{AWS_SIGNED.format(200)}&X-Amz-Security-Token=IQo"), 80),
    ],
)
async def test_a_signed_url_is_stored_until_the_earliest_of_its_ends(
    workspace: EmulatedWorkspace, api: Api, answer: Answer, ttl: int
) -> None:
    workspace.fault = lambda _: answer
    asked = {"name": "m", "version": "1", "path": "f"}
    first, hit = [await api.get(SIGN, **asked) for _ in range(2)]
    assert (first.outcome, hit.outcome) == (STORED, HIT)
    assert hit.ttl is not None
    assert hit.ttl in range(ttl - 5, ttl + 1)


@pytest.mark.parametrize(
    "query",
    [
        f"{AZURE_SIGNED}&ske=garbage",
        f"{AZURE_SIGNED}&ske=",
        f"{AZURE_SIGNED}&ske=2026-03-01T12:02:00Z",
        "Expires=9999999999&X-Amz-Security-Token=IQo",
    ],
)
async def test_a_signed_url_that_may_end_at_any_time_is_not_stored(
    workspace: EmulatedWorkspace, api: Api, query: str
) -> None:
    workspace.fault = lambda _: signed(query)
    for _ in range(2):
        assert (await api.get(SIGN, name="m", version="1", path="f")).outcome == MISS


async def test_the_cap_of_signed_urls_is_a_setting(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.fault = lambda _: signed(AWS_SIGNED.format(900))
    for cap, outcomes in ((60, [STORED, HIT]), (0, [MISS, MISS])):
        async with proxied(workspace.url, cache=CacheSettings(signed_url_ttl=cap)) as url:
            api = Api(session, url)
            replies = [await api.get(SIGN, name="m", version="1", path="f") for _ in range(2)]
            assert [reply.outcome for reply in replies] == outcomes
            assert (replies[1].ttl or 0) <= cap


async def test_a_signed_url_of_unknown_expiry_is_not_stored(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.fault = lambda _: Answer(200, b'{"signed_uri": "https://s.example/f?sig=1&se=soon"}')
    for _ in range(2):
        assert (await api.get(SIGN, name="m", version="1", path="f")).outcome == MISS


async def test_discovery_is_asked_once_for_all_and_in_nobodys_name(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    outcomes = [(await api.get(CONFIG, token=token)).outcome for token in ("a", "b", "")]
    assert outcomes == [STORED, HIT, HIT]
    [arrival] = workspace.arrivals.in_group(DISCOVERY)
    assert "Authorization" not in arrival.headers


# -- coalescing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "endpoint", "parameters"),
    [
        ("GET", MODEL, {"name": "m"}),
        ("POST", LATEST, {"name": "m", "stages": ["Production"]}),
        ("GET", LIST, {"name": "m", "version": "1"}),
        ("GET", SIGN, {"name": "m", "version": "1", "path": "MLmodel"}),
        ("GET", CONFIG, {}),
    ],
)
async def test_identical_reads_share_one_call(
    workspace: EmulatedWorkspace, api: Api, method: str, endpoint: str, parameters: dict[str, Any]
) -> None:
    workspace.hold()
    calls = [asyncio.create_task(api.call(method, endpoint, parameters)) for _ in range(20)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    replies = await asyncio.gather(*calls)
    assert len(workspace.arrivals) == 1
    assert {(reply.status, reply.body) for reply in replies} == {(200, replies[0].body)}
    outcomes = [reply.outcome for reply in replies]
    assert outcomes.count(STORED) == 1
    assert set(outcomes) <= {STORED, COLLAPSED, HIT}
    assert COLLAPSED in outcomes
    assert await api.metric("mlflow_proxy_flights") == 0


async def test_an_error_is_shared_by_those_who_waited_and_no_others(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.hold()
    workspace.fault = first(1, Answer(501, b"{}"))
    calls = [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(5)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [501] * 5
    assert len(workspace.arrivals) == 1
    assert (await api.get(MODEL, name="m")).status == 200


@pytest.mark.parametrize("fault", [Reset(), Truncate(10)])
async def test_a_broken_call_fails_all_who_waited_with_503(
    workspace: EmulatedWorkspace, api: Api, fault: Fault
) -> None:
    workspace.hold()
    workspace.fault = lambda _: fault
    calls = [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(5)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [503] * 5
    most = 2 * (1 + FAILURES)  # the HTTP library repeats each attempt once, over a new connection
    assert len(workspace.arrivals) <= most
    workspace.fault = no_fault
    assert (await api.get(MODEL, name="m")).outcome == STORED


# -- who may see what ------------------------------------------------------------------------------


async def test_each_credential_asks_for_itself(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.hold()
    tokens = ["a", "b"] * 3
    calls = [asyncio.create_task(api.get(MODEL, token=token, name="m")) for token in tokens]
    await workspace.until(count(2))
    await settle()
    workspace.release()
    await asyncio.gather(*calls)
    assert sorted(str(arrival.token) for arrival in workspace.arrivals) == ["a", "b"]
    assert [(await api.get(MODEL, token=token, name="m")).outcome for token in "abc"] == [HIT, HIT, STORED]


@pytest.mark.parametrize(
    "name", ["Cookie", "X-Databricks-Org-Id", "X-Unheard-Of", "X-Forwarded-Access-Token"]
)
async def test_any_field_that_may_be_a_credential_separates(
    workspace: EmulatedWorkspace, api: Api, name: str
) -> None:
    for value in ("1", "2"):
        reply = await api.call("GET", MODEL, {"name": "m"}, headers={name: value})
        assert reply.outcome == STORED
    assert [arrival.headers[name] for arrival in workspace.arrivals] == ["1", "2"]


@pytest.mark.parametrize(
    ("endpoint", "parameters"),
    [
        (MODEL, {"name": "secret"}),
        (LIST, {"name": "secret", "version": "1"}),
        (SIGN, {"name": "secret", "version": "1", "path": "f"}),
        ("model-versions/get-download-uri", {"name": "secret", "version": "1"}),
        ("/api/2.0/mlflow-artifacts/artifacts", {"path": "mlflow-proxy/secret/1"}),
        ("/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/secret/1/f", {}),
    ],
)
async def test_the_workspaces_refusal_stands_though_another_may(
    workspace: EmulatedWorkspace, api: Api, endpoint: str, parameters: dict[str, str]
) -> None:
    workspace.models["secret"] = Model(
        "secret", {"1": ModelVersion({"f": b"secret"})}, readers=frozenset({"insider"})
    )
    for _ in range(2):
        assert (await api.get(endpoint, token="insider", **parameters)).status == 200
        for token in ("outsider", ""):
            refused = await api.get(endpoint, token=token, **parameters)
            assert refused.status == 403
            assert b"secret" not in refused.body.replace(b"'secret'", b"")


# -- writes ----------------------------------------------------------------------------------------

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
