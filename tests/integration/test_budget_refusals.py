"""Refusals and failures stay inside as long as a call may be repeated."""

import asyncio
import itertools

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault, Reset
from mlflow_proxy.demo.command import refusals_by_proxy
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.storm import door_variables, real_clients
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import BudgetSettings, CacheSettings
from mlflow_proxy.upstream.retry import FAILURES
from tests.environments import CLIENTS
from tests.integration.budget import REFUSAL, assert_busy
from tests.integration.conftest import sample
from tests.integration.support import HIT, LATEST, LIST, MISS, MODEL, MUCH, Api, count, first, proxied


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
    workspace.fault = first(times, Answer(429, REFUSAL, headers))
    assert (await api.call(method, endpoint, body)).status == 200
    assert workspace.arrivals.statuses() == {429: times, 200: 1}
    assert len({arrival.target for arrival in workspace.arrivals}) == 1


@pytest.mark.parametrize(("headers", "attempts"), [({"Retry-After": "30"}, 1), ({}, 2)])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_beyond_its_patience_a_client_is_told_when_to_return(
    workspace: EmulatedWorkspace,
    session: aiohttp.ClientSession,
    headers: dict[str, str],
    attempts: int,
    method: str,
) -> None:
    workspace.fault = lambda _: Answer(429, REFUSAL, headers)
    endpoint = MODEL if method == "GET" else "registered-models/update"
    # After a second there is time for another call, and then, at half the rate, not for a third.
    budget = BudgetSettings(registry_limit=1, jitter_margin=0, floor=0.1, patience=2.5)
    async with proxied(workspace.url, budget=budget) as url:
        reply = await Api(session, url).call(method, endpoint, {"name": "m"})
        assert await Api(session, url).metric("mlflow_proxy_flights") == 0
    assert_busy(reply)
    assert len(workspace.arrivals) == attempts
    assert int(reply.headers["Retry-After"]) >= int(headers.get("Retry-After", "1")) - 1


async def test_a_queue_longer_than_patience_refuses_at_once(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    # A write has no deadline once it left, and while it is not answered the whole window lies ahead.
    workspace.hold()
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=1, patience=0.9)) as url:
        api = Api(session, url)
        first = asyncio.create_task(api.call("PATCH", "registered-models/update", {"name": "m"}))
        await workspace.until(count(1))
        assert_busy(await api.get(LIST, name="m", version="1"))
        assert_busy(await api.call("PATCH", "registered-models/update", {"name": "m"}))
        assert await api.metric("mlflow_proxy_queue_depth") == 0
        workspace.release()
        assert (await first).status == 200
    assert len(workspace.arrivals) == 1


