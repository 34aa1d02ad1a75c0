"""The workspace's limits on the wire: refusals stay inside, shares are fair, and each group is on its own."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mlflow_proxy.budget.congestion import Cubic
from mlflow_proxy.demo.answers import Answer, Fault, Reset, no_fault
from mlflow_proxy.demo.command import refusals_by_proxy
from mlflow_proxy.demo.journal import Arrivals
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.storm import door_variables, real_clients
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, BudgetSettings, CacheSettings
from mlflow_proxy.upstream.retry import FAILURES
from tests.environments import CLIENTS
from tests.integration.conftest import sample
from tests.integration.support import (
    API,
    COLLAPSED,
    HIT,
    LATEST,
    LIST,
    MISS,
    MODEL,
    MUCH,
    SIGN,
    STORED,
    Api,
    Reply,
    Upstream,
    answering,
    count,
    first,
    proxied,
    settle,
)

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


@pytest.mark.parametrize(("headers", "attempts"), [({"Retry-After": "30"}, 1), ({}, 2)])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_beyond_its_patience_a_client_is_told_when_to_return(
    workspace: EmulatedWorkspace,
    session: aiohttp.ClientSession,
    headers: dict[str, str],
    attempts: int,
    method: str,
) -> None:
    workspace.fault = lambda _: Answer(429, _REFUSAL, headers)
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
        workspace.fault = lambda _: Answer(429, _REFUSAL, {"Retry-After": "50"})
        assert_busy(await api.get(MODEL, name="other"))
        assert (await api.get(MODEL, name="m")).outcome == HIT
    assert len(workspace.arrivals) == 2


async def test_refusals_of_other_limited_calls_are_repeated_inside_too(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    workspace.fault = first(2, Answer(429, _REFUSAL, {"Retry-After": "0"}))
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
    workspace.fault = lambda _: Answer(429, _REFUSAL, {**told, "Content-Type": "text/x"})
    reply = await api.call(method, "anything", {})
    assert (reply.status, reply.body, reply.headers.get("Retry-After")) == (429, _REFUSAL, wait)
    assert reply.headers["Content-Type"] == "text/x"
    assert len(workspace.arrivals) == 1


async def test_a_refusal_of_what_streams_is_the_clients(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.fault = lambda _: Answer(429, _REFUSAL, {"Retry-After": "7"})
    reply = await api.call("POST", "anything", {"a": "b"})
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (429, _REFUSAL, "7")
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


# -- fair shares -----------------------------------------------------------------------------------

SMALL = 3
"""So many calls each of the small credentials has waiting."""
OVERTAKEN = 3
"""Calls that leave together, to make up for a late timer, and may arrive in another order."""


async def test_many_calls_of_one_credential_leave_the_others_their_share(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """A credential with sixty calls waiting counts as one among eleven, though it was there first."""
    workspace.hold()
    async with proxied(workspace.url, budget=BudgetSettings(patience=600)) as url:
        api = Api(session, url)
        # Nothing is answered, so that after the first forty nothing leaves until all wait together.
        heavy = [asyncio.create_task(api.get(MODEL, token="heavy", name=f"m{n}")) for n in range(100)]
        await workspace.until(count(40))
        await api.until_metric("mlflow_proxy_queue_depth", 60)
        small = [
            asyncio.create_task(api.get(MODEL, token=f"small-{n}", name=f"m{m}"))
            for n in range(10)
            for m in range(SMALL)
        ]
        await api.until_metric("mlflow_proxy_queue_depth", 60 + len(small))
        assert len(workspace.arrivals) == 40
        workspace.release()
        assert {(await call).status for call in small} == {404}
        await cancelled(heavy)
    waited = workspace.arrivals[40:]
    for n in range(10):
        places = [place for place, arrival in enumerate(waited) if arrival.token == f"small-{n}"]
        assert len(places) == SMALL
        # In each round one of these leaves, and one of each other credential.
        for turn, place in enumerate(places):
            assert 11 * turn - OVERTAKEN <= place <= 11 * (turn + 1) + OVERTAKEN


async def test_a_repeated_call_is_first_in_line(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    """Before the calls that its own client and others made meanwhile."""
    workspace.hold()
    workspace.fault = first(1, Answer(429, _REFUSAL))
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=1, patience=600)) as url:
        api = Api(session, url)
        refused = asyncio.create_task(api.get(MODEL, name="refused"))
        await workspace.until(count(1))
        others = [
            asyncio.create_task(api.get(MODEL, token=token, name=name))
            for token in ("token-a", "token-b")
            for name in ("m", "n")
        ]
        await api.until_metric("mlflow_proxy_queue_depth", len(others))
        workspace.release()
        assert (await refused).status == 404
        await cancelled(others)
    targets = [arrival.target for arrival in workspace.arrivals]
    assert targets[:2] == [f"{API}{MODEL}?name=refused"] * 2


_DESCRIBED = b'{"registered_model": {"name": "m", "creation_timestamp": 1}}'


@pytest.mark.parametrize("starter_leaves", [False, True])
async def test_who_joins_a_call_of_one_with_many_waits_in_its_own_place(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, starter_leaves: bool
) -> None:
    """The listing and the look at the version's status before it, each in the place of who joined."""
    budget = BudgetSettings(registry_limit=4, patience=600)
    async with proxied(workspace.url, budget=budget, access=AccessSettings(sharing="proven")) as url:
        api = Api(session, url)
        # Nothing may leave over a connection that is open already: it would count from when it was sent.
        workspace.fault = lambda _: Answer(200, _DESCRIBED, {"Connection": "close"})
        for token in ("heavy", "one"):
            assert (await api.get(MODEL, token=token, name="m")).status == 200
        workspace.fault = no_fault
        workspace.hold()
        heavy = [
            asyncio.create_task(api.get(SIGN, token="heavy", name="m", version="1", path=f"p{n}"))
            for n in range(30)
        ]
        await workspace.until(count(2 + 4))
        await api.until_metric("mlflow_proxy_queue_depth", 26)
        starter = asyncio.create_task(api.get(LIST, token="heavy", name="m", version="1"))
        await api.until_metric("mlflow_proxy_queue_depth", 27)
        guest = asyncio.create_task(api.get(LIST, token="one", name="m", version="1"))
        while (await api.budgets())["registry"]["clients"] < 2:
            await settle()
        assert await api.metric("mlflow_proxy_queue_depth") == 27
        if starter_leaves:
            await cancelled([starter])
            await settle()
        workspace.release()
        reply = await guest
        assert (reply.status, reply.outcome) == (200, COLLAPSED)
        await cancelled([*heavy, starter])
    arrived = [arrival.endpoint for arrival in workspace.arrivals[2 + 4 :]]
    assert arrived.count(LIST) == 1
    # One of the thirty leaves before each.
    assert arrived.index(LIST) <= 3 + 2 * OVERTAKEN


