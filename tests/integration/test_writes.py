"""Writes of unknown reach, harmless ones and refused ones: what drops stored answers and proofs."""

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault, Reset
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import BudgetSettings
from tests.integration.support import (
    API,
    BYPASS,
    HIT,
    LIST,
    MODEL,
    MUCH,
    OK,
    SIGN,
    STORED,
    Api,
    Inbound,
    RawClient,
    Upstream,
    proxied,
    request_bytes,
)
from tests.integration.test_proven import FILE, VERSION, proven, readable_by

PREFIXES = [
    f"/{root}/{version}/{preview}"
    for root in ("api", "ajax-api")
    for version in ("2.0", "3.0")
    for preview in ("", "preview/")
]
PERMISSIONS = [
    ("PATCH", "permissions/registered-models/1"),
    ("DELETE", "mlflow/users/delete"),
    ("POST", "mlflow/users/permissions/revoke"),
    ("DELETE", "scim/v2/Users/1"),
    ("POST", "token/delete"),
    ("PUT", "of-tomorrow/x"),
]
HARMLESS = [
    ("POST", "/api/2.0/mlflow/runs/log-metric"),
    ("POST", "/api/3.0/mlflow/traces"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/registered-models/x"),
    ("POST", "/api/2.2/jobs/run-now"),
    ("POST", "/oidc/v1/token"),
    ("POST", "/serving-endpoints/e/invocations"),
]


def writes(fault: Fault) -> Callable[[web.Request], Fault | None]:
    return lambda request: None if request.method == "GET" else fault


# -- of unknown reach ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path"), PERMISSIONS)
async def test_who_may_no_longer_read_is_refused_at_once(prefix: str, method: str, path: str) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with EmulatedWorkspace([readable_by("a", "b")], options) as workspace, proven(workspace) as api:
        for asked in ((MODEL, {"name": "m"}), (LIST, VERSION), (SIGN, FILE)):
            for token in ("a", "b", "b"):
                assert (await api.get(asked[0], token=token, **asked[1])).status == 200
        workspace.models["m"].readers = frozenset({"a"})
        assert (await api.get(SIGN, token="b", **FILE)).outcome == HIT  # nobody has said so here
        await api.call(method, prefix + path, {}, token="admin")
        for asked in ((MODEL, {"name": "m"}), (LIST, VERSION), (SIGN, FILE)):
            assert (await api.get(asked[0], token="b", **asked[1])).status == 403
            assert (await api.get(asked[0], token="a", **asked[1])).status == 200


@pytest.mark.parametrize("root", ["api", "ajax-api"])
@pytest.mark.parametrize("version", ["2.0", "3.0"])
@pytest.mark.parametrize("preview", ["", "preview/"])
async def test_every_prefix_spends_from_one_budget_and_writes_for_all(
    workspace: EmulatedWorkspace, api: Api, root: str, version: str, preview: str
) -> None:
    prefix = f"/{root}/{version}/{preview}mlflow/"
    for path, asked in ((MODEL, {"name": "m"}), (LIST, VERSION)):
        assert (await api.get(path, **asked)).outcome == STORED
        outcomes = {(await api.get(prefix + path, **asked)).outcome for _ in range(2)}
        assert outcomes == ({BYPASS} if version != "2.0" else {HIT} if prefix == API else {STORED, HIT})
    calls = await api.metric("mlflow_proxy_upstream_calls_total", group="registry")
    assert calls == len(workspace.registry_arrivals)
    await api.call("DELETE", f"{prefix}registered-models/delete", {"name": "m"})
    for path, asked in ((MODEL, {"name": "m"}), (LIST, VERSION)):
        for spelt in (path, prefix + path):
            assert (await api.get(spelt, **asked)).status == 404


async def test_no_prefix_leads_around_the_limit(session: aiohttp.ClientSession) -> None:
    limit = 20
    async with (
        EmulatedWorkspace([readable_by("a")], WorkspaceOptions(limit=limit, latency=0)) as workspace,
        # The margin is as wide as can be: what a slow machine delays must not look like another budget.
        proxied(workspace.url, budget=BudgetSettings(registry_limit=limit, jitter_margin=1.0)) as url,
    ):
        api = Api(session, url)
        calls = [
            api.get(f"{prefix}mlflow/{MODEL}", token="a", name="m", number=str(number))
            for number in range(6)
            for prefix in PREFIXES
        ]
        replies = await asyncio.gather(*calls)
        assert {reply.status for reply in replies} == {200}
        assert workspace.arrivals.statuses() == {200: len(calls)}  # each within the limit


@pytest.mark.parametrize(("method", "path"), HARMLESS)
async def test_what_jobs_write_all_the_time_costs_nothing(api: Api, method: str, path: str) -> None:
    await api.get(MODEL, name="m")
    assert (await api.call(method, path, {"name": "m"})).outcome == BYPASS
    assert (await api.get(MODEL, name="m")).outcome == HIT


# -- that were not carried out ---------------------------------------------------------------------

WRITES = [("PATCH", "registered-models/update"), ("POST", "/api/2.0/of-tomorrow"), ("POST", "/signup")]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_refused_write_changes_nothing(
    workspace: EmulatedWorkspace, api: Api, method: str, path: str, status: int
) -> None:
    await api.get(MODEL, name="m")
    workspace.fault = writes(Answer(status, b"{}"))
    for _ in range(5):
        assert (await api.call(method, path, {"name": "m"}, token="nobody")).status == status
        assert (await api.get(MODEL, name="m")).outcome == HIT
    assert len(workspace.arrivals.to(MODEL)) == 1


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 409, 429, 500, 503])
@pytest.mark.parametrize(("method", "path"), WRITES[1:])
async def test_any_other_answer_may_have_been_a_write(
    workspace: EmulatedWorkspace, api: Api, method: str, path: str, status: int
) -> None:
    await api.get(MODEL, name="m")
    workspace.fault = writes(Answer(status, b""))
    assert (await api.call(method, path, {"name": "m"})).status == status
    assert (await api.get(MODEL, name="m")).outcome == STORED


