"""What is stored, shared, dropped and refused between clients and the emulated workspace."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web

from proxy.demo.answers import Answer, Fault, Hang, Reset, Truncate, no_fault
from proxy.demo.journal import Arrivals
from proxy.demo.models import Model, ModelVersion
from proxy.demo.workspace import DISCOVERY, EmulatedWorkspace, WorkspaceOptions
from proxy.settings import BudgetSettings, CacheSettings
from proxy.upstream.retry import FAILURES
from tests.integration.conftest import sample
from tests.integration.support import (
    API,
    MUCH,
    OK,
    Api,
    Inbound,
    RawClient,
    Reply,
    Upstream,
    proxied,
    raw,
    request_bytes,
    settle,
)

STORED = "fwd=miss; stored"
MISS = "fwd=miss"
HIT = "hit"
COLLAPSED = "fwd=miss; collapsed"
BYPASS = "fwd=bypass"
FRESH = "fwd=request"

MODEL = "registered-models/get"
LIST = "model-versions/list-artifacts"
SIGN = "model-versions/get-signed-download-uri"
LATEST = "registered-models/get-latest-versions"
CONFIG = "/.well-known/databricks-config"


def count(number: int) -> Callable[[Arrivals], bool]:
    return lambda arrivals: len(arrivals) >= number


def first(number: int, fault: Fault) -> Callable[[web.Request], Fault | None]:
    """Spoil the first calls only."""
    left = iter(range(number))
    return lambda _: fault if next(left, None) is not None else None


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
async def test_all_prefixes_name_the_same_endpoint(
    workspace: EmulatedWorkspace, api: Api, prefix: str
) -> None:
    await api.get(MODEL, name="m")
    assert (await api.get(prefix + MODEL, name="m")).outcome == HIT
    await api.call("PATCH", prefix + "registered-models/update", {"name": "m", "description": "new"})
    reply = await api.get(MODEL, name="m")
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


@pytest.mark.parametrize("status", [401, 403, 500])
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
    workspace.fault = first(1, Answer(500, b"{}"))
    calls = [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(5)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [500] * 5
    assert len(workspace.arrivals) == 1
    assert (await api.get(MODEL, name="m")).status == 200


@pytest.mark.parametrize("fault", [Reset(), Truncate(10)])
async def test_a_broken_call_fails_all_who_waited_with_502(
    workspace: EmulatedWorkspace, api: Api, fault: Fault
) -> None:
    workspace.hold()
    workspace.fault = lambda _: fault
    calls = [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(5)]
    await workspace.until(count(1))
    await settle()
    workspace.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [502] * 5
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
    async def half(inbound: Inbound) -> None:
        await inbound.body()
        await inbound.send(OK if inbound.line.startswith("GET") else OK[:-1])

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


# -- refusals --------------------------------------------------------------------------------------

_REFUSAL = b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "no"}'


@pytest.mark.parametrize(
    ("times", "headers"), [(3, {"Retry-After": "0"}), (1, {"Retry-After": "1"}), (1, {})]
)
@pytest.mark.parametrize(
    ("method", "endpoint", "body"),
    [
        ("GET", MODEL, {"name": "m"}),
        ("POST", LATEST, {"name": "m"}),
        ("PATCH", "registered-models/update", {"name": "m", "description": "d"}),
        ("DELETE", "registered-models/delete", {"name": "m"}),
    ],
)
async def test_a_refused_call_is_repeated_inside(
    workspace: EmulatedWorkspace,
    api: Api,
    method: str,
    endpoint: str,
    body: dict[str, str],
    times: int,
    headers: dict[str, str],
) -> None:
    workspace.fault = first(times, Answer(429, _REFUSAL, headers))
    assert (await api.call(method, endpoint, body)).status == 200
    assert workspace.arrivals.statuses() == {429: times, 200: 1}
    assert len({arrival.target for arrival in workspace.arrivals}) == 1


def assert_busy(reply: Reply) -> None:
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"


@pytest.mark.parametrize("headers", [{"Retry-After": "30"}, {"Retry-After": "0.5"}, {}])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_beyond_its_patience_a_client_is_told_when_to_return(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, headers: dict[str, str], method: str
) -> None:
    workspace.fault = lambda _: Answer(429, _REFUSAL, headers)
    endpoint = MODEL if method == "GET" else "registered-models/update"
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=MUCH, patience=0.3)) as url:
        reply = await Api(session, url).call(method, endpoint, {"name": "m"})
        assert await Api(session, url).metric("mlflow_proxy_flights") == 0
    assert_busy(reply)
    assert len(workspace.arrivals) == 1 or headers.get("Retry-After") != "30"
    assert int(reply.headers["Retry-After"]) >= int(headers.get("Retry-After", "1").partition(".")[0])


async def test_a_queue_longer_than_patience_refuses_at_once(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    budget = BudgetSettings(registry_limit=1, patience=0.5)
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        assert_busy(await api.get(LIST, name="m", version="1"))
        assert_busy(await api.call("PATCH", "registered-models/update", {"name": "m"}))
        assert (await api.get(MODEL, name="m")).outcome in {HIT, MISS}
        assert await api.metric("mlflow_proxy_queue_depth") == 0
    assert len(workspace.arrivals) == 1


@pytest.mark.parametrize(("method", "target"), [("POST", "runs/search"), ("GET", "anything")])
async def test_refusals_of_other_calls_are_repeated_inside_too(
    workspace: EmulatedWorkspace, api: Api, method: str, target: str
) -> None:
    workspace.fault = first(2, Answer(429, _REFUSAL, {"Retry-After": "0"}))
    await api.call(method, target, {})
    assert [arrival.status for arrival in workspace.arrivals][:2] == [429, 429]
    assert workspace.arrivals[2].status != 429
    assert len(workspace.arrivals) == 3


async def test_a_refusal_without_a_budget_is_the_clients_when_its_patience_ends(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.fault = lambda _: Answer(429, _REFUSAL, {"Retry-After": "7", "Content-Type": "text/x"})
    async with proxied(workspace.url, budget=BudgetSettings(patience=2)) as url:
        reply = await Api(session, url).call("GET", "anything", {})
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (429, _REFUSAL, "7")
    assert reply.headers["Content-Type"] == "text/x"
    assert len(workspace.arrivals) == 1


async def test_a_refusal_of_what_streams_is_the_clients(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.fault = lambda _: Answer(429, _REFUSAL, {"Retry-After": "7"})
    reply = await api.call("POST", "anything", {"a": "b"})
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (429, _REFUSAL, "7")
    assert len(workspace.arrivals) == 1


@pytest.mark.parametrize("fault", [Answer(503, b"{}", {"Retry-After": "0"}), Reset()])
@pytest.mark.parametrize(("method", "endpoint"), [("GET", MODEL), ("POST", LATEST), ("GET", "runs/get")])
async def test_a_read_that_failed_on_its_way_is_repeated(
    workspace: EmulatedWorkspace, api: Api, fault: Fault, method: str, endpoint: str
) -> None:
    workspace.fault = first(1, fault)
    reply = await api.call(method, endpoint, {"name": "m"})
    assert reply.status < 500
    assert len(workspace.arrivals) == 2


@pytest.mark.parametrize("fault", [Answer(503, b"{}", {"Retry-After": "0"}), Reset()])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_write_that_may_have_happened_is_not_repeated(
    workspace: EmulatedWorkspace, api: Api, fault: Fault, method: str
) -> None:
    workspace.fault = first(1, fault)
    endpoint = "registered-models/create" if method == "POST" else "registered-models/update"
    assert (await api.call(method, endpoint, {"name": "m"})).status in {502, 503}
    assert len(workspace.arrivals) == 1


async def test_what_the_workspace_answers_at_last_is_passed_on(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.fault = lambda _: Answer(503, b'{"error_code": "Y"}', {"Retry-After": "0"})
    reply = await api.get(MODEL, name="m")
    assert (reply.status, reply.body, reply.outcome) == (503, b'{"error_code": "Y"}', MISS)
    assert len(workspace.arrivals) == 1 + FAILURES


async def test_the_real_limiter_never_refuses(session: aiohttp.ClientSession) -> None:
    async with (
        EmulatedWorkspace([sample()], WorkspaceOptions(latency=0)) as workspace,
        proxied(workspace.url, budget=BudgetSettings()) as url,
    ):
        api = Api(session, url)
        asked = [api.get(MODEL, name=f"m{number}") for number in range(60)]
        writes = [api.call("POST", "registered-models/create", {"name": f"w{n}"}) for n in range(10)]
        await asyncio.gather(*asked, *writes)
    assert workspace.registry_arrivals.statuses()[429] == 0
    assert len(workspace.registry_arrivals) == 70
    assert workspace.registry_arrivals.max_in_window() <= 40


# -- clients that leave ----------------------------------------------------------------------------


async def leave(call: "asyncio.Task[Reply]") -> None:
    """Close the connection of a call and let the proxy notice."""
    call.cancel()
    await asyncio.wait([call])
    await settle()


@pytest.mark.parametrize(
    ("method", "endpoint"), [("GET", MODEL), ("POST", LATEST), ("PATCH", "registered-models/update")]
)
async def test_a_call_that_nobody_waits_for_is_cancelled(
    workspace: EmulatedWorkspace, api: Api, method: str, endpoint: str
) -> None:
    workspace.hold()
    call = asyncio.create_task(api.call(method, endpoint, {"name": "m"}))
    await workspace.until(count(1))
    await leave(call)
    await workspace.until(lambda arrivals: arrivals[0].cancelled)
    await api.until_metric("mlflow_proxy_flights", 0)
    workspace.release()
    assert (await api.call(method, endpoint, {"name": "m"})).status == 200


@pytest.mark.parametrize("leader_leaves", [True, False])
async def test_a_call_goes_on_while_someone_waits(
    workspace: EmulatedWorkspace, api: Api, leader_leaves: bool
) -> None:
    workspace.hold()
    leader = asyncio.create_task(api.get(MODEL, name="m"))
    await workspace.until(count(1))
    follower = asyncio.create_task(api.get(MODEL, name="m"))
    await settle()
    gone, there = (leader, follower) if leader_leaves else (follower, leader)
    await leave(gone)
    assert not workspace.arrivals[0].cancelled
    workspace.release()
    assert (await there).status == 200
    assert len(workspace.arrivals) == 1
    assert (await api.get(MODEL, name="m")).outcome == HIT


async def test_the_last_to_leave_cancels_the_call(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.hold()
    calls = [asyncio.create_task(api.get(MODEL, name="m"))]
    await workspace.until(count(1))
    calls += [asyncio.create_task(api.get(MODEL, name="m")) for _ in range(4)]
    await settle()
    for call in calls[:-1]:
        await leave(call)
        assert not workspace.arrivals[0].cancelled
    await leave(calls[-1])
    await workspace.until(lambda arrivals: arrivals[0].cancelled)
    assert await api.metric("mlflow_proxy_flights") == 0


async def test_who_leaves_the_queue_makes_room(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=1, patience=600)) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        calls = [asyncio.create_task(api.get(MODEL, name=f"m{number}")) for number in range(15)]
        calls.append(asyncio.create_task(api.call("PATCH", "registered-models/update", {"name": "last"})))
        await settle()
        assert await api.metric("mlflow_proxy_queue_depth") >= 10
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await api.until_metric("mlflow_proxy_queue_depth", 0)
        await api.until_metric("mlflow_proxy_flights", 0)
    assert "PATCH" not in {arrival.method for arrival in workspace.arrivals}, "it left before its turn"
    assert f"{API}{MODEL}?name=m14" not in {arrival.target for arrival in workspace.arrivals}
