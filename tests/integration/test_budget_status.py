"""Status and metrics say what a budget does."""

import asyncio
import time

import aiohttp
import pytest

from mlflow_proxy.budget.congestion import Cubic
from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from mlflow_proxy.settings import BudgetSettings
from tests.integration.budget import LIMITS, REFUSAL, assert_busy, cancelled, idle
from tests.integration.support import MODEL, Api, first, proxied

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
    workspace.fault = first(1, Answer(429, REFUSAL))
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
    workspace.fault = first(1, Answer(429, REFUSAL, {"Retry-After": "50"}))
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
