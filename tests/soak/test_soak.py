"""A short soak: what is counted comes back to what it was."""

import asyncio
import random

import aiohttp
import pytest

from mlflow_proxy.settings import BudgetSettings, CacheSettings
from tests.integration.support import MUCH, Api, proxied, settle
from tests.soak import load

CALLS = 600
MAX_BYTES = 200_000


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_nothing_is_left_of_clients_that_have_gone() -> None:
    async with load.workspace() as workspace, aiohttp.ClientSession() as session:
        cache = CacheSettings.model_validate({"max_bytes": MAX_BYTES, "max_entry_bytes": 50_000})
        budget = BudgetSettings(registry_limit=MUCH, tracking_limit=MUCH)
        async with proxied(workspace.url, cache=cache, budget=budget) as url:
            api = Api(session, url)
            await api.metric("mlflow_proxy_flights")
            await load.calls(url, 50, random.Random(1))
            seen = await load.calls(url, CALLS, random.Random(2))
            assert seen["hung up"] > 0
            assert seen["200"] > CALLS / 2
            assert seen.keys() <= {"200", "404", "hung up"}
            await api.until_metric("mlflow_proxy_flights", 0)
            await api.until_metric("mlflow_proxy_requests_in_flight", 0)
            await api.until_metric("mlflow_proxy_queue_depth", 0)
            assert 0 < await api.metric("mlflow_proxy_cache_bytes") <= MAX_BYTES
            for budget_now in (await api.budgets()).values():
                assert budget_now["clients"] == 0
            # What is left belongs to connections, which the number of calls has no part in.
            await settle()
            few = 100
            while len(asyncio.all_tasks()) > few:
                await settle()
