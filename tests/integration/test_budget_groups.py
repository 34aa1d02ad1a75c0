"""Each group of calls has a limit of its own, or none."""

import asyncio
from typing import Any

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer, Fault
from mlflow_proxy.demo.journal import Arrivals
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import BudgetSettings
from tests.integration.budget import CALLS, GROUPS, LIMITS, REFUSAL, assert_busy, call, cancelled, idle
from tests.integration.support import API, COLLAPSED, LATEST, MUCH, STORED, Api, count, first, proxied


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
    workspace.fault = first(1, Answer(429, REFUSAL))
    async with proxied(workspace.url, budget=BudgetSettings()) as url:
        assert (await call(Api(session, url), group)).status != 429
    assert [arrival.endpoint for arrival in workspace.arrivals] == [CALLS[group][1]] * 2


@pytest.mark.parametrize("group", GROUPS)
async def test_a_refusal_in_one_group_does_not_slow_another(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, group: str
) -> None:
    workspace.fault = only_in(group, Answer(429, REFUSAL, {"Retry-After": "50"}))
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
        workspace.fault = first(1, Answer(429, REFUSAL, {"Retry-After": "0"}))
        assert (await api.call("PATCH", "registered-models/update", {"name": "m"})).status == 200
        workspace.fault = first(1, Answer(503, b"{}", {"Retry-After": "0"}))
        assert (await api.get("runs/get", run_id="r")).status == 404
        assert await api.metric("mlflow_proxy_upstream_429s_total", group="registry") == 1
    assert workspace.arrivals.statuses() == {200: 2, 429: 1, 503: 1, 404: 1}
