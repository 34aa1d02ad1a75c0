"""Whole proxies that share a Redis, in front of a workspace that enforces its limit."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from proxy.app import serving
from proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from proxy.settings import BudgetSettings, Settings
from tests.fleet.redis_server import RedisServer
from tests.integration.conftest import sample
from tests.integration.support import MODEL, Api


async def test_three_proxies_keep_to_one_limit(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        workspace = await stack.enter_async_context(
            EmulatedWorkspace([sample()], WorkspaceOptions(latency=0))
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        proxies = [
            Api(
                session,
                await stack.enter_async_context(
                    serving(
                        Settings(
                            upstream=workspace.url,
                            port=0,
                            shutdown_grace=0.01,
                            redis=redis.url,
                            # More than a slow machine delays calls by on their way to the workspace.
                            budget=BudgetSettings(jitter_margin=1.0),
                        )
                    )
                ),
            )
            for _ in range(3)
        ]
        replies = await asyncio.gather(
            *(api.get(MODEL, name=f"m{number}") for api in proxies for number in range(20))
        )
        assert {reply.status for reply in replies} == {404}
        assert workspace.registry_arrivals.statuses() == {404: 60}
        assert workspace.registry_arrivals.max_in_window() <= 40
        async with session.get(proxies[0].url + "/-/status.json") as response:
            status = await response.json()
        assert (status["fleet"]["members"], status["fleet"]["alone"]) == (3, False)
        assert await proxies[0].metric("mlflow_proxy_fleet_members") == 3


async def test_a_proxy_serves_without_its_redis(tmp_path: Path) -> None:
    async with (
        EmulatedWorkspace([sample()], WorkspaceOptions(latency=0)) as workspace,
        serving(
            Settings(
                upstream=workspace.url, port=0, shutdown_grace=0.01, redis=f"unix://{tmp_path}/none.sock"
            )
        ) as url,
        aiohttp.ClientSession() as session,
    ):
        api = Api(session, url)
        assert (await api.get(MODEL, name="m")).status == 200
        assert await api.metric("mlflow_proxy_fleet_alone") == 1