async def test_a_client_that_is_always_refused_does_not_hold_up_others(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    refusing = True

    def refuse(request: web.Request) -> Fault | None:
        bad = request.headers.get("Authorization") == "Bearer bad"
        return Answer(429, _REFUSAL) if bad and refusing else None

    workspace.fault = refuse
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=8, patience=600)) as url:
        api = Api(session, url)
        bad = [asyncio.create_task(api.get(MODEL, token="bad", name=f"m{number}")) for number in range(3)]
        await workspace.until(count(3))
        good = [
            asyncio.create_task(api.get(MODEL, token=token, name=f"m{number}"))
            for token in ("a", "b", "c")
            for number in range(6)
        ]
        assert {(await call).status for call in good} == {404}
        assert (await api.budgets())["registry"]["refused_alone"] == 1
        assert not any(call.done() for call in bad)
        refusing = False
        assert {(await call).status for call in bad} == {404}
        assert (await api.budgets())["registry"]["refused_alone"] == 0


async def test_who_joined_the_call_of_a_client_that_is_always_refused_asks_anew(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    refusing = False

    def refuse(request: web.Request) -> Fault | None:
        bad = request.headers.get("Authorization") == "Bearer bad"
        return Answer(429, _REFUSAL) if bad and refusing else None

    workspace.fault = refuse
    budget = BudgetSettings(registry_limit=8, patience=600)
    async with proxied(workspace.url, budget=budget, access=AccessSettings(sharing="proven")) as url:
        api = Api(session, url)
        listing = {"name": "m", "version": "1"}
        for token in ("bad", "a", "b"):
            assert (await api.get(SIGN, token=token, path="MLmodel", **listing)).status == 200
        refusing = True
        bad = asyncio.create_task(api.get(LIST, token="bad", **listing))
        await workspace.until(lambda arrivals: bool(arrivals.to(LIST)))
        good = [asyncio.create_task(api.get(LIST, token=token, **listing)) for token in ("a", "b")]
        # What tells that the refusals are the one client's: others are answered meanwhile.
        answered = [asyncio.create_task(api.get(MODEL, token="c", name=f"m{number}")) for number in range(10)]
        assert {(await call).status for call in good} == {200}
        assert not bad.done()
        assert {(await call).status for call in answered} == {404}
        refusing = False
        assert (await bad).status == 200


async def cancelled(calls: Sequence[asyncio.Task[Reply]]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


# -- overload --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "budget"),
    [
        ("budget.queue_per_client", BudgetSettings(registry_limit=4, queue_per_client=3, patience=600)),
        ("budget.queue_total", BudgetSettings(registry_limit=4, queue_total=3, patience=600)),
    ],
)
async def test_who_queues_too_much_is_told_the_setting(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, setting: str, budget: BudgetSettings
) -> None:
    workspace.hold()
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        waiting = {asyncio.create_task(api.get(MODEL, name=f"m{number}")) for number in range(12)}
        while len(waiting) > 4 + 3:
            refused, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in refused:
                assert_busy(one.result())
                assert setting in one.result().json()["message"]
        await workspace.until(count(4))
        assert await api.metric("mlflow_proxy_queue_depth", group="registry") == 3
        other = asyncio.create_task(api.get(MODEL, token="other", name="m"))
        if setting == "budget.queue_per_client":
            await api.until_metric("mlflow_proxy_queue_depth", 4, group="registry")
            workspace.release()
            assert (await other).status == 200
        else:
            assert_busy(await other)
            workspace.release()
        assert [(await call).status for call in waiting] == [404] * 7
        assert await api.metric("mlflow_proxy_queue_depth") == 0
    assert workspace.arrivals.statuses()[429] == 0


async def test_a_queue_that_everyone_left_is_free(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.hold()
    budget = BudgetSettings(registry_limit=1, queue_per_client=20, queue_total=40, patience=600)
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        left = asyncio.create_task(api.get(MODEL, token="a", name="left"))
        await workspace.until(count(1))
        calls = [
            asyncio.create_task(api.get(MODEL, token=token, name=f"m{number}"))
            for token in ("a", "b", "c")
            for number in range(20)
        ]
        await api.until_metric("mlflow_proxy_queue_depth", 40)
        assert (await api.budgets())["registry"]["clients"] >= 2
        await cancelled(calls)
        await api.until_metric("mlflow_proxy_queue_depth", 0)
        await cancelled([left])  # last, since it keeps the others from leaving
        await api.until_metric("mlflow_proxy_flights", 0)
        assert (await api.budgets())["registry"]["clients"] == 0
        workspace.release()
        assert (await api.get(MODEL, name="m")).status == 200
    assert len(workspace.arrivals) == 2


# -- groups ----------------------------------------------------------------------------------------

LIMITS = {"registry": 40, "runs-search": 7, "experiments": 7, "log-batch": 47, "tracking": 127}
CALLS = {
    "registry": ("GET", MODEL),
    "runs-search": ("POST", "runs/search"),
    "experiments": ("POST", "experiments/create"),
    "log-batch": ("POST", "runs/log-batch"),
    "tracking": ("POST", "runs/create"),
}
GROUPS = tuple(CALLS)


def call(api: Api, group: str, number: int = 0) -> asyncio.Task[Reply]:
    method, endpoint = CALLS[group]
    return asyncio.create_task(api.call(method, endpoint, {"name": f"m{number}"}))


def of_group(group: str, arrivals: Arrivals) -> Arrivals:
    return arrivals.to(CALLS[group][1])


def only_in(group: str, fault: Fault) -> Any:
    """Spoil the calls of one group."""
    return lambda request: fault if request.path == API + CALLS[group][1] else None


@pytest.mark.parametrize("group", GROUPS)
async def test_each_group_has_a_limit_of_its_own(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, group: str
) -> None:
    setting = f"{group.replace('-', '_')}_limit"
    budget = BudgetSettings.model_validate({setting: 2, "patience": 600})
    workspace.hold()  # what is not answered yet counts still, so nothing more can leave
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        calls = [call(api, group, number) for number in range(5)]
        await api.until_metric("mlflow_proxy_queue_depth", 3, group=group)
        others = [call(api, other) for other in GROUPS if other != group]
        await workspace.until(count(2 + len(others)))
        assert len(of_group(group, workspace.arrivals)) == 2
        assert await api.metric("mlflow_proxy_queue_depth") == 3
        await cancelled(calls)
        workspace.release()
        assert 429 not in {(await other).status for other in others}


async def test_runs_search_is_paced_and_the_registry_is_not(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.hold()
    budget = BudgetSettings(registry_limit=MUCH, runs_search_limit=2)
    async with proxied(workspace.url, budget=budget) as url:
        api = Api(session, url)
        searches = [call(api, "runs-search") for _ in range(4)]
        await api.until_metric("mlflow_proxy_queue_depth", 2, group="runs-search")
        asked = [call(api, "registry", number) for number in range(50)]
        await workspace.until(count(2 + 50))
        assert len(of_group("runs-search", workspace.arrivals)) == 2
        workspace.release()
        await asyncio.gather(*searches, *asked)
    # These left over new connections, so their second is counted from their answers.
    assert of_group("runs-search", workspace.arrivals).max_in_window() <= 2
    assert workspace.arrivals.statuses() == {200: 4, 404: 50}


@pytest.mark.parametrize("group", GROUPS)
async def test_a_refusal_of_any_group_is_repeated_inside(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, group: str
) -> None:
    workspace.fault = first(1, Answer(429, _REFUSAL))
    async with proxied(workspace.url, budget=BudgetSettings()) as url:
        assert (await call(Api(session, url), group)).status != 429
    assert [arrival.endpoint for arrival in workspace.arrivals] == [CALLS[group][1]] * 2


@pytest.mark.parametrize("group", GROUPS)
async def test_a_refusal_in_one_group_does_not_slow_another(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, group: str
) -> None:
    workspace.fault = only_in(group, Answer(429, _REFUSAL, {"Retry-After": "50"}))
    async with proxied(workspace.url, budget=BudgetSettings()) as url:
        api = Api(session, url)
        assert_busy(await call(api, group))
        for other, budget in (await api.budgets()).items():
            if other == group:
                assert budget["rate"] < budget["limit"]
                assert budget["pause_seconds"] > 0
            else:
                assert budget == idle(LIMITS[other])
                assert (await call(api, other)).status != 429
    assert workspace.arrivals.statuses()[429] == 1


# -- groups without a limit ------------------------------------------------------------------------


def unlimited(*groups: str) -> BudgetSettings:
    return BudgetSettings.model_validate({f"{group.replace('-', '_')}_limit": 0 for group in groups})


@pytest.mark.parametrize("group", GROUPS)
async def test_a_group_without_a_limit_has_no_queue(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, group: str
) -> None:
    workspace.hold()
    async with proxied(workspace.url, budget=unlimited(group)) as url:
        api = Api(session, url)
        assert set(await api.budgets()) == set(GROUPS) - {group}
        with pytest.raises(AssertionError):
            await api.metric("mlflow_proxy_budget_limit", group=group)
        calls = [call(api, group, number) for number in range(200)]
        await workspace.until(count(200))
        workspace.release()
        await asyncio.gather(*calls)
    assert len(of_group(group, workspace.arrivals)) == 200


async def test_without_any_limit_all_else_is_as_before(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, budget=unlimited(*GROUPS)) as url:
        api = Api(session, url)
        assert await api.budgets() == {}
        asked = [api.call("POST", LATEST, {"name": "m"}) for _ in range(2)]
        assert {reply.outcome for reply in await asyncio.gather(*asked)} == {STORED, COLLAPSED}
        # A refused call of the API was not executed, and a read that failed may be repeated.
        workspace.fault = first(1, Answer(429, _REFUSAL, {"Retry-After": "0"}))
        assert (await api.call("PATCH", "registered-models/update", {"name": "m"})).status == 200
        workspace.fault = first(1, Answer(503, b"{}", {"Retry-After": "0"}))
        assert (await api.get("runs/get", run_id="r")).status == 404
        assert await api.metric("mlflow_proxy_upstream_429s_total", group="registry") == 1
    assert workspace.arrivals.statuses() == {200: 2, 429: 1, 503: 1, 404: 1}


# -- what it says of itself ------------------------------------------------------------------------


def idle(limit: int) -> dict[str, Any]:
    """Return the status of a budget that was not used yet."""
    return {
        "limit": limit,
        "rate": limit,
        "in_window": 0,
        "queued": {"interactive": 0, "background": 0},
        "clients": 0,
        "outside": 0,
        "seconds_since_429": None,
        "pause_seconds": 0,
        "refused_alone": 0,
    }


GAUGES = ("limit", "rate", "in_window", "outside", "pause_seconds", "refused_alone")


async def test_status_and_metrics_of_budgets_at_rest(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, budget=BudgetSettings()) as url:
        api = Api(session, url)
        assert await api.budgets() == {group: idle(limit) for group, limit in LIMITS.items()}
        for group, limit in LIMITS.items():
            gauges = [await api.metric(f"mlflow_proxy_budget_{name}", group=group) for name in GAUGES]
            assert gauges == [limit, limit, 0, 0, 0, 0]
            for kind in ("interactive", "background"):
                assert await api.metric("mlflow_proxy_queue_depth", **{"group": group, "class": kind}) == 0


async def test_status_and_metrics_of_a_queue(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.hold()
    async with proxied(workspace.url, budget=BudgetSettings(registry_limit=2, patience=600)) as url:
        api = Api(session, url)
        calls = [
            asyncio.create_task(api.get(MODEL, token=token, name=f"m{number}"))
            for number in range(3)
            for token in ("a", "b")
        ]
        depth = {"group": "registry", "class": "interactive"}
        await api.until_metric("mlflow_proxy_queue_depth", 4, **depth)
        assert (await api.budgets())["registry"] == idle(2) | {
            "in_window": 2,
            "queued": {"interactive": 4, "background": 0},
            "clients": 2,
        }
        assert await api.metric("mlflow_proxy_budget_in_window", group="registry") == 2
        assert await api.metric("mlflow_proxy_queue_depth", **(depth | {"class": "background"})) == 0
        await cancelled(calls)


async def test_status_and_metrics_after_a_refusal(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.fault = first(1, Answer(429, _REFUSAL))
    async with proxied(workspace.url, budget=BudgetSettings()) as url:
        api = Api(session, url)
        began = time.monotonic()
        assert (await api.get(MODEL, name="m")).status == 200
        before = await api.metric("mlflow_proxy_budget_rate", group="registry")
        told = (await api.budgets())["registry"]
        assert 0 < told["seconds_since_429"] < time.monotonic() - began
        assert told["pause_seconds"] == 0
        # One call alone says little about the rate: it is taken to be half, and falls below that.
        law = Cubic(40, 1)
        law.refused(passing=0, now=0)
        assert law.rate(0) < 40 / 2
        assert law.rate(0) <= before <= told["rate"]
        assert told["rate"] == pytest.approx(law.rate(told["seconds_since_429"]))
        assert told["outside"] == pytest.approx(40 - law.sustained(told["seconds_since_429"]))
        assert 0 <= await api.metric("mlflow_proxy_budget_outside", group="registry") <= told["outside"]
        assert await api.metric("mlflow_proxy_upstream_429s_total", group="registry") == 1
        assert await api.metric("mlflow_proxy_requests_total", status="200") == 1


async def test_status_and_metrics_of_a_pause(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.fault = first(1, Answer(429, _REFUSAL, {"Retry-After": "50"}))
    async with proxied(workspace.url, budget=BudgetSettings(patience=20)) as url:
        api = Api(session, url)
        began = time.monotonic()
        assert_busy(await api.get(MODEL, name="m"))
        told = (await api.budgets())["registry"]
        gauge = await api.metric("mlflow_proxy_budget_pause_seconds", group="registry")
        assert 50 - (time.monotonic() - began) <= gauge < told["pause_seconds"] < 50
        # Nobody is sent into the pause, and everyone is told how long it lasts.
        assert_busy(await api.get(MODEL, name="other"))
    assert len(workspace.arrivals) == 1


# -- when the workspace says to return -------------------------------------------------------------

HOURS = 3600


@pytest.mark.parametrize("off", [-5 * HOURS, 0, 5 * HOURS])
async def test_a_date_to_return_at_counts_from_the_answers_own_date(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, off: int
) -> None:
    date = time.time() + off
    headers = {"Date": formatdate(date, usegmt=True), "Retry-After": formatdate(date + 30, usegmt=True)}
    workspace.fault = lambda _: Answer(429, _REFUSAL, headers)
    async with proxied(workspace.url, budget=BudgetSettings(patience=10)) as url:
        api = Api(session, url)
        began = time.monotonic()
        reply = await api.get(MODEL, name="m")
        passed = time.monotonic() - began
        assert 0 < (await api.budgets())["registry"]["pause_seconds"] <= 30
    assert_busy(reply)
    assert 30 - passed <= int(reply.headers["Retry-After"]) <= 30 * 1.2
    assert len(workspace.arrivals) == 1


async def test_a_date_to_return_at_counts_from_now_if_the_answer_has_none(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    asked = formatdate(time.time() + 40, usegmt=True)
    head = f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n"
    upstream.respond = answering(head.encode())
    async with proxied(upstream.url, budget=BudgetSettings(patience=10)) as url:
        api = Api(session, url)
        assert_busy(await api.get(MODEL, name="m"))
        assert 10 < (await api.budgets())["registry"]["pause_seconds"] <= 40
    assert len(upstream.seen) == 1


NOW = "0", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"
UNREADABLE = "-5", "+1", "0.5", "1e3", "soon", "", "5 s", "1, 2", "\u00bd", "Sun, 99 Nov 1994 08:49:37 GMT"
NEVER = "9" * 30, "100000", "Fri, 31 Dec 9999 23:59:59 GMT"


@pytest.mark.parametrize("value", NOW + UNREADABLE)
async def test_a_refusal_that_does_not_say_when_to_return_is_repeated_soon(
    workspace: EmulatedWorkspace, api: Api, value: str
) -> None:
    workspace.fault = first(1, Answer(429, _REFUSAL, {"Retry-After": value}))
    assert (await api.get(MODEL, name="m")).status == 200
    assert workspace.arrivals.statuses() == {429: 1, 200: 1}
    assert (await api.budgets())["registry"]["pause_seconds"] == 0


@pytest.mark.parametrize("value", NOW + UNREADABLE + NEVER)
async def test_whatever_the_workspace_says_the_client_gets_a_number_in_time(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, value: str
) -> None:
    workspace.fault = lambda _: Answer(429, _REFUSAL, {"Retry-After": value})
    # The next call may leave two seconds after the first, which nobody has the patience for.
    budget = BudgetSettings(registry_limit=1, jitter_margin=1, patience=1.9)
    async with proxied(workspace.url, budget=budget) as url:
        began = time.monotonic()
        reply = await Api(session, url).get(MODEL, name="m")
        passed = time.monotonic() - began
    assert_busy(reply)
    assert len(workspace.arrivals) == 1
    told = int(reply.headers["Retry-After"])
    if value in NEVER:
        # Hours would silence the client as well: it may look again when the proxy does.
        assert 60 - passed <= told <= 60 * 1.2
    else:
        assert told < 10


# -- others who use the same limit -----------------------------------------------------------------


async def test_real_clients_see_no_refusal_when_the_workspace_refuses_calls() -> None:
    """How many it refuses beside others is for the simulation to say, where time is exact."""
    model = storm_model(files=60, directories=6)
    number = itertools.count(1)

    def refuse_two(request: web.Request) -> Fault | None:
        refused = "/model-versions/" in request.path and next(number) in {1, 30}
        return Answer(429, _REFUSAL) if refused else None

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