async def test_what_is_stored_needs_no_budget(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(
        workspace.url, cache=CacheSettings(mutable_ttl=3600), budget=BudgetSettings(patience=10)
    ) as url:
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        workspace.fault = lambda _: Answer(429, REFUSAL, {"Retry-After": "50"})
        assert_busy(await api.get(MODEL, name="other"))
        assert (await api.get(MODEL, name="m")).outcome == HIT
    assert len(workspace.arrivals) == 2


async def test_refusals_of_other_limited_calls_are_repeated_inside_too(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.fault = first(2, Answer(429, REFUSAL, {"Retry-After": "0"}))
    await api.call("POST", "runs/search", {})
    assert [arrival.status for arrival in workspace.arrivals][:2] == [429, 429]
    assert workspace.arrivals[2].status != 429
    assert len(workspace.arrivals) == 3


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("wait", ["0", "7", None])
async def test_a_refusal_of_what_the_table_does_not_know_is_the_clients_at_once(
    workspace: EmulatedWorkspace, api: Api, method: str, wait: str | None
) -> None:
    """Nothing is known of its limit, and the client that it was said to knows best what to make of it."""
    told = {} if wait is None else {"Retry-After": wait}
    workspace.fault = lambda _: Answer(429, REFUSAL, {**told, "Content-Type": "text/x"})
    reply = await api.call(method, "anything", {})
    assert (reply.status, reply.body, reply.headers.get("Retry-After")) == (429, REFUSAL, wait)
    assert reply.headers["Content-Type"] == "text/x"
    assert len(workspace.arrivals) == 1


async def test_a_refusal_of_what_streams_is_the_clients(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.fault = lambda _: Answer(429, REFUSAL, {"Retry-After": "7"})
    reply = await api.call("POST", "anything", {"a": "b"})
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (429, REFUSAL, "7")
    assert len(workspace.arrivals) == 1


@pytest.mark.parametrize("fault", [Answer(500, b"{}"), Answer(503, b"{}", {"Retry-After": "0"}), Reset()])
@pytest.mark.parametrize(("method", "endpoint"), [("GET", MODEL), ("POST", LATEST), ("GET", "runs/get")])
async def test_a_read_that_failed_on_its_way_is_repeated(
    workspace: EmulatedWorkspace, api: Api, fault: Fault, method: str, endpoint: str
) -> None:
    workspace.fault = first(1, fault)
    reply = await api.call(method, endpoint, {"name": "m"})
    assert reply.status < 500
    assert len(workspace.arrivals) == 2


@pytest.mark.parametrize("fault", [Answer(500, b"{}"), Answer(503, b"{}", {"Retry-After": "0"}), Reset()])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_write_that_may_have_happened_is_not_repeated(
    workspace: EmulatedWorkspace, api: Api, fault: Fault, method: str
) -> None:
    workspace.fault = first(1, fault)
    endpoint = "registered-models/create" if method == "POST" else "registered-models/update"
    assert (await api.call(method, endpoint, {"name": "m"})).status in {500, 502, 503}
    assert len(workspace.arrivals) == 1


async def test_what_the_workspace_answers_at_last_is_passed_on(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.fault = lambda _: Answer(503, b'{"error_code": "Y"}', {"Retry-After": "0"})
    reply = await api.get(MODEL, name="m")
    assert (reply.status, reply.body, reply.outcome) == (503, b'{"error_code": "Y"}', MISS)
    assert len(workspace.arrivals) == 1 + FAILURES


async def test_the_real_limiter_never_refuses(session: aiohttp.ClientSession) -> None:
    # What left over a new connection counts from its answer, which is later than its arrival however slow
    # this machine is. Holding the answers makes the first forty such calls, and in any row of forty-one calls
    # the first is one of them.
    async with (
        EmulatedWorkspace([sample()], WorkspaceOptions(latency=0)) as workspace,
        proxied(workspace.url, budget=BudgetSettings()) as url,
    ):
        workspace.hold()
        api = Api(session, url)
        asked = [asyncio.create_task(api.get(MODEL, name=f"m{number}")) for number in range(60)]
        writes = [
            asyncio.create_task(api.call("POST", "registered-models/create", {"name": f"w{number}"}))
            for number in range(10)
        ]
        await api.until_metric("mlflow_proxy_queue_depth", 30)
        await workspace.until(count(40))
        assert len(workspace.arrivals) == 40
        workspace.release()
        await asyncio.gather(*asked, *writes)
    assert workspace.registry_arrivals.statuses()[429] == 0
    assert len(workspace.registry_arrivals) == 70
    assert workspace.registry_arrivals.max_in_window() <= 40


async def test_real_clients_see_no_refusal_when_the_workspace_refuses_calls() -> None:
    """How many it refuses beside others is for the simulation to say, where time is exact."""
    model = storm_model(files=60, directories=6)
    number = itertools.count(1)

    def refuse_two(request: web.Request) -> Fault | None:
        refused = "/model-versions/" in request.path and next(number) in {1, 30}
        return Answer(429, REFUSAL) if refused else None

    async with (
        EmulatedWorkspace([model], WorkspaceOptions(limit=MUCH)) as workspace,
        proxied(workspace.url, budget=BudgetSettings()) as url,
        real_clients(CLIENTS["3"], "models:/storm/1", [door_variables("b", url, "job")] * 3) as clients,
    ):
        workspace.fault = refuse_two
        await asyncio.gather(*(client.download() for client in clients))
        for client in clients:
            client.compare(model.versions["1"].files)
        assert [client.failure for client in clients] == [""] * 3
        assert await refusals_by_proxy(url) == 0
    arrivals = workspace.registry_arrivals
    assert arrivals.distinct() == 66
    assert arrivals.statuses() == {200: 66, 429: 2}