async def test_a_write_that_was_repeated_and_then_refused_changes_nothing(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    await api.get(MODEL, name="m")
    answers = iter([Answer(429, b"{}", {"Retry-After": "0"}), Answer(403, b"{}")])
    workspace.fault = lambda request: None if request.method == "GET" else next(answers)
    assert (await api.call("DELETE", "registered-models/delete", {"name": "m"})).status == 403
    assert next(answers, None) is None
    assert (await api.get(MODEL, name="m")).outcome == HIT


async def test_a_write_that_was_lost_is_not_repeated_and_may_have_been_done(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    """Not by the HTTP library either, which would repeat a DELETE whose connection had been used before."""
    await api.get(MODEL, name="m")
    faults: list[Fault] = [Reset(), Answer(403, b"{}")]
    workspace.fault = lambda request: None if request.method == "GET" else faults.pop(0)
    reply = await api.call("DELETE", "registered-models/delete", {"name": "m"})
    assert (reply.status, faults) == (502, [Answer(403, b"{}")])
    assert (await api.get(MODEL, name="m")).status == 404


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_write_that_never_left_changes_nothing(
    workspace: EmulatedWorkspace, api: Api, method: str, path: str
) -> None:
    await api.get(MODEL, name="m")
    await workspace.stop()
    assert (await api.call(method, path, {"name": "m"})).status in {502, 503}
    await workspace.start()
    assert (await api.get(MODEL, name="m")).outcome == HIT


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "streams"),
    [
        ("/api/2.0/of-tomorrow", True),
        ("/elsewhere", True),
        ("/api/2.0/mlflow-artifacts/artifacts/1/f", True),
        (f"{API}registered-models/update", False),
    ],
)
async def test_a_body_is_held_only_if_it_is_to_be_understood(
    upstream: Upstream, proxy_url: str, target: str, streams: bool
) -> None:
    begun = asyncio.Event()

    async def respond(inbound: Inbound) -> None:
        assert await inbound.reader.readexactly(3) == b"abc"
        begun.set()
        assert await inbound.reader.readexactly(3) == b"def"
        await inbound.send(OK)

    upstream.respond = respond
    async with await RawClient.connect(proxy_url) as client:
        await client.send(request_bytes("PATCH", target, [("Content-Length", "6")], b"abc"))
        if streams:
            await begun.wait()
        await client.send(b"def")
        reply = await client.rest()
    assert reply.status == 200
    assert begun.is_set()
